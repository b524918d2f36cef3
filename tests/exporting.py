"""Shared by the tests of exported files: tiny checkpoints, and whether two files restore alike."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpen.archs.gpen import GPEN
from gpen.restoration.loading import load_restorer

CPU = torch.device('cpu')
STEP = 2 / 255  # of [-1, 1]


def make_network(seed: int = 0, **options: Any) -> GPEN:
    """A tiny network in which the encoder's features and the noise count as much as the rest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = GPEN(**{'size': 16, 'style_dim': 16, 'n_mlp': 2, 'narrow': 0.02, **options})
        for name, parameter in network.named_parameters():
            if name.endswith('noise.weight'):
                torch.nn.init.ones_(parameter)
    return network


def save(path: Path, network: GPEN) -> Path:
    """Write a checkpoint as our training does; the weights that are not EMA are others."""
    others = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save({'params': others, 'params_ema': network.state_dict()}, path)
    return path


def faces(count: int, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


def assert_same(exported: Path, checkpoint: Path, tolerance: float) -> None:
    """Assert that both files restore alike, in batches of several sizes; differences in 1/255."""
    ours, theirs = load_restorer(checkpoint, CPU), load_restorer(exported, CPU)
    assert (theirs.in_size, theirs.size) == (ours.in_size, ours.size)
    for count in (1, 2, 5):
        expected = ours.run(faces(count, ours.in_size))
        assert expected.std() > 0.1
        assert (theirs.run(faces(count, ours.in_size)) - expected).abs().max() <= tolerance * STEP


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
