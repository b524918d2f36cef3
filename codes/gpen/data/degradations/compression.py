"""Steps that compress."""

import cv2
import numpy as np

from gpen.data.degradations.draws import draw_integer
from gpen.options.types import QualityRange
from gpen.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register
def jpeg(image: np.ndarray, generator: np.random.Generator, quality: QualityRange = (60, 100)) -> np.ndarray:
    """Compress as JPEG with a random quality, and decompress.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the quality.
        quality: 1 to 100, whole numbers.
    """
    return through_jpeg(image, draw_integer(generator, quality))


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return H x W x 3, RGB, [-1, 1], compressed (colours at half resolution, as is usual) and decompressed."""
    pixels = cv2.cvtColor(_to_pixels(image).astype(np.uint8), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # what was just encoded can be decoded
    return _from_pixels(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32))


def round_to_8_bits(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the image in the steps of an 8-bit file, still float32 in [-1, 1]; in the memory ``out``, if given."""
    return _from_pixels(_to_pixels(image, out))


def _to_pixels(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return whole numbers from 0 to 255 as float32, in memory of their own or in ``out``."""
    pixels = np.clip(image, -1, 1, out=out)
    pixels += 1
    pixels *= 127.5
    return np.rint(pixels, out=pixels)


def _from_pixels(pixels: np.ndarray) -> np.ndarray:
    """Turn 0 to 255 into [-1, 1], in place."""
    pixels /= 127.5
    pixels -= 1
    return pixels
