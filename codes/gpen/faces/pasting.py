"""Putting restored faces back into their photograph, without a seam."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

FEATHER = 0.12
"""Share of a face image's side over which a feathered mask goes from 0 to 1."""

_MARGIN = 2  # pixels around a face that interpolation reaches
_FOCUS = 4  # exponent of a face's weight, which falls from its middle to its corners
_FLOOR = 1e-4  # the weight at the corners

Region = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Patch:
    """A face to put into a photograph.

    Attributes:
        image: S x S x 3, float32, RGB, [-1, 1].
        mask: S x S, float32, [0, 1]: how much of the face is seen; 0 at the edges.
        matrix: 2 x 3: takes (x, y, 1) of the photograph to (x, y) of ``image``, pixel centres at whole numbers.
        before: S x S x 3: what was there, as fine as ``image``.
        detail: how much is kept of what the photograph has finer than that, [0, 1].
    """

    image: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray
    before: np.ndarray | None = None
    detail: float = 0.0


def feather_mask(size: int) -> np.ndarray:
    """Return a square mask with rounded corners that falls smoothly to 0 at its edges: size x size, float32, [0, 1]."""
    middle = (size - 1) / 2
    across = np.maximum(0, np.abs(np.arange(size) - middle) / max(middle, 0.5) - (1 - 2 * FEATHER)) / (2 * FEATHER)
    depth = np.clip(1 - np.hypot(across[:, None], across[None]), 0, 1)
    return (depth * depth * (3 - 2 * depth)).astype(np.float32)


def scale_matrix(matrix: np.ndarray, source: float = 1.0, target: float = 1.0) -> np.ndarray:
    """Return ``matrix`` (2 x 3) for images that were enlarged: its input by ``source``, its output by ``target``.

    The outer edges of the images, half a pixel beyond the outermost centres, stay where they are.
    """
    scaled = np.array(matrix, np.float64) / source
    # (enlarged + 0.5) = factor * (original + 0.5), on both sides.
    scaled[:, 2] = target * (matrix[:, 2] + 0.5 + (0.5 / source - 0.5) * matrix[:, :2].sum(axis=1)) - 0.5
    scaled[:, :2] *= target
    return scaled


def paste(photo: np.ndarray, patches: Sequence[Patch], strength: float = 1.0) -> np.ndarray:
    """Return the photograph with the faces in it; where no mask reaches, it is the same to the bit.

    Where the masks of two faces overlap, each face keeps its own middle, whatever their order.

    Args:
        photo: H x W x 3, float32, RGB, [-1, 1].
        patches: the faces.
        strength: 0 (the photograph alone) to 1.
    """
    result = photo.copy()

    # Every face at the photograph's resolution, and the region that it covers.
    shrunk = [_shrink(patch) for patch in patches]
    regions = [_find_region(patch, photo.shape) for patch in shrunk]

    for patch, region in zip(shrunk, regions, strict=True):
        left, top, right, bottom = region
        if left >= right or top >= bottom:
            continue

        # The face's share of each pixel, among all faces that reach it.
        own, mask = _weigh(patch, region)
        total = own.copy()
        for other, place in zip(shrunk, regions, strict=True):
            if other is not patch and _overlap(region, place):
                total += _weigh(other, region)[0]
        share = strength * mask * own / np.maximum(total, 1e-12)  # H x W

        face = _warp(patch.image, patch.matrix, region, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)
        original = photo[top:bottom, left:right]
        if patch.before is not None and patch.detail > 0:
            coarse = _warp(patch.before, patch.matrix, region, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)
            face += patch.detail * (original - coarse)
        result[top:bottom, left:right] += share[..., None] * (np.clip(face, -1, 1) - original)
    return np.clip(result, -1, 1, out=result)


def _shrink(patch: Patch) -> Patch:
    """Shrink a face that has more pixels than its place in the photograph, so that no detail turns into moiré.

    The photograph is not finer then, so none of its detail is kept.
    """
    size = patch.image.shape[0]
    wanted = max(1, round(size / np.sqrt(abs(np.linalg.det(patch.matrix[:, :2])))))
    if wanted >= size:
        return patch
    image, mask = (
        cv2.resize(array, (wanted, wanted), interpolation=cv2.INTER_AREA) for array in (patch.image, patch.mask)
    )
    return Patch(image, mask, scale_matrix(patch.matrix, target=wanted / size))


def _find_region(patch: Patch, shape: tuple[int, ...]) -> Region:
    """Return the part of the photograph that the face covers; it is empty where right <= left or bottom <= top."""
    edge = patch.image.shape[0] - 0.5
    corners = np.array([[-0.5, -0.5, 1], [edge, -0.5, 1], [edge, edge, 1], [-0.5, edge, 1]])
    places = corners @ cv2.invertAffineTransform(patch.matrix).T
    left, top = (max(0, int(value)) for value in np.floor(places.min(axis=0)) - _MARGIN)
    right, bottom = (int(value) for value in np.ceil(places.max(axis=0)) + _MARGIN + 1)
    return left, top, min(right, shape[1]), min(bottom, shape[0])


def _overlap(a: Region, b: Region) -> bool:
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])


def _weigh(patch: Patch, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Return a face's weight at each pixel of a region, high in its middle, and its mask there: H x W each."""
    mask = _warp(patch.mask, patch.matrix, region, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    rows, columns = np.mgrid[region[1] : region[3], region[0] : region[2]].astype(np.float32)
    half = patch.image.shape[0] / 2
    x, y = ((row[0] * columns + row[1] * rows + row[2] + 0.5) / half - 1 for row in patch.matrix.astype(np.float32))
    weight = np.clip(1 - (x * x + y * y) / 2, 0, 1) ** _FOCUS + _FLOOR
    return mask * weight, mask


def _warp(array: np.ndarray, matrix: np.ndarray, region: Region, method: int, border: int) -> np.ndarray:
    """Return what ``matrix`` (photograph to ``array``) puts into a region of the photograph."""
    left, top, right, bottom = region
    moved = np.array(matrix, np.float64)
    moved[:, 2] += moved[:, :2] @ (left, top)
    return cv2.warpAffine(
        array, moved, (right - left, bottom - top), flags=method | cv2.WARP_INVERSE_MAP, borderMode=border
    )
