"""LQ images alone, of which no sharp version is known."""

from pathlib import PurePosixPath
from typing import Any

from torch.utils.data import Dataset

from gpen.data.image_io import read_image, resize, to_tensor
from gpen.data.scan import scan_images
from gpen.data.storage import open_storage
from gpen.options.types import ImageSize, NonNegativeInt, Scan
from gpen.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register
class SingleImageDataset(Dataset[dict[str, Any]]):
    """LQ images without sharp ones, such as LFW-Test, WebPhoto-Test and CelebChild: to score on, not to train on.

    They must be faces aligned as in FFHQ.  ``dataset[index]`` gives a dict: ``lq``, 3 x in_size x in_size, float32,
    RGB, [-1, 1], ``lq_path``, how messages name the file, and ``name``, the file name without folder and suffix.

    Args:
        dataroot_lq: folder (or what ``io_backend`` reads) of LQ images; a relative path starts at the project's
            root.
        in_size: width and height that images are resized to; default: what the networks take.
        io_backend: ``{type: disk}`` (default), ``{type: lmdb}`` or ``{type: datasets}`` (Arrow or Parquet).
        scan: true: check all files now, by header and end; full: also decode each image once, which finds damaged
            pixels (what is found is remembered); false: a bad image is reported when it is met.
        skip_damaged: leave out, and name, up to so many damaged images; implies scan: full.

    Raises:
        UserError: no images, or damaged ones.
    """

    is_broadcast = True
    has_gt = False

    def __init__(
        self,
        dataroot_lq: str,
        in_size: ImageSize,
        io_backend: dict[str, Any] | None = None,
        scan: Scan = True,
        skip_damaged: NonNegativeInt = 0,
    ) -> None:
        self.in_size = in_size
        self.lq = open_storage(dataroot_lq, io_backend)
        self.scanned = scan_images(self.lq, scan, skip_damaged)
        self.keys = self.scanned.keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[index]
        path = self.lq.describe(key)
        image = resize(read_image(self.lq.read(key), path), self.in_size)
        return {'lq': to_tensor(image), 'lq_path': path, 'name': PurePosixPath(key).name}
