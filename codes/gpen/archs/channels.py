"""Sizes and channel counts, which all networks share."""

import math

from gpen.errors import UserError
from gpen.utils.text import format_shape

SMALLEST_SIZE = 8
LARGEST_SIZE = 4096


def base_channels(resolution: int, channel_multiplier: int) -> int:
    """Return the channel count at ``resolution`` before ``narrow``: 512 up to 32 x 32, then half at each doubling."""
    return 512 if resolution <= 32 else 256 * 64 * channel_multiplier // resolution


def channel_counts(size: int, channel_multiplier: int, narrow: float) -> dict[int, int]:
    """Return the channel count at each resolution 4, 8, ..., ``size``.

    Raises:
        UserError: ``size`` or a factor is out of range, or a resolution would get no channel at all.
    """
    check_size('size', size)
    if channel_multiplier <= 0 or narrow <= 0:
        raise UserError(
            f'channel_multiplier and narrow should be above 0, not {channel_multiplier} and {narrow}. '
            'The published networks use 2 and 1.'
        )

    resolutions = [2**level for level in range(2, log2_size(size) + 1)]
    counts = {resolution: int(base_channels(resolution, channel_multiplier) * narrow) for resolution in resolutions}
    if counts[size] < 1:
        raise UserError(f'narrow {narrow} leaves no channel at {size} x {size}. Use a larger narrow.')
    return counts


def check_size(name: str, size: int) -> None:
    """Raise UserError unless ``size`` is a power of two from 8 to 4096."""
    if not isinstance(size, int) or size < SMALLEST_SIZE or size > LARGEST_SIZE or size & (size - 1):
        raise UserError(
            f'{name} should be a power of two from {SMALLEST_SIZE} to {LARGEST_SIZE}, such as 256 or 512, not {size!r}.'
        )


def check_image_shape(name: str, shape: tuple[int, ...], size: int) -> None:
    """Raise UserError unless ``shape`` is N x 3 x ``size`` x ``size``."""
    if len(shape) != 4 or tuple(shape[1:]) != (3, size, size):
        raise UserError(
            f'The {name} takes images of N x 3 x {size} x {size}, but got {format_shape(shape)}. Resize them first.'
        )


def log2_size(size: int) -> int:
    """Return the exponent of a power of two."""
    return int(math.log2(size))
