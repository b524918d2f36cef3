"""Files of photographs as programs and cameras write them: TIFF of any kind of pixels, and colour profiles."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_SRGB = {'r': (0.4361, 0.2225, 0.0139), 'g': (0.3851, 0.7169, 0.0971), 'b': (0.1431, 0.0606, 0.7141)}


def encode(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Return a file that Pillow writes; with pillow-heif also HEIC."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = BytesIO()
    if kind == 'HEIC':
        import pillow_heif

        pillow_heif.from_pillow(image).save(stream, quality=-1, **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


def encode_tiff(
    pixels: np.ndarray,
    extra: int | None = None,
    planes: bool = False,
    orientation: int = 1,
    photometric: int | None = None,
) -> bytes:
    """Return an uncompressed TIFF of H x W or H x W x C of any type.

    Args:
        pixels: grey or RGB, with or without a channel of its own for ``extra``.
        extra: what that channel is: 1: alpha that the colours are multiplied by; 2: alpha.
        planes: each channel lies for itself.
        orientation: EXIF's number.
        photometric: TIFF's number of what the channels are; None: grey (1) or RGB (2).
    """
    height, width, samples = np.atleast_3d(pixels).shape
    stored = np.moveaxis(np.atleast_3d(pixels), 2, 0) if planes else pixels
    data = np.ascontiguousarray(stored).astype(pixels.dtype.newbyteorder('<')).tobytes()
    if photometric is None:
        photometric = 2 if samples > 2 else 1
    kind = {'u': UNSIGNED, 'i': SIGNED, 'f': FLOAT}[pixels.dtype.kind]
    bits = 8 * pixels.dtype.itemsize
    count = samples if planes else 1
    part = len(data) // count
    tags = {
        256: [width], 257: [height], 258: [bits] * samples, 259: [1], 262: [photometric],
        273: [8 + n * part for n in range(count)], 274: [orientation], 277: [samples], 278: [height],
        279: [part] * count, 284: [2 if planes else 1], 339: [kind] * samples,
    }  # fmt: skip
    if extra is not None:
        tags[338] = [extra]

    entries, more = b'', b''
    start = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        body = struct.pack(f'<{len(values)}I', *values)
        if len(body) > 4:
            body, more = struct.pack('<I', start + len(more)), more + body
        entries += struct.pack('<HHI', tag, 4, len(values)) + body
    return b'II*\0' + struct.pack('<I', 8 + len(data)) + data + struct.pack('<H', len(tags)) + entries + bytes(4) + more


def make_profile(order: str = 'grb', gamma: float = 2.2) -> bytes:
    """Return an ICC profile of RGB colours whose channels are sRGB's in another order."""

    def number(value: float) -> bytes:
        return struct.pack('>i', round(value * 65536))

    white = (0.9642, 1.0, 0.8249)
    bodies = {b'wtpt': b'XYZ \0\0\0\0' + b''.join(map(number, white))}
    for channel, colour in zip('rgb', order, strict=True):
        bodies[channel.encode() + b'XYZ'] = b'XYZ \0\0\0\0' + b''.join(map(number, _SRGB[colour]))
        bodies[channel.encode() + b'TRC'] = b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma * 256)) + b'\0\0'

    table, data = struct.pack('>I', len(bodies)), b''
    start = 128 + 4 + 12 * len(bodies)
    for name, body in bodies.items():
        table += name + struct.pack('>II', start + len(data), len(body))
        data += body
    head = struct.pack('>I', start + len(data)) + bytes(4) + b'\x02\x40\0\0mntrRGB XYZ ' + bytes(12) + b'acsp'
    illuminant = bytes(28) + b''.join(map(number, white))
    return (head + illuminant).ljust(128, b'\0') + table + data


def make_grey_ink_profile() -> bytes:
    """Return an ICC profile of a printer whose four inks are all grey: three of a third of black each, and black."""

    def to_lab(inks: tuple[int, ...]) -> bytes:
        light = 0 if inks[3] else 1 - sum(inks[:3]) / 3
        return bytes((round(255 * light), 128, 128))

    ramp = bytes(range(256))
    corners = b''.join(to_lab((c, m, y, k)) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1))
    identity = struct.pack('>9i', *(65536 * (n % 4 == 0) for n in range(9)))
    body = b'mft1\0\0\0\0' + bytes((4, 3, 2, 0)) + identity + ramp * 4 + corners + ramp * 3
    table = struct.pack('>I4sII', 1, b'A2B0', 128 + 16, len(body))
    head = struct.pack('>I', 128 + 16 + len(body)) + bytes(4) + b'\x02\x40\0\0prtrCMYKLab ' + bytes(12) + b'acsp'
    white = struct.pack('>3i', *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return (head + bytes(28) + white).ljust(128, b'\0') + table + body
