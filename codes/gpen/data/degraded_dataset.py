"""GT images that are degraded on the fly."""

from typing import Any

from gpen.data.degradations import build_pair_degradation, try_degradation
from gpen.data.face_dataset import FaceImageDataset
from gpen.data.image_io import resize, to_tensor
from gpen.data.landmarks import Landmarks, check_stays
from gpen.errors import UserError
from gpen.options.types import Degradations, ImageSize, NonNegativeInt, Scan, Seed
from gpen.registry import DATASET_REGISTRY
from gpen.utils.seeds import derive_generator


@DATASET_REGISTRY.register
class DegradedFaceDataset(FaceImageDataset):
    """GT images; the LQ images are made when they are asked for, anew in each epoch.

    ``dataset[index]`` or ``dataset[epoch, index]`` gives the same dict as ``PairedImageDataset``.  A sample depends on
    the arguments, the epoch and the index, and on nothing else.  A validation set is always asked for epoch 0, so its
    LQ images stay the same.

    Args:
        dataroot_gt: folder (or what ``io_backend`` reads) of GT images; a relative path starts at the project's
            root.
        degradation: what makes the LQ image from the GT image: ``{type: gpen}`` or a list of steps.
        size: width and height that GT images are resized to.
        in_size: the same for LQ images, after they were degraded at ``size``; default: ``size``.
        augment: steps that change both images, done before the degradation, such as ``{type: color_jitter}``.
        io_backend: ``{type: disk}`` (default), ``{type: lmdb}`` or ``{type: datasets}`` (Arrow or Parquet).
        use_hflip: mirror half of the samples, chosen anew in each epoch.
        manual_seed: the run's seed.
        scan: true: check all files now, by header and end; full: also decode each image once, which finds damaged
            pixels (what is found is remembered); false: a bad image is reported when it is met.
        skip_damaged: leave out, and name, up to so many damaged images; implies scan: full.
        landmarks: CSV file of the faces' landmarks for ``train.component_opt``: the ``manifest.csv`` of
            ``prepare_dataset.py``, or a table that ``find_landmarks.py`` made.

    Raises:
        UserError: no images, damaged images, a degradation that is unknown or cannot be done, or landmarks that are
            missing or would not follow ``augment``.
    """

    is_broadcast = True

    def __init__(
        self,
        dataroot_gt: str,
        degradation: Degradations,
        size: ImageSize,
        in_size: ImageSize | None = None,
        augment: Degradations | None = None,
        io_backend: dict[str, Any] | None = None,
        use_hflip: bool = False,
        manual_seed: Seed = 0,
        scan: Scan = True,
        landmarks: str | None = None,
        skip_damaged: NonNegativeInt = 0,
    ) -> None:
        self.in_size = in_size or size
        if self.in_size > size:
            raise UserError(f'in_size is {self.in_size}, larger than size {size}. Make it {size} or smaller.')
        try_degradation(degradation)

        super().__init__(dataroot_gt, size, augment, io_backend, use_hflip, manual_seed, scan, skip_damaged)
        self._degrade = build_pair_degradation(degradation)

        self._landmarks = None
        if landmarks is not None:
            check_stays(augment)
            self._landmarks = Landmarks(landmarks, self.keys)

    def __getitem__(self, position: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        gt, view = self.read_gt(epoch, index)
        lq, gt = self._degrade(gt, derive_generator(self.manual_seed, 'degrade', epoch, index))
        described = self.describe(index)
        return {
            'lq': to_tensor(resize(lq, self.in_size)),  # 3 x in_size x in_size
            'gt': to_tensor(gt),  # 3 x size x size
            'lq_path': described['gt_path'],
            **described,
            **({} if self._landmarks is None else {'boxes': self._landmarks.boxes(index, view)}),
        }
