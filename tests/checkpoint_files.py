"""Checkpoints of tiny networks whose weights tell their iteration, and what lies in their folders."""

from pathlib import Path
from typing import Any

import torch

from gpen.runs.checkpoints import CheckpointStore


def networks(value: float) -> dict[str, dict[str, Any]]:
    weights = {'weight': torch.full((64,), value)}
    return {'net_g': {'params': weights, 'params_ema': weights}, 'net_d': {'params': weights}}


def save(store: CheckpointStore, iteration: int, best: int | None = None, **others: int) -> None:
    names = {f'net_g_best_{name}': value for name, value in others.items()}
    names |= {} if best is None else {'net_g_best': best}
    store.save(iteration, networks(float(iteration)), {'model': {'in_a_row': 0}}, names)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def value_in(path: Path) -> float:
    return float(torch.load(path, weights_only=True)['params']['weight'][0])
