"""PSNR and SSIM: known values, and agreement with BasicSR."""

from __future__ import annotations

import importlib
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from gpen.errors import UserError
from gpen.metrics import build_metric, lower_is_better
from gpen.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from gpen.registry import METRIC_REGISTRY

METRICS = {'calculate_psnr': calculate_psnr, 'calculate_ssim': calculate_ssim}


def random_pair(height: int = 30, width: int = 37, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches that are alike: smooth waves, and the same with noise."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 7, width), indexing='ij')
    phases = torch.rand(count, 3, 1, 1, generator=generator) * 6
    target = torch.sin(x * y.sqrt() + phases)
    noise = torch.randn(target.shape, generator=generator) * torch.tensor([0.02, 0.1, 0.5])[:count].view(-1, 1, 1, 1)
    return (target + noise).clamp(-1, 1), target


@pytest.fixture(scope='module')
def basicsr_metrics() -> ModuleType:
    pytest.importorskip('basicsr.version', reason='basicsr is not installed') if False else None
    if importlib.util.find_spec('basicsr') is None:
        pytest.skip('basicsr is not installed')
    name = 'torchvision.transforms.functional_tensor'
    sys.modules.setdefault(name, importlib.import_module('torchvision.transforms.functional'))
    return importlib.import_module('basicsr.metrics.psnr_ssim')
