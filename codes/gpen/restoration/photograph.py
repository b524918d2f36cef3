"""Whole photographs: every face is detected, aligned, restored and pasted back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gpen.data.colour import ColourSpace
from gpen.data.image_io import to_array, to_tensor
from gpen.faces.alignment import AlignedFace, align_face
from gpen.faces.face import Detector, Face, split_by_size
from gpen.faces.identity import Compare
from gpen.faces.pasting import Patch, feather_mask, paste, scale_matrix
from gpen.restoration.background import Enlarger
from gpen.restoration.base import Restorer

LARGE = 2.0
"""A face is far larger than the network from so many pixels of the photograph for one of the network's on."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601

Masks = Callable[[Tensor], Sequence[np.ndarray]]


def feather_masks(faces: Tensor) -> list[np.ndarray]:
    """Return the same square, feathered mask for each face (N x 3 x S x S)."""
    return [feather_mask(faces.shape[-1])] * len(faces)


@dataclass(frozen=True)
class RestoredFace:
    """A face of a photograph.

    Attributes:
        face: where it was found, in pixels of the photograph.
        before: S x S x 3, float32, RGB, [-1, 1]: as it was, aligned.
        after: S x S x 3: as the network restored it.
        mask: S x S, float32, [0, 1]: how much of it is put back.
        matrix: 2 x 3: takes (x, y, 1) of the photograph to (x, y) of ``after``.
        ratio: pixels of the photograph for one of ``after``, along a side; above 1 the photograph is finer.
    """

    face: Face
    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray
    ratio: float


@dataclass(frozen=True)
class Verdict:
    """What was judged of a face, see :attr:`PhotographRestorer.min_quality` and :attr:`PhotographRestorer.compare`.

    Attributes:
        face: where it was found.
        identity: cosine of its embeddings before and after; None where it was not compared.
        reason: why it was left as it was; empty where it was restored.
    """

    face: Face
    identity: float | None = None
    reason: str = ''


@dataclass(frozen=True)
class Restoration:
    """A restored photograph, before its faces are put back.

    Attributes:
        background: H x W x 3, float32, RGB, [-1, 1]: the photograph, enlarged by ``scale``.
        scale: a whole number.
        faces: the largest first; none where no face was found.
        too_small: how many more were found that are smaller than the smallest one to restore.
        space: the colours of the background; those of faces are sRGB.
        keep_detail: what the photograph has finer than the network is kept.
        verdicts: one for each face that was judged, restored or not.
    """

    background: np.ndarray
    scale: int
    faces: list[RestoredFace]
    too_small: int = 0
    space: ColourSpace = ColourSpace()  # noqa: RUF009  (it is frozen)
    keep_detail: bool = True
    verdicts: Sequence[Verdict] = ()

    @property
    def large(self) -> list[RestoredFace]:
        """The faces that are far larger than the network, see :data:`LARGE`."""
        return [face for face in self.faces if face.ratio >= LARGE]

    def compose(self, strength: float = 1.0) -> np.ndarray:
        """Return the photograph with its faces put back: H x W x 3, float32, RGB, [-1, 1].

        Args:
            strength: 0 (as it was) to 1 (as restored).
        """
        return paste(self.background, [self._to_patch(face) for face in self.faces], strength)

    def _to_patch(self, face: RestoredFace) -> Patch:
        # From no detail at the network's own size to all of it at twice that size.
        detail = min(max(face.ratio - 1, 0.0), 1.0) if self.keep_detail else 0.0
        before, after = (self.space.from_srgb(image) for image in (face.before, face.after))
        return Patch(after, face.mask, scale_matrix(face.matrix, source=self.scale), before, detail)


@dataclass(frozen=True)
class PhotographRestorer:
    """Restores whole photographs.

    Attributes:
        restorer: the network.
        detector: finds the faces.
        batch_size: faces at a time.
        min_face: smaller faces are left as they are, pixels of the photograph.
        only_center: restore only the face nearest to the photograph's middle.
        keep_grey: faces of grey photographs stay grey.
        masks: takes restored faces, N x 3 x S x S, and gives a mask for each.
        enlarger: what enlarges the background.
        keep_detail: of faces that are larger than the network, keep what the photograph has finer.
        min_quality: faces of a lower score of the detector are left as they are.
        compare: compares a face before and after; None: faces are not compared.
        min_identity: faces that are less alike are left as they were.
    """

    restorer: Restorer
    detector: Detector
    batch_size: int = 4
    min_face: int = 1
    only_center: bool = False
    keep_grey: bool = True
    masks: Masks = feather_masks
    enlarger: Enlarger = field(default_factory=Enlarger)
    keep_detail: bool = True
    min_quality: float = 0.0
    compare: Compare | None = None
    min_identity: float = -1.0

    @property
    def judges(self) -> bool:
        """Whether it judges faces."""
        return self.min_quality > 0 or self.compare is not None

    def restore(
        self,
        photos: Sequence[np.ndarray],
        spaces: Sequence[ColourSpace] | None = None,
        faces: Sequence[Sequence[Face]] | None = None,
    ) -> list[Restoration]:
        """Restore photographs (H x W x 3, float32, RGB, [-1, 1]), their faces batched together.

        Args:
            photos: the photographs.
            spaces: of their colours; default: sRGB.
            faces: of each photograph, where they are known; default: the detector looks for them.

        Raises:
            UserError: the network gave values that are not finite.
        """
        spaces = [ColourSpace()] * len(photos) if spaces is None else spaces

        # The faces of all photographs, aligned and restored in batches.
        shown = [space.to_srgb(photo) for photo, space in zip(photos, spaces, strict=True)]
        found = [self._find(photo) for photo in shown] if faces is None else [(list(known), []) for known in faces]
        good = [[face for face in chosen if face.score >= self.min_quality] for chosen, _ in found]
        size = self.restorer.in_size
        aligned = [
            align_face(photo, face.landmarks, size, soften=False)
            for photo, chosen in zip(shown, good, strict=True)
            for face in chosen
        ]
        restored = iter(self._restore_faces(aligned))

        # Back to their photographs, in the same order.
        results = []
        for photo, seen, space, chosen, (all_faces, small) in zip(photos, shown, spaces, good, found, strict=True):
            grey = self.keep_grey and is_grey(photo)
            done = [self._join(seen, face, *next(restored), grey) for face in chosen]
            done, verdicts = self._judge(all_faces, done) if self.judges else (done, [])
            # A network that enlarges knows sRGB alone, too.
            enlarge = self.enlarger
            large = enlarge(photo) if enlarge.network is None else space.from_srgb(_enlarge(seen, enlarge, grey))
            results.append(Restoration(large, enlarge.scale, done, len(small), space, self.keep_detail, verdicts))
        return results

    def _judge(
        self, faces: Sequence[Face], restored: Sequence[RestoredFace]
    ) -> tuple[list[RestoredFace], list[Verdict]]:
        """Return the restored faces that are kept, and a verdict on each of all faces."""
        kept = []
        verdicts = [
            Verdict(face, None, f'its score is below {self.min_quality:g}')
            for face in faces
            if face.score < self.min_quality
        ]
        for face in restored:
            identity = None
            if self.compare is not None:
                landmarks = face.face.landmarks @ face.matrix[:, :2].T + face.matrix[:, 2]
                identity = self.compare(face.before, face.after, landmarks)
            changed = identity is not None and identity < self.min_identity
            reason = f'its identity is below {self.min_identity:g}' if changed else ''
            verdicts.append(Verdict(face.face, identity, reason))
            if not changed:
                kept.append(face)
        return kept, verdicts

    def _find(self, photo: np.ndarray) -> tuple[list[Face], list[Face]]:
        """Return the faces of a photograph, or only the one nearest to its middle, and those that are too small."""
        faces, small = split_by_size(self.detector.detect(photo), self.min_face)
        if not self.only_center or not faces:
            return faces, small
        middle = np.array([photo.shape[1] - 1, photo.shape[0] - 1]) / 2
        return [min(faces, key=lambda face: float(np.hypot(*(face.landmarks.mean(axis=0) - middle))))], []

    def _restore_faces(self, aligned: Sequence[AlignedFace]) -> list[tuple[AlignedFace, np.ndarray, np.ndarray]]:
        """Return each face with its restored image and its mask."""
        results = []
        for start in range(0, len(aligned), self.batch_size):
            chunk = aligned[start : start + self.batch_size]
            images = self.restorer(torch.stack([to_tensor(face.image) for face in chunk]))
            for face, image, mask in zip(chunk, images, self.masks(images), strict=True):
                results.append((face, to_array(image), mask))
        return results

    def _join(
        self, photo: np.ndarray, face: Face, aligned: AlignedFace, after: np.ndarray, mask: np.ndarray, grey: bool
    ) -> RestoredFace:
        """Return a face with its image before and after, both at the network's output size."""
        size, in_size = self.restorer.size, self.restorer.in_size
        before = aligned.image if size == in_size else align_face(photo, face.landmarks, size, soften=False).image
        if grey:
            after = to_grey(after)
        matrix = scale_matrix(aligned.matrix, target=size / in_size)
        return RestoredFace(face, before, after, mask, matrix, in_size / (size * aligned.scale))


def _enlarge(photo: np.ndarray, enlarge: Enlarger, grey: bool) -> np.ndarray:
    """Return a photograph that a network enlarged; a grey one stays grey."""
    large = enlarge(photo)
    return to_grey(large) if grey else large


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return the luma of an image, H x W x 3, in three equal channels."""
    return np.repeat((image @ _LUMA)[..., None], 3, axis=2)


def is_grey(photo: np.ndarray) -> bool:
    """Whether the three channels of a photograph are equal."""
    return bool((photo[..., 0] == photo[..., 1]).all() and (photo[..., 1] == photo[..., 2]).all())
