"""No option of training is accepted and does nothing: it changes the run, or it is an error or a warning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_options, write_options
from gpen.errors import UserError
from gpen.models import build_model
from gpen.options import Options, parse_options
from gpen.options.train import Train
from gpen.training.device import prepare_device
from gpen.training.schedule import LearningRates
from gpen.training.setup import build_early_stopping, build_validation_metrics
from gpen.utils.arithmetic import uses_tf32
from tiny_model import CPU, batch_of, faces, prior_options, weights_of

STEPS = 4
CHANGES: dict[str, Any] = {
    'num_gpu': 'auto',
    'manual_seed': 11,
    'total_epochs': 7,
    'total_iter': 5,
    'warmup_epochs': 2,
    'warmup_iter': 3,
    'base_lr': 5e-4,
    'optim_g': {'type': 'Adam', 'lr': 1e-3},
    'optim_d': {'type': 'Adam', 'lr': 1e-3},
    'freeze_g': ['generator.style*'],
    'freeze_d': ['convs.0*'],
    'scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'gamma': 0.1},
    'ema_decay': 0.5,
    'ema_halflife_images': 5,
    'ema_scheduler': {'total_iter': 3},
    'amp': 'bf16',
    'tf32': False,
    'channels_last': False,
    'compile': True,
    'grad_compression': 'bf16',
    'use_grad_norm': True,
    'grad_norm_clip': 1e-3,
    'pixel_opt': {'type': 'MSELoss'},
    'perceptual_opt': {'type': 'MSELoss'},
    'identity_opt': {'type': 'MSELoss'},
    'gan_opt': {'type': 'GANLoss', 'loss_weight': 0.7},
    'feature_matching_opt': {'type': 'FeatureMatchingLoss'},
    'losses': {'square': {'type': 'MSELoss'}},
    'r1_reg_weight': 1.0,
    'net_d_reg_every': 2,
    'path_reg_weight': 1.0,
    'net_g_reg_every': 1,
    'path_batch_shrink': 1,
    'mixing_prob': 0.0,
    'component_opt': {'type': 'ComponentLoss'},
    'augment_opt': {'policy': ['cutout']},
    'net_d_iters': 2,
    'net_d_init_iters': 2,
    'early_stopping': {'metric': 'psnr', 'patience': 3},
}
"""Another value of each option than that of the tiny run."""
BESIDE: dict[str, dict[str, Any]] = {
    'total_iter': {'total_epochs': None, 'warmup_epochs': 0, 'total_iter': 3},
    'warmup_iter': {'warmup_epochs': 0},
    'ema_halflife_images': {'ema_decay': None},
    'use_grad_norm': {'grad_norm_clip': 1e-3, 'use_grad_norm': False},
    'grad_norm_clip': {'use_grad_norm': True, 'grad_norm_clip': 10.0},
    'net_g_reg_every': {'path_reg_weight': 1.0, 'net_g_reg_every': 2},
    'path_batch_shrink': {'path_reg_weight': 1.0, 'net_g_reg_every': 2},
}
"""The run that an option is tried in, where it is an error or idle in the tiny one."""


def test_each_option_of_training_is_tried() -> None:
    assert set(CHANGES) == set(Train.model_fields)


def base(model_type: str, data: Path, folder: Path, changes: dict[str, Any]) -> Path:
    is_prior = model_type == 'GPENPriorModel'
    options = prior_options(data, folder) if is_prior else tiny_options(data, folder)
    train = {**options['train'], **changes}
    options['train'] = {name: value for name, value in train.items() if value is not None or name == 'ema_decay'}
    if changes.get('num_gpu') is not None:
        options.pop('num_gpu')
    if changes.get('manual_seed') is not None:
        options.pop('manual_seed')
    return write_options(folder / 'options.yml', options)


class Compiled(torch.nn.Module):
    """Stands for a compiled network."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.network(*inputs, **options)


def outcome_of(options: Options, model_type: str) -> tuple[Any, ...]:
    """All that a run does: its length, rates, ways of computing, and weights after a few steps."""
    train = options.train
    prepare_device(options)
    model = build_model(options, CPU)
    rates = LearningRates(options, iterations_per_epoch=2)
    for iteration in range(1, STEPS + 1):
        model.set_learning_rates(rates.at(iteration))
        model.train_step(faces(iteration) if model_type == 'GPENPriorModel' else batch_of(iteration), iteration)
    early = build_early_stopping(options, build_validation_metrics(options, CPU))
    assert model.net_d is not None
    weights = [weight for net in (model.net_g, model.net_d, model.net_g_ema) for weight in weights_of(net)]
    return (
        *(train.total_epochs, train.total_iter, options.num_gpu, model.memory_format, type(model.run_g), uses_tf32()),
        [rates.at(iteration) for iteration in range(1, 10)],
        None if early is None else early._patience,
        torch.cat([weight.flatten() for weight in weights]).tolist(),
    )


@pytest.mark.parametrize('model_type', ['GPENModel', 'GPENPriorModel'])
@pytest.mark.parametrize('name', CHANGES)
def test_an_option_changes_the_run_or_is_refused_or_said_to_be_idle(
    name: str, model_type: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, 'compile', Compiled)  # the real one takes a minute
    beside, changes = BESIDE.get(name, {}), {name: CHANGES[name]}
    if name not in BESIDE:
        try:
            parsed = parse_options(base(model_type, tiny_data, tmp_path, changes))
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ' '.join(warning for warning in parsed.warnings if name in warning)
        if refusal:
            assert name in refusal
            return

    # The run with the option against that without it.
    without, given = (
        parse_options(base(model_type, tiny_data, tmp_path, chosen)).options
        for chosen in (beside, {**beside, **changes})
    )
    assert outcome_of(without, model_type) != outcome_of(given, model_type)
