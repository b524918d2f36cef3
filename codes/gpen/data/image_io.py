"""Read image files into arrays and write them: the one module that knows OpenCV's BGR order and 8 or 16 bits.

Inside the package an image is float32, RGB, in [-1, 1]: H x W x 3 as an array, 3 x H x W as a tensor.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from gpen.data.file_check import MAX_PIXELS, SUFFIXES, DamagedFileError, check_complete, read_file, read_size
from gpen.errors import UserError
from gpen.utils.files import atomic_path

ArrayOrTensor = TypeVar('ArrayOrTensor', np.ndarray, torch.Tensor)

# Converts grey and palette to three channels, drops alpha, keeps 16 bits, and turns the picture by its EXIF
# orientation.  IMREAD_UNCHANGED would leave the picture lying on its side.
_READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
# What OpenCV prints about damaged files has no name of a file; a sentence with the name follows.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_WRITE_PARAMETERS = {'.jpg': [cv2.IMWRITE_JPEG_QUALITY, 95], '.jpeg': [cv2.IMWRITE_JPEG_QUALITY, 95]}
_WRITE_16_BITS = ('.png', '.tif', '.tiff')


def read_image(source: Path | bytes, name: str = '') -> np.ndarray:
    """Read a PNG, JPEG, WebP, TIFF or BMP file of 8 or 16 bits; grey becomes RGB, alpha is dropped.

    The picture is turned as its EXIF orientation says.  CMYK becomes RGB without a colour profile.  Of several pictures
    in a file the first is read.

    Args:
        source: a path, or the bytes of a file.
        name: how messages call the image; the path by default.

    Returns:
        H x W x 3, float32, RGB, [-1, 1].

    Raises:
        UserError: the file cannot be read, is cut off or is no such image.
    """
    name = name or (str(source) if isinstance(source, Path) else 'an image in memory')
    data = _read_bytes(source, name) if isinstance(source, Path) else source

    try:
        check_complete(BytesIO(data))
        return _to_float(_decode(data))
    except DamagedFileError as error:
        raise UserError(f'{name} cannot be used: {error}. Replace or remove the file.') from error


@dataclass(frozen=True)
class Picture:
    """A picture and how its file keeps it.

    Attributes:
        image: H x W x 3, float32, RGB, [-1, 1].
        bits: per channel, 8 or 16.
    """

    image: np.ndarray
    bits: int


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a photograph of unknown origin as :func:`read_image` does.

    Raises:
        UserError: the file cannot be read, is cut off, is no such image or has more than ``max_pixels`` pixels by its
            header, which is read before the pixels take any memory.
    """
    try:
        return decode_picture(_read_bytes(path, str(path)), max_pixels)
    except DamagedFileError as error:
        raise UserError(f'{path} cannot be used: {error}. Replace or remove the file.') from error
    except MemoryError as error:
        raise UserError(f'{path} does not fit into the memory.') from error


def decode_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return the picture in the bytes of a photograph of unknown origin.

    Raises:
        DamagedFileError: it is no whole image, or its header states more than ``max_pixels`` pixels; the message is a
            clause.
    """
    read_size(BytesIO(data), max_pixels)
    pixels = _decode(data)
    return Picture(_to_float(pixels), 8 * pixels.dtype.itemsize)


def check_pixels(data: bytes) -> None:
    """Raise :class:`DamagedFileError` where the pixels of a whole image file cannot be decoded."""
    check_complete(BytesIO(data))
    _decode(data)


def _to_float(pixels: np.ndarray) -> np.ndarray:
    image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.float32)
    image /= np.float32(_FULL_SCALE[pixels.dtype])  # in place: a photograph of 100 million pixels takes 1.2 GB
    image *= 2
    image -= 1
    return image


def write_image(path: Path, image: np.ndarray | torch.Tensor, bits: int = 8) -> None:
    """Write an image, whole or not at all; the suffix of ``path`` chooses the format.

    Args:
        path: .png, .jpg, .webp, .tif or .bmp; missing folders are made.
        image: H x W x 3 array or 3 x H x W tensor, RGB, [-1, 1]; values beyond are clipped.
        bits: 8, or 16 for PNG and TIFF.

    Raises:
        UserError: no such format, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f'Cannot write {path}: no image format has this suffix. Use {", ".join(SUFFIXES)}.')
    if bits not in (8, 16) or (bits == 16 and suffix not in _WRITE_16_BITS):
        raise UserError(f'Cannot write {path} with {bits} bits: 16 bits are for PNG and TIFF, 8 for all formats.')

    array = to_array(image) if isinstance(image, torch.Tensor) else image
    try:
        data = encode_image(array, suffix, bits)
    except ValueError as error:
        raise UserError(f'Cannot write {path}: {error}.') from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_image(image: np.ndarray, suffix: str = '.png', bits: int = 8) -> bytes:
    """Return the bytes of an image file without any metadata.

    Args:
        image: H x W x 3, RGB, [-1, 1]; values beyond are clipped.
        suffix: the format, such as ``.png`` or ``.jpg``.
        bits: 8, or 16 for PNG and TIFF.

    Raises:
        ValueError: the image does not fit the format; the message is a clause.
    """
    bgr = cv2.cvtColor(_quantize(image, np.uint8 if bits == 8 else np.uint16), cv2.COLOR_RGB2BGR)

    try:
        done, encoded = cv2.imencode(suffix, bgr, _WRITE_PARAMETERS.get(suffix, []))
    except cv2.error as error:
        raise ValueError(str(error.err)) from error
    if not done:
        raise ValueError(f'the image of {bgr.shape[1]} x {bgr.shape[0]} does not fit its format')
    return bytes(encoded)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Return ``image`` (H x W x 3, [-1, 1]) as size x size x 3: area averages to shrink, bicubic to enlarge."""
    height, width = image.shape[:2]
    if height == width == size:
        return image
    method = cv2.INTER_AREA if min(height, width) >= size else cv2.INTER_CUBIC
    resized = cv2.resize(image, (size, size), interpolation=method)
    return np.clip(resized, -1, 1, out=resized)  # bicubic weights overshoot at edges


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return an H x W x C array as a contiguous C x H x W tensor of its own memory."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order='C'))


def to_array(image: torch.Tensor) -> np.ndarray:
    """Return a C x H x W tensor on any device as a float32 H x W x C array."""
    return np.ascontiguousarray(image.detach().float().cpu().numpy().transpose(1, 2, 0))


def clamp_images(images: torch.Tensor) -> torch.Tensor:
    """Return images in [-1, 1]; infinite values become NaN, so that they are not taken for white or black."""
    return images.clamp(-1, 1) + 0 * images


def to_uint8(image: ArrayOrTensor) -> ArrayOrTensor:
    """Return an array or tensor of any layout in [-1, 1] as uint8 in [0, 255], rounded; values beyond are clipped."""
    if isinstance(image, torch.Tensor):
        return ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return _quantize(image, np.uint8)


def _quantize(image: np.ndarray, kind: type[np.uint8] | type[np.uint16]) -> np.ndarray:
    unit = (np.clip(image, -1, 1).astype(np.float32) + 1) / 2
    return np.rint(unit * np.iinfo(kind).max).astype(kind)


def _read_bytes(path: Path, name: str) -> bytes:
    # Not cv2.imread: on Windows it cannot open a path that is not ASCII.
    try:
        return read_file(path)
    except OSError as error:
        raise UserError(f'{name} cannot be read: {error.strerror or error}.') from error


def _decode(data: bytes) -> np.ndarray:
    try:
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_FLAGS)
    except cv2.error as error:
        raise DamagedFileError('it is damaged') from error
    if pixels is None:
        raise DamagedFileError('it is damaged')
    if pixels.dtype not in _FULL_SCALE:
        raise DamagedFileError(f'it has {pixels.dtype} pixels instead of 8 or 16 bits')
    return pixels
