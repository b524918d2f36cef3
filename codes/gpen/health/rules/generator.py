"""Rules on the generator: its losses, and what it makes."""

import math
from collections.abc import Iterator

import numpy as np

from gpen.health.history import SMALLEST_WINDOW, Curve, History
from gpen.health.rules.rule import VALIDATIONS, length_of_run, rate_will_fall, show

SHARP = 0.8
"""Sharpness, as a share of the GT images', above which nothing is said."""


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
    less = f', train.gan_opt.loss_weight to {show(weight / 4)}' if weight else ''
    return (
        f'The outputs are becoming alike (collapse): they differ from each other {now:.0%} as much as the sharp images '
        f'do{before}. Look whether the folders of datasets.train hold many different faces, and lower '
        f'train.optim_g.lr from {show(train.optim_g.lr)} to {show(train.optim_g.lr / 4)}{less}.'
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
                f'train.optim_g.lr from {show(rate)} to {show(rate / 5)}.'
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
                f'suit: try train.optim_g.lr at {show(rate * 4)} and at {show(rate / 4)} instead of '
                f'{show(rate)}, and look whether the pairs of datasets.train belong together.'
            )

        # The loss fell before: a lower rate, which the schedule does not bring by itself, may help.
        if history.done < 0.75 and not rate_will_fall(history):
            return (
                f'{name} has been flat at {now:.3g} for {curve.iterations[-1] - curve.iterations[-count]} iterations, '
                f'and validation has not improved. Lower the rate from here on, with a train.scheduler such as '
                f'{{type: CosineAnnealingLR, T_max: {length_of_run(history.options)}}}, or try train.optim_g.lr at '
                f'{show(rate * 2)}; if neither helps, end earlier.'
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


def smoothing(history: History) -> str | None:
    """PSNR still rises while the restored images lose their sharpness."""
    psnr, sharpness = history.curve('val/psnr'), history.curve('val/sharpness')
    begun = int(np.searchsorted(sharpness.iterations, 0.1 * history.total_iterations))  # what came first was noise
    sharp = sharpness.means(VALIDATIONS)[begun:]
    if len(sharp) <= VALIDATIONS or len(psnr) != len(sharpness):
        return None

    # The sharpest validations against the last ones.
    place = int(sharp.argmax())
    before, now = float(sharp[place]), float(sharp[-1])
    psnr_means = psnr.means(VALIDATIONS)[begun:]
    psnr_before, psnr_now = float(psnr_means[place]), float(psnr_means[-1])
    if now > min(0.8 * before, SHARP) or psnr_now < psnr_before + 0.05:
        return None

    early, gan = history.options.train.early_stopping, history.options.train.gan_opt
    weight = float(gan.arguments.get('loss_weight', 1.0)) if gan is not None else 0.0
    change = f'raise train.gan_opt.loss_weight to {show(weight * 2)}' if weight else 'train with train.gan_opt'
    kept = '' if early.metric != 'psnr' else ' net_g_best.pth follows PSNR and will be smooth:'
    return (
        f'PSNR still rises ({psnr_before:.2f} to {psnr_now:.2f} dB) while sharpness falls: the restored images have '
        f'{now:.0%} of the high frequencies of the sharp ones, after {before:.0%}.{kept} '
        f'{change}, or let train.early_stopping.metric be one such as lpips.'
    )
