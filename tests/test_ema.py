"""The EMA of the generator: how fast it forgets, and what one update does."""

import math

import pytest
import torch
from torch import nn

from gpen.models.ema import EmaSchedule, build_ema_schedule, update_ema
from gpen.options.train import Train


def half_life(decay: float) -> float:
    return math.log(0.5) / math.log(decay)


def test_the_half_life_grows_linearly_to_its_full_value() -> None:
    full = half_life(0.99)
    for iteration in (1, 10, 25, 50, 99):
        assert half_life(EmaSchedule(0.99, 100).at(iteration)) == pytest.approx(full * iteration / 100)


def test_the_decay_is_the_full_one_from_the_end_of_the_ramp_on() -> None:
    assert [EmaSchedule(0.99, 100).at(n) for n in (100, 101, 10**9)] == [0.99, 0.99, 0.99]
    assert EmaSchedule(0.99, 100).at(99) < 0.99


def test_without_a_ramp_the_decay_is_the_full_one_from_the_start() -> None:
    assert EmaSchedule(0.9978, 0).at(1) == 0.9978


def test_the_half_life_is_a_share_of_the_training_so_far_until_it_is_full() -> None:
    schedule = EmaSchedule(0.5 ** (1 / 100), share=0.05)  # a half-life of 100 iterations
    for iteration in (20, 200, 1999):
        assert half_life(schedule.at(iteration)) == pytest.approx(0.05 * iteration)
    assert schedule.ramp_end == pytest.approx(2000)
    assert schedule.at(2001) == schedule.at(10**6) == schedule.decay


def test_a_half_life_in_images_is_the_same_for_every_batch_size() -> None:
    train = Train.model_validate({'ema_halflife_images': 10_000, 'ema_scheduler': {'share': 0.05}})
    for images in (1, 16, 128):
        schedule = build_ema_schedule(train, images)
        assert half_life(schedule.at(10**9)) * images == pytest.approx(10_000)
        assert half_life(schedule.at(8_000 // images)) * images == pytest.approx(0.05 * 8_000, rel=0.01)


def test_the_decay_is_stylegan2_s_unless_the_options_say_otherwise() -> None:
    assert half_life(build_ema_schedule(Train(), 8).decay) * 32 == pytest.approx(10_000)
    assert build_ema_schedule(Train(ema_decay=None), 8).decay == build_ema_schedule(Train(), 8).decay
    assert build_ema_schedule(Train(ema_decay=0.9), 8).decay == 0.9


@pytest.mark.parametrize('ramp', [0, 100])
def test_a_decay_of_0_copies_the_generator(ramp: int) -> None:
    assert EmaSchedule(0.0, ramp).at(5) == 0.0


def test_the_decay_never_falls_during_the_ramp() -> None:
    decays = [EmaSchedule(0.998, 1000).at(n) for n in range(1, 1100)]
    assert decays == sorted(decays)
    assert 0 <= decays[0] < 0.2


@pytest.mark.parametrize('stepped', [None, torch.tensor(True)])
@pytest.mark.parametrize('decay', [0.0, 0.3, 0.998, 1.0])
def test_an_update_is_the_plain_formula_for_every_weight(decay: float, stepped: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    network, ema = (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)) for _ in range(2))
    network(torch.randn(8, 5))  # so that the buffers differ
    expected = [
        [decay * average + (1 - decay) * weight for average, weight in zip(row, other, strict=True)]
        for row, other in zip(_flat(ema), _flat(network), strict=True)
    ]
    update_ema(ema, network, decay, stepped)
    for row, wanted in zip(_flat(ema), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-7)
    for average, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        assert torch.equal(average, buffer)


def test_an_update_changes_neither_the_generator_nor_where_gradients_flow() -> None:
    network, ema = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
    before = _flat(network)
    update_ema(ema, network, 0.5)
    assert _flat(network) == before
    assert not any(weight.requires_grad for weight in ema.parameters())


def test_after_a_skipped_step_the_average_stays_as_it_is() -> None:
    network, ema = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
    before = _flat(ema)
    update_ema(ema, network, 0.5, torch.tensor(False))
    assert _flat(ema) == before


def _flat(network: nn.Module) -> list[list[float]]:
    return [parameter.detach().flatten().tolist() for parameter in network.parameters()]
