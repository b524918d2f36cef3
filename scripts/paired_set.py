"""What the scripts that make data sets share: the degradation, and folders of pairs that are complete or not there.

A paired set is ``FOLDER/{train,val}/{sharp,blurry}/NAME.png``.  A small JSON file with its settings is written last, so
a folder that has it is whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gpen.errors import UserError
from gpen.utils.files import write_text

Image = NDArray[np.float32]

SPLITS = ('train', 'val')
KINDS = ('sharp', 'blurry')
_REFERENCE_SIZE = 64


@dataclass(frozen=True)
class Degradation:
    """Ranges of a degradation; each image draws its own strength from them.

    Attributes:
        blur: sigma of the Gaussian blur, pixels.
        shrink: factor by which the image gets smaller before it is enlarged again.
        noise: standard deviation of the Gaussian noise, 8-bit steps.
        jpeg: JPEG quality.
    """

    blur: tuple[float, float] = (0.6, 1.7)
    shrink: tuple[float, float] = (1.6, 3.4)
    noise: tuple[float, float] = (0.0, 12.0)
    jpeg: tuple[int, int] = (60, 95)

    @classmethod
    def for_size(cls, size: int) -> Degradation:
        """Return ranges that fit images of this size: at 64 pixels the defaults, which cost about as much as a face can
        lose and still be known; larger images bear more blur and shrinking, with the square root of their size."""
        scale = (size / _REFERENCE_SIZE) ** 0.5
        return cls(
            blur=(cls.blur[0] * scale, cls.blur[1] * scale),
            shrink=(max(1.0, cls.shrink[0] * scale), max(1.0, cls.shrink[1] * scale)),
        )


def degrade(image: Image, generator: np.random.Generator, degradation: Degradation | None = None) -> Image:
    """Return a blurry, noisy, compressed version of ``image``, as BasicSR does it: blur, shrink, noise, JPEG, enlarge.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the strengths and the noise.
        degradation: the ranges; those that fit the image's size by default.

    Returns:
        H x W x 3, float32, RGB, [-1, 1].
    """
    height, width = image.shape[:2]
    ranges = degradation or Degradation.for_size(min(height, width))
    sigma = generator.uniform(*ranges.blur)
    factor = generator.uniform(*ranges.shrink)
    deviation = generator.uniform(*ranges.noise) / 127.5
    quality = int(generator.integers(ranges.jpeg[0], ranges.jpeg[1] + 1))

    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    small_size = max(1, round(width / factor)), max(1, round(height / factor))
    small = cv2.resize(blurred, small_size, interpolation=cv2.INTER_AREA)
    small = small + np.float32(deviation) * generator.standard_normal(small.shape, dtype=np.float32)
    pixels = np.rint((np.clip(small, -1, 1) + 1) * 127.5).astype(np.uint8)
    decoded = _through_jpeg(pixels, quality).astype(np.float32) / 127.5 - 1
    return np.clip(cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR), -1, 1)


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress and decompress H x W x 3 RGB pixels."""
    _, data = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # what was just encoded can be decoded
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def psnr(first: Image, second: Image) -> float:
    """Return the peak signal-to-noise ratio in dB of two images in [-1, 1], as they are when saved with 8 bits."""
    a, b = (np.rint((np.clip(image, -1, 1) + 1) * 127.5) for image in (first, second))
    return float(10 * np.log10(255.0**2 / max(float(((a - b) ** 2).mean()), 1e-12)))


class PairedSet:
    """A folder of pairs that is being made.

    Args:
        folder: where it goes.
        manifest: name of the JSON file that says the set is whole.
        settings: what the set depends on; the content of that file.
        names: the names (without suffix) of the pairs of each split.
    """

    def __init__(
        self, folder: Path, manifest: str, settings: Mapping[str, Any], names: Mapping[str, Sequence[str]]
    ) -> None:
        self.folder = folder
        self._manifest = folder / manifest
        self._settings = dict(settings)
        self._names = names
        self._psnr: dict[str, list[float]] = {split: [] for split in SPLITS}

    def is_complete(self) -> bool:
        """Say whether exactly this set is there already.

        Raises:
            UserError: the folder holds something else that must not get mixed with it.
        """
        wanted = {self.path(split, kind, name) for split in SPLITS for kind in KINDS for name in self._names[split]}
        present = {path for split in SPLITS for kind in KINDS for path in (self.folder / split / kind).glob('*')}
        advice = 'Choose another --output, or delete that folder.'
        if self._manifest.is_file() and self._read_manifest() != json.loads(json.dumps(self._settings)):
            raise UserError(f'{self.folder} holds a data set that was made with other settings. {advice}')
        # A killed run leaves temporary files, whose names start with a dot.
        strangers = sorted(path for path in present - wanted if not path.name.startswith('.'))
        if strangers:
            raise UserError(
                f'{self.folder} holds files that do not belong to this data set, such as {strangers[0]}. {advice}'
            )
        return self._manifest.is_file() and wanted <= present

    def _read_manifest(self) -> Any:
        try:
            return json.loads(self._manifest.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None

    def path(self, split: str, kind: str, name: str) -> Path:
        """Return where one image goes."""
        return self.folder / split / kind / f'{name}.png'

    def write(self, split: str, name: str, sharp: Image, blurry: Image) -> None:
        """Write one pair."""
        from gpen.data.image_io import write_image

        for kind, image in zip(KINDS, (sharp, blurry), strict=True):
            write_image(self.path(split, kind, name), image)
        self._psnr[split].append(psnr(blurry, sharp))

    def finish(self) -> None:
        """Mark the set as whole."""
        write_text(self._manifest, json.dumps(self._settings, indent=2) + '\n')

    def mean_psnr(self, split: str) -> float:
        """Return the mean PSNR of the blurry images written so far against the sharp ones, dB."""
        return float(np.mean(self._psnr[split])) if self._psnr[split] else float('nan')


def integer_from(lowest: int, highest: int) -> Any:
    """Return an argparse type for a whole number within limits."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number') from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f'{value} is not between {lowest} and {highest}')
        return value

    return parse
