"""What the generator's images are: restored, within their range, and judged as often as needed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_options
from gpen.models.gpen_model import GPENModel
from gpen.options import Options
from gpen.runs.training_state import load_networks, pack_networks
from tiny_model import CPU, batch_of, build, equal, logged, optimizer_states, weights_of

# --- what restoring gives


@pytest.mark.parametrize('method', ['restore', 'restore_raw'])
def test_restored_images_are_clamped_to_their_range_and_no_further(method: str) -> None:
    model = build()
    network = model.net_g_ema if method == 'restore' else model.net_g
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    lq = batch_of(1)['lq'].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        raw = copy.deepcopy(network).eval()(lq)
    restored = getattr(model, method)(lq)
    assert raw.min() < -1
    assert raw.max() > 1
    assert (raw.abs() < 1).any()
    assert torch.equal(restored, raw.clamp(-1, 1))


# --- R1


def count_passes(model: GPENModel, iteration: int) -> int:
    """Return how often the discriminator looks at a whole batch in a step."""
    assert model.net_d is not None
    passes: list[int] = []
    model.net_d.register_forward_hook(lambda *_: passes.append(1))
    model.train_step(batch_of(iteration), iteration)
    return len(passes)


@pytest.mark.parametrize(('train', 'passes'), [({}, 3), ({'amp': 'bf16'}, 4), ({'r1_reg_weight': 0, 'amp': 'bf16'}, 3)])
def test_r1_shares_the_pass_over_the_real_images_only_in_float32(train: dict[str, Any], passes: int) -> None:
    assert count_passes(build(train=train), 2) == 3  # restored, real; restored again for the generator
    assert count_passes(build(train=train), 3) == passes  # R1 is due


def test_r1_of_a_compiled_network_looks_at_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'compile', lambda network: network.forward)
    assert count_passes(build(train={'compile': True}), 3) == 1


# --- restoring


def test_restoring_uses_the_ema_generator_and_clamps() -> None:
    model = build()
    with torch.no_grad():
        for weight in model.net_g_ema.parameters():
            weight.mul_(8)
    batch = batch_of(1)
    restored = model.restore(batch['lq'])
    with torch.no_grad():
        raw = model.net_g_ema(batch['lq'])
    assert float(raw.abs().max()) > 1
    assert torch.equal(restored, raw.clamp(-1, 1))


def test_a_model_built_for_use_has_no_discriminator_and_no_optimizers() -> None:
    options = Options.model_validate(tiny_options(Path('data'), Path('results')))
    model = GPENModel(options, CPU, frozen=True)
    assert model.net_d is None
    assert not hasattr(model, 'optimizer_g')
    assert equal(weights_of(model.net_g_ema), weights_of(build().net_g))


def test_learning_rates_are_set_for_each_network() -> None:
    model = build()
    model.set_learning_rates({'g': 0.25, 'd': 0.5})
    assert [group['lr'] for group in model.optimizer_g.param_groups] == [0.25]
    assert model.optimizer_d is not None
    assert [group['lr'] for group in model.optimizer_d.param_groups] == [0.5]


def test_a_model_continues_from_its_states_bit_for_bit() -> None:
    unbroken, first, second = build(), build(), build()
    second.train_step(batch_of(50), 50)  # something else than it started from
    for iteration in range(1, 4):
        unbroken.train_step(batch_of(iteration), iteration)
        first.train_step(batch_of(iteration), iteration)
    load_networks(second, pack_networks(first))
    second.load_state_dict(first.state_dict())
    for iteration in range(4, 7):
        unbroken.train_step(batch_of(iteration), iteration)
        second.train_step(batch_of(iteration), iteration)
    for name in ('net_g', 'net_d', 'net_g_ema'):
        assert equal(weights_of(getattr(unbroken, name)), weights_of(getattr(second, name)))
    assert equal(optimizer_states(unbroken), optimizer_states(second))
    assert logged(unbroken) == logged(second)
