"""What the decoders of image files share: their error, and pixels that are turned or freed from their alpha channel."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class DamagedFileError(ValueError):
    """The file is no whole image, or none that is read; the message is a clause, such as ``it is cut off``."""


@contextmanager
def parsing(reason: str) -> Iterator[None]:
    """Turn what parsers raise for damaged files, which may be anything, into a :class:`DamagedFileError`.

    Args:
        reason: a clause that says what is wrong then.

    Raises:
        DamagedFileError: the parser raised something.
        OSError: the file itself cannot be read.
        MemoryError: there is not enough.
    """
    try:
        yield
    except (DamagedFileError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFileError(reason) from error


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a picture (H x W or H x W x C) as EXIF's number of its orientation says that it is to be seen."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def divide(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours that were multiplied by ``alpha``."""
    top = 1 if colours.dtype.kind == 'f' else np.iinfo(colours.dtype).max
    whole = colours.astype(np.float64) * top / np.maximum(alpha, 1e-6 if top == 1 else 1)[..., None]
    whole = np.clip(whole, 0, top)
    return whole.astype(colours.dtype) if top == 1 else np.rint(whole).astype(colours.dtype)
