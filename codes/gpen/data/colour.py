"""Colour profiles (ICC): from a photograph's own colours to those that networks know, sRGB, and back."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # of 255: profiles whose colours differ no more from sRGB's are sRGB
_STRIP_PIXELS = 1 << 22  # that are converted at a time, which bounds the memory


@dataclass(frozen=True)
class ColourSpace:
    """The colours of an RGB image.

    Attributes:
        profile: the bytes of an ICC profile of RGB colours; none: sRGB.
    """

    profile: bytes = b''

    @property
    def is_srgb(self) -> bool:
        """Whether nothing has to be converted."""
        return _build_transforms(self.profile) is None

    def to_srgb(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H x W x 3, float32, [-1, 1]) in sRGB: itself, or converted at 8 bits."""
        transforms = _build_transforms(self.profile)
        return image if transforms is None else _apply(image, transforms[0])

    def from_srgb(self, image: np.ndarray) -> np.ndarray:
        """Return an image that is in sRGB in this space, as :meth:`to_srgb` does."""
        transforms = _build_transforms(self.profile)
        return image if transforms is None else _apply(image, transforms[1])


def find_model(profile: bytes) -> str:
    """Return the colours that a profile is for: ``RGB``, ``GRAY``, ``CMYK`` and so on; nothing for a damaged one."""
    try:
        return str(_open(profile).profile.xcolor_space).strip()
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return ''


def convert_stored(image: Image.Image, profile: bytes) -> np.ndarray | None:
    """Return a CMYK or LAB image as sRGB (H x W x 3, uint8), or None where the profile of CMYK does not do that."""
    try:
        source = _LAB if image.mode == 'LAB' else _open(profile)
        converted = ImageCms.profileToProfile(
            image, source, _SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode='RGB', flags=_FLAGS
        )
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None
    return None if converted is None else np.asarray(converted)


def convert_grey(image: np.ndarray, profile: bytes) -> np.ndarray:
    """Return a grey image (H x W x 3, float32, [-1, 1], equal channels) of a profile for greys as sRGB."""
    levels = np.arange(256, dtype=np.uint8)
    try:
        transform = _build(_open(profile), _SRGB, 'L')
        curve = np.asarray(ImageCms.applyTransform(Image.fromarray(levels[None]), transform))[0, :, 1]
    except (OSError, ValueError, ImageCms.PyCMSError):
        return image
    return np.interp(image, levels / 127.5 - 1, curve / 127.5 - 1).astype(np.float32)


_SRGB, _LAB = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')  # of TIFF: under daylight, D50
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def _open(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(BytesIO(profile))


def _build(source: Any, target: Any, mode: str = 'RGB') -> ImageCms.ImageCmsTransform:
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(source, target, mode, 'RGB', intent, flags=_FLAGS)


@lru_cache(maxsize=16)
def _build_transforms(profile: bytes) -> tuple[ImageCms.ImageCmsTransform, ImageCms.ImageCmsTransform] | None:
    """Return what converts to sRGB and back; None where that changes nothing, or the profile cannot be used."""
    if not profile:
        return None
    try:
        there, back = _build(_open(profile), _SRGB), _build(_SRGB, _open(profile))
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None

    # Many photographs hold a profile that is sRGB in other words.
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), there))
    return None if np.abs(converted.astype(int) - grid).max() <= _SAME else (there, back)


def _apply(image: np.ndarray, transform: ImageCms.ImageCmsTransform) -> np.ndarray:
    rows = max(1, _STRIP_PIXELS // max(1, image.shape[1]))
    result = np.empty(image.shape, np.float32)
    for top in range(0, len(image), rows):
        strip = image[top : top + rows]
        pixels = np.rint((np.clip(strip, -1, 1) + 1) * 127.5).astype(np.uint8)
        converted = ImageCms.applyTransform(Image.fromarray(pixels), transform)
        result[top : top + rows] = np.asarray(converted, np.float32) / np.float32(127.5) - 1
    return result
