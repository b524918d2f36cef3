"""HEIC and AVIF files, which phones write: recognised, checked and decoded, where the packages for them are there."""

from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import features

from gpen.data.pixels import DamagedFileError, divide, turn

_HEIC = {b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs', b'mif1', b'msf1'}
_AVIF = {b'avif', b'avis'}
_ORIENTATION = 0x0112
_HEADER = 1 << 16  # bytes in which the pictures are described


def find_kind(head: bytes) -> str | None:
    """Return ``HEIC``, ``AVIF``, or None for another file, by its first bytes (some 64)."""
    if head[4:8] != b'ftyp':
        return None
    length = min(int.from_bytes(head[:4], 'big'), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, length - 3, 4))}
    return 'AVIF' if brands & _AVIF else 'HEIC' if brands & _HEIC else None


def list_available() -> list[str]:
    """Return which of ``HEIC`` and ``AVIF`` are read here."""
    return ['HEIC'] * (find_spec('pillow_heif') is not None) + ['AVIF'] * bool(features.check('avif'))


def is_whole(stream: BinaryIO, length: int) -> bool:
    """Whether the boxes of the file, of ``length`` bytes, are there up to its pixels."""
    position = 0
    seen: set[bytes] = set()
    while position < length and not {b'meta', b'mdat'} <= seen:
        stream.seek(position)
        head = stream.read(16)
        size = int.from_bytes(head[:4], 'big')
        if size == 1:
            size = int.from_bytes(head[8:16], 'big')
        elif size == 0:  # up to the end
            size = length - position
        if len(head) < 8 or size < 8:
            return False
        seen.add(head[4:8])
        position += size
    return position <= length and {b'meta', b'mdat'} <= seen


def open_heif(stream: BinaryIO, kind: str) -> Any:
    """Return an image of Pillow's (AVIF) or pillow-heif's (HEIC) whose pixels are not decoded yet.

    Raises:
        DamagedFileError: a package is missing; the clause says which.
        Exception: whatever the packages raise for damaged files.
    """
    stream.seek(0)
    if kind == 'AVIF':
        if not features.check('avif'):
            raise DamagedFileError("it is an AVIF file, which needs a newer Pillow: pip install 'pillow>=11.3'")
        from PIL.AvifImagePlugin import AvifImageFile

        return AvifImageFile(stream)
    try:
        import pillow_heif
    except ImportError as error:
        raise DamagedFileError(
            'it is a HEIC file, which needs the package pillow-heif: pip install pillow-heif'
        ) from error
    return pillow_heif.open_heif(stream, convert_hdr_to_8bit=False)


def decode(data: bytes, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours (H x W x 3, RGB, uint8 or uint16) and alpha (H x W, or None) of the main picture, upright.

    Raises:
        DamagedFileError: a package is missing.
        Exception: whatever the packages raise for damaged files.
    """
    image = open_heif(BytesIO(data), kind)
    if kind == 'AVIF':
        pixels = turn(np.asarray(image.convert('RGBA' if image.has_transparency_data else 'RGB')), find_turn(image))
    else:  # libheif turns it
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels), None
    colours, alpha = pixels[..., :3], np.ascontiguousarray(pixels[..., 3])
    return np.ascontiguousarray(divide(colours, alpha) if image.mode.startswith('RGBa') else colours), alpha


def find_turn(image: Any) -> int:
    """Return the orientation of an AVIF picture, as Pillow says it, as a number of EXIF's."""
    return int(image.getexif().get(_ORIENTATION, 1))


def count_bits(data: bytes) -> int:
    """Return the bits of each colour, as the file says it."""
    place = data.find(b'pixi', 0, _HEADER)
    return data[place + 9] if 0 < place < len(data) - 9 else 8
