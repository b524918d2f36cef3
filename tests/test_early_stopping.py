"""The best validation, and the end of the patience."""

import math

import pytest

from gpen.runs.run_file import MetricSummary
from gpen.training.early_stopping import EarlyStopping


def feed(early: EarlyStopping, values: list[float], first: int = 1) -> list[bool]:
    """Take in validations of iterations ``first``, ``first`` + 1, ...; return which were the best so far."""
    return [early.update(value, iteration) for iteration, value in enumerate(values, start=first)]


def test_it_stops_after_patience_validations_without_improvement() -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=3)
    assert feed(early, [20.0, 21.0, 20.5, 21.0]) == [True, True, False, False]
    assert not early.should_stop
    feed(early, [20.9], first=5)
    assert early.should_stop
    assert (early.best, early.best_iteration, early.waited) == (21.0, 2, 3)


def test_an_improvement_starts_the_patience_anew() -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=2)
    for value in (20.0, 19.0, 21.0, 20.0, 22.0, 21.0):
        early.update(value, 1)
        assert not early.should_stop


def test_of_a_distance_less_is_better() -> None:
    early = EarlyStopping('lpips', higher_is_better=False, patience=2)
    assert feed(early, [0.5, 0.6, 0.4, 0.41, 0.4]) == [True, False, True, False, False]
    assert (early.best, early.best_iteration) == (0.4, 3)
    assert early.should_stop


@pytest.mark.parametrize(('higher', 'sign'), [(True, 1.0), (False, -1.0)])
def test_small_steps_are_kept_as_best_but_use_up_the_patience(higher: bool, sign: float) -> None:
    early = EarlyStopping('metric', higher_is_better=higher, patience=3, min_delta=0.5)
    assert feed(early, [sign * value for value in (20.0, 20.2, 20.4, 20.5)]) == [True] * 4
    assert early.best == sign * 20.5
    assert early.should_stop


def test_small_steps_that_add_up_to_min_delta_count() -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=3, min_delta=0.5)
    feed(early, [20.0, 20.3, 20.6])
    assert early.waited == 0


def test_what_is_not_a_number_is_never_the_best_and_uses_up_the_patience() -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=2)
    assert feed(early, [math.nan, 20.0, math.nan, math.nan]) == [False, True, False, False]
    assert early.best == 20.0
    assert early.should_stop
    hopeless = EarlyStopping('psnr', higher_is_better=True, patience=2)
    feed(hopeless, [math.nan, math.nan])
    assert hopeless.should_stop
    assert hopeless.best is None


@pytest.mark.parametrize('value', [math.nan, 19.0, 20.0])
@pytest.mark.parametrize('patience', [1, 2, 5])
def test_each_validation_without_improvement_uses_up_one_of_the_patience(value: float, patience: int) -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=patience)
    feed(early, [20.0])
    for waited in range(1, patience + 1):
        assert not early.should_stop
        feed(early, [value])
        assert early.waited == waited
    assert early.should_stop


def test_an_improvement_of_just_min_delta_is_none() -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=1, min_delta=0.5)
    feed(early, [20.0, 20.5])
    assert early.should_stop


def test_the_state_of_another_metric_is_refused_and_changes_nothing() -> None:
    first = EarlyStopping('psnr', higher_is_better=True, patience=1)
    feed(first, [20.0, 19.0])
    other = EarlyStopping('ssim', higher_is_better=True, patience=1)
    assert not other.load_state_dict(first.state_dict())
    assert (other.best, other.best_iteration, other.waited) == (None, None, 0)
    assert EarlyStopping('psnr', higher_is_better=True, patience=1).load_state_dict(first.state_dict())


@pytest.mark.parametrize('higher', [True, False])
@pytest.mark.parametrize('infinite', [math.inf, -math.inf])
def test_an_infinite_metric_is_never_the_best(higher: bool, infinite: float) -> None:
    early = EarlyStopping('psnr', higher_is_better=higher, patience=3)
    summary = MetricSummary(higher_is_better=higher)
    better = 2.0 if higher else 0.5
    values = [infinite, 1.0, infinite, better]
    assert feed(early, values) == [False, True, False, True]
    assert [summary.update(value, iteration) for iteration, value in enumerate(values)] == [False, True, False, True]
    assert (early.best, summary.best) == (better, better)


def test_without_patience_it_never_stops_but_knows_the_best() -> None:
    early = EarlyStopping('psnr', higher_is_better=True, patience=None)
    feed(early, [20.0, *[19.0] * 50])
    assert not early.should_stop
    assert early.best_iteration == 1


@pytest.mark.parametrize('interrupted_after', range(7))
def test_it_continues_from_its_state_as_if_never_interrupted(interrupted_after: int) -> None:
    values = [20.0, 20.3, 20.6, 20.7, 20.65, math.nan, 20.8]
    unbroken = EarlyStopping('psnr', higher_is_better=True, patience=4, min_delta=0.25)
    expected = feed(unbroken, values)
    first = EarlyStopping('psnr', higher_is_better=True, patience=4, min_delta=0.25)
    found = feed(first, values[:interrupted_after])
    second = EarlyStopping('psnr', higher_is_better=True, patience=4, min_delta=0.25)
    second.load_state_dict(first.state_dict())
    found += feed(second, values[interrupted_after:], first=interrupted_after + 1)
    assert found == expected
    assert second.state_dict() == unbroken.state_dict()
    assert second.should_stop == unbroken.should_stop is True


def test_validations_before_min_iter_do_not_count_for_the_patience_but_may_be_the_best() -> None:
    early = EarlyStopping('psnr', True, patience=2, min_iter=30)
    assert early.update(20.0, 10)
    for iteration in (15, 20, 25, 29):
        assert not early.update(19.0, iteration)
    assert (early.waited, early.best_iteration) == (0, 10)
    assert not early.update(math.nan, 29)
    early.update(19.0, 30)
    assert (early.waited, early.should_stop) == (1, False)
    early.update(19.5, 40)
    assert early.should_stop
