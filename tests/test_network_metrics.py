"""Metrics with networks or parameters of their own: LPIPS, NIQE, identity similarity, FID, with random weights."""

import importlib
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpen.errors import UserError
from gpen.evaluation.validation import validate
from gpen.losses import build_loss
from gpen.losses import identity as identity_loss
from gpen.losses.identity import crop_face
from gpen.metrics import SetMetric, build_metric
from gpen.metrics import fid as fid_module
from gpen.metrics.fid import FrechetDistance

torch.set_num_threads(1)


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return N x 3 x size x size in [-1, 1]: smooth colours with some noise, values that a PNG can hold."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator) * 200 + 20
    smooth = nn.functional.interpolate(coarse, size=size, mode='bicubic')
    noisy = smooth + torch.randn(smooth.shape, generator=generator) * 4
    return noisy.round().clamp(0, 255) / 127.5 - 1


# --- LPIPS


@pytest.fixture(scope='module', params=['alex', 'squeeze'])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, nn.Module]:
    """A backbone with random weights: its name, its file in torchvision's layout, torchmetrics' network with them."""
    library = pytest.importorskip('torchmetrics.functional.image.lpips')
    models = importlib.import_module('torchvision.models')
    net = request.param
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = getattr(models, {'alex': 'alexnet', 'squeeze': 'squeezenet1_1'}[net])(weights=None).state_dict()
        network = library._NoTrainLpips(net=net, pnet_rand=True)
    state = {name: value for name, value in state.items() if name.startswith('features.')}
    path = tmp_path_factory.mktemp('lpips') / f'{net}.pth'
    torch.save(state, path)
    slices = network.net.slices if net == 'squeeze' else [getattr(network.net, f'slice{n}') for n in range(1, 6)]
    for part in slices:  # torchmetrics keeps torchvision's numbers of the layers
        for number, layer in part.named_children():
            prefix = f'features.{number}.'
            layer.load_state_dict({name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)})
    return net, path, network


def test_lpips_is_that_of_torchmetrics_with_the_weights_of_the_file(backbone: tuple[str, Path, nn.Module]) -> None:
    net, path, network = backbone
    a, b = images(3, 40), images(3, 40, seed=1)
    metric = build_metric({'type': 'calculate_lpips', 'net': net, 'weights': str(path)})
    values = metric(a, b)
    assert values.shape == (3,)
    assert values.tolist() == pytest.approx(network(a, b).flatten().tolist(), rel=1e-4)
    assert len(set(values.tolist())) == 3
    assert min(values) > 1e-4
    assert not metric.higher_is_better
    assert metric(a, a).tolist() == [0, 0, 0]


def test_lpips_judges_what_a_png_can_hold_and_each_image_alone(backbone: tuple[str, Path, nn.Module]) -> None:
    net, path, _ = backbone
    a, b = images(2, 40), images(2, 40, seed=1)
    metric = build_metric({'type': 'calculate_lpips', 'net': net, 'weights': str(path)})
    assert torch.equal(metric(a + 0.4 / 127.5, b), metric(a, b))
    assert metric(a[1:], b[1:]).item() == pytest.approx(metric(a, b)[1].item(), rel=1e-4)


def test_building_lpips_draws_no_random_numbers_and_trains_nothing(backbone: tuple[str, Path, nn.Module]) -> None:
    net, path, _ = backbone
    before = torch.get_rng_state()
    metric = build_metric({'type': 'calculate_lpips', 'net': net, 'weights': str(path)})
    values = metric(images(1, 40).requires_grad_(), images(1, 40, seed=1))
    assert not values.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_lpips_is_a_loss_too_and_moves_the_restored_image_alone(
    backbone: tuple[str, Path, nn.Module],
) -> None:
    net, path, network = backbone
    a, b = images(2, 40).requires_grad_(), images(2, 40, seed=1).requires_grad_()
    loss = build_loss({'type': 'LPIPSLoss', 'net': net, 'weights': str(path), 'loss_weight': 0.5})
    loss.train()  # dropout stays off
    value = loss(a, b)
    assert value.item() == pytest.approx(0.5 * network(a, b).mean().item(), rel=1e-4)
    value.backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    assert b.grad is None
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    smallest = {'alex': 31, 'squeeze': 17}[net]
    with pytest.raises(UserError, match=f'LPIPSLoss with the net {net} needs images of at least {smallest}'):
        loss(images(1, smallest - 1), images(1, smallest - 1))


def test_lpips_as_a_loss_runs_in_half_precision_under_autocast(backbone: tuple[str, Path, nn.Module]) -> None:
    net, path, _ = backbone
    a, b = images(2, 40).requires_grad_(), images(2, 40, seed=1)
    loss = build_loss({'type': 'LPIPSLoss', 'net': net, 'weights': str(path)})
    expected = loss(a, b)
    seen: set[torch.dtype] = set()
    convolution = next(module for module in loss.network.net.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda *given: seen.add(given[2].dtype))
    with torch.autocast('cpu', torch.bfloat16):
        found = loss(a, b)
    assert seen == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
    found.backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_lpips_of_images_too_small_for_the_net_is_a_user_error(backbone: tuple[str, Path, nn.Module]) -> None:
    net, path, _ = backbone
    metric = build_metric({'type': 'calculate_lpips', 'net': net, 'weights': str(path)})
    smallest = {'alex': 31, 'squeeze': 17}[net]
    assert metric(images(1, smallest), images(1, smallest, seed=1)).item() > 0
    with pytest.raises(UserError, match=f'needs images of at least {smallest} x {smallest}'):
        metric(images(1, smallest - 1), images(1, smallest - 1))


def test_a_weight_file_of_another_network_is_named(tmp_path: Path) -> None:
    pytest.importorskip('torchmetrics')
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'wrong.pth')
    with pytest.raises(UserError, match=r'wrong\.pth does not hold .* LPIPS net alex'):
        build_metric({'type': 'calculate_lpips', 'weights': str(tmp_path / 'wrong.pth')})


# --- NIQE


@pytest.fixture(scope='module')
def basicsr_niqe() -> ModuleType:
    if importlib.util.find_spec('basicsr') is None:
        pytest.skip('basicsr is not installed')
    from gpen.registry.basicsr_package import import_basicsr

    import_basicsr()
    return importlib.import_module('basicsr.metrics.niqe')


@pytest.mark.parametrize(('crop_border', 'convert_to'), [(0, 'y'), (5, 'gray')])
def test_niqe_is_that_of_basicsr_on_the_same_png(basicsr_niqe: ModuleType, crop_border: int, convert_to: str) -> None:
    restored = images(2, 202)
    metric = build_metric({'type': 'calculate_niqe', 'crop_border': crop_border, 'convert_to': convert_to})
    values = metric(restored, torch.zeros_like(restored))
    bgr = np.rint((restored.numpy() + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
    expected = [basicsr_niqe.calculate_niqe(image, crop_border, convert_to=convert_to) for image in bgr]
    assert values.tolist() == pytest.approx(expected, rel=1e-6)
    assert not metric.higher_is_better


@pytest.mark.usefixtures('basicsr_niqe')
def test_niqe_says_how_large_images_must_be() -> None:
    metric = build_metric({'type': 'calculate_niqe'})
    with pytest.raises(UserError, match='two blocks of 96 x 96, such as 192 x 96, after crop_border, but 128 x 128'):
        metric(images(1, 128), images(1, 128))
    with pytest.raises(UserError, match='but 0 x 0 is left'):
        build_metric({'type': 'calculate_niqe', 'crop_border': 200})(images(1, 300), images(1, 300))
    wide = images(1, 192)[..., :96, :]  # just two blocks
    assert metric(wide, wide).shape == (1,)


@pytest.mark.usefixtures('basicsr_niqe')
def test_an_image_without_texture_has_no_niqe_and_is_left_out_of_the_mean() -> None:
    textured = images(1, 192)
    batch = {'lq': torch.cat([textured, torch.zeros_like(textured)]), 'name': ['a', 'b']}
    metric = build_metric({'type': 'calculate_niqe'})
    result = validate(lambda lq: lq, [{**batch, 'gt': batch['lq']}], {'niqe': metric}, seed=0)
    assert result is not None
    assert math.isnan(result.rows[1]['niqe'])
    assert result.means['niqe'] == result.rows[0]['niqe'] > 0
    assert result.notes == ['niqe is not defined for 1 of 2 images; the mean omits them.']


# --- identity


@pytest.fixture(scope='module')
def arcface(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """facexlib's network with random weights, as a file and as it is."""
    arch = pytest.importorskip('facexlib.recognition.arcface_arch')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = arch.Backbone(num_layers=50, drop_ratio=0.6, mode='ir_se').eval()
    path = tmp_path_factory.mktemp('arcface') / identity_loss.FILENAME
    torch.save(network.state_dict(), path)
    return path, network


def test_identity_is_the_cosine_of_arcface_embeddings(arcface: tuple[Path, nn.Module]) -> None:
    path, network = arcface
    metric = build_metric({'type': 'calculate_identity', 'weights': str(path)})
    a, b = images(2, 64), images(2, 64, seed=1)
    with torch.no_grad():
        x, y = (network(crop_face(faces)).double() for faces in (a, b))  # 2 x 512
    expected = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
    values = metric(a, b)
    assert values.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert metric(a, a).tolist() == pytest.approx([1, 1])
    assert metric.higher_is_better


def test_identity_metric_and_identity_loss_agree(arcface: tuple[Path, nn.Module]) -> None:
    path, _ = arcface
    a, b = images(2, 64), images(2, 64, seed=1)
    loss = identity_loss.IdentityLoss(weights=str(path))(a, b)
    metric = build_metric({'type': 'calculate_identity', 'weights': str(path)})
    assert metric(a, b).mean().item() == pytest.approx(1 - loss.item(), abs=1e-5)


# --- FID


class Colours(nn.Module):
    """Features to compute by hand: the mean of each channel, and of its squares."""

    num_features = 6

    def forward(self, batch: Tensor) -> Tensor:
        assert batch.dtype == torch.uint8
        values = batch.float() / 255
        return torch.cat([values.mean(dim=(2, 3)), values.square().mean(dim=(2, 3))], dim=1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The distance by its formula (Heusel et al. 2017, eq. 6), N x F each."""
    sqrtm = pytest.importorskip('scipy.linalg').sqrtm
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(cov_a @ cov_b))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root))


def test_fid_is_the_frechet_distance_of_the_features_of_both_sets() -> None:
    metric = FrechetDistance(Colours(), 'cpu')
    a, b = images(40, 16), images(40, 16, seed=1) * 0.7 + 0.1
    for _ in range(2):  # a second use forgets the first
        metric.start()
        for n in range(0, 40, 7):
            metric.update(a[n : n + 7], b[n : n + 7])
        features = [Colours()(((x + 1) * 127.5).round().byte()).double().numpy() for x in (a, b)]
        assert metric.compute() == pytest.approx(frechet(*features), rel=1e-4)
        assert metric.compute() > 0.01
        assert metric.explain() is None
    metric.start()
    metric.update(a, a)
    assert metric.compute() == pytest.approx(0, abs=1e-6)
    assert not metric.higher_is_better


def test_fid_of_few_images_says_so_and_of_one_image_is_no_number() -> None:
    metric = FrechetDistance(Colours(), 'cpu')
    metric.start()
    metric.update(images(1, 16), images(1, 16, seed=1))
    assert math.isnan(metric.compute())
    assert metric.explain() == 'has no value: it compares sets of two images or more, and there is 1'
    metric.update(images(4, 16), images(4, 16, seed=1))
    assert metric.compute() > 0
    assert 'comes from 5 images, fewer than its 6 features' in str(metric.explain())


def test_inception_gets_the_weights_of_the_file_without_unpickling_or_download(tmp_path: Path) -> None:
    library = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
    shell = fid_module.build_inception(library)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in shell.state_dict().items():
        if not value.is_floating_point():
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
        elif name.endswith(('running_var', 'bn.weight')):
            state[name] = torch.ones(value.shape)
        else:
            state[name] = torch.randn(value.shape, generator=generator) * 0.05
    path = tmp_path / fid_module.FILENAME
    torch.save(state, path)
    metric = build_metric({'type': 'calculate_fid', 'weights': str(path)})
    assert isinstance(metric, SetMetric)
    assert isinstance(metric, FrechetDistance)
    plain = library.FeatureExtractorInceptionV3('inception-v3-compat', ['2048'], str(path)).eval()
    batch = ((images(2, 32) + 1) * 127.5).round().byte()
    features = metric.network(batch)
    assert features.shape == (2, 2048)
    assert torch.allclose(features, plain(batch)[0], rtol=1e-4, atol=1e-6)
    assert features.std() > 0

    # PyTorch's way of resizing: all layers still run, on slightly other images.
    other = build_metric({'type': 'calculate_fid', 'weights': str(path), 'resize': 'pytorch'})
    assert isinstance(other, FrechetDistance)
    seen: list[Tensor] = []
    other.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    difference = (other.network(batch) - features).abs().max()
    resized = nn.functional.interpolate(batch.float(), (299, 299), mode='bilinear', align_corners=False)
    assert torch.allclose(seen[0], (resized / 255 - 0.5) / 0.5, atol=1e-5)
    assert 0 < difference < 0.01 * features.abs().max()
    torch.save({'fc.weight': torch.zeros(2)}, path)
    with pytest.raises(UserError, match="does not hold torch-fidelity's weights of InceptionV3"):
        build_metric({'type': 'calculate_fid', 'weights': str(path)})


def test_validation_takes_metrics_of_images_and_of_sets_and_names_the_one_that_fails() -> None:
    gt = images(5, 16)
    batches = [
        {'lq': gt[n : n + 2] * 0.9, 'gt': gt[n : n + 2], 'name': [str(k) for k in range(n, min(n + 2, 5))]}
        for n in (0, 2, 4)
    ]
    metrics = {'psnr': build_metric({'type': 'calculate_psnr'}), 'colours': FrechetDistance(Colours(), 'cpu')}
    result = validate(lambda lq: lq, batches, metrics, seed=0)
    assert result is not None
    assert result.means['psnr'] == pytest.approx(sum(row['psnr'] for row in result.rows) / 5)
    assert result.means['colours'] > 0
    assert [list(row) for row in result.rows] == [['name', 'psnr']] * 5
    assert result.notes == [
        'colours comes from 5 images, fewer than its 6 features: it depends strongly on their number, so compare it '
        'only with values on these same images.'
    ]
    failing = {'mine': build_metric({'type': 'calculate_ssim', 'crop_border': 5})}
    with pytest.raises(UserError, match=r'The metric mine: .*at least 11 x 11'):
        validate(lambda lq: lq, batches, failing, seed=0)
    with pytest.raises(UserError, match='makes images of 8 x 16, but the sharp ones are 16 x 16'):
        validate(lambda lq: lq[..., :8], batches, metrics, seed=0)
