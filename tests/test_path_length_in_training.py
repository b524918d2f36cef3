"""Path-length regularisation of a generator that restores: what it adds to a step, and who can have it."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from conftest import tiny_options, write_options
from gpen.errors import UserError
from gpen.options import parse_options
from tiny_model import batch_of, build, logged, weights_of

PATHS = {'path_reg_weight': 3.0, 'net_g_reg_every': 2, 'path_batch_shrink': 2}


def test_the_generator_learns_as_the_formulas_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of plain gradient descent moves the weights by the gradient of the loss that is put together here."""
    optimizers = {'optim_g': {'type': 'SGD', 'lr': 1.0}, 'optim_d': {'type': 'SGD', 'lr': 1e-9}}
    model = build(train={**PATHS, **optimizers, 'r1_reg_weight': 0})
    model.set_learning_rates({'g': 1.0, 'd': 1e-9})
    net_g, net_d = copy.deepcopy(model.net_g), model.net_d
    assert net_d is not None
    monkeypatch.setattr(torch, 'randn_like', torch.ones_like)  # the direction of the image
    batch = batch_of(2)
    model.train_step(batch, 2)

    restored = net_g(batch['lq'])
    loss = F.l1_loss(restored, batch['gt']) + 0.1 * F.softplus(-net_d(restored)).mean()
    image, latents = net_g(batch['lq'][:1], return_latents=True)  # half of the batch of 2
    (gradient,) = torch.autograd.grad(image.sum() / 16, latents, create_graph=True)
    length = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    penalty = (length - 0.01 * length.detach().mean()).square().mean()
    (loss + 3 * 2 * penalty).backward()  # weight 3, every 2 iterations

    assert float(model.mean_path_length) == pytest.approx(0.01 * float(length.detach().mean()))
    for (name, parameter), after in zip(net_g.named_parameters(), weights_of(model.net_g), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach() - after, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_it_is_off_unless_a_weight_is_given_and_recorded_where_it_is_due() -> None:
    for train, due in (({}, False), ({**PATHS, 'path_reg_weight': 0}, False), (PATHS, True)):
        model = build(train=train)
        for iteration in (1, 2):
            model.train_step(batch_of(iteration), iteration)
            has_length = 'G_path_length' in logged(model)
            assert has_length == (due and iteration == 2)
        assert (float(model.mean_path_length) > 0) == due


def test_its_running_mean_is_part_of_the_training_state() -> None:
    model, other = build(train=PATHS), build(train=PATHS)
    model.train_step(batch_of(2), 2)
    assert float(model.mean_path_length) > 0
    other.load_state_dict(model.state_dict())
    assert float(other.mean_path_length) == float(model.mean_path_length)

    older = model.state_dict()
    del older['mean_path_length']  # GPENModel had none in earlier versions
    fresh = build(train=PATHS)
    fresh.load_state_dict(older)
    assert float(fresh.mean_path_length) == 0


def test_a_generator_whose_mapping_and_encoder_are_frozen_has_path_lengths_too() -> None:
    frozen = ['ecd*', 'final_linear*', 'generator.style*']
    model = build(train={**PATHS, 'freeze_g': frozen})
    model.train_step(batch_of(2), 2)
    assert math.isfinite(logged(model)['G_path_length'])


def test_a_network_without_latents_cannot_be_regularised(tiny_data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = tiny_options(tiny_data, tmp_path)
    options['network_g'] = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 1}
    options['train'] |= PATHS
    with pytest.raises(UserError, match='path_reg_weight: needs a generator whose forward takes return_latents'):
        parse_options(write_options(tmp_path / 'options.yml', options))
