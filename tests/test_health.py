"""Health of a training: sick runs are told what to change, healthy ones are left in peace."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gpen.health.measures import EmaGain, Variety
from gpen.health.rules import RULES, Rule
from gpen.health.watch import CALM_CHECKS, Finding, Health
from gpen.options import Options
from health_options import EVERY, TOTAL, options_of, rates_of

Shape = Callable[[float], float]
"""A number by the share of the run that is done, 0 to 1."""
CHANCE = math.log(2)

HEALTHY: dict[str, Shape] = {
    'D_loss_real': lambda t: 0.69 - 0.3 * (1 - math.exp(-t / 0.05)),
    'D_loss_fake': lambda t: 0.69 - 0.28 * (1 - math.exp(-t / 0.05)),
    'D_acc_real': lambda t: 0.5 + 0.37 * (1 - math.exp(-t / 0.03)),
    'D_acc_fake': lambda t: 0.5 + 0.34 * (1 - math.exp(-t / 0.03)),
    'grad_norm_d': lambda t: 0.5 + 0.2 * t,
    'grad_below_eps_g': lambda _: 0.05,
    'grad_below_eps_d': lambda _: 0.05,
    'G_loss_pixel': lambda t: 0.075 + 0.03 * math.exp(-t / 0.4) + 0.25 * math.exp(-t / 0.02),
    'G_loss_adv': lambda t: 0.0035 + 0.004 * (1 - math.exp(-t / 0.05)),
    'grad_norm_g': lambda t: 0.7 - 0.6 * t,
    'val/psnr': lambda t: 25 - 1.5 * math.exp(-t / 0.3) - 8 * math.exp(-t / 0.02),
    'val/variety': lambda t: 0.97 - 0.8 * math.exp(-t / 0.02),
    'val/sharpness': lambda t: 0.7 - 0.5 * math.exp(-t / 0.1),
    'val/ema_gain': lambda t: 0.1 - 0.4 * math.exp(-t / 0.02),
}
NOISE = {'val/psnr': 0.002, 'val/variety': 0.01, 'val/ema_gain': 0.3, 'D_acc_real': 0.05, 'D_acc_fake': 0.05}


def records_of(options: Options, seed: int = 0, **changes: Shape) -> Iterator[dict[str, Any]]:
    """Records of a healthy run, noise and all, but for ``changes``; ``val_psnr`` is ``val/psnr``."""
    shapes = HEALTHY | {name.replace('val_', 'val/'): shape for name, shape in changes.items()}
    random = np.random.default_rng(seed)

    def values(names: list[str], iteration: int) -> dict[str, float]:
        exact = {name: shapes[name](iteration / TOTAL) for name in names}
        noisy = {name: value * (1 + NOISE.get(name, 0.04) * random.standard_normal()) for name, value in exact.items()}
        return {name: min(value, 1.0) if 'acc' in name else value for name, value in noisy.items()}

    for iteration in range(EVERY, TOTAL + 1, EVERY):
        about = {'iter': iteration, 'epoch': (iteration - 1) // 100 + 1}
        rates = {f'lr_{name}': rate for name, rate in rates_of(options)(iteration).items()}
        yield {**about, 'phase': 'train', **values([n for n in shapes if '/' not in n], iteration), **rates}
        if iteration % 100 == 0:
            yield {**about, 'phase': 'val', **values([n for n in shapes if '/' in n], iteration)}


def findings_of(options: Options, records: Iterator[dict[str, Any]]) -> list[tuple[int, Finding]]:
    health = Health(options, TOTAL, rates_of(options))
    return [(record['iter'], finding) for record in records for finding in health.add(record)]


# ---- rules


@pytest.mark.parametrize('seed', range(12))
def test_a_healthy_run_hears_nothing(seed: int) -> None:
    options = options_of()
    assert findings_of(options, records_of(options, seed)) == []


def test_a_healthy_run_without_a_discriminator_hears_nothing() -> None:
    options = options_of(gan_opt=None)
    names = {'lr_g', 'G_loss_pixel', 'grad_norm_g', 'iter', 'epoch', 'phase'}
    records = (
        {name: value for name, value in record.items() if name in names or 'val/' in name}
        for record in records_of(options)
    )
    assert findings_of(options, records) == []


def test_a_healthy_fine_tuning_that_starts_low_hears_nothing() -> None:
    options = options_of()
    options.path.pretrain_network_g = 'weights/net_g.pth'
    changes = {'G_loss_pixel': lambda t: 0.08 - 0.004 * t, 'val_psnr': lambda t: 25 + 0.3 * t}
    assert findings_of(options, records_of(options, **changes)) == []


CONSTANT_RATE = {'scheduler': None}
SICK: dict[str, tuple[str, str, dict[str, Any], dict[str, Shape]]] = {
    'a discriminator that wins': (
        *('discriminator_too_strong', 'Lower train.optim_d.lr to 0.0005'),
        {},
        {
            'D_acc_real': lambda t: min(1.0, 0.6 + 3 * t),
            'D_acc_fake': lambda t: min(1.0, 0.5 + 3 * t),
            'G_loss_adv': lambda t: 0.0035 + 0.03 * t,
        },
    ),
    'a discriminator that stands still': (
        *('discriminator_too_weak', 'Raise train.optim_d.lr from 1e-09 to 0.005'),
        {'optim_d': {'lr': 1e-9}},
        {
            'D_loss_real': lambda _: CHANCE,
            'D_loss_fake': lambda _: CHANCE,
            'D_acc_real': lambda _: 0.7,
            'D_acc_fake': lambda _: 0.35,
        },
    ),
    'a discriminator that is fooled': (
        *('discriminator_too_weak', 'Raise train.optim_d.lr from 0.002 to 0.005'),
        {},
        {
            'D_loss_real': lambda t: CHANCE + 0.3 * t,
            'D_loss_fake': lambda t: CHANCE + 0.3 * t,
            'D_acc_real': lambda t: 0.5 - 0.2 * t,
            'D_acc_fake': lambda t: 0.5 - 0.3 * t,
        },
    ),
    'a discriminator that diverges': (
        *('discriminator_losses_rising', 'lower train.optim_d.lr from 0.002 to 0.0004'),
        {},
        {'D_loss_real': lambda t: 0.69 + 12 * t, 'D_loss_fake': lambda t: 0.69 + 9 * t},
    ),
    'outputs that become alike': (
        *('collapse', 'train.optim_g.lr from 0.008 to 0.002, train.gan_opt.loss_weight to 0.0013'),
        {},
        {'val_variety': lambda t: 0.95 - 0.9 * min(1.0, 2 * t)},
    ),
    'outputs that are alike from the start': (
        *('collapse', 'Look whether the folders of datasets.train hold many different faces'),
        {},
        {'val_variety': lambda _: 0.06},
    ),
    'a loss that rises': (
        *('generator_losses_rising', 'lower train.optim_g.lr from 0.008 to 0.0016'),
        {},
        {'G_loss_pixel': lambda t: 0.1 + 0.3 * (t - 0.3) ** 2 * 4 + 0.2 * math.exp(-t / 0.02)},
    ),
    'a loss that jumps at once and stays': (
        *('generator_losses_rising', 'The learning rate is too high'),
        {},
        {'G_loss_pixel': lambda t: 0.35 if t < 0.02 else 0.9},
    ),
    'a loss that stays where it began': (
        *('loss_flat', 'try train.optim_g.lr at 0.032 and at 0.002 instead of 0.008'),
        {},
        {'G_loss_pixel': lambda _: 0.35, 'val_psnr': lambda _: 12.0},
    ),
    'a loss that is flat at a constant rate': (
        *('loss_flat', '{type: CosineAnnealingLR, T_max: 5000}'),
        CONSTANT_RATE,
        {
            'G_loss_pixel': lambda t: 0.1 + 0.3 * math.exp(-t / 0.02),
            'val_psnr': lambda t: 23 - 8 * math.exp(-t / 0.02),
        },
    ),
    'gradients above the clip': (
        *('gradients_always_clipped', 'set train.grad_norm_clip to 2.1'),
        {'grad_norm_clip': 0.01},
        {'grad_norm_g': lambda _: 0.7},
    ),
    'gradients that Adam hardly sees': (
        *('gradients_below_eps', "of the gradients of the generator are below the optimizer's eps of 1e-08"),
        {'use_grad_norm': False},
        {'grad_below_eps_g': lambda _: 0.5},
    ),
    'gradients that the clip makes small': (
        *('gradients_below_eps', 'discriminator, which train.grad_norm_clip makes small, are below'),
        {},
        {'grad_below_eps_d': lambda _: 0.5},
    ),
    'a generator that becomes smooth': (
        *('smoothing', 'while sharpness falls'),
        {},
        {'val_sharpness': lambda t: 0.7 * math.exp(-t / 0.3), 'val_psnr': lambda t: 22 + 3 * t},
    ),
    'an average that lags': (
        *('ema_behind', 'Lower train.ema_decay from 0.99999 to 0.9972 (a half-life of 250 iterations)'),
        {'ema_decay': 0.99999},
        {'val_ema_gain': lambda _: -4.0},
    ),
    'overfitting': (
        *('overfitting', 'Use more images in datasets.train'),
        {},
        {'val_psnr': lambda t: 24 - 6 * math.exp(-t / 0.05) - 4 * max(0.0, t - 0.3)},
    ),
    'a schedule that ends too soon': (
        *('learning_rate_spent', 'Stretch train.scheduler over the whole run (5000 iterations)'),
        {'scheduler': {'type': 'MultiStepLR', 'milestones': [1000, 1500, 2000], 'gamma': 0.1}},
        {},
    ),
}


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize(('name', 'advice', 'train', 'changes'), SICK.values(), ids=SICK.keys())
def test_a_sick_run_is_told_what_to_change(
    name: str, advice: str, train: dict[str, Any], changes: dict[str, Shape], seed: int
) -> None:
    options = options_of(**train)
    found = findings_of(options, records_of(options, seed, **changes))
    assert {finding.name for _, finding in found} == {name}
    iteration, first = found[0]
    assert advice in first.sentence
    assert iteration < 0.9 * TOTAL
    assert len(found) <= 4


def test_each_rule_has_a_sick_run_and_a_severity() -> None:
    assert {rule.name for rule in RULES} == {name for name, *_ in SICK.values()}
    assert {rule.severity for rule in RULES} == {'warning', 'note'}


def test_a_discriminator_that_begins_to_learn_late_hears_nothing() -> None:
    def learnt(t: float) -> float:
        return 1 - math.exp(-max(0.0, t - 0.2) / 0.05)

    changes = {name: lambda t: CHANCE - 0.3 * learnt(t) for name in ('D_loss_real', 'D_loss_fake')}
    changes |= {name: lambda t: 0.5 + 0.3 * learnt(t) for name in ('D_acc_real', 'D_acc_fake')}
    options = options_of()
    assert findings_of(options, records_of(options, **changes)) == []


def test_hinge_and_least_squares_have_losses_of_their_own_when_guessing() -> None:
    for gan_type, guess in (('hinge', 1.0), ('lsgan', 0.25)):
        gan = {'type': 'GANLoss', 'loss_weight': 0.005, 'gan_type': gan_type}
        options = options_of(gan_opt=gan)
        changes = {name: lambda _, guess=guess: guess for name in ('D_loss_real', 'D_loss_fake')}
        changes |= {name: lambda _: 0.5 for name in ('D_acc_real', 'D_acc_fake')}
        (_, first), *_ = findings_of(options, records_of(options, **changes))
        assert first.name == 'discriminator_too_weak'
        assert f'guessing gives {2 * guess:.3g}' in first.sentence


def test_an_average_that_lags_a_little_while_the_generator_improves_hears_nothing() -> None:
    options = options_of()
    assert findings_of(options, records_of(options, val_ema_gain=lambda t: -0.5 * (1 - t))) == []


def test_restarts_to_come_are_no_spent_rate() -> None:
    restarts = {'type': 'CosineAnnealingRestartLR', 'periods': [1000, 4000], 'eta_min': 1e-9}
    options = options_of(scheduler=restarts)
    assert findings_of(options, records_of(options)) == []


def test_a_discriminator_that_is_always_clipped_is_a_finding_with_lazy_r1_too() -> None:
    for every in (16, 1):
        options = options_of(net_d_reg_every=every)
        found = findings_of(options, records_of(options, grad_norm_d=lambda _: 30.0))
        assert {finding.name for _, finding in found} == {'gradients_always_clipped'}


def test_numbers_that_are_missing_or_null_are_passed_over() -> None:
    options = options_of()
    health = Health(options, TOTAL, rates_of(options))
    for iteration in range(EVERY, TOTAL + 1, EVERY):
        holes = {'G_loss_pixel': None, 'G_loss_adv': math.nan, 'D_loss_real': math.inf}
        assert health.add({'iter': iteration, 'epoch': 1, 'phase': 'train', **holes}) == []
        assert health.add({'iter': iteration, 'epoch': 1, 'phase': 'val', 'val/psnr': None}) == []


# ---- when it speaks


def spoken(holds: Callable[[int], bool], total: int = 100, print_freq: int = 1) -> list[int]:
    """The iterations in which a rule is heard that holds in those where ``holds`` says so."""
    options = options_of()
    options.logger.print_freq = print_freq
    rule = Rule('rule', 'note', lambda history: 'Change it.' if holds(history.iteration) else None)
    health = Health(options, total, rates_of(options), rules=[rule])
    records = ({'iter': n, 'epoch': 1, 'phase': 'train'} for n in range(1, total + 1))
    return [record['iter'] for record in records if health.add(record)]


def test_a_finding_is_said_once_and_again_after_it_had_gone() -> None:
    assert spoken(lambda n: 10 <= n < 30) == [10]
    assert spoken(lambda n: 10 <= n < 20 or n == 40) == [10, 40]


def test_a_finding_that_comes_and_goes_from_check_to_check_is_said_once() -> None:
    assert spoken(lambda n: n < 25 and n % CALM_CHECKS == 0) == [CALM_CHECKS]


def test_a_finding_that_stays_is_said_again_after_a_quarter_of_the_run() -> None:
    assert spoken(lambda n: n >= 10) == [10, 35, 60, 85]


def test_with_very_many_records_only_some_are_checked() -> None:
    asked = []
    spoken(lambda n: bool(asked.append(n)), total=4000)
    assert asked == list(range(10, 4001, 10))


@pytest.mark.parametrize('cut', [700, 2050, 3000, 4100])
def test_a_continued_run_hears_what_an_unbroken_one_does(cut: int) -> None:
    options = options_of()
    sick = SICK['overfitting'][3] | SICK['a discriminator that wins'][3]
    sick['val_ema_gain'] = lambda t: -4.0 * (t < 0.5)
    records = [json.loads(json.dumps(record)) for record in records_of(options, **sick)]
    said: dict[int, list[Finding]] = {}
    health = Health(options, TOTAL, rates_of(options))
    for record in records:
        said.setdefault(record['iter'], []).extend(health.add(record))
    before = [record for record in records if record['iter'] <= cut]
    spoken_before = {'iter': cut, 'epoch': 1, 'phase': 'health', 'name': 'overfitting', 'sentence': 'Use more.'}
    again = Health(options, TOTAL, rates_of(options), [*before, spoken_before])
    for record in records[len(before) :]:
        assert again.add(record) == (said[record['iter']] if record['phase'] == 'train' else [])
    assert sum(map(len, said.values())) >= 3


# ---- what a validation measures


def variety_of(restored: torch.Tensor, sharp: torch.Tensor, batch: int = 2) -> float:
    metric = Variety()
    metric.start()
    for start in range(0, len(sharp), batch):
        metric.update(restored[start : start + batch], sharp[start : start + batch])
    return metric.compute()


def test_variety_is_one_for_faithful_outputs_and_zero_for_equal_ones() -> None:
    sharp = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert variety_of(sharp, sharp) == 1
    assert variety_of(sharp * 0.5 + 0.1, sharp) == pytest.approx(0.5, rel=1e-5)
    assert variety_of(sharp[:1].expand(6, -1, -1, -1), sharp) == pytest.approx(0, abs=1e-6)
    assert variety_of(sharp, sharp, batch=5) == pytest.approx(1)


def test_variety_is_the_standard_deviation_over_the_images() -> None:
    random = torch.Generator().manual_seed(1)
    restored, sharp = (torch.rand(5, 3, 32, 32, generator=random) for _ in range(2))
    expected = restored.double().std(dim=0).mean() / sharp.double().std(dim=0).mean()
    assert variety_of(restored, sharp) == pytest.approx(float(expected), rel=1e-6)


def test_variety_has_no_value_where_all_sharp_images_are_the_same() -> None:
    images = torch.rand(3, 3, 16, 16)
    assert math.isnan(variety_of(images, images[:1].expand(3, -1, -1, -1)))
    assert math.isnan(variety_of(images[:1], images[:1]))


class TwoGenerators:
    """The average is off by 10 of 255 levels, the generator itself by 20."""

    def restore(self, lq: torch.Tensor) -> torch.Tensor:
        return lq + 10 / 127.5

    def restore_raw(self, lq: torch.Tensor) -> torch.Tensor:
        return lq + 20 / 127.5


def test_the_gain_of_the_ema_is_the_difference_in_psnr_on_the_first_batch() -> None:
    gain = EmaGain(TwoGenerators())
    sharp = torch.full((2, 3, 8, 8), 100 / 127.5 - 1)
    for _ in range(2):
        gain.start()
        for lq in (sharp, sharp - 10 / 127.5):  # the gain on the second batch is infinite
            gain.update(gain.restore(lq), sharp)
        assert gain.compute() == pytest.approx(20 * math.log10(2), abs=1e-3)
