"""The published recipes."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpen.data.degradations import build_degradation, build_pair_degradation, try_degradation
from gpen.data.degradations.compression import round_to_8_bits
from gpen.data.degradations.convolution import convolve_and_resize_plain
from gpen.data.degradations.kernels import draw_kernel
from gpen.data.degradations.recipes import bsrgan as bsrgan_module
from gpen.data.degradations.recipes import gpen as gpen_module
from gpen.data.degradations.recipes import realesrgan as realesrgan_module
from gpen.data.degradations.resampling import draw_smaller_size, resample
from gpen.errors import UserError
from gpen.options.components import check_degradations
from gpen.registry import DEGRADATION_REGISTRY

RECIPES: list[dict[str, Any]] = [
    {'type': 'gfpgan'},
    {'type': 'gpen'},
    {'type': 'gpen', 'version': 'paper'},
    {'type': 'realesrgan'},
    {'type': 'bsrgan'},
    {'type': 'simple'},
]
STEP = 1 / 127.5  # of 8 bits, in [-1, 1]
NO_COLOURS = {'color_jitter_prob': None, 'color_jitter_pt_prob': 0, 'gray_prob': 0}


def draw_image(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Return random colours with coarse and fine detail."""
    generator = np.random.default_rng(seed)
    coarse, fine = (
        resample(generator.uniform(-0.5, 0.5, (n, n, 3)).astype(np.float32), height, width, 'bilinear') for n in (4, 16)
    )
    return coarse + fine


def run(options: dict[str, Any], image: np.ndarray, seed: int = 0) -> np.ndarray:
    return build_degradation(options)(image, np.random.default_rng(seed))


@pytest.mark.parametrize('options', RECIPES)
@pytest.mark.parametrize('shape', [(17, 23), (8, 8), (1, 1), (64, 48)])
def test_every_recipe_gives_an_image_of_the_same_size_in_range(options: dict, shape: tuple[int, int]) -> None:
    image = draw_image(*shape)
    image.flags.writeable = False
    for seed in range(8):
        result = run(options, image, seed)
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert np.abs(result).max() <= 1


@pytest.mark.parametrize('options', RECIPES)
def test_every_recipe_is_decided_by_the_generator_and_by_the_image(options: dict) -> None:
    image = draw_image()
    assert run(options, image, 1).tobytes() == run(options, image, 1).tobytes()
    assert run(options, image, 1).tobytes() != run(options, image, 2).tobytes()
    assert run(options, image, 1).tobytes() != run(options, draw_image(seed=1), 1).tobytes()


@pytest.mark.parametrize('options', RECIPES)
def test_every_recipe_makes_the_image_worse_but_keeps_what_it_shows(options: dict) -> None:
    image = draw_image(128, 128)
    results = [run(options, image, n) for n in range(12)]
    errors = [np.abs(result - image).mean() for result in results]
    assert min(errors) > 0.5 * STEP
    mean = np.mean(results, axis=0)
    assert np.corrcoef(mean.ravel(), image.ravel())[0, 1] > 0.5


PUBLISHED = {
    'gfpgan': {
        'kernel_list': ('iso', 'aniso'),
        'kernel_prob': (0.5, 0.5),
        'blur_kernel_size': 41,
        'blur_sigma': (0.1, 10),
        'downsample_range': (0.8, 8),
        'noise_range': (0, 20),
        'jpeg_range': (60, 100),
        'color_jitter_prob': 0.3,
        'color_jitter_shift': 20,
        'color_jitter_pt_prob': 0.3,
        'brightness': (0.5, 1.5),
        'contrast': (0.5, 1.5),
        'saturation': (0, 1.5),
        'hue': (-0.1, 0.1),
        'gray_prob': 0.01,
    },
    'realesrgan': {
        'scale': 4,
        'kernel_list': ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso'),
        'kernel_prob': (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        'blur_kernel_size': 21,
        'sinc_prob': 0.1,
        'blur_sigma': (0.2, 3),
        'betag_range': (0.5, 4),
        'betap_range': (1, 2),
        'resize_prob': (0.2, 0.7, 0.1),
        'resize_range': (0.15, 1.5),
        'gaussian_noise_prob': 0.5,
        'noise_range': (1, 30),
        'poisson_scale_range': (0.05, 3),
        'gray_noise_prob': 0.4,
        'jpeg_range': (30, 95),
        'second_blur_prob': 0.8,
        'sinc_prob2': 0.1,
        'blur_sigma2': (0.2, 1.5),
        'betag_range2': (0.5, 4),
        'betap_range2': (1, 2),
        'resize_prob2': (0.3, 0.4, 0.3),
        'resize_range2': (0.3, 1.2),
        'gaussian_noise_prob2': 0.5,
        'noise_range2': (1, 25),
        'poisson_scale_range2': (0.05, 2.5),
        'gray_noise_prob2': 0.4,
        'jpeg_range2': (30, 95),
        'final_sinc_prob': 0.8,
    },
    'bsrgan': {
        'scale': 4,
        'halve_prob': 0.25,
        'resize_prob': 0.75,
        'noise_range': (2, 25),
        'jpeg_prob': 0.9,
        'jpeg_range': (30, 95),
    },
    'simple': {'blur': None, 'shrink': None, 'noise': (0, 12), 'jpeg': (60, 95)},
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_defaults_are_the_published_numbers(name: str) -> None:
    definition = DEGRADATION_REGISTRY.find(name)
    assert definition is not None
    assert {parameter.name: parameter.default for parameter in definition.parameters} == PUBLISHED[name]


@pytest.mark.parametrize(
    ('version', 'numbers'),
    [
        ('code', {'downsample_range': (0.8, 8), 'noise_range': (0, 20), 'jpeg_range': (60, 100)}),
        ('paper', {'downsample_range': (10, 200), 'noise_range': (0, 25), 'jpeg_range': (5, 50)}),
    ],
)
def test_gpen_has_the_published_numbers_of_both_versions(version: str, numbers: dict[str, Any]) -> None:
    image = draw_image()
    kernel_list = {'code': ('iso', 'aniso'), 'paper': ('iso', 'motion')}[version]
    said = {'blur_kernel_size': 41, 'blur_sigma': (0.1, 10), 'kernel_list': kernel_list, **numbers}
    for seed in range(5):
        defaults, explicit = ({'type': 'gpen', 'version': version, **options} for options in ({}, said))
        np.testing.assert_array_equal(run(defaults, image, seed), run(explicit, image, seed))
    other = {'type': 'gpen', 'version': version, 'downsample_range': (3, 3), 'noise_range': (1, 1)}
    assert not np.array_equal(run(other, image), run({'type': 'gpen', 'version': version}, image))


def find_problems(options: dict[str, Any]) -> list[tuple[str | int, ...]]:
    """Return where the option checks find something wrong."""
    return [problem.key[1:] for problem in check_degradations(options, ('degradation',))]


def test_options_with_recipes_are_checked_before_a_run() -> None:
    names = ['iso', 'plateau_aniso', 'sinc', 'motion']
    for name in ('gfpgan', 'gpen', 'realesrgan'):
        assert find_problems({'type': name, 'kernel_list': names, 'kernel_prob': [1, 1, 1, 1]}) == []
        assert find_problems({'type': name, 'kernel_list': ['round']}) == [('kernel_list', 0)]
    assert find_problems({'type': 'gfpgan', 'color_jitter_prob': None, 'noise_range': None}) == []
    assert find_problems({'type': 'gpen', 'version': 'book'}) == [('version',)]


def test_gfpgan_blurs_shrinks_and_enlarges_as_the_plain_functions_do() -> None:
    image = draw_image(96, 96)
    options = {'type': 'gfpgan', 'noise_range': None, 'jpeg_range': None, **NO_COLOURS}
    for seed in range(12):
        generator = np.random.default_rng(seed)
        kernel = draw_kernel(generator, ['iso', 'aniso'], [0.5, 0.5], 41, [0.1, 10])
        small = convolve_and_resize_plain(image, kernel, *draw_smaller_size(image, generator, [0.8, 8]))
        expected = round_to_8_bits(resample(small, 96, 96, 'bilinear'))
        difference = np.abs(run(options, image, seed) - expected)
        assert difference.max() <= 1.01 * STEP  # where rounding goes the other way
        assert difference.mean() < 0.05 * STEP


def test_gpen_is_gfpgan_without_colours() -> None:
    image = draw_image()
    for seed in range(6):
        theirs, ours = (
            run({'type': 'gfpgan', **NO_COLOURS}, image, seed),
            run({'type': 'gpen'}, image, seed),
        )
        np.testing.assert_array_equal(theirs, round_to_8_bits(ours))


def is_grey(image: np.ndarray) -> bool:
    return bool(np.abs(image - image[:, :, :1]).max() < 3 * STEP)


def test_gpen_greys_the_degraded_image_as_often_as_said() -> None:
    options = {'type': 'gpen', 'blur_sigma': [0.1, 1], 'noise_range': [0, 0]}
    for often in (0.0, 0.2):
        results = [run({**options, 'gray_prob': often}, draw_image(16, 16), n) for n in range(200)]
        assert np.mean([is_grey(result) for result in results]) == pytest.approx(often, abs=0.07)


@pytest.mark.parametrize(
    ('options', 'often'),
    [
        ({}, 0.2),
        ({'version': 'paper', 'downsample_range': [10, 20]}, 0.0),
        ({'gray_pair_prob': 0.7}, 0.7),
        ({'gray_pair_prob': 0.7, 'probability': 0.5}, 0.35),
        ({'gray_pair_prob': 0}, 0.0),
    ],
)
def test_gpen_greys_both_images_of_a_pair_as_the_published_code_does(options: dict[str, Any], often: float) -> None:
    image = draw_image(16, 16)
    step = {'type': 'gpen', 'blur_sigma': [0.1, 1], 'noise_range': [0, 0], **options}
    for listed in (step, [step, {'type': 'blur', 'sigma': [0.1, 0.2]}]):
        make_pair = build_pair_degradation(listed)
        pairs = [make_pair(image, np.random.default_rng(seed)) for seed in range(200)]
        assert all(is_grey(lq) for lq, gt in pairs if is_grey(gt))
        assert all(is_grey(gt) or gt is image for _, gt in pairs)
        assert np.mean([is_grey(gt) for _, gt in pairs]) == pytest.approx(often, abs=0.08 * (often > 0))


def test_a_pair_of_another_recipe_keeps_its_sharp_image() -> None:
    image = draw_image(16, 16)
    lq, gt = build_pair_degradation({'type': 'simple'})(image, np.random.default_rng(3))
    assert gt is image
    np.testing.assert_array_equal(lq, run({'type': 'simple'}, image, 3))


def test_gfpgan_greys_and_shifts_colours_when_asked_to() -> None:
    image = draw_image()
    clean = {
        'type': 'gfpgan',
        'blur_sigma': [0.1, 0.1],
        'downsample_range': [1, 1],
        'noise_range': None,
        'jpeg_range': None,
    }
    gray = run({**clean, **NO_COLOURS, 'gray_prob': 1}, image)
    assert (gray == gray[:, :, :1]).all()
    shifted = run({**clean, **NO_COLOURS, 'color_jitter_prob': 1, 'color_jitter_shift': 10}, image * 0.8)
    shift = (shifted - image * 0.8) / STEP
    assert shift.std(axis=(0, 1)).max() < 0.4  # of rounding
    assert 0 < np.abs(shift).max() < 10.6
    assert np.abs(run({**clean, **NO_COLOURS, 'color_jitter_pt_prob': 1}, image) - image).mean() > 5 * STEP
    np.testing.assert_allclose(run({**clean, **NO_COLOURS}, image), image, atol=0.6 * STEP)


@pytest.mark.parametrize(
    ('size', 'factor', 'side'),
    [
        (1024, 10, 102),
        (1024, 200, 5),
        (256, 10, 102),
        (256, 200, 5),
        (64, 200, 5),
        (64, 10, 64),
        (16, 400, 4),
        (2, 9, 2),
    ],
)
def test_gpen_of_the_paper_leaves_as_many_pixels_of_a_face_at_every_size(
    size: int, factor: float, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(gpen_module, 'through_jpeg', lambda image, _quality: sizes.append(image.shape) or image)
    run(
        {'type': 'gpen', 'version': 'paper', 'downsample_range': [factor, factor]},
        np.zeros((size, size, 3), np.float32),
    )
    assert sizes == [(side, side, 3)]


def test_gpen_of_the_paper_draws_odd_kernel_sizes_that_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def record(generator: np.random.Generator, names: Any, shares: Any, size: int, sigma: Any) -> np.ndarray:
        drawn.append((size, *sigma))
        return draw_kernel(generator, names, shares, size, sigma)

    monkeypatch.setattr(gpen_module, 'draw_kernel', record)
    for seed in range(40):
        run({'type': 'gpen', 'version': 'paper'}, np.zeros((512, 512, 3), np.float32), seed)
    assert {size % 2 for size, *_ in drawn} == {1}
    assert min(size for size, *_ in drawn) < 7
    assert 15 < max(size for size, *_ in drawn) <= 21
    assert drawn[0][1:] == (0.05, 5)


@pytest.mark.parametrize('name', ['realesrgan', 'bsrgan'])
def test_a_smaller_scale_is_milder(name: str) -> None:
    image = draw_image(128, 128)
    errors = [
        np.mean([np.abs(run({'type': name, 'scale': scale}, image, seed) - image).mean() for seed in range(12)])
        for scale in (1, 2, 4)
    ]
    assert errors == sorted(errors)


def test_realesrgan_ends_with_jpeg_or_with_the_sinc_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    jpeg, last = realesrgan_module.through_jpeg, realesrgan_module._filter_last
    monkeypatch.setattr(realesrgan_module, 'through_jpeg', lambda *given: calls.append('jpeg') or jpeg(*given))
    monkeypatch.setattr(realesrgan_module, '_filter_last', lambda *given: calls.append('sinc') or last(*given))
    orders = []
    for seed in range(40):
        calls.clear()
        run({'type': 'realesrgan'}, draw_image(32, 32), seed)
        orders.append(tuple(calls))
    assert set(orders) == {('jpeg', 'sinc', 'jpeg'), ('jpeg', 'jpeg', 'sinc')}
    assert 10 < orders.count(('jpeg', 'sinc', 'jpeg')) < 30


def test_bsrgan_shuffles_its_steps_but_shrinks_to_the_final_size_last() -> None:
    orders = [bsrgan_module._draw_order(np.random.default_rng(n)) for n in range(200)]
    assert all(sorted(order) == sorted(bsrgan_module._STEPS) for order in orders)
    assert all(order.index('shrink') < order.index('shrink to size') for order in orders)
    assert {order[0] for order in orders} == {'blur', 'shrink', 'noise', 'jpeg'}
    assert {order[-1] for order in orders} == {'blur', 'shrink to size', 'noise', 'jpeg'}


def test_bsrgan_shrinks_without_moving_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.tile(np.linspace(-1, 1, 64, dtype=np.float32)[:, None, None], (1, 48, 3))
    monkeypatch.setattr(bsrgan_module, 'draw_chance', lambda *_: False)
    quarter = bsrgan_module._shrink(ramp, np.random.default_rng(0), 4, 0)
    assert quarter.shape == (16, 12, 3)
    np.testing.assert_allclose(quarter[4:-4], resample(ramp, 16, 12, 'area')[4:-4], atol=2e-3)
    half = bsrgan_module._halve_without_aliasing(ramp[:, :-1])
    assert half.shape == (32, 23, 3)
    np.testing.assert_allclose(half[3:-3], resample(ramp, 32, 23, 'area')[3:-3], atol=1e-5)


@pytest.mark.parametrize('size', [61, 62, 63])
def test_bsrgan_shrinks_sizes_that_are_no_whole_blocks_without_moving_them(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel = 2 / (size - 1)
    ramp = np.tile(np.linspace(-1, 1, size, dtype=np.float32)[:, None, None], (1, 48, 3))
    monkeypatch.setattr(bsrgan_module, 'draw_chance', lambda *_: False)
    quarter = bsrgan_module._shrink(ramp, np.random.default_rng(0), 4, 0)
    assert quarter.shape == (15, 12, 3)
    assert abs(quarter[4:-4].mean()) < 0.05 * pixel
    assert abs(bsrgan_module._halve_without_aliasing(ramp)[4:-4].mean()) < 0.05 * pixel


def test_bsrgan_shrinks_many_times_with_the_narrowest_kernel() -> None:
    narrowest = SimpleNamespace(uniform=lambda low, _: low)
    small = bsrgan_module._shrink(draw_image(), narrowest, 64, 0)
    assert small.shape == (1, 1, 3)
    np.testing.assert_allclose(small[0, 0], draw_image()[31:33, 31:33].mean(axis=(0, 1)), atol=1e-3)


def test_simple_fits_its_strength_to_the_size_of_the_image() -> None:
    for size in (16, 64, 256):
        image, scale = draw_image(size, size), math.sqrt(size / 64)
        said = {'blur': [0.6 * scale, 1.7 * scale], 'shrink': [max(1, 1.6 * scale), max(1, 3.4 * scale)]}
        np.testing.assert_allclose(run({'type': 'simple', **said}, image), run({'type': 'simple'}, image), atol=1e-6)


def test_simple_gives_what_it_gave_before() -> None:
    result = run({'type': 'simple'}, draw_image(64, 64), 5)
    assert (float(result.mean()), float(result.std())) == pytest.approx((0.0460, 0.2329), abs=5e-4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'type': 'gfpgan', 'downsample_range': [0, 8]}, r'downsample_range is \[0, 8\]; its numbers must be above 0'),
        ({'type': 'gpen', 'downsample_range': [0, 8]}, r'downsample_range is \[0, 8\]; its numbers must be above 0'),
        ({'type': 'simple', 'shrink': [0, 8]}, r'shrink is \[0, 8\]; its numbers must be above 0'),
        ({'type': 'gfpgan', 'kernel_list': ['iso']}, r'kernel_prob is \[0.5, 0.5\]; it needs 1 numbers'),
        ({'type': 'realesrgan', 'resize_prob2': [1, 2]}, r'resize_prob2 is \[1, 2\]; it needs 3 numbers'),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(options, draw_image(16, 16))


def test_a_step_that_is_seldom_done_is_tried_before_the_run() -> None:
    wrong = {'type': 'resize', 'up_down_keep': [1], 'probability': 0}
    seldom = {
        'type': 'one_of',
        'steps': [{'type': 'jpeg'}, {'type': 'in_any_order', 'steps': wrong}],
        'weights': [1, 0],
    }
    for options in (wrong, seldom):
        with pytest.raises(UserError, match=r'resize: up_down_keep is \[1\]; it needs 3 numbers'):
            try_degradation(options)
