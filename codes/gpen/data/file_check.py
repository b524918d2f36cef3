"""Find image files, and check from header and end, without decoding, that a file is whole and how large it is."""

import errno
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

FORMATS = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP')
MAX_PIXELS = 178_956_970
"""The largest picture that is read unless told otherwise (2 GiB as float32 RGB)."""
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')

_CUT_OFF = 'it is cut off'
_UNKNOWN = f'it is not an image that can be read ({", ".join(FORMATS)})'
_READERS: dict[bytes, type[ImageFile]] = {
    b'\x89PNG': PngImageFile,
    b'\xff\xd8': JpegImageFile,
    b'RIFF': WebPImageFile,
    b'BM': BmpImageFile,
    b'II': TiffImageFile,
    b'MM': TiffImageFile,
}
_PNG_END = b'IEND\xaeB`\x82'
_JPEG_END = b'\xff\xd9'
_EXIF_ORIENTATION = 0x0112
_TURNED_SIDEWAYS = (5, 6, 7, 8)
_TIFF_DATA_TAGS = ((273, 279), (324, 325))  # (offsets, byte counts) of strips, and of tiles
_TAIL_BYTES = 1 << 16
_SPECIAL_FILES = {
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
    stat.S_IFDIR: 'a folder',
}

# Pillow prints a warning about much that is said here in a sentence, with the name of the file.
warnings.filterwarnings('ignore', module=r'PIL\.')


class DamagedFileError(ValueError):
    """The file is no whole image; the message is a clause that says why, such as ``it is cut off``."""


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
    head = stream.read(12)
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
    elif head.startswith((b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')):
        with _parsing():
            whole = length >= _find_tiff_end(stream)
    else:
        raise DamagedFileError(_UNKNOWN)

    if not whole:
        raise DamagedFileError(_CUT_OFF)


def walk_images(root: Path, on_error: Callable[[OSError], None] | None = None) -> list[str]:
    """Return the paths below ``root``, with ``/``, of the files with a suffix of an image, in any order.

    Hidden files and folders are left out; links to folders are followed, each folder once.

    Args:
        root: the folder.
        on_error: called for a folder that cannot be read.
    """
    top = str(root)
    found = []
    visited = set()
    for folder, folders, names in os.walk(top, followlinks=True, onerror=on_error):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue

        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        # Not a Path for each file: there may be millions.
        below = '' if folder == top else f'{Path(folder).relative_to(root).as_posix()}/'
        found += [below + name for name in names if name[0] != '.' and name.lower().endswith(SUFFIXES)]
    return found


def read_size(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) of a whole image file as it is displayed, that is with its EXIF orientation applied.

    Raises:
        DamagedFileError: the file is cut off, no image at all, or of more than ``max_pixels`` pixels.
    """
    check_complete(stream)
    with _parsing(), _open(stream) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DamagedFileError(f'it has too many pixels ({width} x {height}; at most {max_pixels:,} in all)')
        # Pillow's size of a TIFF already has the orientation applied.
        sideways = image.format != 'TIFF' and _read_orientation(image) in _TURNED_SIDEWAYS
    return (height, width) if sideways else (width, height)


def _read_orientation(image: Image.Image) -> int:
    exif = Image.Exif()
    try:
        # Not image.getexif(): that decodes a whole PNG to look for EXIF behind the pixels.
        exif.load(image.info.get('exif', b''))
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1  # damaged EXIF is no reason to refuse the picture, and decoders ignore it


def _open(stream: BinaryIO) -> ImageFile:
    """Read the header with the class of its format.

    Not with Image.open, which counts the pixels itself: it prints a warning from half of ``MAX_PIXELS`` on, and beyond
    it does not tell the size.
    """
    stream.seek(0)
    head = stream.read(4)
    stream.seek(0)

    for start, reader in _READERS.items():
        if head.startswith(start):
            with _parsing():
                return reader(stream)
    raise DamagedFileError(_UNKNOWN)


@contextmanager
def _parsing() -> Iterator[None]:
    """Turn what Pillow's parsers raise for damaged files, which may be anything, into :class:`DamagedFileError`."""
    try:
        yield
    except (DamagedFileError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read
        raise DamagedFileError(_UNKNOWN) from error


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
        with _open(stream):
            return stream.tell()
    except DamagedFileError as error:
        raise DamagedFileError(_CUT_OFF) from error


def _find_tiff_end(stream: BinaryIO) -> int:
    """Return the offset behind the last byte of pixel data, as the TIFF directory states it."""
    with _open(stream) as image:
        tags = getattr(image, 'tag_v2', {})
        ends = [
            offset + count
            for offsets, counts in _TIFF_DATA_TAGS
            for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        ]
    return max(ends, default=0)
