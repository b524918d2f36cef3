"""Scoring as papers do: Deg and LMD, FID to saved statistics, sets without sharp images, metrics of pyiqa."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from command_line import fail, run_here, succeed
from conftest import write_options, write_pairs
from gpen.archs import build_network
from gpen.data.loader import build_dataset
from gpen.errors import UserError
from gpen.evaluation.validation import validate
from gpen.metrics import ImageMetric, MetricNotAvailableError, SetMetric, build_metric
from gpen.metrics import degrees as degrees_module
from gpen.metrics import fid as fid_module
from gpen.metrics import landmarks as landmarks_module
from gpen.metrics.degrees import FaceResNet18, ImprovedBlock, angle
from gpen.metrics.fid import FrechetDistance
from gpen.metrics.frechet import Moments, Statistics, frechet_distance, load_statistics, save_statistics
from gpen.metrics.landmarks import landmark_distance, locate_peaks

torch.set_num_threads(1)


def faces(count: int, size: int = 16, seed: int = 0) -> Tensor:
    """Return N x 3 x size x size in [-1, 1], of values that a PNG can hold."""
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return pixels / 127.5 - 1


def write_faces(folder: Path, images: Tensor) -> Path:
    folder.mkdir(parents=True)
    for n, image in enumerate(images):
        rgb = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        cv2.imwrite(str(folder / f'{n:03d}.png'), rgb[..., ::-1])
    return folder


# --- the Fréchet distance and its files


class Colours(nn.Module):
    """Features to compute by hand: the mean of each channel, and of its squares."""

    num_features = 6

    def forward(self, batch: Tensor) -> Tensor:
        values = batch.float() / 255
        return torch.cat([values.mean(dim=(2, 3)), values.square().mean(dim=(2, 3))], dim=1)


def gaussian_set(mean: list[float], deviations: list[float]) -> Moments:
    """Return the moments of a set with just this mean, and just these standard deviations along the axes."""
    size = len(mean)
    spread = torch.diag(torch.tensor(deviations, dtype=torch.float64)) * ((2 * size - 1) / 2) ** 0.5
    moments = Moments(size, 'cpu')
    for half in (spread, -spread):
        moments.add(torch.tensor(mean, dtype=torch.float64) + half)
    return moments


def test_the_distance_of_gaussian_sets_is_that_of_the_closed_form() -> None:
    a = gaussian_set([1, 2, 3, 4], [1, 2, 0, 0.5]).to_statistics()
    b = gaussian_set([1, 0, 3, 5], [3, 2, 1, 0.25]).to_statistics()
    assert a.covariance.diag().tolist() == pytest.approx([1, 4, 0, 0.25], abs=1e-12)
    closed = 2**2 + 1**2 + (3 - 1) ** 2 + 0 + 1**2 + 0.25**2  # means, then deviations
    assert frechet_distance(a, b) == pytest.approx(closed)
    assert frechet_distance(b, a) == pytest.approx(closed)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_distance_does_not_depend_on_the_axes() -> None:
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    scales = [torch.tensor(values, dtype=torch.float64) for values in ([1, 4, 9, 16, 0], [4, 1, 0, 25, 1])]
    a, b = (Statistics(torch.zeros(5, dtype=torch.float64), turn @ values.diag() @ turn.T) for values in scales)
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 9 + 1 + 1)


@pytest.fixture
def sharp(tmp_path: Path) -> Path:
    """A folder with eight sharp faces of two sizes."""
    folder = write_faces(tmp_path / 'sharp', faces(5))
    write_faces(tmp_path / 'more', faces(3, 24, seed=1))
    for path in (tmp_path / 'more').iterdir():
        path.rename(folder / f'more_{path.name}')
    return folder


def score(metric: SetMetric, restored: Tensor, gt: Tensor | None) -> float:
    metric.start()
    for n in range(0, len(restored), 3):
        metric.update(restored[n : n + 3], None if gt is None else gt[n : n + 3])
    return metric.compute()


def test_a_folder_its_saved_statistics_and_its_images_as_gt_give_one_number(sharp: Path, tmp_path: Path) -> None:
    restored, gt = faces(5, seed=7) * 0.5, faces(5)
    folder = FrechetDistance(Colours(), 'cpu', write_faces(tmp_path / 'gt', gt), 'pytorch')
    expected = score(FrechetDistance(Colours(), 'cpu'), restored, gt)
    assert expected > 0.01
    assert score(folder, restored, None) == pytest.approx(expected, rel=1e-6)
    assert not folder.needs_gt

    # Ours and pytorch-fid's layout; BasicSR's, GFPGAN's and VQFR's, with arrays as with tensors.
    statistics = FrechetDistance(Colours(), 'cpu', sharp, 'pytorch').measure_reference()
    assert statistics.count == 8
    save_statistics(statistics, tmp_path / 'ours.npz')
    mean, cov = statistics.mean.numpy(), statistics.covariance.numpy()
    np.savez(tmp_path / 'theirs.npz', mu=mean, sigma=cov)
    torch.save({'name': 'FFHQ', 'size': 512, 'mean': mean, 'cov': cov}, tmp_path / 'arrays.pth')
    old = {'_use_new_zipfile_serialization': False, 'pickle_protocol': 2}
    torch.save({'mean': mean.astype(np.float32), 'cov': cov}, tmp_path / 'old.pth', **old)  # type: ignore[arg-type]
    torch.save({'mean': statistics.mean, 'cov': statistics.covariance}, tmp_path / 'tensors.pth')

    expected = score(FrechetDistance(Colours(), 'cpu', sharp, 'pytorch'), restored, None)
    for name in ('ours.npz', 'theirs.npz', 'arrays.pth', 'old.pth', 'tensors.pth'):
        metric = FrechetDistance(Colours(), 'cpu', tmp_path / name, 'pytorch')
        assert score(metric, restored, None) == pytest.approx(expected, rel=1e-5), name
    assert load_statistics(tmp_path / 'ours.npz', 6).resize == 'pytorch'


class Runs:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ('the pickle was run',))


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.npz', {'mu': np.zeros(6)}, 'should have mu and sigma, or mean and cov'),
        ('a.npz', {'mu': np.zeros(5), 'sigma': np.eye(5)}, 'other features: 5 and 5 x 5 values'),
        ('a.npz', {'mu': np.zeros(6), 'sigma': np.full((6, 6), np.nan)}, 'is spoilt'),
        ('a.npz', {'mu': np.array([Runs()]), 'sigma': np.eye(6)}, 'is damaged, or no .npz'),
        ('a.npz', b'no archive', 'is damaged, or no .npz'),
        ('a.pth', {'mean': np.zeros(6), 'cov': Runs()}, 'was not loaded: it holds more than tensors'),
        ('a.pth', {'mean': [Runs], 'cov': np.eye(6)}, 'was not loaded: it holds more than tensors'),
        ('a.pth', {'mean': ['a'] * 6, 'cov': np.eye(6)}, 'mean and cov are no numbers'),
        ('a.pth', {'params': torch.zeros(6)}, 'should have mu and sigma, or mean and cov'),
    ],
)
def test_what_is_no_file_of_statistics_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith('.npz'):
        np.savez(path, **content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        load_statistics(path, 6)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_statistics_of_images_that_were_resized_in_another_way_are_refused(tmp_path: Path) -> None:
    save_statistics(Statistics(torch.zeros(6), torch.eye(6), 9, 'tensorflow'), tmp_path / 'tf.npz')
    torch.save({'mean': torch.zeros(6), 'cov': torch.eye(6)}, tmp_path / 'vqfr.pth')
    for name, wrong, right in (('tf.npz', 'pytorch', 'tensorflow'), ('vqfr.pth', 'tensorflow', 'pytorch')):
        with pytest.raises(UserError, match=f'Set resize: {right}'):
            FrechetDistance(Colours(), 'cpu', tmp_path / name, wrong)
        FrechetDistance(Colours(), 'cpu', tmp_path / name, right)


def test_a_reference_that_is_not_there_is_missing_like_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid_module, 'require', lambda *_: None)  # torch-fidelity takes seconds to import
    with pytest.raises(MetricNotAvailableError, match=r'option\.reference names .*ffhq, but there is no such file'):
        build_metric({'type': 'calculate_fid', 'reference': str(tmp_path / 'ffhq')}, option='option')


# --- Deg


def test_angles_between_embeddings_are_those_that_are_known() -> None:
    turns = torch.tensor([0, 1e-5, 30, 90, 180], dtype=torch.float64)
    a = torch.tensor([[3.0, 0.0]], dtype=torch.float64).expand(5, 2)
    b = torch.stack([turns.deg2rad().cos(), turns.deg2rad().sin()], dim=1) * 7
    assert angle(a, b).tolist() == pytest.approx(turns.tolist(), rel=1e-6, abs=1e-12)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, nn.Module]:
    """A narrow recognition network with random weights: its file, saved by DataParallel as VQFR's is, and itself."""
    monkeypatch.setattr(degrees_module, 'WIDTHS', (2, 2, 4, 4))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FaceResNet18().eval()
    path = tmp_path / 'resnet18_110.pth'
    torch.save({f'module.{name}': value for name, value in network.state_dict().items()}, path)
    return path, network


def test_deg_is_the_angle_of_the_networks_embeddings(narrow: tuple[Path, nn.Module]) -> None:
    path, network = narrow
    metric = build_metric({'type': 'calculate_deg', 'weights': str(path)})
    a, b = faces(2, 40), faces(2, 40, seed=1)
    with torch.no_grad():
        x, y = (network(degrees_module.to_grey(images)).double() for images in (a, b))  # 2 x 512
    expected = torch.rad2deg(torch.arccos((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))))
    assert metric(a, b).tolist() == pytest.approx(expected.tolist(), rel=1e-3)
    assert (metric(a, b) > 0.01).all()
    assert metric(a, a).tolist() == [0, 0]
    assert not metric.higher_is_better


def test_the_recognition_network_has_the_names_of_gfpgans_file() -> None:
    with torch.device('meta'):
        shapes = {name: tuple(value.shape) for name, value in FaceResNet18().state_dict().items()}
    assert shapes['conv1.weight'] == (64, 1, 3, 3)
    assert shapes['layer2.0.conv1.weight'] == (64, 64, 3, 3)
    assert shapes['layer2.0.conv2.weight'] == (128, 64, 3, 3)
    assert shapes['layer2.0.downsample.0.weight'] == (128, 64, 1, 1)
    assert shapes['layer4.1.bn0.running_var'] == (512,)
    assert shapes['layer4.1.prelu.weight'] == shapes['prelu.weight'] == (1,)
    assert shapes['fc5.weight'] == (512, 512 * 8 * 8)
    assert {name.partition('.')[0] for name in shapes} == {
        *('conv1', 'bn1', 'prelu', 'layer1', 'layer2', 'layer3', 'layer4', 'bn4', 'fc5', 'bn5')
    }
    assert 'layer1.0.downsample.0.weight' not in shapes


def test_a_block_adds_its_input_before_the_last_activation() -> None:
    block = ImprovedBlock(2, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    values = faces(1, 4)[:, :2]
    assert torch.allclose(block(values), torch.where(values > 0, values, 0.25 * values))  # PReLU begins with 0.25


# --- LMD


@pytest.mark.parametrize(('shift', 'distance'), [((3, 0), 3), ((0, -2), 2), ((3, 4), 5), ((0, 0), 0)])
def test_landmarks_that_are_shifted_by_d_pixels_are_d_apart(shift: tuple[int, int], distance: float) -> None:
    points = torch.rand(2, 98, 2, generator=torch.Generator().manual_seed(0)) * 512
    assert landmark_distance(points, points + torch.tensor(shift)).tolist() == pytest.approx([distance] * 2, abs=1e-4)


def test_the_distance_is_the_mean_over_the_landmarks_not_that_of_the_squares() -> None:
    a = torch.zeros(1, 4, 2)
    b = torch.tensor([[[0, 0], [3, 4], [0, 1], [6, 8]]])
    assert landmark_distance(a, b).tolist() == [(0 + 5 + 1 + 10) / 4]


def test_peaks_of_heatmaps_are_found_to_a_quarter_of_a_pixel_and_at_the_edges() -> None:
    maps = torch.zeros(1, 3, 8, 6)
    maps[0, 0, 4, 2] = 9
    maps[0, 0, 4, 3] = maps[0, 0, 3, 2] = 1  # right of the peak, and above it
    maps[0, 1, 7, 5] = maps[0, 2, 0, 0] = 9  # corners, where some neighbours are missing
    assert locate_peaks(maps).tolist() == [[[2.75, 4.25], [5.5, 7.5], [0.5, 0.5]]]


class FakeFAN(nn.Module):
    """Has a landmark where the face is brightest, in heatmaps as facexlib's network gives them."""

    def __init__(self, num_modules: int, num_landmarks: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.outputs = num_modules, num_landmarks + 1

    def forward(self, images: Tensor) -> tuple[list[Tensor], None]:
        assert images.shape[1:] == (3, 256, 256)
        assert 0 <= images.min() <= images.max() <= 1
        stacks, landmarks = self.outputs
        heat = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4) * self.scale
        return [heat.expand(-1, landmarks, -1, -1) * (n + 1) for n in range(stacks)], None


def test_lmd_is_in_pixels_of_the_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landmarks_module, 'require', lambda *_: SimpleNamespace(FAN=FakeFAN))  # saves facexlib's import
    path = tmp_path / landmarks_module.FILENAME
    torch.save({'state_dict': {'scale': torch.ones(1)}}, path)
    metric = build_metric({'type': 'calculate_lmd', 'weights': str(path)})

    def spot(size: int, left: int) -> Tensor:
        image = torch.full((1, 3, size, size), -1.0)
        image[..., size // 2 : size // 2 + size // 64, left : left + size // 64] = 1
        return image

    for size in (256, 512):
        shifted = metric(spot(size, size // 4 + 5 * size // 64), spot(size, size // 4))
        assert shifted.tolist() == [5 * size / 64]  # by five pixels of the heatmaps, 64 wide
        assert metric(spot(size, 64), spot(size, 64)).tolist() == [0]
    assert not metric.higher_is_better


# --- PSNR and SSIM of matched colours


def test_matched_colours_leave_the_structure_to_compare() -> None:
    gt = faces(2, 24)
    restored = gt / 2 + torch.tensor([0.1, 0.0, -0.2]).view(3, 1, 1)  # paler, and of another tone
    for name, lowest in (('psnr', 50.0), ('ssim', 0.99)):
        plain, matched = (build_metric({'type': f'calculate_{name}', 'match_colours': on}) for on in (False, True))
        assert (matched(restored, gt) > lowest).all()
        assert (plain(restored, gt) < lowest * 0.85).all()
    flat = torch.zeros(1, 3, 24, 24)
    matched = build_metric({'type': 'calculate_psnr', 'match_colours': True})
    means = ((gt[:1] + 1) * 127.5).double()
    error = (means - means.mean(dim=(2, 3), keepdim=True)).square().mean()
    assert matched(flat, gt[:1]).item() == pytest.approx(10 * torch.log10(255**2 / error).item())


# --- sets without sharp images


def test_a_set_without_sharp_images_gives_lq_images_alone(tmp_path: Path) -> None:
    images = faces(2, 20)
    block = {'type': 'SingleImageDataset', 'dataroot_lq': str(write_faces(tmp_path / 'lq', images)), 'in_size': 32}
    dataset = build_dataset(block)
    assert len(dataset) == 2
    assert set(dataset[1]) == {'lq', 'lq_path', 'name'}
    assert (dataset[1]['name'], dataset[1]['lq'].shape) == ('001', (3, 32, 32))
    exact = build_dataset({**block, 'dataroot_lq': str(write_faces(tmp_path / 'same', faces(1, 32))), 'in_size': 32})
    assert torch.allclose(exact[0]['lq'], faces(1, 32)[0], atol=1e-6)


def test_validation_without_sharp_images_takes_the_metrics_that_need_none() -> None:
    bright = ImageMetric(lambda restored, _: restored.mean(dim=(1, 2, 3)), higher_is_better=True, needs_gt=False)
    batch = {'lq': torch.full((2, 3, 8, 8), 0.25), 'name': ['a', 'b']}
    result = validate(lambda lq: lq * 2, [batch], {'bright': bright}, seed=0, num_pictures=1)
    assert result is not None
    assert result.means == {'bright': 0.5}
    assert result.sheet is not None
    assert result.sheet.shape == (3, 8, 16)
    with pytest.raises(UserError, match='The metric psnr: it compares with sharp images, and the data set has none'):
        validate(lambda lq: lq, [batch], {'psnr': build_metric({'type': 'calculate_psnr'})}, seed=0)


class FakePyiqa:
    """Stands in for the package, with one metric of images alone and one of pairs."""

    def list_models(self) -> list[str]:
        return ['musiq', 'pair', 'fid']

    def create_metric(self, name: str, **_: Any) -> Any:
        if name == 'pair':
            network = FakeMetric(lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
            network.metric_mode, network.lower_better = 'FR', True
            return network
        network = FakeMetric(lambda a: a.mean(dim=(1, 2, 3))[:, None])
        network.metric_mode, network.lower_better = 'NR', False
        return network


class FakeMetric(SimpleNamespace):
    def __init__(self, function: Any) -> None:
        super().__init__(function=function)

    def __call__(self, *images: Tensor) -> Tensor:
        assert all(0 <= batch.min() <= batch.max() <= 1 for batch in images)
        return self.function(*images)


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> FakePyiqa:
    package = FakePyiqa()
    monkeypatch.setitem(sys.modules, 'pyiqa', package)  # type: ignore[arg-type]
    return package


@pytest.mark.usefixtures('pyiqa')
def test_a_metric_of_pyiqa_has_the_direction_and_the_reference_that_pyiqa_says() -> None:
    a, b = torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), 1.0)
    alone, pair = (build_metric({'type': 'calculate_pyiqa', 'name': name}) for name in ('musiq', 'pair'))
    assert (alone.higher_is_better, alone.needs_gt, alone(b, None).tolist()) == (True, False, [1, 1])  # type: ignore[operator]
    assert (pair.higher_is_better, pair.needs_gt, pair(a, b).tolist()) == (False, True, [1, 1])  # type: ignore[operator]
    with pytest.raises(UserError, match=r"no metric of images named 'musik'\. Did you mean 'musiq'"):
        build_metric({'type': 'calculate_pyiqa', 'name': 'musik'})
    with pytest.raises(UserError, match=r"named 'fid'\. Use calculate_fid"):
        build_metric({'type': 'calculate_pyiqa', 'name': 'fid'})


def test_what_pyiqa_lacks_makes_its_metric_unavailable(pyiqa: FakePyiqa, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError('no network')

    monkeypatch.setattr(pyiqa, 'create_metric', refuse)
    with pytest.raises(MetricNotAvailableError, match=r"\(no network\)\. Install pyiqa with all .*'pyiqa>=0\.1\.10'"):
        build_metric({'type': 'calculate_pyiqa', 'name': 'musiq'})


@pytest.fixture
def real_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyiqa: FakePyiqa) -> Path:  # noqa: ARG001
    """An option file that scores a tiny model on blurry faces alone, with FID in features of colours."""
    monkeypatch.setattr(fid_module, 'require', lambda *_: None)
    monkeypatch.setattr(fid_module, 'build_inception', lambda *_: Colours())
    monkeypatch.setattr(fid_module, 'load_frozen', lambda *_: None)
    (tmp_path / fid_module.FILENAME).touch()
    monkeypatch.setattr(fid_module, 'load_weights', lambda _: {})

    network = {'type': 'GPEN', 'size': 16, 'style_dim': 8, 'n_mlp': 1, 'narrow': 0.008}
    torch.save(build_network(network).state_dict(), tmp_path / 'model.pth')
    write_pairs(tmp_path / 'faces', 3)
    options = {
        'name': 'real',
        'num_gpu': 0,
        'models': {'mine': str(tmp_path / 'model.pth')},
        'datasets': {
            'lfw': {
                'type': 'SingleImageDataset',
                'dataroot_lq': str(tmp_path / 'faces' / 'blurry'),
                'num_worker_per_gpu': 0,
            }
        },
        'path': {'experiments_root': str(tmp_path)},
        'val': {
            'metrics': {
                'fid': {
                    'type': 'calculate_fid',
                    'reference': str(tmp_path / 'faces' / 'sharp'),
                    'weights': str(tmp_path / fid_module.FILENAME),
                },
                'musiq': {'type': 'calculate_pyiqa', 'name': 'musiq'},
            }
        },
    }
    return write_options(tmp_path / 'real.yml', options)


def read_means(folder: Path) -> dict[str, Any]:
    results = folder / 'real' / 'results' / 'results.json'
    return json.loads(results.read_text(encoding='utf-8'))['sets']['lfw']['means']


def test_a_set_without_sharp_images_is_scored_and_the_statistics_of_its_reference_saved(
    real_faces: Path, tmp_path: Path
) -> None:
    saved = tmp_path / 'stats.npz'
    printed = succeed(real_faces, command='test', runner=run_here, flags=('--save_fid_stats', str(saved)))
    assert f'Statistics of 3 images of {tmp_path}/faces/sharp: {saved}' in printed
    assert f'Picture (input | restored): {tmp_path}/real/results/input_restored.png' in printed
    assert 'Higher is better: MUSIQ; lower is better: FID.' in printed
    means = read_means(tmp_path)
    assert means['mine']['fid'] > means['input']['fid'] > 0  # the model is not trained
    assert 0 < means['input']['musiq'] < 1

    again = f'val:metrics:fid:reference={saved}'
    succeed(real_faces, again, command='test', runner=run_here)
    assert read_means(tmp_path)['mine']['fid'] == pytest.approx(means['mine']['fid'], rel=1e-6)
    assert read_means(tmp_path)['input']['fid'] == pytest.approx(means['input']['fid'], rel=1e-6)


def test_what_cannot_be_saved_or_compared_is_said_before_anything_is_scored(real_faces: Path, tmp_path: Path) -> None:
    saving = ('--save_fid_stats', str(tmp_path / 'stats.npz'))
    printed = fail(real_faces, 'val:metrics:fid=~', command='test', runner=run_here, flags=saving)
    assert 'val.metrics has no calculate_fid with a reference. Give one' in printed
    gone = ('val:metrics:fid:reference=/nowhere', 'val:metrics:fid:optional=true')
    printed = fail(real_faces, *gone, command='test', runner=run_here, flags=saving)
    assert '--save_fid_stats cannot be done: val.metrics.fid.reference names /nowhere, but there is no' in printed
    pair = 'val:metrics:musiq:name=pair'
    printed = fail(real_faces, pair, command='test', runner=run_here)
    assert 'datasets.lfw has no sharp images, with which val.metrics.musiq would compare' in printed
    assert not (tmp_path / 'real').exists()
    assert not (tmp_path / 'stats.npz').exists()
