"""Alignment the FFHQ way: landmarks -> an oriented square -> a face image.

Coordinates are pixels of the photograph, x before y; the centre of the top left pixel is (0, 0).

Source: Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks", appendix C, and
the data set's published description.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from gpen.data.ffhq_square import ffhq_quad, matrix_to_face

_FADE = 0.3  # share of the side over which the reflection goes over into its blurred version
_BLUR = 0.02  # standard deviation of that blur, in sides
_WIDE_BLUR = 4.0  # standard deviation, pixels, from which on a blur is done at a smaller size
_MARGIN = 4  # pixels around the square that interpolation looks at


@dataclass(frozen=True)
class AlignedFace:
    """A face, upright, in the middle of a square.

    Attributes:
        image: size x size x 3, float32, RGB, [-1, 1].
        matrix: 2 x 3, float64: takes (x, y, 1) of the photograph to (x, y) of ``image``.
        quad: 4 x 2, float64: corners of the square in the photograph, see :func:`ffhq_quad`.
        padding: share of ``image`` that lies outside the photograph, in [0, 1].
        scale: pixels of ``image`` per pixel of the photograph; above 1: enlarged.
    """

    image: np.ndarray
    matrix: np.ndarray
    quad: np.ndarray
    padding: float
    scale: float


def align_face(image: np.ndarray, landmarks: np.ndarray, size: int, soften: bool = True) -> AlignedFace:
    """Cut out a face as :func:`ffhq_quad` says.

    Where the square reaches beyond the photograph, the photograph is mirrored at its border.
    A face that gets smaller is averaged over areas first; one that gets larger is interpolated (cubic).

    Args:
        image: the photograph, H x W x 3, float32, RGB, [-1, 1].
        landmarks: 5 x 2 or 68 x 2.
        size: height and width of the result.
        soften: where the square reaches beyond the photograph, blur towards its border and further out, as FFHQ does;
            not for faces that go back into the photograph, since its own pixels near the border are blurred too.

    Raises:
        UserError: landmarks that make no face.
    """
    quad = ffhq_quad(landmarks)
    matrix = matrix_to_face(quad, size)
    face = cut_square(image, quad, size, soften)
    padding = 1 - float(_find_inside(image, matrix, size).mean())
    return AlignedFace(face, matrix, quad, padding, size / _side_of(quad))


def cut_square(
    image: np.ndarray, quad: np.ndarray, size: int, soften: bool = False, outside: float | None = None
) -> np.ndarray:
    """Return what is in a square of the photograph, size x size x 3.

    Args:
        image: as for :func:`align_face`.
        quad: the square, see :func:`ffhq_quad`.
        size: height and width of the result.
        soften: see :func:`align_face`.
        outside: the colour of what lies outside of the photograph; None: the photograph is mirrored there.
    """
    side = _side_of(quad)
    matrix = matrix_to_face(quad, size)

    # The square's surroundings, made smaller first where the face gets smaller.
    region, to_photo = _cut_region(image, quad, 2 * size / side)
    if soften:
        region = _soften(region, _measure_depth(region, to_photo, image) / side, side / to_photo[0, 0])

    square = _warp(region, _join(matrix, to_photo), size, size / side)
    if outside is not None:
        square[~_find_inside(image, matrix, size)] = outside
    return square


def _side_of(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def _join(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the 2 x 3 matrix that does what ``inner`` does and then what ``outer`` does."""
    return outer @ np.vstack([inner, [0, 0, 1]])


def _cut_region(image: np.ndarray, quad: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the photograph around the square, mirrored beyond its border, and the 2 x 3 matrix back to the photograph.

    ``wanted`` is its pixels per pixel of the photograph; where that is below 1, the pixels are averages over areas.
    """
    height, width = image.shape[:2]

    # The square with a margin, in whole pixels; beyond the photograph's border it is mirrored.
    margin = int(np.ceil(_MARGIN / min(1.0, wanted)))
    left, top = np.floor(quad.min(axis=0)).astype(int) - margin
    right, bottom = np.ceil(quad.max(axis=0)).astype(int) + margin + 1
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        region = image[top:bottom, left:right]
    else:
        region = image[_mirror(np.arange(top, bottom), height)[:, None], _mirror(np.arange(left, right), width)]

    # Shrink before anything else, because softening takes long at the size of the photograph.
    stretch = np.ones(2)
    if wanted < 1:
        small = tuple(max(1, round(length * wanted)) for length in (right - left, bottom - top))
        region = cv2.resize(region, small, interpolation=cv2.INTER_AREA)
        stretch = np.array([right - left, bottom - top]) / small

    # Pixel centres: (small + 0.5) * stretch - 0.5 = large.
    return region, np.hstack([np.diag(stretch), ((stretch - 1) / 2 + [left, top])[:, None]])


def _measure_depth(region: np.ndarray, to_photo: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the photograph's border, negative outside (H x W, float32, its pixels)."""
    across, down = (
        to_photo[axis, axis] * np.arange(length) + to_photo[axis, 2]
        for axis, length in enumerate((region.shape[1], region.shape[0]))
    )
    across = np.minimum(across, image.shape[1] - 1 - across)
    down = np.minimum(down, image.shape[0] - 1 - down)
    return np.minimum(across[None], down[:, None]).astype(np.float32)


def _find_inside(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return which of the face's pixels have their centres in the photograph (size x size)."""
    inverse = cv2.invertAffineTransform(matrix)
    rows, columns = np.mgrid[:size, :size]
    x, y = (row[0] * columns + row[1] * rows + row[2] for row in inverse)
    inside: np.ndarray = (x >= -0.5) & (x < image.shape[1] - 0.5) & (y >= -0.5) & (y < image.shape[0] - 0.5)
    return inside


def _mirror(positions: np.ndarray, length: int) -> np.ndarray:
    """Return positions reflected at both ends into [0, length), without repeating the edge."""
    period = max(1, 2 * (length - 1))
    folded = np.abs(positions) % period
    return np.minimum(folded, period - folded)


def _soften(region: np.ndarray, depth: np.ndarray, side: float) -> np.ndarray:
    """Blur a region towards and beyond the photograph's border, and let it fade to its median colour further out.

    Args:
        region: H x W x 3.
        depth: H x W, the distance to the photograph's border in sides of the square, negative outside.
        side: of the square, pixels of ``region``.
    """
    if depth.min() >= 0:
        return region

    # Towards the border: more and more of a blurred version.
    blurred = _blur(region, max(side * _BLUR, 0.5))
    softened = region + (blurred - region) * np.clip(1 - 3 * depth / _FADE, 0, 1)[..., None]

    # Beyond the border: more and more of the median colour of what lies within.
    within = region[depth >= 0]
    median = np.median(within if len(within) else region.reshape(-1, 3), axis=0).astype(np.float32)
    return softened + (median - softened) * np.clip(-depth / _FADE, 0, 1)[..., None]


def _blur(region: np.ndarray, sigma: float) -> np.ndarray:
    """Return ``region`` blurred by a Gaussian; a wide one at a smaller size, where it looks the same and is quick."""
    height, width = region.shape[:2]
    factor = max(1.0, sigma / _WIDE_BLUR)
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    blurred = cv2.resize(region, small, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(blurred, (0, 0), sigma / factor, borderType=cv2.BORDER_REFLECT_101)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def _warp(region: np.ndarray, matrix: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Return what ``matrix`` takes from a region to a size x size image."""
    if scale >= 1:
        return np.clip(_apply(region, matrix, size), -1, 1)
    # Warp at twice the size and average, so that no detail turns into moiré.
    doubled = 2 * matrix + np.array([[0, 0, 0.5], [0, 0, 0.5]])
    return np.clip(cv2.resize(_apply(region, doubled, 2 * size), (size, size), interpolation=cv2.INTER_AREA), -1, 1)


def _apply(region: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    return cv2.warpAffine(region, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
