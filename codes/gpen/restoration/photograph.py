"""Whole photographs: every face is detected, aligned, restored and pasted back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gpen.data.image_io import resize, to_array, to_tensor
from gpen.faces.alignment import AlignedFace, align_face
from gpen.faces.face import Detector, Face
from gpen.faces.pasting import Patch, feather_mask, paste, scale_matrix
from gpen.restoration.background import Enlarger
from gpen.restoration.base import Restorer

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
    """

    face: Face
    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True)
class Restoration:
    """A restored photograph, before its faces are put back.

    Attributes:
        background: H x W x 3, float32, RGB, [-1, 1]: the photograph, enlarged by ``scale``.
        scale: a whole number.
        faces: the largest first; none where no face was found.
    """

    background: np.ndarray
    scale: int
    faces: list[RestoredFace]

    def compose(self, strength: float = 1.0) -> np.ndarray:
        """Return the photograph with its faces put back: H x W x 3, float32, RGB, [-1, 1].

        Args:
            strength: 0 (as it was) to 1 (as restored).
        """
        patches = [Patch(face.after, face.mask, scale_matrix(face.matrix, source=self.scale)) for face in self.faces]
        return paste(self.background, patches, strength)


@dataclass(frozen=True)
class PhotographRestorer:
    """Restores whole photographs.

    Attributes:
        restorer: the network.
        detector: finds the faces.
        batch_size: faces at a time.
        only_center: restore only the face nearest to the photograph's middle.
        keep_grey: faces of grey photographs stay grey.
        masks: takes restored faces, N x 3 x S x S, and gives a mask for each.
        enlarger: what enlarges the background.
    """

    restorer: Restorer
    detector: Detector
    batch_size: int = 4
    only_center: bool = False
    keep_grey: bool = True
    masks: Masks = feather_masks
    enlarger: Enlarger = field(default_factory=Enlarger)

    def restore(self, photos: Sequence[np.ndarray]) -> list[Restoration]:
        """Restore photographs (H x W x 3, float32, RGB, [-1, 1]), their faces batched together.

        Raises:
            UserError: the network gave values that are not finite.
        """
        # The faces of all photographs, aligned and restored in batches.
        found = [self._find(photo) for photo in photos]
        size = self.restorer.in_size
        aligned = [
            align_face(photo, face.landmarks, size, soften=False)
            for photo, faces in zip(photos, found, strict=True)
            for face in faces
        ]
        restored = iter(self._restore_faces(aligned))

        # Back to their photographs, in the same order.
        results = []
        for photo, faces in zip(photos, found, strict=True):
            grey = self.keep_grey and is_grey(photo)
            done = [self._join(face, *next(restored), grey) for face in faces]
            results.append(Restoration(self.enlarger(photo), self.enlarger.scale, done))
        return results

    def _find(self, photo: np.ndarray) -> list[Face]:
        """Return the faces of a photograph, or only the one nearest to its middle."""
        faces = self.detector.detect(photo)
        if not self.only_center or not faces:
            return faces
        middle = np.array([photo.shape[1] - 1, photo.shape[0] - 1]) / 2
        return [min(faces, key=lambda face: float(np.hypot(*(face.landmarks.mean(axis=0) - middle))))]

    def _restore_faces(self, aligned: Sequence[AlignedFace]) -> list[tuple[AlignedFace, np.ndarray, np.ndarray]]:
        """Return each face with its restored image and its mask."""
        results = []
        for start in range(0, len(aligned), self.batch_size):
            chunk = aligned[start : start + self.batch_size]
            images = self.restorer(torch.stack([to_tensor(face.image) for face in chunk]))
            for face, image, mask in zip(chunk, images, self.masks(images), strict=True):
                results.append((face, to_array(image), mask))
        return results

    def _join(self, face: Face, aligned: AlignedFace, after: np.ndarray, mask: np.ndarray, grey: bool) -> RestoredFace:
        """Return a face with its image before and after, both at the network's output size."""
        factor = self.restorer.size / self.restorer.in_size
        before = resize(aligned.image, self.restorer.size)
        if grey:
            after = np.repeat((after @ _LUMA)[..., None], 3, axis=2)
        return RestoredFace(face, before, after, mask, scale_matrix(aligned.matrix, target=factor))


def is_grey(photo: np.ndarray) -> bool:
    """Whether the three channels of a photograph are equal."""
    return bool((photo[..., 0] == photo[..., 1]).all() and (photo[..., 1] == photo[..., 2]).all())
