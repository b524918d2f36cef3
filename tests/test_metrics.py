"""PSNR and SSIM: known values, and agreement with BasicSR."""

import importlib
import importlib.util
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from gpen.errors import UserError
from gpen.metrics import ImageMetric, build_metric, lower_is_better
from gpen.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from gpen.registry import METRIC_REGISTRY

METRICS = {'calculate_psnr': calculate_psnr, 'calculate_ssim': calculate_ssim}


def random_pair(height: int = 30, width: int = 37) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (restored, gt), 3 x 3 x height x width: waves, and the same with less and more noise."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 7, width), indexing='ij')
    gt = torch.sin(x * y.sqrt() + torch.rand(3, 3, 1, 1, generator=generator) * 6)
    noise = torch.randn(gt.shape, generator=generator) * torch.tensor([0.02, 0.1, 0.5]).view(3, 1, 1, 1)
    return (gt + noise).clamp(-1, 1), gt


def to_png_pixels(images: torch.Tensor) -> np.ndarray:
    """Return N x H x W x 3, BGR, uint8, by way of NumPy alone."""
    rgb = np.rint((images.double().numpy() + 1) / 2 * 255).astype(np.uint8)
    return rgb.transpose(0, 2, 3, 1)[..., ::-1]


@pytest.fixture(scope='module')
def basicsr_metrics() -> ModuleType:
    if importlib.util.find_spec('basicsr') is None:
        pytest.skip('basicsr is not installed')
    moved = 'torchvision.transforms.functional_tensor'
    sys.modules.setdefault(moved, importlib.import_module('torchvision.transforms.functional'))
    return importlib.import_module('basicsr.metrics.psnr_ssim')


@pytest.mark.parametrize('name', list(METRICS))
@pytest.mark.parametrize('crop_border', [0, 4])
@pytest.mark.parametrize('test_y_channel', [False, True])
def test_values_are_those_of_basicsr(
    name: str, crop_border: int, test_y_channel: bool, basicsr_metrics: ModuleType
) -> None:
    restored, gt = random_pair()
    ours = METRICS[name](restored, gt, crop_border, test_y_channel)
    theirs = [
        getattr(basicsr_metrics, name)(a, b, crop_border=crop_border, test_y_channel=test_y_channel)
        for a, b in zip(to_png_pixels(restored), to_png_pixels(gt), strict=True)
    ]
    assert ours.dtype == torch.float64
    assert ours.shape == (3,)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5 if test_y_channel else 1e-9)


def test_psnr_of_a_known_error() -> None:
    gt = torch.zeros(2, 3, 8, 8)
    restored = gt.clone()
    restored[0] += 10 / 127.5  # 10 of 255 everywhere
    restored[1, :, :4] += 20 / 127.5  # 20 of 255 in half of the picture
    expected = [20 * math.log10(255 / 10), 10 * math.log10(255**2 / 200)]
    assert calculate_psnr(restored, gt).tolist() == pytest.approx(expected)


def test_equal_images_have_infinite_psnr_and_ssim_one() -> None:
    _, gt = random_pair()
    assert calculate_psnr(gt, gt).tolist() == [math.inf] * 3
    assert calculate_ssim(gt, gt).tolist() == pytest.approx([1] * 3)


def test_differences_that_a_png_cannot_hold_do_not_count() -> None:
    gt = torch.full((1, 3, 16, 16), 100 / 127.5 - 1)
    assert calculate_psnr(gt + 0.4 / 127.5, gt).item() == math.inf
    assert calculate_psnr(torch.full_like(gt, 1.5), torch.ones_like(gt)).item() == math.inf


@pytest.mark.parametrize('metric', METRICS.values())
def test_more_noise_is_worse_and_each_image_is_judged_alone(metric: object) -> None:
    assert callable(metric)
    restored, gt = random_pair()
    values = metric(restored, gt)
    assert values[0] > values[1] > values[2]
    assert metric(restored[1:2], gt[1:2]).item() == pytest.approx(values[1].item(), rel=1e-12)


def test_cropped_border_is_not_judged() -> None:
    restored, gt = random_pair()
    spoilt = restored.clone()
    spoilt[..., :2, :] = spoilt[..., -2:] = -1
    for metric in METRICS.values():
        assert torch.equal(metric(spoilt, gt, 2), metric(restored, gt, 2))
        assert not torch.allclose(metric(spoilt, gt, 1), metric(restored, gt, 1))


def test_half_precision_and_gradients_are_no_hindrance() -> None:
    restored, gt = random_pair()
    values = calculate_ssim(restored.bfloat16().requires_grad_(), gt.bfloat16())
    assert not values.requires_grad
    assert values[0] > 0.8


def test_images_smaller_than_the_window_are_a_user_error() -> None:
    image = torch.zeros(1, 3, 12, 12)
    assert calculate_ssim(image[..., :11, :11], image[..., :11, :11]).item() == 1
    with pytest.raises(UserError, match='at least 11 x 11 after crop_border, but 10 x 10 is left'):
        calculate_ssim(image, image, crop_border=1)
    with pytest.raises(UserError, match='Lower crop_border'):
        calculate_psnr(image, image, crop_border=6)
    with pytest.raises(UserError, match='Lower crop_border'):
        calculate_psnr(image, image, crop_border=20)


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match='different shapes'):
        calculate_psnr(torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16))


def test_metric_is_built_from_its_options() -> None:
    restored, gt = random_pair()
    options = {'type': 'calculate_psnr', 'crop_border': 3, 'test_y_channel': True}
    metric = build_metric(options)
    assert isinstance(metric, ImageMetric)
    assert torch.equal(metric(restored, gt), calculate_psnr(restored, gt, 3, True))
    assert metric.higher_is_better
    assert build_metric({'type': 'calculate_ssim'}).higher_is_better
    assert options['type'] == 'calculate_psnr'


def test_metric_of_which_less_is_better_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    @lower_is_better
    def distance(restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        return (restored - gt).abs().mean(dim=(1, 2, 3))

    monkeypatch.setattr(METRIC_REGISTRY, 'get', {'distance': distance}.get)
    assert not build_metric({'type': 'distance'}).higher_is_better


def test_unknown_metric_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'calculate_psnr'"):
        build_metric({'type': 'calculate_pnsr'})
    with pytest.raises(UserError, match='type: NAME'):
        build_metric({'crop_border': 4})


def test_option_parser_sees_the_options_of_a_metric_but_not_its_images() -> None:
    for name in METRICS:
        definition = METRIC_REGISTRY.find(name)
        assert definition is not None
        found = [(parameter.name, parameter.annotation, parameter.default) for parameter in definition.parameters]
        names = ('test_y_channel', 'match_colours')
        assert found == [('crop_border', 'NonNegativeInt', 0), *((name, 'bool', False) for name in names)]


@pytest.mark.usefixtures('basicsr_metrics')
def test_metric_of_basicsr_can_be_named() -> None:
    restored, gt = random_pair()
    metric = build_metric({'type': 'calculate_psnr_pt', 'crop_border': 0})
    assert isinstance(metric, ImageMetric)
    difference = ((restored - gt) / 2).double().square().mean(dim=(1, 2, 3))
    assert metric(restored, gt).tolist() == pytest.approx((-10 * torch.log10(difference)).tolist(), rel=1e-4)
    assert metric.higher_is_better


def test_arguments_that_the_program_passes_itself_are_no_options() -> None:
    for name, options in {
        'calculate_lpips': ['net', 'weights'],
        'calculate_lmd': ['weights'],
        'calculate_fid': ['reference', 'resize', 'weights'],
        'calculate_pyiqa': ['name'],
    }.items():
        definition = METRIC_REGISTRY.find(name)
        assert definition is not None
        assert [parameter.name for parameter in definition.parameters] == options


# --- sharpness


def test_sharpness_is_the_share_of_the_detail_that_is_left() -> None:
    from gpen.metrics.sharpness import calculate_sharpness

    torch.manual_seed(0)
    gt = torch.rand(2, 3, 24, 20) * 2 - 1
    assert calculate_sharpness(gt, gt).tolist() == [1.0, 1.0]
    assert calculate_sharpness(gt / 2 + 0.3, gt).tolist() == pytest.approx([0.25, 0.25])  # energy, not amplitude
    smooth = torch.nn.functional.avg_pool2d(gt, 3, stride=1, padding=1)
    assert (calculate_sharpness(smooth, gt) < 0.2).all()
    noisy = gt + 0.5 * torch.randn_like(gt)
    assert (calculate_sharpness(noisy, gt) > 1.3).all()


def test_a_plain_image_has_no_sharpness_to_compare_with() -> None:
    from gpen.metrics.sharpness import calculate_sharpness

    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16).clone()  # a filter of five pixels leaves a ramp as it is
    assert calculate_sharpness(torch.randn(1, 3, 16, 16), ramp).isnan().all()
