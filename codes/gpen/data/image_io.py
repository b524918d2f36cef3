"""Read image files into arrays and write them: the one module that knows OpenCV's BGR order and 8 or 16 bits.

Inside the package an image is float32, RGB, in [-1, 1]: H x W x 3 as an array, 3 x H x W as a tensor.  What is shown to
a network is sRGB; a :class:`Picture` has the colours of its file, so that it can be written as it was.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from PIL.TiffImagePlugin import TiffImageFile

from gpen.data import colour, heif, tiff
from gpen.data.colour import ColourSpace
from gpen.data.file_check import (
    HEAD_BYTES,
    MAX_PIXELS,
    WRITTEN_SUFFIXES,
    check_complete,
    open_header,
    read_file,
    read_size,
)
from gpen.data.metadata import NO_METADATA, Header, Metadata, add_metadata, is_too_long, read_header
from gpen.data.pixels import DamagedFileError, parsing, turn
from gpen.errors import UserError
from gpen.utils.files import atomic_path

ArrayOrTensor = TypeVar('ArrayOrTensor', np.ndarray, torch.Tensor)

# Converts grey and palette to three channels, drops alpha, keeps 16 bits, and turns the picture by its EXIF
# orientation.  IMREAD_UNCHANGED would leave the picture lying on its side.
_READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
# What OpenCV prints about damaged files has no name of a file; a sentence with the name follows.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
_WRITE_PARAMETERS = {'.jpg': [cv2.IMWRITE_JPEG_QUALITY, 95], '.jpeg': [cv2.IMWRITE_JPEG_QUALITY, 95]}
_WRITE_16_BITS = ('.png', '.tif', '.tiff')
_WRITE_ALPHA = ('.png', '.tif', '.tiff', '.webp')
_PROFILES = (b'ICC_PROFILE\0', b'iCCP', b'ICCP', b'prof', b'rICC')  # how files say that there is a colour profile
_HEADER = 1 << 20  # bytes before the pixels, where that is
_LONGEST = {'.jpg': 65_500, '.jpeg': 65_500, '.webp': 16_383}  # side in pixels, of libjpeg and of WebP
_DAMAGED = 'it is damaged'
_ORIENTATION = 0x0112  # of EXIF


def read_image(source: Path | bytes, name: str = '') -> np.ndarray:
    """Read an image file of 8 or more bits as sRGB; grey becomes RGB, alpha is dropped.

    PNG, JPEG, WebP, TIFF and BMP are read and, where their packages are there, HEIC and AVIF.  The picture is turned as
    its EXIF orientation says.  Of several pictures in a file the first is read.

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
        return _decode_srgb(data)
    except DamagedFileError as error:
        raise UserError(f'{name} cannot be used: {error}. Replace or remove the file.') from error


@dataclass(frozen=True)
class Picture:
    """A picture and how its file keeps it.

    Attributes:
        image: H x W x 3, float32, RGB, [-1, 1], in the colours of :attr:`space`.
        bits: per channel, 8 or 16.
        alpha: H x W, float32, [0, 1]: 0 where it is transparent; None where it is not at all.
        metadata: what the file says beside the pixels.
    """

    image: np.ndarray
    bits: int
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA

    @property
    def space(self) -> ColourSpace:
        """The space of its colours."""
        return ColourSpace(self.metadata.profile)

    def fit_alpha(self, height: int, width: int) -> np.ndarray | None:
        """Return :attr:`alpha` for the picture at another size."""
        if self.alpha is None or self.alpha.shape == (height, width):
            return self.alpha
        method = cv2.INTER_AREA if self.alpha.shape[0] > height else cv2.INTER_CUBIC
        return np.clip(cv2.resize(self.alpha, (width, height), interpolation=method), 0, 1)

    def find_losses(self, suffix: str) -> list[str]:
        """Return what a file of this format does not hold of the picture and its metadata, a noun each."""
        losses = list(self.metadata.lost)
        if self.alpha is not None and suffix not in _WRITE_ALPHA:
            losses.append('transparency')
        if self.bits == 16 and suffix not in _WRITE_16_BITS:
            losses.append('bits beyond 8')
        if is_too_long(self.metadata.exif, suffix):
            losses.append('EXIF, which is too long')
        return losses


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a photograph of unknown origin, with what its file says beside its pixels; see :func:`read_image`.

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
    header = read_header(data)
    metadata = header.metadata
    model = colour.find_model(header.profile) if header.profile else ''

    # Printers' colours and L*a*b* become sRGB here, and so do greys that have a profile of their own.
    is_converted = header.model == 'LAB' or header.model == model == 'CMYK'
    pixels, alpha = _decode_converted(data, header) if is_converted else None, None
    if pixels is None:
        pixels, alpha = _decode(data, header.has_alpha)
    image = to_float(pixels)
    if model == 'GRAY':
        image = colour.convert_grey(image, header.profile)
    lost = {
        'colours for printing (CMYK)': header.model == 'CMYK',
        'colours in L*a*b*': header.model == 'LAB',
        'transparency': header.has_alpha and alpha is None,
        'bits beyond 8': header.bits > 8 and pixels.dtype == np.uint8,
    }
    metadata = replace(metadata, lost=(*metadata.lost, *(noun for noun, is_so in lost.items() if is_so)))

    share = None if alpha is None or _is_opaque(alpha) else (alpha / np.float32(_FULL_SCALE[alpha.dtype]))
    return Picture(image, 8 if pixels.dtype == np.uint8 else 16, share, metadata)


def check_pixels(data: bytes) -> None:
    """Raise :class:`DamagedFileError` where the pixels of a whole image file cannot be decoded."""
    _decode_srgb(data)


def _decode_srgb(data: bytes) -> np.ndarray:
    """Return the picture in the bytes of a file as sRGB: H x W x 3, float32, [-1, 1]."""
    check_complete(BytesIO(data))
    head = data[:_HEADER]
    if data.startswith(tiff.MARKS) or any(mark in head for mark in _PROFILES):
        picture = decode_picture(data)
        return picture.space.to_srgb(picture.image)
    return to_float(_decode(data)[0])


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 or uint16 pixels of any shape as float32 in [-1, 1]."""
    image = pixels.astype(np.float32)
    image /= np.float32(_FULL_SCALE[pixels.dtype])  # in place: a photograph of 100 million pixels takes 1.2 GB
    image *= 2
    image -= 1
    return image


def _is_opaque(alpha: np.ndarray) -> bool:
    return bool((alpha == _FULL_SCALE[alpha.dtype]).all())


def write_image(
    path: Path,
    image: np.ndarray | torch.Tensor,
    bits: int = 8,
    alpha: np.ndarray | None = None,
    metadata: Metadata = NO_METADATA,
) -> None:
    """Write an image, whole or not at all; the suffix of ``path`` chooses the format.

    Args:
        path: .png, .jpg, .webp, .tif or .bmp; missing folders are made.
        image: H x W x 3 array or 3 x H x W tensor, RGB, [-1, 1]; values beyond are clipped.
        bits: 8, or 16 for PNG and TIFF.
        alpha: see :func:`encode_image`.
        metadata: see :func:`encode_image`.

    Raises:
        UserError: no such format, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        raise UserError(f'Cannot write {path}: no image format has this suffix. Use {", ".join(WRITTEN_SUFFIXES)}.')
    if bits not in (8, 16) or (bits == 16 and suffix not in _WRITE_16_BITS):
        raise UserError(f'Cannot write {path} with {bits} bits: 16 bits are for PNG and TIFF, 8 for all formats.')

    array = to_array(image) if isinstance(image, torch.Tensor) else image
    try:
        data = encode_image(array, suffix, bits, alpha, metadata)
    except ValueError as error:
        raise UserError(f'Cannot write {path}: {error}.') from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_image(
    image: np.ndarray,
    suffix: str = '.png',
    bits: int = 8,
    alpha: np.ndarray | None = None,
    metadata: Metadata = NO_METADATA,
) -> bytes:
    """Return the bytes of an image file.

    Args:
        image: H x W x 3, RGB, [-1, 1]; values beyond are clipped.
        suffix: the format, such as ``.png`` or ``.jpg``.
        bits: 8, or 16 for PNG and TIFF.
        alpha: H x W, [0, 1]; left out where the format holds none, see :meth:`Picture.find_losses`.
        metadata: what the file says beside the pixels, as far as its format holds it.

    Raises:
        ValueError: the image does not fit the format; the message is a clause.
    """
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = cv2.cvtColor(_quantize(image, kind), cv2.COLOR_RGB2BGR)
    if alpha is not None and suffix in _WRITE_ALPHA:
        pixels = np.dstack([pixels, _quantize(alpha * 2 - 1, kind)])

    height, width = pixels.shape[:2]
    if max(height, width) > _LONGEST.get(suffix, max(height, width)):
        raise ValueError(
            f'{suffix} files have at most {_LONGEST[suffix]:,} pixels a side, and it has {width} x {height}'
        )
    try:
        done, encoded = cv2.imencode(suffix, pixels, _WRITE_PARAMETERS.get(suffix, []))
    except cv2.error as error:
        raise ValueError(str(error.err)) from error
    if not done:
        raise ValueError(f'the image of {width} x {height} does not fit its format')
    data = bytes(encoded)
    if pixels.shape[2] == 4 and suffix in ('.tif', '.tiff'):
        data = tiff.mark_alpha(data)
    return add_metadata(data, suffix, metadata)


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


def _decode(data: bytes, with_alpha: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours (H x W x 3, RGB: uint8, uint16 or, in [0, 1], float32) and alpha (H x W of that type, or None)."""
    kind = heif.find_kind(data[:HEAD_BYTES])
    with parsing(_DAMAGED):
        if data.startswith(tiff.MARKS):
            return tiff.decode(data, tiff.read_directory(BytesIO(data)), BytesIO(data))
        if kind is not None:
            return heif.decode(data, kind)

        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_FLAGS)
        if pixels is None:
            raise DamagedFileError(_DAMAGED)
        colours = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return colours, _decode_alpha(data, colours.dtype == np.uint16) if with_alpha else None


def _decode_alpha(data: bytes, is_deep: bool) -> np.ndarray:
    """Return the alpha channel of a PNG or WebP file: H x W, uint8, or uint16 where it is deep."""
    with open_header(BytesIO(data)) as image:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        if is_deep:  # Pillow has 8 bits
            pixels = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        else:
            pixels = np.asarray(image.convert('RGBA'))
    return np.ascontiguousarray(turn(pixels[..., -1], orientation))


def _decode_converted(data: bytes, header: Header) -> np.ndarray | None:
    """Return a picture in CMYK or L*a*b* as H x W x 3, sRGB, uint8, upright; None where it cannot be done.

    CMYK is read as its profile says.
    """
    with (
        parsing(f'{_DAMAGED}, or of a kind that is not read'),
        (TiffImageFile if data.startswith(tiff.MARKS) else open_header)(BytesIO(data)) as image,
    ):
        orientation = 1 if image.format == 'TIFF' else int(image.getexif().get(_ORIENTATION, 1))
        pixels = colour.convert_stored(image, header.profile) if image.mode == header.model else None
    return None if pixels is None else np.ascontiguousarray(turn(pixels, orientation))
