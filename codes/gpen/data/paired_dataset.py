"""Pairs of a GT and an LQ image, found by their file names."""

from pathlib import PurePosixPath
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from gpen.data.image_io import read_image, resize, to_tensor
from gpen.data.landmarks import Landmarks, View
from gpen.data.row_groups import coarser
from gpen.data.scan import explain_sizes, scan_pairs, sizes_agree
from gpen.data.storage import open_storage
from gpen.data.storage.base import Storage
from gpen.errors import UserError
from gpen.options.types import ImageSize, NonNegativeInt, Scan, Seed
from gpen.registry import DATASET_REGISTRY
from gpen.utils.seeds import derive_generator


@DATASET_REGISTRY.register
class PairedImageDataset(Dataset[dict[str, Any]]):
    """GT and LQ images of the same name, in folders, LMDBs or tables; the suffixes may differ.

    ``dataset[index]`` or ``dataset[epoch, index]`` gives a dict:

    - ``lq``: 3 x in_size x in_size and ``gt``: 3 x size x size, float32, RGB, [-1, 1], both resized where the file has
      another size (an image that is not square is stretched);
    - ``lq_path``, ``gt_path``: how messages name the files;
    - ``name``: the file name without folder and suffix;
    - ``boxes``, with ``landmarks``: 3 x 4, float32: x0, y0, x1, y1 of left eye, right eye and mouth (left: in ``gt``)
      in pixels of ``gt``, whose edges are 0 and ``size``.

    A sample depends on the arguments, the epoch and the index, and on nothing else.

    Args:
        dataroot_gt: folder (or what ``io_backend`` reads) of GT images; a relative path starts at the project's
            root.
        dataroot_lq: the same of LQ images; Parquet files should have the order of the GT ones.
        size: width and height that GT images are resized to.
        in_size: the same for LQ images; default: ``size``.
        io_backend: ``{type: disk}`` (default), ``{type: lmdb}`` or ``{type: datasets}``.
        use_hflip: mirror half of the samples, chosen anew in each epoch.
        manual_seed: the run's seed.
        scan: true: check all files now, by header and end; full: also decode each image once, which finds damaged
            pixels (what is found is remembered); false: a bad image is reported when it is met.
        skip_damaged: leave out, and name, up to so many damaged images; implies scan: full.
        landmarks: CSV file of the faces' landmarks for ``train.component_opt``: the ``manifest.csv`` of
            ``prepare_dataset.py``, or a table that ``find_landmarks.py`` made.

    Raises:
        UserError: folders, names or files do not fit together; here, or for one file when it is met.
    """

    takes_epoch = True
    is_broadcast = True

    def __init__(
        self,
        dataroot_gt: str,
        dataroot_lq: str,
        size: ImageSize,
        in_size: ImageSize | None = None,
        io_backend: dict[str, Any] | None = None,
        use_hflip: bool = False,
        manual_seed: Seed = 0,
        scan: Scan = True,
        landmarks: str | None = None,
        skip_damaged: NonNegativeInt = 0,
    ) -> None:
        self.size = size
        self.in_size = in_size or size
        if self.in_size > size:
            raise UserError(f'in_size is {self.in_size}, larger than size {size}. Make it {size} or smaller.')

        self.use_hflip = use_hflip
        self.manual_seed = manual_seed
        self.reduction = size // self.in_size

        self.gt, self.lq = _open_both(dataroot_gt, dataroot_lq, io_backend)
        self.scanned = scan_pairs(self.gt, self.lq, self.reduction, scan, skip_damaged)
        self.keys = self.scanned.keys
        self.row_groups = coarser(self.gt.row_groups(self.keys), self.lq.row_groups(self.keys))
        self._landmarks = None if landmarks is None else Landmarks(landmarks, self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        key = self.keys[index]
        gt_path, lq_path = self.gt.describe(key), self.lq.describe(key)
        gt = read_image(self.gt.read(key), gt_path)  # H x W x 3
        lq = read_image(self.lq.read(key), lq_path)  # H x W x 3, or smaller by self.reduction

        gt_size, lq_size = _size_of(gt), _size_of(lq)
        if not sizes_agree(gt_size, lq_size, self.reduction):
            difference = explain_sizes(gt_path, gt_size, lq_path, lq_size)
            raise UserError(f'Sizes differ within a pair: {difference}. Replace or remove these files.')

        gt, lq = resize(gt, self.size), resize(lq, self.in_size)
        is_mirrored = self.use_hflip and derive_generator(self.manual_seed, 'augment', epoch, index).random() < 0.5
        if is_mirrored:
            gt, lq = gt[:, ::-1], lq[:, ::-1]

        view = View(gt_size, self.size, is_mirrored)
        return {
            'lq': to_tensor(lq),  # 3 x in_size x in_size
            'gt': to_tensor(gt),  # 3 x size x size
            'lq_path': lq_path,
            'gt_path': gt_path,
            'name': PurePosixPath(key).name,
            **({} if self._landmarks is None else {'boxes': self._landmarks.boxes(index, view)}),
        }


def _open_both(dataroot_gt: str, dataroot_lq: str, io_backend: dict[str, Any] | None) -> tuple[Storage, Storage]:
    """Open both sides; where both fail, the error has both reasons."""
    storages: list[Storage] = []
    problems: list[str] = []
    for root in (dataroot_gt, dataroot_lq):
        try:
            storages.append(open_storage(root, io_backend))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError('\n'.join(dict.fromkeys(problems)))
    return storages[0], storages[1]


def _size_of(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]
