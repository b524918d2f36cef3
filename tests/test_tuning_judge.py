"""What curves say about a learning rate, and which rates are tried next: on synthetic curves."""

import math
from collections.abc import Sequence

import pytest

from gpen.tuning.curves import to_curves
from gpen.tuning.judge import Judgement, compare, fall_of, find_too_high, judge, rank, slope_of, smooth
from gpen.tuning.plan import Trial, is_at_edge, next_trials
from gpen.tuning.rates import format_rate

RATES = 1e-3, 5e-4, 1e-4, 5e-5


def records(
    generator: Sequence[float | None],
    discriminator: Sequence[float] | None = None,
    psnr: Sequence[float] = (),
    every=10,
) -> list[dict]:
    """The lines of metrics.jsonl of a run with these losses."""
    d = discriminator or [1.386] * len(generator)
    lines = [
        {
            'iter': every * n,
            'phase': 'train',
            'G_loss_pixel': g,
            'G_loss_adv': 0.7 + 0.1 * n,
            'D_loss_real': half / 2,
            'D_loss_fake': half / 2,
            'lr_g': 1e-3,
        }
        for n, (g, half) in enumerate(zip(generator, d, strict=True), 1)
    ]
    return lines + [{'iter': 100 * n, 'phase': 'val', 'val/psnr': value} for n, value in enumerate(psnr, 1)]


def judge_losses(*args, **kwargs) -> Judgement:
    return judge(to_curves(records(*args, **kwargs), 'psnr'))


def falling(count: int = 40, speed: float = 0.05, start: float = 0.5) -> list[float]:
    return [start * math.exp(-speed * n) * (1 + 0.1 * (-1) ** n) for n in range(count)]


def test_a_loss_that_falls_is_good_and_the_words_say_how_far() -> None:
    judgement = judge_losses(falling(), psnr=[20.0, 21.5])
    assert judgement.verdict == 'good'
    assert judgement.psnr == 21.5
    assert 0.1 < judgement.ratio < 0.25
    assert f'at {judgement.ratio:.0%} of its start' in judgement.sentence
    assert 'falling by' in judgement.sentence
    assert '21.50 dB' in judgement.sentence


def test_losses_against_discriminators_are_not_among_the_losses_that_should_fall() -> None:
    lines = records(falling())
    for line in lines:
        line |= {f'G_loss_component_{name}': 5.0 for name in ('left_eye', 'right_eye', 'mouth', 'style')}
    curves = to_curves(lines)
    assert not curves.is_adversarial
    assert curves.generator == to_curves(records(falling())).generator


def test_a_loss_that_hardly_falls_could_be_higher() -> None:
    judgement = judge_losses([0.5 * math.exp(-0.002 * n) for n in range(40)])
    assert judgement.verdict == 'could be higher'
    assert 'falls slowly' in judgement.reason


@pytest.mark.parametrize('size', [1.0, 1e-3, 1e4])
def test_a_generator_loss_that_rises_fast_is_too_high_whatever_its_size(size: float) -> None:
    losses = [size * loss for loss in [*falling(15), 0.5, 0.7, 0.9, 1.2, 2.0, 3.5]]
    reason = find_too_high(to_curves(records(losses)))
    assert reason is not None
    assert 'G loss rises fast' in reason
    assert 'iteration 190' in reason  # the third record above twice the lowest, 0.28


def test_a_single_jump_is_forgiven() -> None:
    losses = falling(30)
    losses[20] *= 8
    assert find_too_high(to_curves(records(losses))) is None


def test_a_discriminator_loss_of_many_times_its_start_is_too_high_and_a_stronger_one_is_not() -> None:
    wild = [1.4] * 10 + [4.0, 9.0, 8.0, 12.0]
    reason = find_too_high(to_curves(records([0.5] * 14, wild)))
    assert reason is not None
    assert reason.startswith('D loss rises fast')
    strong_then_caught_up = [1.4, 1.0, 0.5, 0.2, 0.2, 0.3, 0.8, 1.2, 1.3, 1.4]
    assert find_too_high(to_curves(records([0.5] * 10, strong_then_caught_up))) is None


def test_the_adversarial_loss_may_rise_while_the_others_fall() -> None:
    assert to_curves(records(falling(60))).is_adversarial is False
    assert judge_losses(falling(60)).verdict == 'good'  # G_loss_adv rises from 0.8 to 6.7


def test_a_generator_with_adversarial_losses_alone_is_judged_by_them_with_patience() -> None:
    lines = [{k: v for k, v in line.items() if k != 'G_loss_pixel'} for line in records([0.0] * 20)]
    curves = to_curves(lines)
    assert curves.is_adversarial
    assert judge(curves).verdict == 'good'  # 0.8 to 2.7: a discriminator that learns
    for number, line in enumerate(lines[-4:]):
        line['G_loss_adv'] = 10.0 + number
    assert judge(to_curves(lines)).verdict == 'too high'


def test_a_loss_that_is_missing_or_null_after_it_was_there_was_not_finite() -> None:
    for change in ({'G_loss_pixel': None}, {'D_loss_fake': None}):
        lines = records(falling(12))
        lines[8] |= change
        assert 'not finite up to iteration 90' in (find_too_high(to_curves(lines)) or '')
    lines = records(falling(12))
    del lines[8]['G_loss_pixel']
    assert judge(to_curves(lines)).verdict == 'too high'


def test_a_generator_that_does_not_learn_yet_is_no_error() -> None:
    lines = records(falling(12))
    for line in lines[:4]:
        del line['G_loss_pixel'], line['G_loss_adv']
    curves = to_curves(lines)
    assert find_too_high(curves) is None
    assert curves.generator.x[0] == 50


def test_skipped_steps_are_too_high() -> None:
    skips = [{'iter': n, 'phase': 'event', 'name': 'skipped_step'} for n in (12, 13, 25)]
    judgement = judge(to_curves([*records(falling()), *skips, {'iter': 30, 'phase': 'event', 'name': 'resume'}]))
    assert judgement.verdict == 'too high'
    assert '3 steps were skipped' in judgement.reason


def test_a_loss_that_only_stays_above_its_start_is_too_high_at_the_end() -> None:
    assert judge_losses([0.5, 0.5] + [0.75] * 20).verdict == 'too high'


def test_a_trial_without_records_says_so() -> None:
    judgement = judge(to_curves([]))
    assert judgement.verdict == 'could be higher'
    assert math.isnan(judgement.ratio)


def test_a_discriminator_that_only_guesses_is_noted_and_changes_no_verdict() -> None:
    lines = records(falling())
    for number, line in enumerate(lines):
        line |= {'D_acc_real': 0.5 + 0.1 * (-1) ** number, 'D_acc_fake': 0.54}
    judgement = judge(to_curves(lines))
    assert judgement.verdict == 'good'
    assert '52% of the images rightly' in judgement.note
    for line in lines:
        line['D_acc_real'] = 0.9
    assert judge(to_curves(lines)).note == ''


def test_smoothing_slope_and_fall_are_those_of_an_exponential() -> None:
    curves = to_curves(records([math.exp(-0.01 * n) for n in range(200)], every=10))
    assert slope_of(curves.generator) == pytest.approx(-0.1, rel=1e-3)  # -0.01 in 10 iterations
    assert fall_of(curves.generator) == pytest.approx(math.exp(-0.01 * 199), rel=0.03)
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([1.0, 4.0])[1] == pytest.approx(math.exp(math.log(4) / 1.7))


def judged(psnr: float | None, verdict: str = 'good', slope: float = -0.1, ratio: float = 0.3) -> Judgement:
    return Judgement(verdict, 'Because.', ratio, slope, psnr)


def test_ranking_is_by_psnr_then_by_slope_and_leaves_out_what_is_too_high() -> None:
    low, middle, high, steep, slow = (Trial(rate, 4.0) for rate in (1e-5, 1e-4, 1e-3, 2e-4, 1e-6))
    judgements = {
        low: judged(20.0),
        high: judged(25.0, 'too high'),
        slow: judged(24.0, 'could be higher'),
        middle: judged(21.0),
        steep: judged(21.01, slope=-0.5),
    }
    assert rank(judgements) == [steep, middle, low, slow]


def test_a_rate_that_learns_slower_than_a_lower_one_is_too_high() -> None:
    low, high, other = Trial(1e-4, 4.0), Trial(1e-1, 4.0), Trial(1e-1, 2.0)
    slow = judged(12.0, 'could be higher', ratio=0.97)
    judgements = compare({low: judged(20.0), high: slow, other: slow})
    assert judgements[high].verdict == 'too high'
    assert 'falls further at a lower rate' in judgements[high].reason
    assert judgements[other].verdict == 'could be higher'  # there is none to compare it with


def test_a_rate_whose_loss_falls_much_further_at_a_higher_one_could_be_higher() -> None:
    low, middle, high, wild = (Trial(rate, 4.0) for rate in (1e-5, 1e-3, 1e-2, 1e-1))
    judgements = compare(
        {
            low: judged(12.0, ratio=0.7),
            middle: judged(22.0, ratio=0.18),
            high: judged(23.0, ratio=0.15),
            wild: judged(None, 'too high', ratio=0.01),
        }
    )
    assert judgements[low].verdict == 'could be higher'
    assert 'such as 1e-2' in judgements[low].reason
    assert judgements[middle].verdict == judgements[high].verdict == 'good'


def search(peak: float, limit: float = math.inf, width: int = 1, ratios=(4.0,)) -> tuple[list[list[str]], dict]:
    """Search where the PSNR is best at ``peak``, rates from ``limit`` on are too high; return rounds and results."""
    found: dict[Trial, Judgement] = {}
    rounds: list[list[str]] = []
    while trials := next_trials(RATES, ratios, found, width):
        assert not set(trials) & set(found)
        for trial in trials:
            psnr = 25 - 3 * abs(math.log(trial.rate / peak)) - abs(math.log(trial.ratio / 2))
            found[trial] = judged(psnr, 'too high' if trial.rate >= limit else 'good')
        rounds.append([format_rate(trial.rate) for trial in trials])
    return rounds, found


def test_the_search_goes_from_coarse_to_fine_between_the_neighbours() -> None:
    rounds, found = search(peak=7e-4)
    assert rounds[0] == ['1e-3', '5e-4', '1e-4', '5e-5']
    assert rounds[1:] == [['6e-4', '4.17e-4'], ['7.2e-4', '3.47e-4'], ['8.64e-4']]
    assert rank(found)[0].rate == 7.2e-4
    assert is_at_edge(found) is None


def test_a_best_at_the_edge_extends_the_search_once() -> None:
    rounds, found = search(peak=1e-2)
    assert rounds[1] == ['2e-3']
    assert max(trial.rate for trial in found) == 3.46e-3  # below a further step outwards
    assert is_at_edge(found) == 'higher'
    rounds, found = search(peak=1e-6)
    assert rounds[1] == ['2.5e-5']
    assert is_at_edge(found) == 'lower'


def test_rates_that_are_too_high_end_the_way_up() -> None:
    rounds, found = search(peak=1.0, limit=7e-4)
    assert ['7.2e-4', '3.47e-4'] in rounds
    assert Trial(8.64e-4, 4.0) not in found
    assert rank(found)[0].rate == 6e-4


def test_where_all_rates_are_too_high_one_below_is_tried_and_then_it_ends() -> None:
    rounds, found = search(peak=1.0, limit=1e-9)
    assert rounds == [['1e-3', '5e-4', '1e-4', '5e-5'], ['2.5e-5']]
    assert rank(found) == []
    assert is_at_edge(found) == 'lower'


def test_several_ratios_are_tried_with_every_rate_and_the_best_is_refined() -> None:
    _, found = search(peak=5e-4, ratios=(2.0, 4.0))
    assert {(trial.rate, trial.ratio) for trial in found} >= {(rate, ratio) for rate in RATES for ratio in (2.0, 4.0)}
    assert all(trial.ratio == 2.0 for trial in found if trial.rate not in RATES)


def test_more_devices_ask_for_more_steps_at_a_time() -> None:
    rounds, _ = search(peak=7e-4, width=2)
    assert rounds[1] == ['6e-4', '7.2e-4', '4.17e-4', '3.47e-4']


def test_rates_and_names_are_as_people_write_them() -> None:
    assert [format_rate(rate) for rate in (1e-3, 1.44e-4, 0.5, 20.0)] == ['1e-3', '1.44e-4', '5e-1', '2e1']
    assert Trial(5e-4, 4.0).name == 'g5e-4_d2e-3'
    assert Trial(5e-4, None).label == 'G 5e-4'
