"""Where each health rule begins to speak, and which numbers it proposes: a little less, and it is silent.

A course here has a record every 50 of 5000 iterations, so that ``n`` records are ``n`` percent of the run; a mean is
taken over 10 of them.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest

from gpen.health import rules
from gpen.health.history import Curve, History
from gpen.health.rules.discriminator import _chance
from gpen.options import Options
from health_options import EVERY, TOTAL, options_of, rates_of

GUESS = math.log(2)
CONSTANT_RATE = {'scheduler': None}
Number = float | Callable[[int], float | None]
"""The same in all records, or by the number of the record, from 1."""


def course(count: int, numbers: dict[str, Number], options: Options | None = None, total: int = TOTAL) -> History:
    """A run of so many records; ``val_psnr`` is ``val/psnr``, and a number that is None is not in that record."""
    options = options or options_of()
    history = History(options, total, rates_of(options))
    for n in range(1, count + 1):
        values = {name: value(n) if callable(value) else value for name, value in numbers.items()}
        named = {name.replace('val_', 'val/'): value for name, value in values.items() if value is not None}
        history.add({'iter': n * EVERY, 'phase': 'train', **named})
    return history


def last(count: int, records: int, value: float) -> Number:
    """A number that only the last ``count`` of so many records have."""
    return lambda n: value if n > records - count else None


def after(turn: int, before: float, then: float) -> Number:
    """A number that changes once, after the record ``turn``."""
    return lambda n: before if n <= turn else then


# ---- the discriminator


def strong(acc: float = 0.99, rise: float = 1.0, count: int = 20, **train: Any) -> str | None:
    options = options_of(gan_opt={'type': 'GANLoss', 'loss_weight': 2.0}, **train)
    numbers = {'D_acc_real': acc, 'D_acc_fake': 0.99, 'G_loss_adv': after(1, 1.0, 1.0 + rise * 10 / min(count - 1, 10))}
    return rules.discriminator_too_strong(course(count, numbers, options))


def test_a_discriminator_is_too_strong_from_97_percent_and_a_rise_of_half_the_weight_on() -> None:
    assert strong()
    assert strong(acc=0.975)
    assert strong(acc=0.965) is None
    assert strong(rise=1.01)
    assert strong(rise=0.99) is None
    assert strong(count=10, rise=1.2)
    assert strong(count=9, rise=1.2) is None


def test_against_a_strong_discriminator_a_quarter_of_its_rate_or_four_times_the_penalty_is_proposed() -> None:
    assert 'Lower train.optim_d.lr to 0.0005, or raise train.r1_reg_weight to 12.' in str(strong(r1_reg_weight=3))
    assert 'or raise train.r1_reg_weight to 10.' in str(strong(r1_reg_weight=0))


def weak(count: int = 40, acc: float = 0.5, loss: Number = GUESS, **train: Any) -> str | None:
    numbers = {'D_acc_real': acc + 0.1, 'D_acc_fake': acc - 0.1, 'D_loss_real': loss, 'D_loss_fake': loss}
    return rules.discriminator_too_weak(course(count, numbers, options_of(**train)))


def test_a_discriminator_is_too_weak_where_it_guesses_after_a_third_of_the_run() -> None:
    assert weak()
    assert weak(count=33) is None
    assert weak(count=34)
    assert weak(acc=0.61) is None
    assert weak(acc=0.59)
    assert weak(loss=0.975 * GUESS) is None
    assert weak(loss=0.985 * GUESS)
    assert weak(loss=1.95 * GUESS)
    assert weak(loss=2.05 * GUESS) is None  # a finding of another rule
    assert weak(loss=after(35, 1.0 * GUESS, 0.97 * GUESS)) is None  # it has just begun to learn
    assert weak(loss=after(36, 1.0 * GUESS, 0.977 * GUESS))


@pytest.mark.parametrize(
    ('rate', 'words'),
    [
        (1e-4, 'Raise train.optim_d.lr from 0.0001 to 0.001, or'),  # at least the generator's
        (5e-4, 'Raise train.optim_d.lr from 0.0005 to 0.002, or'),
        (2e-3, 'Raise train.optim_d.lr from 0.002 to 0.005, or'),  # at most 5e-3
        (5e-3, 'Its rate is very high: lower train.optim_d.lr from 0.005 to 0.001, or'),
    ],
)
def test_for_a_weak_discriminator_a_rate_between_the_generator_s_and_the_highest_is_proposed(
    rate: float, words: str
) -> None:
    found = weak(optim_d={'lr': rate}, optim_g={'lr': 1e-3}, r1_reg_weight=20)
    assert f'{words} lower train.r1_reg_weight to 2.' in str(found)
    assert 'r1_reg_weight' not in str(weak(r1_reg_weight=0))


def test_losses_of_a_discriminator_are_too_high_from_twice_those_of_guessing_on() -> None:
    def rising(loss: Number, count: int = 10) -> str | None:
        return rules.discriminator_losses_rising(course(count, {'D_loss_real': loss, 'D_loss_fake': loss}))

    assert 'lower train.optim_d.lr from 0.002 to 0.0004' in str(rising(2.05 * GUESS))
    assert rising(1.95 * GUESS) is None
    assert rising(3 * GUESS, count=9) is None
    assert rising(after(6, 1.45 * GUESS, 5 * GUESS)) is None  # jumps alone
    assert rising(after(6, 1.55 * GUESS, 5 * GUESS))


@pytest.mark.parametrize(
    ('gan', 'chance'),
    [
        ({}, 2 * math.log(2)),
        ({'gan_type': 'vanilla'}, 2 * math.log(2)),
        ({'gan_type': 'hinge'}, 2),
        ({'gan_type': 'lsgan', 'real_label_val': 3, 'fake_label_val': 1}, 2),  # (2 - 1)^2 and (2 - 3)^2
        ({'gan_type': 'least_squares', 'real_label_val': 0.9}, 2 * 0.45**2),
    ],
)
def test_the_losses_of_guessing_are_those_of_the_loss_and_its_labels(gan: dict[str, Any], chance: float) -> None:
    assert _chance(options_of(gan_opt={'type': 'GANLoss', **gan})) == pytest.approx(chance)
    assert _chance(options_of(gan_opt=None)) is None


# ---- the generator


def collapsed(variety: Number, count: int = 30, **train: Any) -> str | None:
    return rules.collapse(course(count, {'val_variety': variety}, options_of(**train)))


def test_outputs_collapse_below_half_of_the_variety_and_two_fifths_of_the_best() -> None:
    assert collapsed(after(20, 1.0, 0.39))
    assert collapsed(after(20, 1.0, 0.41)) is None
    assert collapsed(after(20, 2.0, 0.49))
    assert collapsed(after(20, 2.0, 0.51)) is None
    assert collapsed(after(6, 1.0, 0.1), count=9) is None  # the first tenth of the run
    assert collapsed(after(6, 1.0, 0.1), count=10)


def test_outputs_have_collapsed_where_the_variety_stays_below_a_fifth() -> None:
    assert collapsed(0.19)
    assert collapsed(0.21) is None
    assert collapsed(0.1, count=26)
    assert collapsed(0.1, count=25) is None
    assert collapsed(after(29, 0.1, 0.15))
    assert collapsed(after(29, 0.1, 0.17)) is None  # it rises: the mean of the last three is 1.23 times that before
    assert collapsed(last(5, 30, 0.1))
    assert collapsed(last(4, 30, 0.1)) is None


def test_against_a_collapse_quarters_of_rate_and_adversarial_weight_are_proposed() -> None:
    gan = {'type': 'GANLoss', 'loss_weight': 0.4}
    assert 'from 0.008 to 0.002, train.gan_opt.loss_weight to 0.1.' in str(collapsed(0.1, gan_opt=gan))
    assert 'train.gan_opt.loss_weight to 0.25.' in str(collapsed(0.1, gan_opt={'type': 'GANLoss'}))
    assert 'loss_weight' not in str(collapsed(0.1, gan_opt=None))
    assert 'it was' not in str(collapsed(0.1))
    assert 'it was 100%' in str(collapsed(after(20, 1.0, 0.39)))


def test_a_loss_rises_where_it_is_30_percent_above_its_lowest_mean_beyond_the_noise() -> None:
    def rising(loss: Number, count: int = 30) -> str | None:
        return rules.generator_losses_rising(course(count, {'G_loss_pixel': loss}))

    assert 'lower train.optim_g.lr from 0.008 to 0.0016' in str(rising(after(20, 1.0, 1.31)))
    assert rising(after(20, 1.0, 1.29)) is None
    assert rising(lambda n: 1.0 if n <= 20 else (1.3, 1.5)[n % 2])
    assert rising(lambda n: 1.0 if n <= 20 else (0.6, 2.2)[n % 2]) is None
    assert rising(lambda n: 3.0 if n <= 2 else 1.0 if n <= 20 else 1.4)  # the lowest counts, not the first
    assert rising(after(2, 1.0, 1.4), count=11)  # with fewer than 20 records, the first two of them
    assert rising(after(2, 1.0, 1.4), count=10) is None


def flat(loss: Number, count: int = 40, psnr: Number = 20.0, pretrained: bool = False, **train: Any) -> str | None:
    options = options_of(**{**CONSTANT_RATE, **train})
    options.path.pretrain_network_g = 'net_g.pth' if pretrained else None
    return rules.loss_flat(course(count, {'G_loss_pixel': loss, 'val_psnr': psnr}, options))


def test_a_loss_is_flat_where_it_falls_by_less_than_2_percent_in_a_quarter_of_the_run() -> None:
    assert flat(1.0, count=25)
    assert flat(1.0, count=24) is None
    # Of the last 25 records, the first 12 are one half.
    assert flat(after(27, 1.0, 0.985))
    assert flat(after(27, 1.0, 0.975)) is None
    assert flat(after(27, 1.0, 1.09))
    assert flat(after(27, 1.0, 1.11)) is None  # a finding of another rule
    assert flat(lambda n: 1.0 + (0.1, -0.1)[n % 2]) is None  # so noisy that nobody can tell
    assert flat(1.0, psnr=after(30, 20.0, 20.04))
    assert flat(1.0, psnr=after(30, 20.0, 20.06)) is None
    assert flat(1.0, psnr=after(10, 20.0, 20.06))  # that was before


def test_a_flat_loss_that_never_fell_has_a_wrong_rate_and_one_that_did_may_fall_with_a_lower_one() -> None:
    for level, words in ((0.81, 'hardly moved'), (0.79, 'has been flat'), (1.19, 'hardly moved'), (1.21, 'been flat')):
        assert words in str(flat(after(1, 1.0, level))), level
    assert 'train.optim_g.lr at 0.032 and at 0.002 instead of 0.008' in str(flat(1.0))
    fallen = after(1, 1.0, 0.5)
    assert 'flat at 0.5 for 1200 iterations' in str(flat(fallen))
    assert 'T_max: 5000}, or try train.optim_g.lr at 0.016' in str(flat(fallen))
    assert 'T_max: 50}' in str(flat(fallen, total_iter=None, total_epochs=50))
    assert 'has been flat' in str(flat(1.0, pretrained=True))
    assert flat(fallen, count=74)
    assert flat(fallen, count=75) is None
    assert flat(fallen, scheduler={'type': 'MultiStepLR', 'milestones': [TOTAL - 1], 'gamma': 0.51})
    assert flat(fallen, scheduler={'type': 'MultiStepLR', 'milestones': [TOTAL - 1], 'gamma': 0.49}) is None


def test_in_a_short_run_a_loss_is_flat_and_gradients_are_clipped_after_20_records() -> None:
    options = options_of(**CONSTANT_RATE)
    for rule, name in ((rules.loss_flat, 'G_loss_pixel'), (rules.gradients_always_clipped, 'grad_norm_g')):
        assert rule(course(19, {name: 2.0}, options, total=30 * EVERY)) is None
        assert rule(course(20, {name: 2.0}, options, total=30 * EVERY))


# ---- optimization


def clipped(norm: Number, count: int = 50, network: str = 'g', **train: Any) -> str | None:
    return rules.gradients_always_clipped(course(count, {f'grad_norm_{network}': norm}, options_of(**train)))


def test_gradients_are_always_clipped_where_95_percent_are_for_half_of_the_run() -> None:
    assert 'set train.grad_norm_clip to 6.' in str(clipped(2.0))
    assert clipped(2.0, count=49) is None
    assert clipped(1.0) is None  # not above the clip
    assert clipped(after(2, 0.5, 2.0))  # 48 of 50
    assert clipped(after(3, 0.5, 2.0)) is None
    assert clipped(2.0, use_grad_norm=False) is None


def test_the_discriminator_s_gradients_count_with_and_without_lazy_r1() -> None:
    assert clipped(2.0, network='d', r1_reg_weight=0)
    for every in (1, 2, 16):
        assert clipped(2.0, network='d', net_d_reg_every=every)


def below_eps(share: Number, count: int = 10, **train: Any) -> str | None:
    return rules.gradients_below_eps(course(count, {'grad_below_eps_d': share}, options_of(**train)))


def test_gradients_are_below_eps_where_30_percent_are_over_ten_records() -> None:
    assert 'Set train.optim_d.eps to 1e-15.' in str(below_eps(0.31))
    assert 'which train.grad_norm_clip makes small' in str(below_eps(0.31))
    assert 'clip' not in str(below_eps(0.31, use_grad_norm=False))
    assert below_eps(0.29) is None
    assert below_eps(0.31, count=9) is None
    assert below_eps(0.31, optim_d={'type': 'Adam', 'eps': 1e-15}) is None
    assert 'eps of 0.001' in str(below_eps(0.31, optim_d={'type': 'Adam', 'eps': 1e-3}))


def smooths(sharpness: Number, psnr: Number, count: int = 20, **train: Any) -> str | None:
    return rules.smoothing(course(count, {'val_sharpness': sharpness, 'val_psnr': psnr}, options_of(**train)))


def test_a_generator_becomes_smooth_where_sharpness_falls_by_a_fifth_and_psnr_rises() -> None:
    rising = lambda n: 20 + 0.1 * n  # noqa: E731
    assert 'net_g_best.pth follows PSNR' in str(smooths(lambda n: 0.6 if n < 17 else 0.47, rising))
    assert smooths(lambda n: 0.6 if n < 17 else 0.49, rising) is None
    assert smooths(lambda n: 0.6 - 0.02 * n, 20.0) is None  # PSNR does not rise
    assert smooths(lambda n: 2.0 - 0.05 * n, rising) is None  # as sharp as the GT still
    assert smooths(lambda n: 3.0 if n < 5 else 0.4, rising, count=13) is None  # the noise of the first tenth
    other = {'early_stopping': {'metric': 'ssim'}}
    assert 'net_g_best' not in str(smooths(lambda n: 0.6 - 0.02 * n, rising, **other))


def behind(gain: Number, count: int = 20, **train: Any) -> str | None:
    return rules.ema_behind(course(count, {'val_ema_gain': gain}, options_of(**train)))


def test_the_ema_is_behind_where_it_loses_three_quarters_of_a_decibel_four_times_in_a_row() -> None:
    assert behind(-0.75)
    assert behind(-0.74) is None
    assert behind(lambda n: -0.5 if n == 17 else -2.0) is None
    assert behind(lambda n: -0.5 if n == 16 else -2.0)
    assert behind(-2.0, count=9) is None
    assert behind(-2.0, count=10)
    assert behind(last(5, 20, -2.0)) is None
    assert behind(last(6, 20, -2.0))


@pytest.mark.parametrize(
    ('decay', 'words'),
    [
        (0.9978, '0.9978 to 0.9913 (a half-life of 79 iterations)'),  # ln 0.5 / ln 0.9978 = 315
        (0.99999, '0.99999 to 0.9972 (a half-life of 250 iterations)'),  # a twentieth of the run
        (0.5, '0.5 to 0.5 (a half-life of 1 iterations)'),
        (0.0, '0 to 0.5 (a half-life of 1 iterations)'),
    ],
)
def test_for_an_ema_behind_a_quarter_of_its_half_life_is_proposed(decay: float, words: str) -> None:
    found = str(behind(-2.0, ema_decay=decay))
    assert words in found
    assert 'restores 2 dB worse' in found
    assert 'total_iter: 2500.' in found


def overfits(
    psnr: float = 24.0, pixel: float = 0.5, count: int = 13, pixels: Number | None = None, **train: Any
) -> str | None:
    """Validation was best in records 8 to 10, so around record 9, and the loss was 1 in the three up to there."""
    numbers: dict[str, Number] = {
        'val_psnr': lambda n: 23.0 if n < 8 else 25.0 if n <= 10 else psnr,
        'G_loss_pixel': pixels or (lambda n: 5.0 if n < 7 else 1.0 if n <= 9 else pixel),
    }
    return rules.overfitting(course(count, numbers, options_of(**train)))


def test_a_run_overfits_where_validation_lost_0_3_db_while_the_loss_fell_by_3_percent() -> None:
    assert 'since iteration 450, G_loss_pixel has fallen from 1 to 0.5, and val/psnr from 25.00 to 24.00' in str(
        overfits()
    )
    assert overfits(count=12) is None  # the means of three validations do not lie apart yet
    assert overfits(psnr=24.69)
    assert overfits(psnr=24.71) is None
    assert overfits(pixel=0.96)
    assert overfits(pixel=0.98) is None
    assert overfits(pixels=last(5, 13, 0.5)) is None


def test_a_run_that_overfits_is_told_of_early_stopping_unless_it_has_it() -> None:
    assert 'early_stopping.enabled' in str(overfits(early_stopping={'enabled': False}))
    assert 'early_stopping.enabled' not in str(overfits(early_stopping={'enabled': True}))


def spent(factor: float, count: int = 60, turn: int = 40, comes_back: bool = False, **train: Any) -> str | None:
    """The rate falls to ``factor`` of its peak after the record ``turn``."""
    options = options_of(**train)

    def rate_at(iteration: int) -> dict[str, float]:
        return {'g': factor if turn * EVERY < iteration < TOTAL or not comes_back else 1.0}

    history = course(count, {'lr_g': after(turn, 1.0, factor)}, options)
    history.rate_at = rate_at
    return rules.learning_rate_spent(history)


def test_a_rate_is_spent_below_a_hundredth_of_its_peak_with_a_quarter_of_the_run_left() -> None:
    assert 'lr_g is 0.009, 0.9% of its peak, with 40% of the run left' in str(spent(0.009))
    assert spent(0.011) is None
    assert spent(0.01) is None
    assert spent(0.009, comes_back=True) is None
    assert spent(0.009, count=2, turn=1)
    assert spent(0.009, count=75)
    assert spent(0.009, count=76) is None
    assert '(5000 iterations)' in str(spent(0.009))
    assert '(50 epochs)' in str(spent(0.009, total_iter=None, total_epochs=50))


# ---- the numbers that rules look at


@pytest.mark.parametrize(
    ('total', 'expected', 'window'), [(5000, 100, 10), (20000, 400, 20), (10000, 200, 10), (20, 1, 10)]
)
def test_a_window_is_a_twentieth_of_the_records_but_at_least_ten(total: int, expected: int, window: int) -> None:
    history = History(options_of(), total, rates_of(options_of()))
    assert (history.expected_records, history.window) == (expected, window)


def test_a_curve_gives_its_last_values_their_mean_and_moving_means() -> None:
    curve = Curve()
    for n in range(1, 6):
        curve.add(n * EVERY, n * n)
    assert curve.values.tolist() == [1, 4, 9, 16, 25]
    assert curve.last(2).tolist() == [16, 25]
    assert curve.last(9).tolist() == curve.values.tolist()
    assert curve.mean(2) == 20.5
    assert curve.means(3) == pytest.approx([14 / 3, 29 / 3, 50 / 3])
    assert curve.means(5).tolist() == [11]
    assert curve.means(6).tolist() == []


def test_time_and_place_of_a_record_and_what_is_no_training_or_validation_are_no_numbers_to_judge() -> None:
    history = History(options_of(), TOTAL, rates_of(options_of()))
    history.add({'iter': 50, 'epoch': 1, 'phase': 'train', 'seconds_per_iter': 0.5, 'lr_g': 1.0, 'text': 'none'})
    history.add({'iter': 100, 'epoch': 1, 'phase': 'event', 'lr_g': 2.0})
    history.add({'iter': 75, 'epoch': 1, 'phase': 'val', 'val/psnr': 20.0})
    assert (history.iteration, history.train_records, history.done) == (75, 1, 0.015)
    assert history.curve('lr_g').values.tolist() == [1]
    assert [len(history.curve(name)) for name in ('iter', 'epoch', 'seconds_per_iter', 'text', 'phase')] == [0] * 5
