"""GT images alone, without LQ images."""

from pathlib import PurePosixPath
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from gpen.data.degradations import build_degradation, try_degradation
from gpen.data.image_io import read_image, resize, to_tensor
from gpen.data.landmarks import View
from gpen.data.scan import scan_images
from gpen.data.storage import open_storage
from gpen.options.types import Degradations, ImageSize, NonNegativeInt, Scan, Seed
from gpen.registry import DATASET_REGISTRY
from gpen.utils.seeds import derive_generator


@DATASET_REGISTRY.register
class FaceImageDataset(Dataset[dict[str, Any]]):
    """GT images, for a GAN prior to learn from.

    ``dataset[index]`` or ``dataset[epoch, index]`` gives a dict: ``gt``, 3 x size x size, float32, RGB, [-1, 1],
    ``gt_path``, how messages name the file, and ``name``, the file name without folder and suffix.  A sample depends on
    the arguments, the epoch and the index, and on nothing else.

    Args:
        dataroot_gt: folder (or what ``io_backend`` reads) of GT images; a relative path starts at the project's
            root.
        size: width and height that images are resized to.
        augment: steps that change an image, such as ``{type: color_jitter}``.
        io_backend: ``{type: disk}`` (default), ``{type: lmdb}`` or ``{type: datasets}`` (Arrow or Parquet).
        use_hflip: mirror half of the samples, chosen anew in each epoch.
        manual_seed: the run's seed.
        scan: true: check all files now, by header and end; full: also decode each image once, which finds damaged
            pixels (what is found is remembered); false: a bad image is reported when it is met.
        skip_damaged: leave out, and name, up to so many damaged images; implies scan: full.

    Raises:
        UserError: no images, damaged images, or an augmentation that is unknown or cannot be done.
    """

    takes_epoch = True
    is_broadcast = True

    def __init__(
        self,
        dataroot_gt: str,
        size: ImageSize,
        augment: Degradations | None = None,
        io_backend: dict[str, Any] | None = None,
        use_hflip: bool = False,
        manual_seed: Seed = 0,
        scan: Scan = True,
        skip_damaged: NonNegativeInt = 0,
    ) -> None:
        if augment is not None:
            try_degradation(augment)

        self.size = size
        self.use_hflip = use_hflip
        self.manual_seed = manual_seed
        self._augment = None if augment is None else build_degradation(augment)

        self.gt = open_storage(dataroot_gt, io_backend)
        self.scanned = scan_images(self.gt, scan, skip_damaged)
        self.keys = self.scanned.keys
        self.row_groups = self.gt.row_groups(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        return {'gt': to_tensor(self.read_gt(epoch, index)[0]), **self.describe(index)}

    def read_gt(self, epoch: int, index: int) -> tuple[np.ndarray, View]:
        """Return a GT image, mirrored and augmented for its epoch: size x size x 3, float32, RGB, [-1, 1]; and how."""
        gt, stored = self.read_sharp(index)
        augment = derive_generator(self.manual_seed, 'augment', epoch, index)
        is_mirrored = self.use_hflip and augment.random() < 0.5
        if is_mirrored:
            gt = gt[:, ::-1].copy()
        view = View(stored, self.size, is_mirrored)
        return (gt if self._augment is None else self._augment(gt, augment)), view

    def read_sharp(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Return a GT image as it is: size x size x 3, float32, RGB, [-1, 1]; and its stored width and height."""
        key = self.keys[index]
        stored = read_image(self.gt.read(key), self.gt.describe(key))
        return resize(stored, self.size), (stored.shape[1], stored.shape[0])

    def describe(self, index: int) -> dict[str, str]:
        """Return ``gt_path`` and ``name`` of an image."""
        key = self.keys[index]
        return {'gt_path': self.gt.describe(key), 'name': PurePosixPath(key).name}
