"""Means between two records, and the guard against losses that are not finite."""

import math

import pytest
import torch

from gpen.errors import UserError
from gpen.models import step_log
from gpen.models.step_log import LIMIT, FiniteGuard, RunningMeans

CPU = torch.device('cpu')


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_reading_gives_the_means_since_the_last_one() -> None:
    means = RunningMeans(CPU)
    means.add(scalars(G_loss_pixel=1.0, D_loss_real=4.0))
    means.add(scalars(G_loss_pixel=2.0, D_loss_real=5.0))
    assert means.read() == {'G_loss_pixel': 1.5, 'D_loss_real': 4.5}
    means.add(scalars(G_loss_pixel=7.0))
    assert means.read() == {'G_loss_pixel': 7.0}
    assert means.read() == {}


def test_a_loss_that_is_not_in_every_step_is_averaged_over_its_own_steps() -> None:
    means = RunningMeans(CPU)
    for step in range(6):
        means.add(scalars(pixel=float(step), **({'D_r1': 10.0 + step} if step % 3 == 0 else {})))
    assert means.read() == {'pixel': 2.5, 'D_r1': 11.5}


def test_values_that_are_not_finite_are_left_out() -> None:
    means = RunningMeans(CPU)
    for value in (1.0, math.nan, math.inf, -math.inf, 3.0):
        means.add(scalars(loss=value, never=math.nan))
    assert means.read() == {'loss': 2.0}


def test_a_mean_holds_on_to_no_graph() -> None:
    means = RunningMeans(CPU)
    weight = torch.ones((), requires_grad=True)
    means.add({'loss': weight * 2})
    assert not means.state_dict()['sums']['loss'].requires_grad


def test_a_record_that_spans_an_interruption_is_the_same_as_without() -> None:
    values = torch.rand(9, generator=torch.Generator().manual_seed(0)).tolist()
    unbroken, first, second = RunningMeans(CPU), RunningMeans(CPU), RunningMeans(CPU)
    for value in values:
        unbroken.add(scalars(loss=value))
    for value in values[:4]:
        first.add(scalars(loss=value))
    second.load_state_dict(first.state_dict())
    for value in values[4:]:
        second.add(scalars(loss=value))
    assert second.read() == unbroken.read()


def test_steps_that_are_finite_are_not_mentioned() -> None:
    guard = FiniteGuard()
    guard.record(1, scalars(G_loss_pixel=1.0, grad_norm_g=1e30), ['a.png'])
    assert guard.review() == []
    assert guard.in_a_row == 0


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_is_reported_with_loss_and_files(value: float) -> None:
    guard = FiniteGuard()
    guard.record(7, scalars(D_loss_real=1.0, G_loss_pixel=value, grad_norm_g=math.nan), ['x/a.png', 'x/b.png'])
    (message,) = guard.review()
    assert message == (
        'Iteration 7: G_loss_pixel, grad_norm_g not finite; this step of the generator was skipped. '
        'Files of the batch: x/a.png, x/b.png.'
    )
    assert guard.review() == []


def test_each_step_since_the_last_review_is_reported_once() -> None:
    guard = FiniteGuard()
    for iteration, value in enumerate([1.0, math.nan, 1.0, math.nan], start=1):
        guard.record(iteration, scalars(loss=value), [f'{iteration}.png'])
    messages = guard.review()
    assert [message.split(':')[0] for message in messages] == ['Iteration 2', 'Iteration 4']
    assert '2.png' in messages[0]
    assert guard.in_a_row == 1


@pytest.mark.parametrize('review_every', [1, 4, 100])
def test_ten_steps_in_a_row_end_training_and_nine_do_not(review_every: int) -> None:
    guard = FiniteGuard()
    values = [math.nan] * (LIMIT - 1) + [1.0] + [math.nan] * (LIMIT - 1)
    for iteration, value in enumerate(values, start=1):
        guard.record(iteration, scalars(G_loss_adv=value), [f'{iteration}.png'])
        if iteration % review_every == 0:
            guard.review()
    guard.review()
    guard.record(len(values) + 1, scalars(G_loss_adv=math.nan), ['last.png'])
    with pytest.raises(UserError) as caught:
        guard.review()
    message = str(caught.value)
    assert LIMIT == 10
    assert message.startswith(f'Iteration {len(values) + 1}: G_loss_adv not finite')
    assert 'last.png' in message
    assert 'That is 10 steps in a row' in message
    assert 'Lower train.optim_g.lr' in message


@pytest.mark.parametrize('review_every', [1, 100])
def test_no_skipped_step_before_the_tenth_is_lost_however_seldom_they_are_reviewed(review_every: int) -> None:
    guard = FiniteGuard()
    reported: list[str] = []
    for iteration in range(1, LIMIT + 1):
        guard.record(iteration, scalars(loss=math.nan), [])
        if iteration < LIMIT and iteration % review_every == 0:
            reported += guard.review()
    with pytest.raises(UserError, match=f'Iteration {LIMIT}: '):
        guard.review()
    reported += guard.unreported
    assert [sentence.split(':')[0] for sentence in reported] == [f'Iteration {n}' for n in range(1, LIMIT)]


@pytest.fixture
def _slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value makes the host wait, as with a GPU."""
    monkeypatch.setattr(step_log, '_makes_wait', lambda _: True)


def test_on_a_cpu_every_step_is_reviewed() -> None:
    guard = FiniteGuard()
    guard.record(1, scalars(loss=1.0), [])
    assert guard.needs_review()


@pytest.mark.usefixtures('_slow_device')
@pytest.mark.parametrize('first', [1, 7, 10, 11])
def test_on_a_gpu_a_bad_step_is_known_after_20_steps(first: int) -> None:
    guard = FiniteGuard()
    for iteration in range(1, 100):
        guard.record(iteration, scalars(loss=math.nan if iteration == first else 1.0), [])
        if guard.needs_review():
            break
    assert iteration <= first + 2 * LIMIT
    assert [sentence.split(':')[0] for sentence in guard.review()] == [f'Iteration {first}']
    assert not any(guard.needs_review() for _ in range(3))  # said once


@pytest.mark.usefixtures('_slow_device')
def test_on_a_gpu_good_steps_are_looked_at_every_10_and_never_reviewed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = step_log._Look

    def look(steps: list[torch.Tensor]) -> step_log._Look:
        looks.append(len(steps))
        return real(steps)

    monkeypatch.setattr(step_log, '_Look', look)
    guard = FiniteGuard()
    for iteration in range(1, 101):
        guard.record(iteration, scalars(loss=1.0), [])
        assert not guard.needs_review()
    assert looks == [LIMIT] * 10


@pytest.mark.parametrize('is_main', [True, False])
def test_rank_0_alone_says_that_training_ends(is_main: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, 'is_main', lambda: is_main)
    guard = FiniteGuard()
    for iteration in range(LIMIT):
        guard.record(iteration, scalars(G_loss_adv=math.nan), ['a.png'])
    with pytest.raises(UserError) as caught:
        guard.review()
    assert caught.value.is_logged is not is_main
    assert guard.gave_up
