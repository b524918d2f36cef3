"""A project of a user's own, outside the package: one small component of each kind."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT, tiny_options

FILES = {
    'nets.py': '''
"""Networks of my own."""
import gpen.registry as r
from torch import Tensor, nn

from gpen.options.types import PositiveInt as Count


class PlainNet(nn.Module):
    """A residual network for images of any size: no decorator, no role, and an input called z."""

    def __init__(self, channels: Count = 32, slope: float = 0.1) -> None:
        super().__init__()
        act = nn.LeakyReLU(slope)
        self.layers = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), act, nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, z: Tensor, return_features: bool = False) -> Tensor:  # N x 3 x H x W in [-1, 1]
        return z + self.layers(z)


@r.ARCH_REGISTRY.register(role='discriminator')
class Judge(nn.Module):
    def __init__(self, channels: Count = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, channels, 4, 4), nn.ReLU(), nn.Conv2d(channels, 1, 4))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(1)


class Odd(nn.Module):
    role = 'judge'


class Maker(nn.Module):
    role = 'prior'

    def __init__(self, size: int, layers: list[int] = [1, 2]) -> None: ...
''',
    'losses.py': '''
"""Losses of my own."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpen.registry import LOSS_REGISTRY as LOSSES


@LOSSES.register
class EdgeLoss(nn.Module):
    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        return self.loss_weight * (restored.diff(dim=-1) - gt.diff(dim=-1)).abs().mean()


class Hinge(nn.Module):
    role = 'adversarial'

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(1 - real).mean(), F.relu(1 + fake).mean()

    def accuracy(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return (real > 0).float().mean(), (fake < 0).float().mean()
''',
    'faces.py': '''
"""Data and its degradation."""
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from gpen.data.image_io import read_image, resize, to_tensor
from gpen.options.types import Range
from gpen.utils.seeds import derive_seed


class NoisyFaces(Dataset):
    takes_epoch = True  # asked for (epoch, index), so that the noise differs from epoch to epoch

    def __init__(self, folder: str, size: int, manual_seed: int = 0) -> None:
        self.files = sorted(Path(folder).glob('*.png'))
        self.size, self.seed = size, manual_seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        path = self.files[index]
        gt = to_tensor(resize(read_image(path), self.size))
        random = torch.Generator().manual_seed(derive_seed(self.seed, 'noise', epoch, index))
        lq = (gt + 0.2 * torch.randn(gt.shape, generator=random)).clamp(-1, 1)
        return {'lq': lq, 'gt': gt, 'lq_path': str(path), 'gt_path': str(path), 'name': path.stem}


def scratches(image: np.ndarray, generator: np.random.Generator, count: Range = (0, 5)) -> np.ndarray:
    result = image.copy()  # H x W x 3 in [-1, 1]
    for _ in range(round(generator.uniform(*count))):
        result[:, generator.integers(image.shape[1])] = 1
    return result
''',
    'training.py': '''
"""How I train and measure."""
import torch
from torch import Tensor

from gpen.metrics import lower_is_better
from gpen.models.gpen_model import GPENModel
from gpen.options.types import PositiveFloat


class LoudModel(GPENModel):
    def train_step(self, batch: dict, iteration: int) -> None:
        super().train_step(batch, iteration)
        self.means.add({'loud': torch.tensor(42.0)})


@lower_is_better
def calculate_edges(restored: Tensor, gt: Tensor, power: int = 1) -> Tensor:
    return (restored.diff(dim=-1) - gt.diff(dim=-1)).abs().pow(power).mean((1, 2, 3))


class Halving:
    def __init__(self, every: int) -> None:
        self.every = every

    def rate(self, lr: float, position: int) -> float:
        return lr * 0.5 ** (position // self.every)


class Sign(torch.optim.SGD):
    def __init__(self, params, lr: PositiveFloat, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
''',
}


def write_project(folder: Path) -> None:
    """Write the package ``my_project`` to a folder."""
    package = folder / 'my_project'
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text.lstrip(), encoding='utf-8')


def outside_options(data: Path, root: Path) -> dict[str, Any]:
    """Return the tiny options with a component of that project at each place, for a run of two epochs."""
    options = tiny_options(data, root)
    options['model_type'] = 'my_project.training.LoudModel'
    options['network_g'] = {'type': 'my_project.nets.PlainNet', 'channels': 4}
    options['network_d'] = {'type': 'my_project.nets.Judge'}
    options['datasets']['train'] |= {
        'type': 'my_project.faces.NoisyFaces',
        'folder': str(data / 'train' / 'sharp'),
        'size': 16,
    }
    options['datasets']['val'] |= {
        'type': 'DegradedFaceDataset',
        'size': 16,
        'degradation': [{'type': 'my_project.faces.scratches', 'count': [1, 2]}],
    }
    for block, roots in (('train', ('dataroot_gt', 'dataroot_lq', 'use_hflip')), ('val', ('dataroot_lq',))):
        for name in roots:
            options['datasets'][block].pop(name)
    options['train'] |= {
        'total_epochs': 2,
        'optim_g': {'type': 'my_project.training.Sign', 'lr': 0.01},
        'optim_d': {'type': 'torch.optim.RAdam', 'lr': 0.001, 'betas': [0.5, 0.9]},
        'scheduler': {'type': 'my_project.training.Halving', 'every': 1},
        'gan_opt': {'type': 'my_project.losses.Hinge'},
        'losses': {'edges': {'type': 'my_project.losses.EdgeLoss', 'loss_weight': 0.1}},
    }
    options['val']['metrics'] = {
        'psnr': {'type': 'calculate_psnr'},
        'contours': {'type': 'my_project.training.calculate_edges', 'power': 2},
    }
    return options


def run_from(folder: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the checkout with another working directory, where nothing of it can be imported by chance."""
    environment = {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
