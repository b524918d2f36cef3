"""Rules on the course of a run: each looks at the records so far and returns plain advice, or None.

A rule says what it saw, in numbers, and which option to change to what.  Thresholds are set so that the noise of
healthy runs triggers no rule; means are taken over windows of records, and a rule waits until it has enough of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gpen.health.history import SMALLEST_WINDOW, Curve, History
from gpen.losses.gan import ALIASES
from gpen.options.schema import Options

VALIDATIONS = 3
"""Validations that a mean is taken over."""
LAG = 0.75
"""PSNR in dB that the EMA may lose against the generator itself; some lag is normal while the generator improves."""
HIGH_RATE = 5e-3
"""The highest learning rate of a discriminator that is proposed; StyleGAN2 uses 2e-3."""


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: of its finding.
        severity: ``warning`` where the run is being spoilt, ``note`` where it could do better.
        check: returns what was seen and what to do about it, or None.
    """

    name: str
    severity: str
    check: Callable[[History], str | None]


# ---- the discriminator


def discriminator_too_strong(history: History) -> str | None:
    """The discriminator classifies nearly all images correctly, and the generator's adversarial loss has risen."""
    real, fake, adversarial = (history.curve(name) for name in ('D_acc_real', 'D_acc_fake', 'G_loss_adv'))
    count = history.window
    if min(len(real), len(fake), len(adversarial)) < count or _chance(history.options) is None:
        return None

    # A rise of half the loss's weight is well above the noise of a healthy run.
    right = real.mean(count), fake.mean(count)
    first, now = float(adversarial.values[0]), adversarial.mean(count)
    train = history.options.train
    weight = float(train.gan_opt.arguments.get('loss_weight', 1.0)) if train.gan_opt is not None else 1.0
    if min(right) < 0.97 or now - first < weight / 2:
        return None

    r1 = train.r1_reg_weight * 4 or 10
    return (
        f'The discriminator is too strong: it judges {right[0]:.0%} of the sharp and {right[1]:.0%} of the restored '
        f'images rightly, and G_loss_adv has risen from {first:.3g} to {now:.3g}, so the generator learns little from '
        f'it. Lower train.optim_d.lr to {_number(train.optim_d.lr / 4)}, or raise train.r1_reg_weight to {_number(r1)}.'
    )


def discriminator_too_weak(history: History) -> str | None:
    """Accuracies and losses are those of guessing, beyond the first third of the run, where this is normal."""
    names = ('D_acc_real', 'D_acc_fake', 'D_loss_real', 'D_loss_fake')
    curves = [history.curve(name) for name in names]
    count = max(history.window, history.expected_records // 10)
    chance = _chance(history.options)
    if min(len(curve) for curve in curves) < count or history.done < 1 / 3 or chance is None:
        return None

    # Both the window and its second half count: the discriminator may just have begun to learn.
    real, fake = (curve.mean(count) for curve in curves[:2])
    losses = curves[2].last(count) + curves[3].last(count)
    loss = float(losses.mean())
    lowest = min(loss, float(losses[count // 2 :].mean()))
    if (real + fake) / 2 > 0.6 or lowest < 0.98 * chance or loss > 2 * chance:
        return None

    # Propose a higher rate, or a lower one where the rate is so high that the discriminator has unlearned.
    train = history.options.train
    rate = train.optim_d.lr
    if rate < HIGH_RATE:
        change = (
            f'Raise train.optim_d.lr from {_number(rate)} to {_number(min(max(rate * 4, train.optim_g.lr), HIGH_RATE))}'
        )
    else:
        change = f'Its rate is very high: lower train.optim_d.lr from {_number(rate)} to {_number(rate / 5)}'
    r1 = f', or lower train.r1_reg_weight to {_number(train.r1_reg_weight / 10)}' if train.r1_reg_weight else ''
    return (
        f'The discriminator learns nothing: it judges {real:.0%} of the sharp and {fake:.0%} of the restored images '
        f'rightly, and D_loss_real + D_loss_fake is {loss:.3g}, where guessing gives {chance:.3g}. '
        f'{change}{r1}.'
    )


def discriminator_losses_rising(history: History) -> str | None:
    """The discriminator's losses are far above those of guessing."""
    real, fake = history.curve('D_loss_real'), history.curve('D_loss_fake')
    chance = _chance(history.options)
    if min(len(real), len(fake)) < SMALLEST_WINDOW or chance is None:
        return None
    recent = real.last(SMALLEST_WINDOW) + fake.last(SMALLEST_WINDOW)
    now = float(recent.mean())
    if now < 2 * chance or float(np.median(recent)) < 1.5 * chance:  # the median ignores a single jump
        return None
    rate = history.options.train.optim_d.lr
    return (
        f"The discriminator's losses are too high: D_loss_real + D_loss_fake is {now:.3g}, where guessing gives "
        f'{chance:.3g}. Its learning rate is too high: lower train.optim_d.lr from {_number(rate)} to '
        f'{_number(rate / 5)}.'
    )


def _chance(options: Options) -> float | None:
    """Return D_loss_real + D_loss_fake of a discriminator that guesses; None without one, or for other losses."""
    gan = options.train.gan_opt
    if gan is None:
        return None
    given = str(gan.arguments.get('gan_type', 'logistic'))
    labels = (float(gan.arguments.get(f'{kind}_label_val', value)) for kind, value in (('real', 1.0), ('fake', 0.0)))
    half_way = (next(labels) - next(labels)) / 2
    return {'logistic': 2 * math.log(2), 'hinge': 2.0, 'least_squares': 2 * half_way**2}.get(ALIASES.get(given, given))


# ---- the generator


def collapse(history: History) -> str | None:
    """The restored images differ much less from each other than the GT images do."""
    variety = history.curve('val/variety')
    means = variety.means(VALIDATIONS)
    if len(means) < VALIDATIONS or history.done < 0.1:
        return None

    # The variety fell far below its best, or it has been low from the start.
    best, now = float(means.max()), float(means[-1])
    fell = now < 0.5 and now < 0.4 * best
    stays_low = now < 0.2 and history.done > 0.25 and now < 1.2 * float(means[-VALIDATIONS])
    if not fell and not stays_low:
        return None

    before = f'; it was {best:.0%}' if best > 1.5 * now else ''
    train = history.options.train
    weight = train.gan_opt.arguments.get('loss_weight', 1.0) if train.gan_opt is not None else 0
    less = f', train.gan_opt.loss_weight to {_number(weight / 4)}' if weight else ''
    return (
        f'The outputs are becoming alike (collapse): they differ from each other {now:.0%} as much as the sharp images '
        f'do{before}. Look whether the folders of datasets.train hold many different faces, and lower '
        f'train.optim_g.lr from {_number(train.optim_g.lr)} to {_number(train.optim_g.lr / 4)}{less}.'
    )


def generator_losses_rising(history: History) -> str | None:
    """A loss on (restored, GT) is well above its lowest value, or above where it began."""
    for name in _image_losses(history):
        risen = _risen(history.curve(name), history.window)
        if risen is not None:
            lowest, now = risen
            rate = history.options.train.optim_g.lr
            return (
                f'{name} is rising: from {lowest:.3g} to {now:.3g}. The learning rate is too high: lower '
                f'train.optim_g.lr from {_number(rate)} to {_number(rate / 5)}.'
            )
    return None


def _image_losses(history: History) -> Iterator[str]:
    """Return the names of the losses without the discriminator; the others rise when the discriminator improves."""
    return (f'G_loss_{name}' for name in history.options.generator_losses)


def _risen(curve: Curve, count: int) -> tuple[float, float] | None:
    """Return the lowest and the present mean if the present one is far above the lowest, beyond what noise explains."""
    means = curve.means(count)
    if len(means) < 2:
        return None
    start = float(curve.values[: max(1, count // 5)].mean())
    earlier = means[:-count]
    lowest = min(start, float(earlier.min())) if len(earlier) else start
    recent = curve.last(count)
    now = float(recent.mean())
    noise = float(recent.std()) / math.sqrt(count)
    return (lowest, now) if now > 1.3 * lowest and now - lowest > 3 * noise else None


def loss_flat(history: History) -> str | None:
    """Neither a loss on (restored, GT) nor the validation has improved for a quarter of the run."""
    count = max(2 * SMALLEST_WINDOW, history.expected_records // 4)
    rate = history.options.train.optim_g.lr
    for name in _image_losses(history):
        curve = history.curve(name)
        if len(curve) < count or not _is_flat(curve, count) or _validation_improved(history, curve.iterations[-count]):
            continue

        # The loss never fell: the rate does not suit the recipe.
        first, now = float(curve.values[0]), curve.mean(count // 2)
        if 0.8 * first < now < 1.2 * first and history.options.path.pretrain_network_g is None:
            return (
                f'{name} has hardly moved since the start: from {first:.3g} to {now:.3g}. The learning rate does not '
                f'suit: try train.optim_g.lr at {_number(rate * 4)} and at {_number(rate / 4)} instead of '
                f'{_number(rate)}, and look whether the pairs of datasets.train belong together.'
            )

        # The loss fell before: a lower rate, which the schedule does not bring by itself, may help.
        if history.done < 0.75 and _future_rate(history, min) >= 0.5 * history.rate_at(history.iteration)['g']:
            return (
                f'{name} has been flat at {now:.3g} for {curve.iterations[-1] - curve.iterations[-count]} iterations, '
                f'and validation has not improved. Lower the rate from here on, with a train.scheduler such as '
                f'{{type: CosineAnnealingLR, T_max: {_length(history.options)}}}, or try train.optim_g.lr at '
                f'{_number(rate * 2)}; if neither helps, end earlier.'
            )
    return None


def _is_flat(curve: Curve, count: int) -> bool:
    """Whether the last ``count`` values fall by less than 2 % from one half to the other, noise considered."""
    recent = curve.last(count)
    before, after = recent[: count // 2], recent[count // 2 :]
    noise = math.sqrt(before.var() / len(before) + after.var() / len(after))
    scale = abs(before.mean())
    return bool(before.mean() - after.mean() + 2 * noise < 0.02 * scale and after.mean() < 1.1 * before.mean())


def _validation_improved(history: History, since: int) -> bool:
    psnr = history.curve('val/psnr')
    first_new = int(np.searchsorted(psnr.iterations, since))
    before, after = psnr.values[:first_new], psnr.values[first_new:]
    return bool(len(before) and len(after) and after.max() > before.max() + 0.05)


def _future_rate(history: History, choose: Callable[[Iterator[float]], float]) -> float:
    """Return the lowest or highest of 20 learning rates from here to the end of the run."""
    left = history.total_iterations - history.iteration
    return choose(history.rate_at(history.iteration + max(1, round(left * step / 20)))['g'] for step in range(1, 21))


def _length(options: Options) -> int:
    """Return the length of the run in the unit that the options use: epochs or iterations."""
    return options.train.total_epochs or options.train.total_iter or 1


# ---- optimization


def gradients_always_clipped(history: History) -> str | None:
    """The gradient norm has been above the clip for half of the run."""
    train = history.options.train
    clip = train.grad_norm_clip if train.use_grad_norm else None
    count = max(2 * SMALLEST_WINDOW, history.expected_records // 2)  # at first, gradients are large

    # A record holds the mean norm over many steps; with lazy R1, the few steps with R1 dominate the discriminator's.
    mixed = train.r1_reg_weight > 0 and train.net_d_reg_every > 1
    for letter, network in (('g', 'generator'), ('d', 'discriminator'))[: 1 if mixed else 2]:
        norms = history.curve(f'grad_norm_{letter}').last(count)
        if clip is None or len(norms) < count or (norms > clip).mean() < 0.95:
            continue
        median = float(np.median(norms))
        return (
            f'The gradients of the {network} are always clipped: their norm is about {median:.2g}, and '
            f'train.grad_norm_clip is {_number(clip)}. All steps count the same then, and outliers are not held back. '
            f'To clip outliers alone, set train.grad_norm_clip to {_number(3 * median)}.'
        )
    return None


def ema_behind(history: History) -> str | None:
    """The EMA generator restores worse than the generator itself, validation after validation."""
    gain = history.curve('val/ema_gain')
    recent = gain.last(VALIDATIONS + 1)
    if len(gain) < 2 * VALIDATIONS or history.done < 0.1 or recent.max() > -LAG:
        return None

    # Propose a quarter of the half-life, but at most a twentieth of the run.
    decay = history.options.train.ema_decay
    half_life = max(1, round(min(_half_life(decay) / 4, history.total_iterations / 20)))
    return (
        f'The EMA is behind: the averaged generator, which is validated and kept as best, restores '
        f'{-recent.mean():.2g} dB worse than the generator itself. Lower train.ema_decay from {decay:.6g} to '
        f'{0.5 ** (1 / half_life):.4g} (a half-life of {half_life} iterations), or let it grow with '
        f'train.ema_scheduler.total_iter: {history.total_iterations // 2}.'
    )


def _half_life(decay: float) -> float:
    return math.log(0.5) / math.log(decay) if decay > 0 else 0.0


def overfitting(history: History) -> str | None:
    """The training loss falls, and validation has become worse."""
    psnr, pixel = history.curve('val/psnr'), history.curve('G_loss_pixel')
    means = psnr.means(VALIDATIONS)
    if len(means) < 2 * VALIDATIONS or len(pixel) < 2 * VALIDATIONS:
        return None

    # Validation was best some time ago, and is clearly worse now.
    place = int(means.argmax())
    best, now = float(means[place]), float(means[-1])
    best_iteration = psnr.iterations[place + VALIDATIONS // 2]
    if len(means) - 1 - place < VALIDATIONS or best - now < 0.3:
        return None

    # The training loss has kept falling since then.
    until_best = int(np.searchsorted(pixel.iterations, best_iteration, side='right'))
    before = pixel.values[max(0, until_best - VALIDATIONS) : until_best]
    after = pixel.mean(VALIDATIONS)
    if not len(before) or after > 0.97 * before.mean():
        return None

    early = history.options.train.early_stopping
    stop = '' if early.enabled else ' Set train.early_stopping.enabled to true, which stops such a run.'
    return (
        f'Overfitting: since iteration {best_iteration}, G_loss_pixel has fallen from {before.mean():.3g} to '
        f'{after:.3g}, and val/psnr from {best:.2f} to {now:.2f} dB. Use more images in datasets.train, or more '
        f'variation of them (use_hflip, augment, a random degradation). net_g_best.pth is from the best validation.'
        f'{stop}'
    )


def learning_rate_spent(history: History) -> str | None:
    """The schedule has lowered the rate so far that the rest of the run hardly changes anything."""
    rate = history.curve('lr_g')
    if len(rate) < 2 or history.done > 0.75:
        return None
    peak, now = float(rate.values.max()), float(rate.values[-1])
    if now >= 0.01 * peak or _future_rate(history, max) >= 0.01 * peak:
        return None
    unit = 'epochs' if history.options.train.total_epochs else 'iterations'
    return (
        f'The learning rate is used up: lr_g is {now:.2g}, {now / peak:.1%} of its peak, with '
        f'{1 - history.done:.0%} of the run left, which will hardly change anything. Stretch train.scheduler over the '
        f'whole run ({_length(history.options)} {unit}), or end earlier.'
    )


def _number(value: float) -> str:
    return f'{value:.2g}'


RULES = (
    Rule('discriminator_too_strong', 'warning', discriminator_too_strong),
    Rule('discriminator_too_weak', 'warning', discriminator_too_weak),
    Rule('discriminator_losses_rising', 'warning', discriminator_losses_rising),
    Rule('collapse', 'warning', collapse),
    Rule('generator_losses_rising', 'warning', generator_losses_rising),
    Rule('overfitting', 'warning', overfitting),
    Rule('loss_flat', 'note', loss_flat),
    Rule('gradients_always_clipped', 'note', gradients_always_clipped),
    Rule('ema_behind', 'note', ema_behind),
    Rule('learning_rate_spent', 'note', learning_rate_spent),
)
