"""Scoring as papers do: Deg, LMD, and PSNR and SSIM of matched colours."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from gpen.metrics import build_metric
from gpen.metrics import degrees as degrees_module
from gpen.metrics import landmarks as landmarks_module
from gpen.metrics.degrees import FaceResNet18, ImprovedBlock, angle
from gpen.metrics.landmarks import landmark_distance, locate_peaks

torch.set_num_threads(1)


def faces(count: int, size: int = 16, seed: int = 0) -> Tensor:
    """Return N x 3 x size x size in [-1, 1], of values that a PNG can hold."""
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return pixels / 127.5 - 1


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
