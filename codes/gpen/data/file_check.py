"""Check from header and end of an image file, without decoding, that it is whole and how large it is."""

import errno
import os
import stat
import struct
import warnings
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from gpen.data import heif, tiff
from gpen.data.pixels import DamagedFileError, parsing

FORMATS = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'HEIC', 'AVIF')
MAX_PIXELS = 178_956_970
"""The largest picture that is read unless told otherwise (2 GiB as float32 RGB)."""
WRITTEN_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
SUFFIXES = (*WRITTEN_SUFFIXES, '.jpe', '.jfif', '.dib', '.heic', '.heif', '.hif', '.avif')
"""Of the images that are read; HEIC and AVIF need packages of their own, which messages name."""

_CUT_OFF = 'it is cut off'
_UNKNOWN = f'it is not an image that can be read ({", ".join(FORMATS)})'
_READERS: dict[bytes, type[ImageFile]] = {
    b'\x89PNG': PngImageFile,
    b'\xff\xd8': JpegImageFile,
    b'RIFF': WebPImageFile,
    b'BM': BmpImageFile,
}
# What else folders of photographs hold: what it is, and where which bytes are.
_OTHER_KINDS = (
    ('a GIF', 0, b'GIF8'),
    ('a JPEG XL image', 0, b'\xff\x0a'),
    ('a JPEG XL image', 4, b'JXL '),
    ('a JPEG 2000 image', 4, b'jP  '),
    ('a Photoshop file', 0, b'8BPS'),
    ('a PDF', 0, b'%PDF'),
    ('an SVG drawing', 0, b'<svg'),
    ('a film', 4, b'ftyp'),
    ('a film', 8, b'AVI '),
    ('a film', 0, b'\x1aE\xdf\xa3'),
    ('a raw photograph', 0, b'FUJIFILM'),
    ('a web page', 0, b'<!DOCTYPE html'),
    ('a web page', 0, b'<html'),
    ('an archive', 0, b'PK\x03\x04'),
    ('a pointer of Git LFS, not the file itself', 0, b'version https://git-lfs'),
)
_PNG_END = b'IEND\xaeB`\x82'
_JPEG_END = b'\xff\xd9'
_EXIF_ORIENTATION = 0x0112
_TURNED_SIDEWAYS = (5, 6, 7, 8)
_TAIL_BYTES = 1 << 16
_SPECIAL_FILES = {
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
    stat.S_IFDIR: 'a folder',
}

HEAD_BYTES = 64
"""By which the kind of a file is told."""

# Pillow prints a warning about much that is said here in a sentence, with the name of the file.
warnings.filterwarnings('ignore', module=r'PIL\.')


def open_file(path: str | Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: it cannot be opened, or is no file but a named pipe, for which one would wait for ever, a device, or a
            folder with the name of an image.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116  (without a Path for each of many files)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f'it is {_SPECIAL_FILES.get(kind, "special")}, not a file')
    return open(path, 'rb')  # noqa: PTH123  (as above; the caller closes it)


def read_file(path: str | Path) -> bytes:
    """Return the content of a file; see :func:`open_file`."""
    with open_file(path) as stream:
        return stream.read()


def check_complete(stream: BinaryIO) -> None:
    """Raise :class:`DamagedFileError` where the file is empty or cut off, as its own structure tells.

    Decoders return half a picture for some cut-off files, so call this before decoding.  Bytes after the end of the
    image (as some cameras and editors leave) are no damage.  Only the start and the end of the file are read.
    """
    length = stream.seek(0, SEEK_END)
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    if length == 0:
        raise DamagedFileError('it is empty')

    if head.startswith(b'\x89PNG\r\n\x1a\n'):
        whole = _occurs_after(stream, _PNG_END, start=8)
    elif head.startswith(b'\xff\xd8'):
        # Only behind the header: a thumbnail inside the header has an end marker of its own.
        whole = _occurs_after(stream, _JPEG_END, start=_find_jpeg_scan(stream))
    elif head.startswith(b'RIFF') and head[8:12] == b'WEBP':
        whole = length >= 8 + int.from_bytes(head[4:8], 'little')
    elif head.startswith(b'BM'):
        whole = length >= int.from_bytes(head[2:6], 'little')
    elif head.startswith(tiff.MARKS):
        with parsing(_UNKNOWN):
            whole = length >= tiff.find_end(tiff.read_directory(stream))
    elif heif.find_kind(head) is not None:
        whole = heif.is_whole(stream, length)
    else:
        raise DamagedFileError(_explain_kind(head))

    if not whole:
        raise DamagedFileError(_CUT_OFF)


def read_size(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) of a whole image file as it is displayed, that is with its EXIF orientation applied.

    Raises:
        DamagedFileError: the file is cut off, no image at all, of a kind that is not read, or of more than
            ``max_pixels`` pixels.
    """
    check_complete(stream)
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    kind = heif.find_kind(head)

    with parsing(_UNKNOWN):
        if head.startswith(tiff.MARKS):
            directory = tiff.read_directory(stream)
            tiff.check_kind(directory)
            (width, height), orientation = tiff.read_layout(directory)
        elif kind is not None:
            image = heif.open_heif(stream, kind)
            (width, height), orientation = image.size, heif.find_turn(image) if kind == 'AVIF' else 1
        else:
            with open_header(stream) as image:
                (width, height), orientation = image.size, _read_orientation(image)

    if width * height > max_pixels:
        raise DamagedFileError(f'it has too many pixels ({width} x {height}; at most {max_pixels:,} in all)')
    return (height, width) if orientation in _TURNED_SIDEWAYS else (width, height)


def _read_orientation(image: Image.Image) -> int:
    exif = Image.Exif()
    try:
        # Not image.getexif(): that decodes a whole PNG to look for EXIF behind the pixels.
        exif.load(image.info.get('exif', b''))
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1  # damaged EXIF is no reason to refuse the picture, and decoders ignore it


def open_header(stream: BinaryIO) -> ImageFile:
    """Read the header of a PNG, JPEG, WebP or BMP file with the class of its format.

    Not with Image.open, which counts the pixels itself: it prints a warning from half of ``MAX_PIXELS`` on, and beyond
    it does not tell the size.
    """
    stream.seek(0)
    head = stream.read(4)
    stream.seek(0)

    for start, reader in _READERS.items():
        if head.startswith(start):
            with parsing(_UNKNOWN):
                return reader(stream)
    raise DamagedFileError(_UNKNOWN)


def _occurs_after(stream: BinaryIO, pattern: bytes, start: int) -> bool:
    """Tell whether ``pattern`` occurs at or after ``start``; looks at the end of the file first."""
    length = stream.seek(0, SEEK_END)
    stream.seek(max(start, length - _TAIL_BYTES))
    if pattern in stream.read():
        return True
    stream.seek(start)
    return pattern in stream.read()


def _find_jpeg_scan(stream: BinaryIO) -> int:
    """Return the offset behind the header: Pillow reads the segments up to the first start of a scan."""
    try:
        with open_header(stream):
            return stream.tell()
    except DamagedFileError as error:
        raise DamagedFileError(_CUT_OFF) from error


def _explain_kind(head: bytes) -> str:
    """Return a clause about a file that is no image which is read, by its first bytes."""
    kind = next((name for name, start, mark in _OTHER_KINDS if head[start:].startswith(mark)), None)
    return _UNKNOWN if kind is None else f'it is {kind}, which is not read ({", ".join(FORMATS)} are)'
