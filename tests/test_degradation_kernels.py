"""Blur kernels, against BasicSR's; and fast filtering, against OpenCV's plain one."""

import importlib
import importlib.util
import math
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from gpen.data.degradations import kernels
from gpen.data.degradations.convolution import (
    convolve,
    convolve_and_resize,
    convolve_and_resize_plain,
    convolve_plain,
)
from gpen.errors import UserError

QUARTER_STEP = 0.25 / 127.5  # of 8 bits, in [-1, 1]

THIN = [(10, 0.1, 0.3), (10, 0.3, math.pi / 4), (8, 0.6, -1.1), (0.1, 9, 0.7), (10, 0.5, 0), (10, 0.5, math.pi / 2)]


@pytest.fixture(scope='module')
def theirs() -> ModuleType:
    if importlib.util.find_spec('basicsr') is None:
        pytest.skip('basicsr is not installed')
    from gpen.registry.basicsr_package import import_basicsr

    import_basicsr()
    return importlib.import_module('basicsr.data.degradations')


def draw_parameters(count: int) -> list[tuple[int, float, float, float, float]]:
    """Return random sizes, two deviations, angles and exponents."""
    generator = np.random.default_rng(7)
    return [
        (
            int(2 * generator.integers(3, 21) + 1),
            *generator.uniform(0.1, 10, 2),
            generator.uniform(-math.pi, math.pi),
            generator.uniform(0.5, 4),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize('isotropic', [True, False])
def test_gaussians_and_plateaus_are_those_of_basicsr(theirs: ModuleType, isotropic: bool) -> None:
    for size, sigma_x, sigma_y, angle, beta in draw_parameters(40):
        ours = (sigma_x,) if isotropic else (sigma_x, sigma_y, angle)
        pairs = [
            (
                kernels.gaussian(size, *ours),
                theirs.bivariate_Gaussian(size, sigma_x, sigma_y, angle, isotropic=isotropic),
            ),
            (
                kernels.gaussian(size, *ours, beta=beta),
                theirs.bivariate_generalized_Gaussian(size, sigma_x, sigma_y, angle, beta, isotropic=isotropic),
            ),
            (
                kernels.plateau(size, *ours, beta=beta),
                theirs.bivariate_plateau(size, sigma_x, sigma_y, angle, beta, isotropic=isotropic),
            ),
        ]
        for mine, other in pairs:
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)


def test_sinc_kernels_are_those_of_basicsr(theirs: ModuleType) -> None:
    for size in (7, 13, 21, 41):
        for cutoff in (math.pi / 5, 1.0, 2.0, math.pi):
            expected = theirs.circular_lowpass_kernel(cutoff, size)
            np.testing.assert_allclose(kernels.sinc(size, cutoff), expected, rtol=0, atol=1e-6)


def test_bessel_function_has_its_known_values() -> None:
    x = np.array([0.0, 1.0, 3.8317059702, 10.0, 60.0])  # the third is its first zero
    expected = [0, 0.4400505857449335, 0, 0.0434727461688614, 0.0465983837581662]
    np.testing.assert_allclose(kernels._bessel_j1(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('shape', kernels.SHAPES)
def test_drawn_kernels_have_the_size_asked_for_and_sum_to_one(shape: str) -> None:
    generator = np.random.default_rng(3)
    for size in (1, 7, 21, 41):
        for sigma in ([0, 0], [0.1, 10]):
            kernel = kernels.draw_kernel(generator, [shape], [1], size, sigma)
            assert kernel.shape == (size, size)
            assert np.isfinite(kernel).all()
            assert kernel.sum() == pytest.approx(1)
            np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)


def test_shapes_are_drawn_as_often_as_asked_for() -> None:
    generator = np.random.default_rng(1)
    drawn = [kernels.draw_kernel(generator, ['iso', 'aniso'], [3, 1], 9, [1, 3]) for _ in range(400)]
    isotropic = np.mean([np.allclose(kernel, kernel.T) and np.allclose(kernel, kernel[::-1]) for kernel in drawn])
    assert isotropic == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize('shares', [[1], [1, 2, 3], [0, 0]])
def test_shares_that_do_not_fit_the_shapes_are_an_error(shares: list[float]) -> None:
    with pytest.raises(UserError, match=r'kernel_prob is .* it needs 2 numbers'):
        kernels.draw_kernel(np.random.default_rng(0), ['iso', 'aniso'], shares, 9, [1, 2])


def test_motion_kernel_is_a_line_of_its_length_in_its_direction() -> None:
    np.testing.assert_allclose(kernels.motion(9, 5, 0)[4], [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0])
    np.testing.assert_allclose(
        kernels.motion(9, 5, math.pi / 2)[:, 4], [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0], atol=1e-9
    )
    assert np.count_nonzero(kernels.motion(9, 1, 1.0) > 1e-9) == 1


def sharpest_image(height: int, width: int) -> np.ndarray:
    """Return black and white pixels at random, in which every difference between two kernels shows most."""
    return np.random.default_rng(0).choice(np.float32([-1, 1]), (height, width, 3))


def list_kernels() -> list[np.ndarray]:
    generator = np.random.default_rng(11)
    drawn = [kernels.draw_kernel(generator, [shape], [1], 41, (0.1, 10)) for shape in kernels.SHAPES for _ in range(4)]
    small = [kernels.draw_kernel(generator, [shape], [1], 9, (0.1, 3)) for shape in kernels.SHAPES]
    return [*drawn, *small, *(kernels.gaussian(41, *parameters) for parameters in THIN), np.ones((1, 1))]


@pytest.mark.parametrize('shape', [(96, 96), (17, 23), (8, 8), (1, 5)])
def test_fast_filtering_is_the_plain_one_to_a_quarter_of_a_step(shape: tuple[int, int]) -> None:
    image = sharpest_image(*shape)
    for kernel in list_kernels():
        assert np.abs(convolve(image, kernel) - convolve_plain(image, kernel)).max() <= QUARTER_STEP


@pytest.mark.parametrize('shape', [(96, 96), (33, 23), (8, 8), (1, 5)])
def test_fast_filtering_with_resampling_is_the_plain_one_to_a_quarter_of_a_step(shape: tuple[int, int]) -> None:
    image = sharpest_image(*shape)
    for n, kernel in enumerate(list_kernels()):
        factor = (0.8, 1.0, 1.3, 2.0, 3.7, 8.0)[n % 6]
        size = max(1, int(shape[0] / factor)), max(1, int(shape[1] / factor))
        fast, plain = (function(image, kernel, *size) for function in (convolve_and_resize, convolve_and_resize_plain))
        assert fast.shape == (*size, 3)
        assert np.abs(fast - plain).max() <= QUARTER_STEP


def test_filtering_keeps_an_even_surface() -> None:
    image = np.full((40, 30, 3), 0.75, np.float32)
    for kernel in list_kernels():
        np.testing.assert_allclose(convolve(image, kernel), 0.75, atol=1e-5)
        np.testing.assert_allclose(convolve_and_resize(image, kernel, 9, 7), 0.75, atol=1e-5)


def test_filtering_gives_the_same_bytes_for_any_number_of_threads() -> None:
    """A matrix product shared by several threads often differs in its last bits."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            generator = np.random.default_rng(0)
            for _ in range(20):
                image = sharpest_image(*generator.integers(30, 200, 2))
                kernel = kernels.draw_kernel(generator, ('iso', 'aniso'), (0.5, 0.5), 41, (0.1, 10))
                height, width = (int(generator.integers(5, length)) for length in image.shape[:2])
                made = convolve_and_resize(image, kernel, height, width), convolve(image, kernel)
                results.append([image.tobytes() for image in made])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    assert results[:20] == results[20:40] == results[40:]
