"""The background is kept to the bit, enlarged by interpolation, or enlarged by a network, tile by tile."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gpen.archs import build_network
from gpen.errors import UserError
from gpen.restoration import background
from gpen.restoration.background import Enlarger, enlarge_tiles, load_enlarger

CPU = torch.device('cpu')


def photo(height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def test_a_scale_of_one_keeps_the_photograph_itself() -> None:
    picture = photo()
    assert Enlarger()(picture) is picture


def test_interpolation_enlarges_without_a_shift_and_stays_in_range() -> None:
    picture = np.clip(cv2.GaussianBlur(photo(), (0, 0), 2) * 9, -1, 1)
    enlarged = Enlarger(4)(picture)
    assert enlarged.shape == (120, 160, 3)
    assert abs(enlarged).max() <= 1
    back = cv2.resize(enlarged, (40, 30), interpolation=cv2.INTER_AREA)
    assert abs(back - picture).mean() < 0.02


@pytest.mark.parametrize('shape', [(20, 70), (64, 64), (65, 33)])
def test_tiles_give_what_the_whole_image_gives(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    monkeypatch.setattr(background, 'TILE', 32)
    monkeypatch.setattr(background, 'OVERLAP', 4)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 5, padding=2), torch.nn.PixelShuffle(2), torch.nn.Sigmoid())
    sizes = []

    def network(tile: torch.Tensor) -> torch.Tensor:
        sizes.append(max(tile.shape[-2:]))
        result: torch.Tensor = layers(tile)
        return result

    image = torch.rand(1, 3, *shape)
    with torch.inference_mode():
        assert torch.allclose(enlarge_tiles(network, image, 2), layers(image), atol=1e-6)
    assert max(sizes) <= 32 + 2 * 4


@pytest.mark.skipif(find_spec('basicsr') is None, reason='basicsr is not installed')
def test_a_super_resolution_network_is_read_off_its_file(tmp_path: Path) -> None:
    pytest.importorskip('spandrel', reason='needs spandrel')
    torch.manual_seed(0)
    network = build_network({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1})
    path = tmp_path / 'RealESRGAN_tiny.pth'
    torch.save({'params_ema': network.state_dict()}, path)
    picture = photo()
    enlarged = load_enlarger(path, None, CPU)(picture)
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy((picture + 1) / 2).permute(2, 0, 1)[None]).clamp(0, 1)
    assert enlarged == pytest.approx(expected[0].permute(1, 2, 0).numpy() * 2 - 1, abs=1e-5)
    assert load_enlarger(path, None, CPU).scale == 4
    assert load_enlarger(path, 2, CPU)(picture).shape == (60, 80, 3)


def test_a_file_without_such_a_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip('spandrel', reason='needs spandrel')
    torch.save({'weight': torch.zeros(3, 3)}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match='holds no super-resolution network that spandrel knows'):
        load_enlarger(tmp_path / 'other.pth', 2, CPU)
    with pytest.raises(UserError, match='There is no file'):
        load_enlarger(tmp_path / 'nothing.pth', 2, CPU)
