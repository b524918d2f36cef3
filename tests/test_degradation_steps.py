"""Single degradations."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from gpen.data.degradations import build_degradation, colour
from gpen.data.degradations.compression import round_to_8_bits, through_jpeg
from gpen.data.degradations.kernels import gaussian, plateau
from gpen.data.degradations.noise import add_correlated_gaussian, add_gaussian, add_poisson
from gpen.data.degradations.resampling import draw_factor, resample
from gpen.errors import UserError
from gpen.registry import DEGRADATION_REGISTRY

STEPS = [
    'blur',
    'sinc_blur',
    'motion_blur',
    'downsample',
    'resize',
    'gaussian_noise',
    'poisson_noise',
    'jpeg',
    'grayscale',
    'color_shift',
    'color_jitter',
    'affine',
    'mask',
]
STEP = 1 / 127.5  # of 8 bits, in [-1, 1]


def draw_image(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Return smooth random colours."""
    small = np.random.default_rng(seed).uniform(-1, 1, (4, 4, 3)).astype(np.float32)
    return resample(small, height, width, 'bilinear')


def run(options: dict[str, Any], image: np.ndarray, seed: int = 0) -> np.ndarray:
    return build_degradation(options)(image, np.random.default_rng(seed))


@pytest.mark.parametrize('name', STEPS)
@pytest.mark.parametrize('shape', [(17, 23), (8, 8), (1, 1), (40, 16)])
def test_every_step_gives_an_image_in_range_and_leaves_what_it_is_given(name: str, shape: tuple[int, int]) -> None:
    image = draw_image(*shape)
    image.flags.writeable = False
    for seed in range(4):
        result = run({'type': name}, image, seed)
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert np.abs(result).max() <= 1


@pytest.mark.parametrize('name', [name for name in STEPS if name != 'grayscale'])
def test_every_step_is_decided_by_the_generator(name: str) -> None:
    image = draw_image()
    assert run({'type': name}, image, 1).tobytes() == run({'type': name}, image, 1).tobytes()
    assert run({'type': name}, image, 1).tobytes() != run({'type': name}, image, 2).tobytes()


@pytest.mark.parametrize(
    'options',
    [
        {'type': 'jpeg', 'probability': 0},
        {'type': 'gaussian_noise', 'sigma': [0, 0]},
        {'type': 'gaussian_noise', 'sigma': [0, 0], 'gray_prob': 1},
        {'type': 'poisson_noise', 'scale': [0, 0]},
        {'type': 'blur', 'sigma': [0, 0]},
        {'type': 'blur', 'kernel_size': 1},
        {'type': 'motion_blur', 'length': [1, 1]},
        {'type': 'downsample', 'factor': [1, 1]},
        {'type': 'resize', 'up_down_keep': [0, 0, 1]},
        {'type': 'color_shift', 'shift': 0},
        {'type': 'color_jitter', 'brightness': None, 'contrast': None, 'saturation': None, 'hue': None},
        {'type': 'affine', 'rotation': [0, 0], 'scale': [1, 1], 'shift': [0, 0]},
        {'type': 'mask', 'share': [0, 0]},
    ],
)
def test_the_weakest_settings_change_nothing(options: dict[str, Any]) -> None:
    image = draw_image()
    np.testing.assert_allclose(run(options, image), image, atol=1e-6)


def test_neutral_colour_factors_change_nothing() -> None:
    image = draw_image()
    one = {'brightness': [1, 1], 'contrast': [1, 1], 'saturation': [1, 1], 'hue': [0, 0]}
    np.testing.assert_allclose(run({'type': 'color_jitter', **one}, image), image, atol=1e-5)


@pytest.mark.parametrize(
    ('change', 'reference', 'amounts'),
    [
        (colour._scale_brightness, functional.adjust_brightness, (0.5, 1.5)),
        (colour._scale_contrast, functional.adjust_contrast, (0.5, 1.5)),
        (colour._scale_saturation, functional.adjust_saturation, (0, 1.5)),
        (colour._turn_hue, functional.adjust_hue, (-0.1, 0.1, 0.4)),
    ],
)
def test_colour_changes_are_those_of_torchvision(change: Any, reference: Any, amounts: tuple[float, ...]) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (20, 20, 3)).astype(np.float32)
    tensor = torch.from_numpy((image.transpose(2, 0, 1) + 1) / 2)
    for amount in amounts:
        expected = reference(tensor, amount).numpy().transpose(1, 2, 0) * 2 - 1
        np.testing.assert_allclose(np.clip(change(image.copy(), amount), -1, 1), expected, atol=0.05 * STEP)


def test_a_turned_scaled_or_shifted_image_is_that() -> None:
    image = draw_image(31, 31)
    still = {'type': 'affine', 'rotation': [0, 0], 'scale': [1, 1], 'shift': [0, 0]}
    turned = run({**still, 'rotation': [90, 90]}, image)
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-5)
    shifted = run({**still, 'shift': [2 / 31, 2 / 31]}, image)
    np.testing.assert_allclose(shifted[2:, 2:], image[:-2, :-2], atol=1e-5)
    enlarged = run({**still, 'scale': [2, 2]}, image)
    np.testing.assert_allclose(enlarged[1::2, 1::2], image[8:23, 8:23], atol=1e-5)
    with pytest.raises(UserError, match='scale is'):
        run({**still, 'scale': [0, 1]}, image)


def test_gray_is_three_equal_channels_of_bt601_luma() -> None:
    image = draw_image()
    result = run({'type': 'grayscale'}, image)
    assert (result == result[:, :, :1]).all()
    np.testing.assert_allclose(result[:, :, 0], image @ np.float32([0.299, 0.587, 0.114]), atol=1e-5)


def test_colour_shift_moves_each_channel_by_one_amount_within_its_limit() -> None:
    shifts = np.array(
        [run({'type': 'color_shift', 'shift': 20}, np.zeros((4, 4, 3), np.float32), n) for n in range(200)]
    )
    assert (shifts == shifts[:, :1, :1]).all()
    amounts = shifts[:, 0, 0] / STEP
    assert np.abs(amounts).max() <= 20
    assert amounts.std(axis=0) == pytest.approx(20 / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize('gray', [False, True])
def test_gaussian_noise_has_the_deviation_asked_for(gray: bool) -> None:
    noise = add_gaussian(np.zeros((200, 200, 3), np.float32), np.random.default_rng(0), 12, gray)
    assert noise.std() / STEP == pytest.approx(12, rel=0.02)
    assert abs(noise.mean()) / STEP < 0.2
    correlation = np.corrcoef(noise.reshape(-1, 3).T)[0, 1]
    assert correlation == pytest.approx(float(gray), abs=0.02)


def test_gaussian_noise_of_a_step_draws_deviation_and_greyness() -> None:
    image = np.zeros((32, 32, 3), np.float32)
    drawn = [run({'type': 'gaussian_noise', 'sigma': [5, 15], 'gray_prob': 0.4}, image, n) for n in range(200)]
    deviations = np.array([noise.std() for noise in drawn]) / STEP
    assert 4 < deviations.min() < 6.5
    assert 13.5 < deviations.max() < 16
    assert np.mean([(noise == noise[:, :, :1]).all() for noise in drawn]) == pytest.approx(0.4, abs=0.1)


def test_correlated_noise_is_at_most_as_strong_as_asked_for_and_not_grey() -> None:
    image = np.zeros((64, 64, 3), np.float32)
    drawn = [add_correlated_gaussian(image, np.random.default_rng(n), 20) for n in range(40)]
    assert max(noise.std(axis=(0, 1)).max() for noise in drawn) / STEP < 30  # |.| may raise it a little
    correlations = np.abs([np.corrcoef(noise.reshape(-1, 3).T)[0, 1] for noise in drawn])
    assert 0.1 < correlations.mean() < 0.95


def test_poisson_noise_grows_with_the_root_of_brightness() -> None:
    image = np.empty((256, 300, 3), np.float32)
    image[:, :, :] = (np.arange(256)[:, None, None] * STEP) - 1  # 256 different values: 256 photons in white
    noise = (add_poisson(image, np.random.default_rng(0), 1.0) - image)[:200] / STEP  # white noise would be clipped
    for row in (20, 60, 120, 180):
        assert noise[row].std() == pytest.approx(math.sqrt(row * 255 / 256), rel=0.06)
        assert abs(noise[row].mean()) < 1.5
    assert np.abs(noise[0]).max() < 1e-3


def test_poisson_noise_can_be_grey_and_weaker() -> None:
    image = draw_image(64, 64) * 0.5
    strong, weak = (add_poisson(image, np.random.default_rng(0), scale, gray=True) - image for scale in (1.0, 0.25))
    assert strong == pytest.approx(4 * weak, abs=1e-4)
    np.testing.assert_allclose(strong - strong[:, :, :1], 0, atol=1e-6)


def test_jpeg_of_quality_100_nearly_keeps_the_image_and_its_colours() -> None:
    image = draw_image(64, 64)
    result = run({'type': 'jpeg', 'quality': [100, 100]}, image)
    assert np.abs(result - image).mean() < 2 * STEP
    red = np.full((16, 16, 3), -1, np.float32)
    red[:, :, 0] = 1
    np.testing.assert_allclose(through_jpeg(red, 100), red, atol=4 * STEP)


def test_jpeg_gets_worse_with_lower_quality_and_gives_8_bit_values() -> None:
    image = add_gaussian(draw_image(64, 64), np.random.default_rng(0), 10)
    errors = [np.abs(through_jpeg(image, quality) - image).mean() for quality in (95, 60, 20, 5)]
    assert errors == sorted(errors)
    result = through_jpeg(image, 60)
    assert (round_to_8_bits(result) == result).all()


def test_jpeg_qualities_are_drawn_from_the_whole_range() -> None:
    image = draw_image()
    results = {run({'type': 'jpeg', 'quality': [30, 32]}, image, n).tobytes() for n in range(40)}
    assert results == {through_jpeg(image, quality).tobytes() for quality in (30, 31, 32)}


def test_blur_is_a_convolution_with_the_drawn_kernel() -> None:
    image = draw_image()
    spot = np.zeros((41, 41, 3), np.float32)
    spot[20, 20] = 1
    result = run({'type': 'blur', 'kernel_list': ['iso'], 'kernel_size': 21, 'sigma': [2, 2]}, spot)
    np.testing.assert_allclose(result[10:31, 10:31, 0], gaussian(21, 2), atol=1e-4)
    for name in ('generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso', 'sinc', 'motion'):
        assert not np.array_equal(run({'type': 'blur', 'kernel_list': [name], 'kernel_size': 9}, image), image)


def test_sinc_blur_overshoots_at_an_edge() -> None:
    image = np.full((32, 32, 3), -0.5, np.float32)
    image[:, 16:] = 0.5
    result = run({'type': 'sinc_blur', 'cutoff': [1.1, 1.1]}, image)
    assert result.max() > 0.53
    assert result.min() < -0.53


def test_resize_draws_larger_smaller_or_neither() -> None:
    generator = np.random.default_rng(0)
    factors = np.array([draw_factor(generator, (0.15, 1.5), (0.2, 0.7, 0.1), 'up_down_keep') for _ in range(1000)])
    assert factors.min() == pytest.approx(0.15, abs=0.02)
    assert factors.max() == pytest.approx(1.5, abs=0.02)
    shares = [np.mean(factors > 1), np.mean(factors < 1), np.mean(factors == 1)]
    assert shares == pytest.approx([0.2, 0.7, 0.1], abs=0.05)
    with pytest.raises(UserError, match=r'up_down_keep is \[1\]; it needs 3 numbers'):
        run({'type': 'resize', 'up_down_keep': [1]}, draw_image())


def test_downsampling_rounds_down_and_never_to_nothing() -> None:
    step = DEGRADATION_REGISTRY.get('downsample')
    assert step(draw_image(17, 23), np.random.default_rng(0), [3, 3], 'area').shape == (5, 7, 3)
    assert step(draw_image(4, 4), np.random.default_rng(0), [50, 50]).shape == (1, 1, 3)
    with pytest.raises(UserError, match=r'factor is \[0, 2\]; its numbers must be above 0'):
        step(draw_image(), np.random.default_rng(0), [0, 2])


@pytest.mark.parametrize('shape', ['strokes', 'rectangles', 'mixed'])
@pytest.mark.parametrize('share', [0.05, 0.3, 0.8])
def test_mask_is_white_at_the_stated_share_and_leaves_the_rest(shape: str, share: float) -> None:
    image = draw_image(96, 128) * 0.9
    result = run({'type': 'mask', 'shape': shape, 'share': [share, share]}, image)
    painted = (result == 1).all(axis=2)
    assert painted.mean() == pytest.approx(share, abs=0.01)
    np.testing.assert_array_equal(result[~painted], image[~painted])


def test_mask_can_cover_everything() -> None:
    assert (run({'type': 'mask', 'share': [1, 1]}, draw_image(16, 16)) == 1).all()


def test_mask_is_the_same_picture_at_every_size() -> None:
    options = {'type': 'mask', 'share': [0.2, 0.2], 'stroke_width': [0.08, 0.08]}
    masks = [run(options, np.zeros((size, size, 3), np.float32), 4)[:, :, 0] for size in (128, 512)]
    assert np.abs(resample(masks[1], 128, 128, 'area') - masks[0]).mean() < 0.05


@pytest.mark.parametrize(('weights', 'message'), [([1.0], 'weights is .* it needs 2 numbers'), ([0.0, 0.0], 'weights')])
def test_weights_that_do_not_fit_the_steps_are_said(weights: list[float], message: str) -> None:
    steps = [{'type': 'grayscale'}, {'type': 'jpeg'}]
    degrade = build_degradation({'type': 'one_of', 'steps': steps, 'weights': weights})
    with pytest.raises(UserError, match=message):
        degrade(np.zeros((8, 8, 3), np.float32), np.random.default_rng(0))


def test_nearest_pixels_are_taken_from_the_middle() -> None:
    ramp = np.tile(np.linspace(-1, 1, 60, dtype=np.float32)[None, :, None], (60, 1, 3))
    small = resample(ramp, 12, 12, 'nearest')
    np.testing.assert_allclose(small, resample(ramp, 12, 12, 'area'), atol=1e-5)


@pytest.mark.parametrize('kernel', [gaussian, plateau])
def test_extreme_exponents_of_a_kernel_give_a_point_and_no_warning(kernel: Any) -> None:
    point = np.zeros((5, 5))
    point[2, 2] = 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        np.testing.assert_array_equal(kernel(5, 1e-3, beta=900), point)
