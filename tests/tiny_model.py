"""A model of tiny networks, and what tests ask of it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conftest import tiny_options
from gpen.models import build_model
from gpen.models.gpen_model import GPENModel
from gpen.models.prior_model import GPENPriorModel
from gpen.options import Options

CPU = torch.device('cpu')
PRIOR = {'type': 'GPENPrior', 'size': 16, 'style_dim': 8, 'n_mlp': 2, 'narrow': 0.008}


def build(device: torch.device = CPU, **changes: Any) -> GPENModel:
    """The tiny model; ``changes`` are blocks of options to add to, such as ``train={'net_d_iters': 2}``."""
    options = tiny_options(Path('data'), Path('results'))
    for block, values in changes.items():
        options[block] = {**options[block], **values} if isinstance(values, dict) else values
    model: GPENModel = build_model(Options.model_validate(options), device)
    return model


def prior_options(data: Path, root: Path, **train: Any) -> dict[str, Any]:
    """The tiny options for a prior: 16 iterations; R1 every 3, path lengths every 2."""
    options = tiny_options(data, root)
    options['model_type'] = 'GPENPriorModel'
    options['network_g'] = dict(PRIOR)
    for block in options['datasets'].values():
        block.pop('dataroot_lq')
        block['type'] = 'FaceImageDataset'
    options['train'].pop('pixel_opt')
    options['train'] |= {'gan_opt': {'type': 'GANLoss'}, 'net_g_reg_every': 2, **train}
    options['val'] = {'metrics': {}, 'num_pictures': 3, 'save_img': True}
    return options


def build_prior(device: torch.device = CPU, **train: Any) -> GPENPriorModel:
    options = Options.model_validate(prior_options(Path('data'), Path('results'), **train))
    model: GPENPriorModel = build_model(options, device)
    return model


def faces(iteration: int) -> dict[str, Any]:
    batch = batch_of(iteration)
    del batch['lq']
    return batch


def batch_of(iteration: int, size: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(iteration)
    gt = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    return {'lq': gt * 0.5, 'gt': gt, 'gt_path': [f'{iteration}a.png', f'{iteration}b.png']}


def bad_batch() -> dict[str, Any]:
    batch = batch_of(99)
    batch['gt'][0, 0, 0, 0] = math.nan
    return {**batch, 'gt_path': ['bad.png', 'good.png']}


class PlainAdam:
    """Adam (Kingma and Ba 2015, algorithm 1), one parameter after the other."""

    def __init__(self, network: nn.Module, lr: float, betas: tuple[float, float]) -> None:
        self.parameters = list(network.parameters())
        self.lr, self.betas, self.steps = lr, betas, 0
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self) -> None:
        self.steps += 1
        (first, second), t = self.betas, self.steps
        for parameter, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            assert parameter.grad is not None
            mean.copy_(first * mean + (1 - first) * parameter.grad)
            square.copy_(second * square + (1 - second) * parameter.grad**2)
            scale = (square / (1 - second**t)).sqrt() + 1e-8
            parameter.data -= self.lr * mean / (1 - first**t) / scale


def weights_of(network: nn.Module | None) -> list[Tensor]:
    assert network is not None
    return [parameter.detach().clone() for parameter in network.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def logged(model: GPENModel) -> dict[str, float]:
    return model.means.read()


def optimizer_states(model: GPENModel) -> list[Tensor]:
    """All tensors of both optimizers."""
    states = [model.optimizer_g.state, model.optimizer_d.state if model.optimizer_d is not None else {}]
    return [value.clone() for state in states for entry in state.values() for value in entry.values()]
