"""What an image file says beside its pixels: read from a file, and written into another one where its format holds it.

Carried over are the colour profile, the resolution, and of EXIF what tells of the taking of the photograph, but not its
preview, which shows it as it was, nor what a camera's maker alone understands.
"""

import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from gpen.data import colour, heif, tiff
from gpen.data.file_check import HEAD_BYTES, open_header
from gpen.data.pixels import parsing

_ICC_TAG, _XMP_TAG = 34675, 700
_RESOLUTION, _UNIT = (282, 283), 296
_UNITS = {2: 1.0, 3: 2.54}  # inch and centimetre, by EXIF's number
_TAKING = (270, 271, 272, 305, 306, 315, 33432)  # description, camera, program, date, photographer, rights
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_OF_PIXELS = (37500, 40962, 40963, 40965)  # the maker's own notes, and the size of the picture as it was
_EXIF_MARK = b'Exif\0\0'
_SEGMENT = 65533  # bytes that a segment of a JPEG holds
_MAX_DPI = 1e5


@dataclass(frozen=True)
class Metadata:
    """What an image file says beside its pixels.

    Attributes:
        profile: ICC profile of RGB colours; none: sRGB.
        dpi: pixels per inch, across and down.
        exif: EXIF as a TIFF structure, without its orientation.
        lost: what the file holds beside that and is carried nowhere, a noun each.
    """

    profile: bytes = b''
    dpi: tuple[float, float] | None = None
    exif: bytes = b''
    lost: tuple[str, ...] = ()


NO_METADATA = Metadata()


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are decoded.

    Attributes:
        metadata: see :class:`Metadata`; a profile of other colours than RGB is not there.
        profile: the profile of any colours.
        has_alpha: whether a channel or a colour says what is transparent.
        model: of the colours as they are stored: ``RGB``, also for greys, ``CMYK`` or ``LAB``.
        bits: per channel, of which decoders may return fewer; 0 where they return all.
    """

    metadata: Metadata
    profile: bytes
    has_alpha: bool
    model: str
    bits: int = 0


def read_header(data: bytes) -> Header:
    """Return what a whole image file says beside its pixels; what is damaged of that is left out and named.

    Raises:
        DamagedFileError: the header cannot be read.
    """
    kind = heif.find_kind(data[:HEAD_BYTES])
    stream = BytesIO(data)
    with parsing('its header is damaged'):
        if data.startswith(tiff.MARKS):
            return _read_tiff(data, tiff.read_directory(stream))
        if kind is not None:
            image = heif.open_heif(stream, kind)
            bits = heif.count_bits(data) if kind == 'AVIF' else 0
        else:
            image, bits = open_header(stream), 0

        info, mode = image.info, image.mode
        has_alpha = 'A' in mode or mode.endswith('a') or 'transparency' in info
        lost = [noun for key, noun in _NOT_CARRIED.items() if info.get(key)]
        if _count_frames(image) > 1:
            lost.append('all pictures but the first')
        exif = _load_exif(info.get('exif') or b'')
        dpi = info.get('dpi') or _find_dpi(exif or {})
        return _build(
            info.get('icc_profile') or b'', dpi, exif, lost, has_alpha, 'CMYK' if mode == 'CMYK' else 'RGB', bits
        )


_NOT_CARRIED = {'xmp': 'XMP', 'XML:com.adobe.xmp': 'XMP', 'photoshop': 'IPTC', 'comment': 'the comment'}


def _read_tiff(data: bytes, directory: ImageFileDirectory_v2) -> Header:
    lost = [noun for tag, noun in ((_XMP_TAG, 'XMP'), (33723, 'IPTC'), (34377, 'IPTC')) if tag in directory]
    if directory.next:
        lost.append('all pictures but the first')
    profile = directory.get(_ICC_TAG, b'')
    alpha, model, bits = tiff.has_alpha(directory), tiff.find_model(directory), tiff.count_bits(directory)
    return _build(profile, _find_dpi(directory), _load_exif(data), list(dict.fromkeys(lost)), alpha, model, bits)


def _find_dpi(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    """Return the resolution that the tags of a TIFF or of EXIF tell."""
    unit = _UNITS.get(tags.get(_UNIT, 2))
    if unit is None or any(tag not in tags for tag in _RESOLUTION):
        return None
    try:
        across, down = (float(tags[tag]) * unit for tag in _RESOLUTION)
    except (TypeError, ValueError, ZeroDivisionError):  # a damaged one is none
        return None
    return across, down


def _build(
    profile: Any, dpi: Any, exif: Image.Exif | None, lost: list[str], has_alpha: bool, stored: str, bits: int
) -> Header:
    model = colour.find_model(profile) if profile else 'RGB'
    if not model:
        lost.append('the colour profile, which is damaged')
    good = dpi is not None and all(math.isfinite(value) and 0 < value < _MAX_DPI for value in dpi)
    size = (float(dpi[0]), float(dpi[1])) if good else None
    own = bytes(profile) if model == 'RGB' else b''
    packed = None if exif is None else _pack_exif(exif, size)
    if packed is None:
        lost.append('EXIF, which is damaged')
        packed = _pack_exif(Image.Exif(), size)
    metadata = Metadata(own, size, packed or b'', tuple(dict.fromkeys(lost)))
    return Header(metadata, bytes(profile) if model else b'', has_alpha, stored, bits)


def _count_frames(image: Any) -> int:
    return int(getattr(image, 'n_frames', 1) if isinstance(image, Image.Image) else len(image))


def _load_exif(data: bytes) -> Image.Exif | None:
    """Return EXIF from a TIFF structure, or None where it is damaged."""
    exif = Image.Exif()
    try:
        exif.load(data)
        exif.get_ifd(_EXIF_IFD), exif.get_ifd(_GPS_IFD)
    except Exception:  # noqa: BLE001  (parsers of damaged files raise anything)
        return None
    return exif


def _pack_exif(exif: Image.Exif, dpi: tuple[float, float] | None) -> bytes | None:
    """Return what is carried over of EXIF, and the resolution, as a TIFF structure or nothing; None: it is damaged."""
    packed = Image.Exif()
    packed.update({tag: exif[tag] for tag in _TAKING if tag in exif})
    for number in (_EXIF_IFD, _GPS_IFD):
        inner = {tag: value for tag, value in exif.get_ifd(number).items() if tag not in _OF_PIXELS}
        if inner:
            packed[number] = inner
    if dpi is not None:
        packed.update({_RESOLUTION[0]: dpi[0], _RESOLUTION[1]: dpi[1], _UNIT: 2})
    if not len(packed):
        return b''
    try:
        return packed.tobytes().removeprefix(_EXIF_MARK)
    except Exception:  # noqa: BLE001  (values may have types that they should not have)
        return None


def is_too_long(exif: bytes, suffix: str) -> bool:
    """Whether EXIF does not fit a format."""
    return suffix in ('.jpg', '.jpeg') and len(_EXIF_MARK + exif) > _SEGMENT


def add_metadata(data: bytes, suffix: str, metadata: Metadata) -> bytes:
    """Return an image file, as OpenCV writes it, with metadata as far as its format holds it.

    Args:
        data: the file.
        suffix: its format; BMP holds nothing.
        metadata: what to write into it.
    """
    writer = _WRITERS.get(suffix)
    return data if writer is None or metadata == Metadata(lost=metadata.lost) else writer(data, metadata)


def _add_to_png(data: bytes, metadata: Metadata) -> bytes:
    start = 33  # behind signature and header
    chunks = []
    if metadata.profile:
        chunks.append((b'iCCP', b'ICC profile\0\0' + zlib.compress(metadata.profile)))
    if metadata.dpi is not None:
        across, down = (round(value / 0.0254) for value in metadata.dpi)
        chunks.append((b'pHYs', struct.pack('>IIB', across, down, 1)))
    if metadata.exif:
        chunks.append((b'eXIf', metadata.exif))
    packed = [
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return data[:start] + b''.join(packed) + data[start:]


def _add_to_jpeg(data: bytes, metadata: Metadata) -> bytes:
    end = 4 + int.from_bytes(data[4:6], 'big')  # of JFIF's segment, which is the first one
    head = bytearray(data[:end])
    if metadata.dpi is not None:
        head[13:18] = struct.pack('>BHH', 1, *(min(max(round(value), 1), 65535) for value in metadata.dpi))

    segments = []
    if metadata.exif and not is_too_long(metadata.exif, '.jpg'):
        segments.append((0xE1, _EXIF_MARK + metadata.exif))
    step = _SEGMENT - 14
    parts = [metadata.profile[place : place + step] for place in range(0, len(metadata.profile), step)]
    for number, part in enumerate(parts, start=1):
        segments.append((0xE2, b'ICC_PROFILE\0' + bytes((number, len(parts))) + part))
    packed = [struct.pack('>BBH', 0xFF, mark, len(body) + 2) + body for mark, body in segments]
    return bytes(head) + b''.join(packed) + data[end:]


def _add_to_webp(data: bytes, metadata: Metadata) -> bytes:
    bits = int.from_bytes(data[21:25], 'little')  # of a lossless picture: width - 1, height - 1, alpha
    width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    flags = 0x20 * bool(metadata.profile) | 0x10 * alpha | 0x08 * bool(metadata.exif)
    extended = struct.pack('<I', flags) + width.to_bytes(3, 'little') + height.to_bytes(3, 'little')

    chunks = [(b'VP8X', extended), (b'ICCP', metadata.profile), (b'', data[12:]), (b'EXIF', metadata.exif)]
    packed = b''
    for kind, body in chunks:
        if body:
            head = kind + struct.pack('<I', len(body)) if kind else b''
            packed += head + body + b'\0' * (len(body) % 2)
    return b'RIFF' + struct.pack('<I', len(packed) + 4) + b'WEBP' + packed


def _add_to_tiff(data: bytes, metadata: Metadata) -> bytes:
    directory = tiff.read_directory(BytesIO(data))
    if metadata.profile:
        directory[_ICC_TAG] = metadata.profile
    exif = _load_exif(metadata.exif) if metadata.exif else None
    for tag, value in ({} if exif is None else dict(exif)).items():
        directory[tag] = dict(exif.get_ifd(tag)) if tag in (_EXIF_IFD, _GPS_IFD) else value  # type: ignore[union-attr]
    return tiff.replace_directory(data, directory)


_WRITERS: Mapping[str, Callable[[bytes, Metadata], bytes]] = {
    '.png': _add_to_png,
    '.jpg': _add_to_jpeg,
    '.jpeg': _add_to_jpeg,
    '.webp': _add_to_webp,
    '.tif': _add_to_tiff,
    '.tiff': _add_to_tiff,
}
