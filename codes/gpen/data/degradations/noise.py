"""Steps that add noise."""

import cv2
import numpy as np

from gpen.data.degradations.draws import draw_between, draw_chance
from gpen.options.types import Probability, Range
from gpen.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register
def gaussian_noise(
    image: np.ndarray, generator: np.random.Generator, sigma: Range = (0, 20), gray_prob: Probability = 0.0
) -> np.ndarray:
    """Add Gaussian noise of a random strength.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws strength and noise.
        sigma: standard deviation, 8-bit steps.
        gray_prob: how often the three channels get the same noise.
    """
    deviation = draw_between(generator, sigma)
    return add_gaussian(image, generator, deviation, gray=draw_chance(generator, gray_prob))


@DEGRADATION_REGISTRY.register
def poisson_noise(
    image: np.ndarray,
    generator: np.random.Generator,
    scale: Range = (0.05, 3),
    gray_prob: Probability = 0.4,
) -> np.ndarray:
    """Add shot noise, stronger where the image is bright (Real-ESRGAN, section 3.2).

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws strength and noise.
        scale: factor of the noise; 1 is that of as many photons in a white pixel as the image has
            different 8-bit values, rounded up to a power of two.
        gray_prob: how often the three channels get the same noise.
    """
    factor = draw_between(generator, scale)
    return add_poisson(image, generator, factor, gray=draw_chance(generator, gray_prob))


def add_gaussian(image: np.ndarray, generator: np.random.Generator, sigma: float, gray: bool = False) -> np.ndarray:
    """Return the image with noise of standard deviation ``sigma`` (8-bit steps), clipped to [-1, 1]."""
    noise = generator.standard_normal(image.shape[:2] if gray else image.shape, dtype=np.float32)
    noise *= np.float32(sigma / 127.5)
    return _add(image, noise)


def add_correlated_gaussian(image: np.ndarray, generator: np.random.Generator, sigma: float) -> np.ndarray:
    """Return the image with noise whose channels are correlated at random, clipped to [-1, 1].

    The covariance is sigma^2 |U^T D U|, with D uniform in [0, 1] and a random rotation U (BSRGAN, section 3.3).

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the covariance and the noise.
        sigma: the largest standard deviation, 8-bit steps.
    """
    shares = generator.random(3)
    rotation = np.linalg.svd(generator.random((3, 3)))[0]
    values, vectors = np.linalg.eigh(np.abs(rotation.T @ np.diag(shares) @ rotation))
    # Absolute values may make the matrix indefinite, so negative eigenvalues count as 0.
    mixing = (vectors * np.sqrt(np.maximum(values, 0))).T * (sigma / 127.5)
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return _add(image, cv2.transform(noise, mixing.T.astype(np.float32)))


def add_poisson(image: np.ndarray, generator: np.random.Generator, scale: float, gray: bool = False) -> np.ndarray:
    """Return the image with ``scale`` times its shot noise, clipped to [-1, 1]; see :func:`poisson_noise`."""
    source = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if gray else image
    levels = np.rint((np.clip(source, -1, 1) + 1) * 127.5).astype(np.uint8)
    different = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2.0 ** np.ceil(np.log2(different))  # of a white pixel
    expected = np.arange(256) * (photons / 255)
    noise = generator.poisson(expected[levels]).astype(np.float32)
    noise -= expected.astype(np.float32)[levels]
    noise *= np.float32(2 * scale / photons)
    return _add(image, noise)


def _add(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the image with noise (H x W x 3, or H x W for grey noise), clipped; ``noise`` may be overwritten."""
    if noise.ndim == 2:
        noise = cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB)
    noise += image
    return np.clip(noise, -1, 1, out=noise)
