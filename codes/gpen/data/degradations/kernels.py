"""Blur kernels as functions of their parameters, and their random choice.

A kernel is float64, K x K with K odd, and sums to 1.  The formulas and the option names are those of BasicSR's
``basicsr.data.degradations``, which Real-ESRGAN (Wang et al. 2021, section 3.2) describes; for the same parameters the
kernels are the same.
"""

import math
from collections.abc import Sequence

import numpy as np

from gpen.data.degradations.draws import draw_between, draw_chance, draw_index

SHAPES = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso', 'sinc', 'motion')
"""What ``kernel_list`` may hold."""

_SMALLEST_SIGMA = 1e-3  # below it a kernel is a single point anyway, and 1 / sigma^2 has to stay finite


def gaussian(
    size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0, beta: float = 1.0
) -> np.ndarray:
    """Return a generalised Gaussian, exp(-d^(2 beta) / 2), isotropic or with two deviations and turned by an angle.

    Source: Pascal et al. 2013, arXiv 1302.6498.

    Args:
        size: height and width, odd, pixels.
        sigma_x: standard deviation along the first axis, pixels.
        sigma_y: the same along the second axis; default: isotropic.
        angle: of the first axis, radians.
        beta: exponent; 1 is the normal Gaussian, more is flatter on top.
    """
    with np.errstate(over='ignore'):  # infinitely far is as good
        return _normalize(np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, angle) ** beta))


def plateau(
    size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0, beta: float = 1.0
) -> np.ndarray:
    """Return a plateau with long tails, 1 / (1 + d^(2 beta)); the arguments are those of :func:`gaussian`."""
    with np.errstate(over='ignore'):  # infinitely far is as good
        return _normalize(1 / (1 + _squared_distance(size, sigma_x, sigma_y, angle) ** beta))


def sinc(size: int, cutoff: float) -> np.ndarray:
    """Return the ideal circular low-pass filter, cut off to ``size``; it rings like over-sharpened or resized images.

    Source: Real-ESRGAN, section 3.4: k(r) = cutoff / (2 pi r) J1(cutoff r).

    Args:
        size: height and width, odd, pixels.
        cutoff: radians per pixel, at most pi.
    """
    half, cutoff = size // 2, max(cutoff, 1e-3)  # 0 would leave nothing to normalise
    axis = np.arange(half + 1, dtype=np.float64)
    radius = np.hypot(axis[:, None], axis[None])
    radius[0, 0] = 1.0
    quarter = cutoff * _bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    quarter[0, 0] = cutoff**2 / (4 * math.pi)
    mirrored = np.abs(np.arange(-half, half + 1))
    return _normalize(quarter[np.ix_(mirrored, mirrored)])


def motion(size: int, length: float, angle: float) -> np.ndarray:
    """Return the path of a camera that moves evenly along a straight line: a segment one pixel wide.

    Args:
        size: height and width, odd, pixels.
        length: of the segment, pixels; 1 or less blurs nothing.
        angle: radians.
    """
    x, y = _grid(size)
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    beyond = np.maximum(along - max(length - 1, 0) / 2, 0)
    return _normalize(np.maximum(1 - np.hypot(across, beyond), 0))


def draw_kernel(
    generator: np.random.Generator,
    kernel_list: Sequence[str],
    kernel_prob: Sequence[float],
    kernel_size: int,
    blur_sigma: Sequence[float],
    betag_range: Sequence[float] = (0.5, 8),
    betap_range: Sequence[float] = (0.5, 8),
) -> np.ndarray:
    """Return a kernel of a random shape, as BasicSR's ``random_mixed_kernels`` does without its noise.

    Args:
        generator: draws everything.
        kernel_list: names out of :data:`SHAPES`.
        kernel_prob: how often each is taken; any positive sum.
        kernel_size: height and width, odd, pixels.
        blur_sigma: range of both standard deviations, pixels.
        betag_range: exponents of generalised Gaussians; half of them are below 1, half above.
        betap_range: the same for plateaus.

    Raises:
        UserError: the two lists do not fit together.
    """
    shape = kernel_list[draw_index(generator, kernel_prob, len(kernel_list), 'kernel_prob')]
    if shape == 'sinc':
        return draw_sinc(generator, kernel_size)
    if shape == 'motion':
        return motion(kernel_size, generator.uniform(1, kernel_size), generator.uniform(0, math.pi))

    # Gaussians and plateaus share the deviations and, where they are not isotropic, the angle.
    sigma_x, sigma_y, angle = draw_between(generator, blur_sigma), None, 0.0
    if shape.endswith('aniso'):
        sigma_y, angle = draw_between(generator, blur_sigma), generator.uniform(-math.pi, math.pi)
    if shape.startswith('plateau'):
        return plateau(kernel_size, sigma_x, sigma_y, angle, _draw_beta(generator, betap_range))
    beta = _draw_beta(generator, betag_range) if shape.startswith('generalized') else 1.0
    return gaussian(kernel_size, sigma_x, sigma_y, angle, beta)


def draw_sinc(
    generator: np.random.Generator, kernel_size: int, lowest: float | None = None, highest: float = math.pi
) -> np.ndarray:
    """Return a sinc kernel with a random cutoff between ``lowest`` and ``highest``, radians per pixel.

    By default ``lowest`` is Real-ESRGAN's: pi / 3 for kernels smaller than 13, where less blurs unevenly, else pi / 5.
    """
    if lowest is None:
        lowest = math.pi / 3 if kernel_size < 13 else math.pi / 5
    return sinc(kernel_size, generator.uniform(lowest, highest))


def draw_size(generator: np.random.Generator, smallest: int, largest: int) -> int:
    """Return a random odd number from ``smallest`` to ``largest``, both odd; ``largest`` where it is the lesser."""
    smallest = min(smallest, largest)
    return smallest + 2 * int(generator.integers((largest - smallest) // 2 + 1))


def _draw_beta(generator: np.random.Generator, limits: Sequence[float]) -> float:
    """Return an exponent, below 1 half of the time."""
    if draw_chance(generator, 0.5):
        return draw_between(generator, (min(limits[0], 1.0), 1.0))
    return draw_between(generator, (1.0, max(limits[1], 1.0)))


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (1 x K) and y (K x 1), zero in the middle."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    return axis[None], axis[:, None]


def _squared_distance(size: int, sigma_x: float, sigma_y: float | None, angle: float) -> np.ndarray:
    """Return the squared Mahalanobis distance of each element from the middle, K x K."""
    x, y = _grid(size)
    first = max(sigma_x, _SMALLEST_SIGMA)
    if sigma_y is None:
        return (x**2 + y**2) / first**2
    second = max(sigma_y, _SMALLEST_SIGMA)
    cosine, sine = math.cos(angle), math.sin(angle)
    return ((x * cosine + y * sine) / first) ** 2 + ((y * cosine - x * sine) / second) ** 2


def _normalize(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """Return the Bessel function J1 by its integral over one period (DLMF 10.9.2).

    The integrand is periodic and analytic, so a plain mean converges faster than any power: what is left is of the size
    of J_n(x) for n nodes, below 1e-16 for n > x + 60.
    """
    nodes = 64 + 2 * math.ceil(float(x.max()))
    angles = np.arange(nodes) * (2 * math.pi / nodes)
    return np.cos(angles - x[..., None] * np.sin(angles)).mean(axis=-1)
