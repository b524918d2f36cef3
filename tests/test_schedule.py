"""Learning rates are a pure function of the iteration: warm-up first, then the schedule."""

import math
from typing import Any

import pytest

from gpen.errors import UserError
from gpen.options import Options
from gpen.training.schedule import CosineAnnealingLR, CosineAnnealingRestartLR, LearningRates, MultiStepLR

ITERATIONS_PER_EPOCH = 10


def rates_of(**train: Any) -> LearningRates:
    """The learning rates of a run with these ``train`` options and 10 iterations an epoch."""
    options = Options.model_validate(
        {'name': 'rates', 'datasets': {}, 'network_g': {'type': 'GPEN', 'size': 16}, 'train': train}
    )
    return LearningRates(options, ITERATIONS_PER_EPOCH)


def in_epoch(rates: LearningRates, epoch: int) -> dict[str, float]:
    """The rates of an epoch (counted from 0) after the warm-up, which are the same in all of its iterations."""
    first = epoch * ITERATIONS_PER_EPOCH + 1
    (found,) = {tuple(rates.at(first + step).items()) for step in range(ITERATIONS_PER_EPOCH)}
    return dict(found)


@pytest.fixture
def published() -> LearningRates:
    """The schedule of gpen_512.yml."""
    return rates_of(
        total_epochs=150,
        warmup_epochs=5,
        base_lr=1e-5,
        optim_g={'lr': 1e-4},
        optim_d={'lr': 4e-4},
        scheduler={'type': 'MultiStepLR', 'milestones': [80, 150], 'gamma': 0.5},
    )


def test_both_rates_rise_linearly_over_the_warm_up_epochs_to_their_own_rate(published: LearningRates) -> None:
    for done in range(51):  # five epochs of 10 iterations
        rates = published.at(done + 1)
        assert rates['g'] == pytest.approx(1e-5 + (1e-4 - 1e-5) * done / 50)
        assert rates['d'] == pytest.approx(1e-5 + (4e-4 - 1e-5) * done / 50)
    assert published.at(1) == {'g': 1e-5, 'd': 1e-5}
    assert in_epoch(published, 5) == {'g': 1e-4, 'd': 4e-4}


def test_both_rates_are_halved_from_the_epoch_of_the_milestone_on(published: LearningRates) -> None:
    assert in_epoch(published, 79) == {'g': 1e-4, 'd': 4e-4}
    assert in_epoch(published, 80) == {'g': 5e-5, 'd': 2e-4}
    assert in_epoch(published, 149) == {'g': 5e-5, 'd': 2e-4}


def test_a_rate_depends_on_nothing_but_the_iteration(published: LearningRates) -> None:
    forwards = [published.at(iteration) for iteration in range(1, 1500, 7)]
    backwards = [published.at(iteration) for iteration in reversed(range(1, 1500, 7))]
    assert forwards == backwards[::-1]


def test_without_scheduler_and_warm_up_the_rate_is_constant() -> None:
    rates = rates_of(total_iter=100, optim_g={'lr': 3e-4}, optim_d={'lr': 2e-4})
    assert {tuple(rates.at(iteration).items()) for iteration in (1, 50, 100, 1000)} == {(('g', 3e-4), ('d', 2e-4))}


@pytest.mark.parametrize('length', [{'total_iter': 100}, {'total_epochs': 10}])
def test_the_warm_up_in_iterations_rises_from_iteration_to_iteration(length: dict[str, int]) -> None:
    rates = rates_of(**length, warmup_iter=4, base_lr=0.0, optim_g={'lr': 1e-3}, optim_d={'lr': 2e-3})
    assert [rates.at(n)['g'] for n in range(1, 7)] == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert [rates.at(n)['d'] for n in range(1, 7)] == pytest.approx([0, 5e-4, 1e-3, 1.5e-3, 2e-3, 2e-3])


@pytest.mark.parametrize('none', [0, -1])
def test_a_warm_up_of_0_or_minus_1_iterations_is_none(none: int) -> None:
    assert rates_of(total_iter=10, warmup_iter=none, optim_g={'lr': 1e-3}).at(1)['g'] == 1e-3


def test_milestones_count_iterations_with_total_iter_and_epochs_with_total_epochs() -> None:
    scheduler = {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.1}
    by_iteration = rates_of(total_iter=100, optim_g={'lr': 1.0}, scheduler=scheduler)
    assert [by_iteration.at(n)['g'] for n in (1, 3, 4, 100)] == [1.0, 1.0, 0.1, 0.1]
    by_epoch = rates_of(total_epochs=10, optim_g={'lr': 1.0}, scheduler=scheduler)
    assert [by_epoch.at(n)['g'] for n in (1, 4, 30, 31)] == [1.0, 1.0, 1.0, 0.1]


def test_the_unit_of_the_scheduler_overrides_what_the_length_is_counted_in() -> None:
    scheduler: dict[str, Any] = {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.1}
    epochs = rates_of(total_iter=100, optim_g={'lr': 1.0}, scheduler={**scheduler, 'unit': 'epoch'})
    assert [epochs.at(n)['g'] for n in (4, 30, 31)] == [1.0, 1.0, 0.1]
    iterations = rates_of(total_epochs=10, optim_g={'lr': 1.0}, scheduler={**scheduler, 'unit': 'iter'})
    assert [iterations.at(n)['g'] for n in (3, 4, 100)] == [1.0, 0.1, 0.1]


def test_milestones_within_the_warm_up_take_effect_after_it() -> None:
    scheduler = {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.5}
    rates = rates_of(total_iter=100, warmup_iter=4, base_lr=0.0, optim_g={'lr': 1.0}, scheduler=scheduler)
    assert [rates.at(n)['g'] for n in (4, 5)] == [0.75, 0.5]


def test_each_milestone_multiplies_by_gamma_in_any_order_of_the_list() -> None:
    schedule = MultiStepLR([20, 10, 20], gamma=0.5)
    assert [schedule.rate(8.0, position) for position in (0, 9, 10, 19, 20, 100)] == [8.0, 8.0, 4.0, 4.0, 1.0, 1.0]


def test_the_cosine_falls_from_the_rate_to_eta_min_and_stays_there() -> None:
    schedule = CosineAnnealingLR(T_max=8, eta_min=0.2)
    for position in range(9):
        expected = 0.2 + 0.5 * (1.0 - 0.2) * (1 + math.cos(math.pi * position / 8))
        assert schedule.rate(1.0, position) == pytest.approx(expected)
    assert schedule.rate(1.0, 4) == pytest.approx(0.6)
    assert schedule.rate(1.0, 8) == schedule.rate(1.0, 1000) == pytest.approx(0.2)


def test_the_cosine_starts_again_at_each_cycle_with_its_weight() -> None:
    schedule = CosineAnnealingRestartLR([4, 8], [1.0, 0.5], eta_min=0.1)
    assert schedule.rate(1.0, 0) == pytest.approx(1.0)
    assert schedule.rate(1.0, 3) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 3 / 4)))
    assert schedule.rate(1.0, 4) == pytest.approx(0.1 + 0.5 * 0.9)
    assert schedule.rate(1.0, 8) == pytest.approx(0.1 + 0.5 * 0.45)
    assert schedule.rate(1.0, 12) == schedule.rate(1.0, 500) == pytest.approx(0.1)


def test_cycles_weigh_1_unless_said_otherwise_and_other_counts_are_refused() -> None:
    assert CosineAnnealingRestartLR([2, 2]).rate(1.0, 2) == 1.0
    with pytest.raises(UserError, match=r'2 periods and 1 restart_weights\. Give one weight a period'):
        CosineAnnealingRestartLR([2, 2], [1.0])
    with pytest.raises(UserError, match='0 periods'):
        CosineAnnealingRestartLR([])


def test_a_scheduler_is_chosen_by_its_name() -> None:
    rates = rates_of(total_iter=8, optim_g={'lr': 1.0}, scheduler={'type': 'CosineAnnealingLR', 'T_max': 8})
    assert [rates.at(n)['g'] for n in (1, 5, 9)] == pytest.approx([1.0, 0.5, 0.0])


def test_the_factor_of_a_milestone_is_a_tenth_and_the_last_rate_of_a_cosine_0_unless_said_otherwise() -> None:
    assert MultiStepLR([3]).rate(1.0, 3) == 0.1
    assert CosineAnnealingLR(5).rate(1.0, 5) == 0
    assert CosineAnnealingRestartLR([5]).rate(1.0, 5) == 0
