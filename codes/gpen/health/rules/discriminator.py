"""Rules on the discriminator."""

import math

import numpy as np

from gpen.health.history import SMALLEST_WINDOW, History
from gpen.health.rules.rule import show
from gpen.losses.gan import ALIASES
from gpen.options.schema import Options

HIGH_RATE = 5e-3
"""The highest learning rate of a discriminator that is proposed; StyleGAN2 uses 2e-3."""


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
        f'it. Lower train.optim_d.lr to {show(train.optim_d.lr / 4)}, or raise train.r1_reg_weight to {show(r1)}.'
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
        change = f'Raise train.optim_d.lr from {show(rate)} to {show(min(max(rate * 4, train.optim_g.lr), HIGH_RATE))}'
    else:
        change = f'Its rate is very high: lower train.optim_d.lr from {show(rate)} to {show(rate / 5)}'
    r1 = f', or lower train.r1_reg_weight to {show(train.r1_reg_weight / 10)}' if train.r1_reg_weight else ''
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
        f'{chance:.3g}. Its learning rate is too high: lower train.optim_d.lr from {show(rate)} to '
        f'{show(rate / 5)}.'
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
