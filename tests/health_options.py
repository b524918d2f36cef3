"""The options of a run that the tests of its health look at."""

from collections.abc import Callable
from typing import Any

from gpen.options import Options
from gpen.training.schedule import LearningRates

TOTAL, EVERY = 5000, 50


def options_of(**train: Any) -> Options:
    """Options of a run of 5000 iterations and a validation after every 100."""
    common = {
        **{'total_iter': TOTAL, 'optim_g': {'lr': 8e-3}, 'optim_d': {'lr': 2e-3}, 'pixel_opt': {'type': 'L1Loss'}},
        **{'gan_opt': {'type': 'GANLoss', 'loss_weight': 0.005}, 'use_grad_norm': True, 'grad_norm_clip': 1.0},
        'scheduler': {'type': 'CosineAnnealingLR', 'T_max': TOTAL, 'eta_min': 1e-5},
    }
    blocks = {'network_g': {'type': 'GPEN', 'size': 16}, 'network_d': {'type': 'GPENDiscriminator', 'size': 16}}
    logger = {'print_freq': EVERY}
    return Options.model_validate(
        {'name': 'health', 'datasets': {}, **blocks, 'train': {**common, **train}, 'logger': logger}
    )


def rates_of(options: Options) -> Callable[[int], dict[str, float]]:
    return LearningRates(options, iterations_per_epoch=100).at
