"""A step that is not finite is skipped, and gradients are clipped."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny_options
from gpen.distributed.gradients import Gradients
from gpen.models import optimizers
from gpen.models.ema import EmaSchedule
from gpen.models.gpen_model import GPENModel
from gpen.models.optimizers import optimize, step_if
from gpen.models.precision import LossScale
from tiny_model import bad_batch, batch_of, build, equal, logged, optimizer_states, weights_of

# --- losses that are not finite


def test_an_optimizer_that_is_not_fused_is_skipped_too() -> None:
    for is_finite in (True, False):
        weight = torch.nn.Parameter(torch.ones(()))
        weight.grad = torch.ones(())
        step_if(torch.optim.SGD([weight], lr=0.5), torch.tensor(is_finite))
        assert weight.item() == (0.5 if is_finite else 1.0)


@pytest.mark.parametrize('bad_iteration', [2, 3], ids=['plain', 'with R1'])
def test_a_step_that_is_not_finite_leaves_weights_and_optimizers_exactly_as_they_were(bad_iteration: int) -> None:
    model = build(train={'use_grad_norm': True, 'grad_norm_clip': 0.5})
    model.train_step(batch_of(1), 1)
    networks = weights_of(model.net_g), weights_of(model.net_d)
    optimizers = optimizer_states(model)
    model.guard.review()
    logged(model)
    model.train_step(bad_batch(), bad_iteration)
    assert equal(networks[0], weights_of(model.net_g))
    assert equal(networks[1], weights_of(model.net_d))
    assert equal(optimizers, optimizer_states(model))
    (message,) = model.guard.review()
    assert 'D_loss_real' in message
    assert 'G_loss_pixel' in message
    assert 'Files of the batch: bad.png, good.png.' in message
    assert all(math.isfinite(value) for value in logged(model).values())
    assert all(torch.isfinite(weight).all() for weight in weights_of(model.net_g_ema))


def test_training_goes_on_after_a_skipped_step_as_if_it_had_not_been(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmaSchedule, 'at', lambda *_: 0.9)
    unbroken, skipping = build(), build()
    skipping.train_step(bad_batch(), 1)  # the very first
    for iteration in (2, 4, 5):
        for model in (unbroken, skipping):
            model.train_step(batch_of(iteration), iteration)
        skipping.train_step(bad_batch(), 3)
    for name in ('net_g', 'net_d'):
        assert equal(weights_of(getattr(unbroken, name)), weights_of(getattr(skipping, name)))
    assert equal(optimizer_states(unbroken), optimizer_states(skipping))


def step_on_host(optimizer: torch.optim.Optimizer, is_finite: Tensor) -> None:
    if is_finite:
        optimizer.step()


@pytest.mark.parametrize('optimizer', ['Adam', 'AdamW', 'SGD'])
def test_steps_are_those_of_an_optimizer_that_the_host_steps(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {'type': optimizer, 'lr': 1e-3}
    ours, plain = (build(train={'optim_g': options, 'optim_d': options}) for _ in range(2))
    for iteration in range(1, 5):
        ours.train_step(batch_of(iteration), iteration)
    monkeypatch.setattr(optimizers, 'step_if', step_on_host)
    for iteration in range(1, 5):
        plain.train_step(batch_of(iteration), iteration)
    assert equal(weights_of(ours.net_g), weights_of(plain.net_g))
    assert equal(optimizer_states(ours), optimizer_states(plain))


def test_a_gradient_that_is_not_finite_skips_the_step_of_its_network_alone() -> None:
    model = build()
    parameter = next(model.net_g.parameters())
    parameter.register_hook(lambda gradient: gradient * math.inf)
    generator, discriminator = weights_of(model.net_g), weights_of(model.net_d)
    model.train_step(batch_of(1), 1)
    assert equal(generator, weights_of(model.net_g))
    assert not equal(discriminator, weights_of(model.net_d))
    (message,) = model.guard.review()
    assert message.startswith('Iteration 1: grad_norm_g not finite')


# --- gradient clipping


def test_the_logged_gradient_norm_is_that_before_clipping() -> None:
    free, clipped = build(), build(train={'use_grad_norm': True, 'grad_norm_clip': 1e-3})
    for model in (free, clipped):
        model.train_step(batch_of(1), 1)
    values, expected = logged(clipped), logged(free)
    for name in ('grad_norm_d', 'grad_norm_g'):
        assert values[name] > 1e-3
    assert values['grad_norm_d'] == expected['grad_norm_d']


@pytest.mark.parametrize('use', [True, False])
def test_clipping_limits_the_step_of_each_network_only_when_it_is_switched_on(use: bool) -> None:
    optimizer = {'type': 'SGD', 'lr': 0.1}
    clip = {'use_grad_norm': use, 'grad_norm_clip': 1e-3}
    model = build(train={'optim_g': optimizer, 'optim_d': optimizer, **clip})
    before = weights_of(model.net_g), weights_of(model.net_d)
    model.train_step(batch_of(1), 1)
    values = logged(model)
    for letter, old, network in (('g', before[0], model.net_g), ('d', before[1], model.net_d)):
        moved = [new - start for new, start in zip(weights_of(network), old, strict=True)]
        length = float(torch.linalg.vector_norm(torch.cat([part.flatten() for part in moved])))
        assert length == pytest.approx(0.1 * (1e-3 if use else values[f'grad_norm_{letter}']), rel=1e-2)


def moved_by(model: GPENModel, iteration: int) -> Tensor:
    """The step of the discriminator in an iteration, of plain gradient descent at a rate of 1."""
    before = weights_of(model.net_d)
    model.train_step(batch_of(iteration), iteration)
    return torch.cat([(new - old).flatten() for new, old in zip(weights_of(model.net_d), before, strict=True)]).double()


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('weight', [1.0, 10.0, 1000.0])
def test_under_any_clip_r1_keeps_its_ratio_to_the_adversarial_gradient(weight: float, accumulate: int) -> None:
    """Where the clip cuts the adversarial gradient to a share, the R1 gradient is cut to the same share."""

    def step(clip: dict[str, Any], r1: float) -> Tensor:
        optimizers = {'optim_g': {'type': 'SGD', 'lr': 1.0}, 'optim_d': {'type': 'SGD', 'lr': 1.0}}
        data = {**tiny_options(Path('data'), Path('results'))['datasets']}
        data['train'] = {**data['train'], 'accumulate': accumulate}
        model = build(datasets=data, train={**optimizers, **clip, 'r1_reg_weight': r1})
        model.set_learning_rates({'g': 1.0, 'd': 1.0})
        return moved_by(model, 3)  # R1 is due every 3 iterations

    free, clip = {}, {'use_grad_norm': True, 'grad_norm_clip': 1e-2}
    adversarial, both = step(free, 0), step(free, weight)
    clipped_adversarial, clipped_both = step(clip, 0), step(clip, weight)
    assert clipped_adversarial.norm() == pytest.approx(1e-2, rel=1e-3)
    share = 1e-2 / adversarial.norm()
    r1, clipped_r1 = both - adversarial, clipped_both - clipped_adversarial
    assert (clipped_r1 - share * r1).norm() < 1e-3 * (share * r1).norm() + 1e-6
    assert clipped_r1.norm() / clipped_adversarial.norm() == pytest.approx(
        float(r1.norm() / adversarial.norm()), rel=0.01
    )


def test_a_penalty_that_is_not_finite_is_skipped_under_a_clip_too() -> None:
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = weights_of(network)
    scale = LossScale(None, torch.device('cpu'))
    for factor in (math.inf, math.nan):
        loss = network(torch.ones(1, 2)).sum()
        step = optimize(loss, Gradients(network), optimizer, scale, max_norm=1.0, penalty=loss * factor)
        assert not step.is_finite
        assert equal(before, weights_of(network))


def test_the_share_of_gradients_that_eps_outweighs_is_counted_after_clipping() -> None:
    network = torch.nn.Linear(3, 1, bias=False)
    scale = LossScale(None, torch.device('cpu'))
    optimizer = torch.optim.Adam(network.parameters(), eps=1e-3)

    def count(max_norm: float | None) -> float:
        loss = network(torch.tensor([[1.0, 1e-2, 1e-4]])).sum()
        share = optimize(loss, Gradients(network), optimizer, scale, max_norm, counts_small=True).below_eps
        assert share is not None
        return float(share)

    assert count(None) == pytest.approx(1 / 3)
    assert count(1e-2) == pytest.approx(2 / 3)
    assert count(1e-4) == pytest.approx(1)
    plain = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = network(torch.ones(1, 3)).sum()
    assert optimize(loss, Gradients(network), plain, scale, counts_small=True).below_eps is None
