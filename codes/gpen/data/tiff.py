"""TIFF files: their directory, which kinds of pixels are read, and their pixels with the alpha channel."""

import math
from io import BytesIO
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from gpen.data.pixels import DamagedFileError, divide, parsing

MARKS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
"""How such a file starts: byte order, and plain or BigTIFF."""

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339
_DATA_TAGS = ((273, 279), (324, 325))  # (offsets, byte counts) of strips, and of tiles
_UNSIGNED, _FLOAT = 1, 3
_WHITE_IS_ZERO, _CMYK, _LAB = 0, 5, 8
_PREMULTIPLIED = 1
_READ = {(8, _UNSIGNED), (16, _UNSIGNED), (32, _UNSIGNED), (32, _FLOAT), (64, _FLOAT)}
_NOT_READ = 'it is damaged, or packed in a way that is not read'
_FORMATS = {_UNSIGNED: 'integer', 2: 'signed integer', _FLOAT: 'float'}


def read_directory(stream: BinaryIO) -> ImageFileDirectory_v2:
    """Return the tags of the first picture.

    Not through Pillow's ``TiffImageFile``, which refuses some kinds of pixels that OpenCV reads.

    Raises:
        Exception: whatever Pillow raises for a damaged directory.
    """
    stream.seek(0)
    head = stream.read(8)
    directory = ImageFileDirectory_v2(head + stream.read(8) if b'+' in head[2:4] else head)
    stream.seek(directory.next)
    directory.load(stream)
    return directory


def find_end(directory: ImageFileDirectory_v2) -> int:
    """Return the offset behind the last byte of pixel data, as the directory states it."""
    ends = [
        offset + count
        for offsets, counts in _DATA_TAGS
        for offset, count in zip(directory.get(offsets, ()), directory.get(counts, ()), strict=False)
    ]
    return max(ends, default=0)


def read_layout(directory: ImageFileDirectory_v2) -> tuple[tuple[int, int], int]:
    """Return width and height as they are stored, and the orientation as EXIF's number."""
    return (int(directory[_WIDTH]), int(directory[_HEIGHT])), int(directory.get(_ORIENTATION, 1))


def has_alpha(directory: ImageFileDirectory_v2) -> bool:
    """Whether a channel says how transparent each pixel is."""
    colours = {0: 1, 1: 1, 2: 3, 3: 1, _CMYK: 4}.get(directory.get(_PHOTOMETRIC, 2), 3)
    return bool(directory.get(_SAMPLES, 1) == colours + 1 and _first(directory, _EXTRA, 2) in (1, 2))


def find_model(directory: ImageFileDirectory_v2) -> str:
    """Return ``CMYK`` for a printer's colours, ``LAB`` for those of CIE L*a*b*, and ``RGB`` for all others."""
    return {_CMYK: 'CMYK', _LAB: 'LAB'}.get(directory.get(_PHOTOMETRIC, 2), 'RGB')


def count_bits(directory: ImageFileDirectory_v2) -> int:
    """Return the bits of each number."""
    return int(_first(directory, _BITS, 1))


def check_kind(directory: ImageFileDirectory_v2) -> None:
    """Raise :class:`DamagedFileError` where the pixels are of a kind that is not read, or would be read wrongly."""
    bits, kind = count_bits(directory), _first(directory, _FORMAT, _UNSIGNED)
    if bits >= 8 and (bits, kind) not in _READ:
        raise DamagedFileError(
            f'its pixels are {_FORMATS.get(kind, "unknown")} numbers of {bits} bits, which are not read'
        )
    if bits > 8 and find_model(directory) == 'LAB':
        raise DamagedFileError(f'its colours are L*a*b* of {bits} bits, which are not read')
    if bits > 8 and directory.get(_SAMPLES, 1) > 1 and directory.get(_PLANES, 1) != 1:
        raise DamagedFileError(f'its colours of {bits} bits lie in planes of their own, which are not read')


def decode(data: bytes, directory: ImageFileDirectory_v2, stream: BinaryIO) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours (H x W x 3, RGB: uint8, uint16, or float32 in [0, 1]) and alpha (H x W of that type, or None).

    The pixels are of a kind that :func:`check_kind` lets pass.

    Raises:
        DamagedFileError: they are packed in a way that is not read, or floats beyond black and white.
        Exception: whatever Pillow or OpenCV raises for damaged files.
    """
    alpha, bits = has_alpha(directory), count_bits(directory)
    if alpha and bits == 8:
        return _decode_transparent(stream)
    deep = bits > 16 or alpha
    # OpenCV reads no deep grey picture in another way; it turns all TIFF.
    flags = cv2.IMREAD_UNCHANGED if deep else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DamagedFileError(_NOT_READ)

    if bits > 16:
        pixels = to_unit(pixels)
    # OpenCV sees to that at 8 bits alone.
    if pixels.dtype != np.uint8 and directory.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = (1 if pixels.dtype == np.float32 else np.iinfo(np.uint16).max) - pixels
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2), None
    colours = pixels[..., 2::-1]
    if not alpha:
        return np.ascontiguousarray(colours), None
    if _first(directory, _EXTRA, 2) == _PREMULTIPLIED:
        colours = divide(colours, pixels[..., 3])
    return np.ascontiguousarray(colours), np.ascontiguousarray(pixels[..., 3])


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """Return deep pixels as float32 in [0, 1].

    Raises:
        DamagedFileError: they are floats beyond 0 (black) to 1 (white), so what is white cannot be told.
    """
    if pixels.dtype.kind in 'iu':
        return (pixels.view(np.uint32) / np.float64(2**32 - 1)).astype(np.float32)
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)) or lowest < -0.01 or highest > 1.01:
        raise DamagedFileError(
            f'its float pixels go from {lowest:.4g} to {highest:.4g}, not from 0 (black) to 1 (white)'
        )
    return np.clip(pixels, 0, 1).astype(np.float32)


def _decode_transparent(stream: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Return colours and alpha of 8 bits by Pillow, which turns them; OpenCV's colours would be multiplied by alpha."""
    stream.seek(0)
    with parsing(_NOT_READ), TiffImageFile(stream) as image:
        pixels = np.array(image.convert('RGBA'))
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])


def _first(directory: ImageFileDirectory_v2, tag: int, default: Any) -> Any:
    """Return the first value of a tag, which may be one number or several."""
    value = directory.get(tag, default)
    return value[0] if isinstance(value, tuple) and value else value


def mark_alpha(data: bytes) -> bytes:
    """Return a file of OpenCV's whose fourth channel is said to be alpha, which OpenCV does not say."""
    directory = read_directory(BytesIO(data))
    directory[_EXTRA] = (2,)
    return replace_directory(data, directory)


def replace_directory(data: bytes, directory: ImageFileDirectory_v2) -> bytes:
    """Return a file of OpenCV's with another directory, which is put before the pixels."""
    start = 8  # of the pixels, behind the header
    dict(directory)  # Pillow writes those tags alone that were looked at
    pixels = data[start : find_end(directory)]
    # Pillow takes the offsets of strips for those from the end of the directory, and adds where that is.
    directory[_DATA_TAGS[0][0]] = tuple(offset - start for offset in directory[_DATA_TAGS[0][0]])
    place = start.to_bytes(4, 'little' if data.startswith(b'II') else 'big')
    return data[:4] + place + directory.tobytes(start) + pixels
