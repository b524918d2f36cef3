"""Results as bytes: what people look at and take away. Nothing here is a file."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from gpen.data.image_io import Picture, encode_image, to_uint8
from gpen.restoration.photograph import Restoration

PREVIEW_SIDE = 2000
"""Photographs are shown with a longer side of at most this many pixels."""
FACE_SIDE = 512
"""Single faces likewise."""

_JPEG_QUALITY = 92


def encode_preview(image: np.ndarray, side: int = PREVIEW_SIDE) -> bytes:
    """Return a JPEG file of an image (H x W x 3, RGB, [-1, 1]) to look at.

    Args:
        image: the picture.
        side: longer side in pixels at most.
    """
    factor = side / max(image.shape[:2])
    if factor < 1:
        height, width = (max(1, round(length * factor)) for length in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    stream = BytesIO()
    Image.fromarray(to_uint8(image)).save(stream, 'JPEG', quality=_JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


@dataclass(frozen=True)
class Result:
    """A restored photograph, as the page keeps it for a while.

    Attributes:
        name: of the uploaded file; any text.
        picture: the photograph.
        restoration: what became of it.
        before: the photograph as a JPEG file to look at.
        after: the same, restored at full strength.  What ``compose`` gives for a strength lies on the straight line
            between the two, so the page can show every strength by itself.
        seconds: that it took.
    """

    name: str
    picture: Picture
    restoration: Restoration
    before: bytes
    after: bytes
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        faces = sum(face.before.nbytes + face.after.nbytes + face.mask.nbytes for face in self.restoration.faces)
        shared = self.restoration.background is self.picture.image
        pictures = self.picture.image.nbytes + (0 if shared else self.restoration.background.nbytes)
        return faces + pictures + len(self.before) + len(self.after)

    def png(self, strength: float) -> bytes:
        """Return the restored photograph as a PNG file with as many bits as the upload has."""
        return encode_image(self.restoration.compose(strength), '.png', self.picture.bits)
