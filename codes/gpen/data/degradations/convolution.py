"""Blurring with any kernel: a plain version, and fast ones that stay within a quarter of an 8-bit step of it.

A kernel of 41 x 41 costs OpenCV a Fourier transform per tile.  Most blur kernels are cheaper as a short sum of column
times row (a singular value decomposition), after what lies outside their support has been cut off; and where the image
is made smaller right after, only those rows have to be computed that the resampling looks at.  What is left out is
bounded by the sum of absolute differences between the two kernels, which bounds the error for every image.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce

import cv2
import numpy as np
import torch

from gpen.data.degradations.resampling import resample

BORDER = cv2.BORDER_REFLECT_101
"""Beyond its border an image is mirrored without the edge itself, as in OpenCV's ``filter2D`` and BasicSR."""

_TRIM_LIMIT = 1e-4
_SEPARATION_LIMIT = 7e-4
"""Share of a kernel's weight that may be lost; an image spans 2, so a quarter of an 8-bit step is 2e-3."""

# Times measured for images of three channels, in multiply-adds of a filter with one row or one column.
_DFT_COST = 320  # per pixel, whatever the kernel
_DFT_AREA = 130  # OpenCV takes the Fourier transform from this kernel area on
_DIRECT_COST = 0.7  # per pixel and kernel element, below that area


def convolve_plain(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return ``image`` (H x W x 3, float32) filtered by ``kernel``: the definition of what the others compute."""
    return cv2.filter2D(image, -1, kernel, borderType=BORDER)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return what :func:`convolve_plain` does, within a quarter of an 8-bit step.

    Args:
        image: H x W x 3, float32, [-1, 1].
        kernel: odd height and width, sum 1.

    Returns:
        H x W x 3, float32; the image itself where the kernel changes nothing.
    """
    kernel = _trim(kernel)
    if kernel.size == 1:
        return image

    # A sum of separable filters, where it is cheaper than the filter itself.
    terms = _separate(kernel, _count_affordable_terms(kernel, share=1))
    if terms is None:
        return convolve_plain(image, kernel)
    return _sum(
        convolve_plain(convolve_plain(image, column[:, None]), row[None]) for column, row in zip(*terms, strict=True)
    )


def convolve_and_resize_plain(image: np.ndarray, kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return ``image`` filtered by ``kernel`` and resampled bilinearly, without antialiasing, to height x width x 3."""
    return resample(convolve_plain(image, kernel), height, width, 'bilinear')


def convolve_and_resize(image: np.ndarray, kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return what :func:`convolve_and_resize_plain` does, within a quarter of an 8-bit step.

    Args:
        image: H x W x 3, float32, [-1, 1].
        kernel: odd height and width, sum 1.
        height: of the result, pixels.
        width: of the result, pixels.
    """
    kernel = _trim(kernel)
    share = height / image.shape[0]

    # Where the image gets smaller, only the rows that the resampling looks at are filtered.
    terms = None
    if share < 1 and kernel.size > 1:
        terms = _separate(kernel, _count_affordable_terms(kernel, share))
    if terms is None:
        return resample(convolve(image, kernel), height, width, 'bilinear')
    return resample(_filter_needed_rows(image, *terms, height), height, width, 'bilinear')


def _trim(kernel: np.ndarray) -> np.ndarray:
    """Cut off outer rows and columns that hold next to nothing; the sum stays."""
    weights = np.abs(kernel)
    top, left = _count_negligible(weights.sum(axis=1)), _count_negligible(weights.sum(axis=0))
    part = kernel[top : len(kernel) - top, left : kernel.shape[1] - left]
    return part * (kernel.sum() / part.sum())


def _count_negligible(profile: np.ndarray) -> int:
    """Return how many elements can go at either end of a row or column of weights."""
    half = len(profile) // 2
    lost = np.cumsum(profile[:half] + profile[::-1][:half])
    return int(np.searchsorted(lost, _TRIM_LIMIT / 2, side='right'))


def _count_affordable_terms(kernel: np.ndarray, share: float) -> int:
    """Return how many products of a column and a row are cheaper than ``filter2D``, for this share of the rows."""
    plain = _DFT_COST if kernel.size >= _DFT_AREA else _DIRECT_COST * kernel.size
    return int(plain / (share * sum(kernel.shape)))


def _separate(kernel: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return columns (N x height) and rows (N x width) whose outer products add up to the kernel.

    None where more than ``most`` of them are needed.
    """
    left, strengths, right = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
    rest = kernel.astype(np.float64)
    for count in range(1, min(most, len(strengths)) + 1):
        rest -= np.outer(left[:, count - 1] * strengths[count - 1], right[count - 1])
        if np.abs(rest).sum() <= _SEPARATION_LIMIT:
            scale = kernel.sum() / (kernel.sum() - rest.sum())  # an even surface keeps its value
            columns = left[:, :count] * strengths[:count] * scale
            return columns.T.astype(np.float32), right[:count].astype(np.float32)
    return None


def _sum(images: Iterable[np.ndarray]) -> np.ndarray:
    """Return the sum of images, in the memory of the first one."""
    return reduce(lambda total, image: cv2.add(total, image, dst=total), images)


def _filter_needed_rows(image: np.ndarray, columns: np.ndarray, rows: np.ndarray, height: int) -> np.ndarray:
    """Filter by N columns (N x K) and rows, and resample from H to ``height`` rows; the width stays.

    The columns and the resampling are one banded matrix.  It is multiplied block by block: small blocks waste little on
    zeros, and what a block gives is filtered by the rows while it is still in the cache.
    """
    # The padded image as a matrix, and the weights that make each resampled row out of its rows.
    count, size = columns.shape
    first, weights = _resampled_columns(columns, image.shape[0], height)
    border = size // 2
    padded = cv2.copyMakeBorder(image, border, border + 1, 0, 0, BORDER)
    source = torch.from_numpy(padded.reshape(len(padded), -1))  # (H + K) x 3W
    result = np.empty((height, *image.shape[1:]), np.float32)

    step = max(8, round(0.6 * size * height / image.shape[0]))
    buffer = torch.empty((step * count, source.shape[1]))
    for start in range(0, height, step):
        # The block of the banded matrix for these rows: rows x N x padded rows.
        stop = min(start + step, height)
        low, high = first[start], first[stop - 1] + size + 1
        band = np.zeros((stop - start, count, high - low), np.float32)
        for line in range(start, stop):
            band[line - start, :, first[line] - low :][:, : size + 1] = weights[line]

        product = buffer[: (stop - start) * count]
        with _one_thread():
            torch.mm(torch.from_numpy(band.reshape(-1, high - low)), source[low:high], out=product)
        block = product.numpy().reshape(stop - start, count, *image.shape[1:])
        result[start:stop] = _sum(convolve_plain(block[:, n], rows[n][None]) for n in range(count))
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: the last bits of a matrix product depend on how many share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _resampled_columns(columns: np.ndarray, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the filter columns, mixed for bilinear resampling, start in a padded image, and their values.

    Returns:
        ``target`` integers, and an array of target x N x (K + 1).
    """
    positions = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    first = np.floor(positions).astype(int)
    fraction = (positions - first).astype(np.float32)[:, None, None]
    nothing = np.zeros((len(columns), 1), np.float32)
    upper, lower = np.hstack([columns, nothing]), np.hstack([nothing, columns])
    return first, (1 - fraction) * upper + fraction * lower
