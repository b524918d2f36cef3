"""Rules on gradients, the EMA, the schedule, and the length of the run."""

import numpy as np

from gpen.health.history import SMALLEST_WINDOW, History
from gpen.health.rules.rule import VALIDATIONS, future_rate, length_of_run, show
from gpen.models.ema import build_ema_schedule

LAG = 0.75
"""PSNR in dB that the EMA may lose against the generator itself; some lag is normal while the generator improves."""
DEFAULT_EPS, TINY_EPS = 1e-8, 1e-15
"""Adam's eps, and one that no gradient falls below, which is proposed."""
MOST = 0.3
"""Share of the entries of a gradient that are below eps, from which on they matter."""


def gradients_always_clipped(history: History) -> str | None:
    """The gradient norm has been above the clip for half of the run."""
    train = history.options.train
    clip = train.grad_norm_clip if train.use_grad_norm else None
    count = max(2 * SMALLEST_WINDOW, history.expected_records // 2)  # at first, gradients are large

    for letter, network in (('g', 'generator'), ('d', 'discriminator')):  # without R1, which is scaled alike
        norms = history.curve(f'grad_norm_{letter}').last(count)
        if clip is None or len(norms) < count or (norms > clip).mean() < 0.95:
            continue
        median = float(np.median(norms))
        return (
            f'The gradients of the {network} are always clipped: their norm is about {median:.2g}, and '
            f'train.grad_norm_clip is {show(clip)}. All steps count the same then, and outliers are not held back. '
            f'To clip outliers alone, set train.grad_norm_clip to {show(3 * median)}.'
        )
    return None


def gradients_below_eps(history: History) -> str | None:
    """Most entries of the gradients are so small that Adam's eps outweighs them, which slows training down."""
    for letter, network in (('g', 'generator'), ('d', 'discriminator')):
        shares = history.curve(f'grad_below_eps_{letter}')
        optimizer = getattr(history.options.train, f'optim_{letter}')
        eps = float(optimizer.arguments.get('eps', DEFAULT_EPS))
        if len(shares) < SMALLEST_WINDOW or shares.mean(SMALLEST_WINDOW) < MOST or eps <= TINY_EPS:
            continue
        clip = ', which train.grad_norm_clip makes small,' if history.options.train.use_grad_norm else ''
        return (
            f'{shares.mean(SMALLEST_WINDOW):.0%} of the gradients of the {network}{clip} are below '
            f"the optimizer's eps of {eps:g}, so that their weights move more slowly than the learning rate says. "
            f'Set train.optim_{letter}.eps to {TINY_EPS:g}.'
        )
    return None


def ema_behind(history: History) -> str | None:
    """The EMA generator restores worse than the generator itself, validation after validation."""
    gain = history.curve('val/ema_gain')
    recent = gain.last(VALIDATIONS + 1)
    if len(gain) < 2 * VALIDATIONS or history.done < 0.1 or recent.max() > -LAG:
        return None

    # Propose a quarter of the half-life, but at most a twentieth of the run.
    train = history.options.train
    if train.ema_halflife_images is not None:
        images = train.ema_halflife_images
        change = f'train.ema_halflife_images from {images:g} to {images / 4:g}'
        grow = 'share: 0.05'
    else:
        ema = build_ema_schedule(train, 1)
        half_life = max(1, round(min(ema.half_life / 4, history.total_iterations / 20)))
        decay = f'{0.5 ** (1 / half_life):.4g} (a half-life of {half_life} iterations)'
        change = f'train.ema_decay from {ema.decay:.6g} to {decay}'
        grow = f'total_iter: {history.total_iterations // 2}'
    return (
        f'The EMA is behind: the averaged generator, which is validated and kept as best, restores '
        f'{-recent.mean():.2g} dB worse than the generator itself. Lower {change}, or let it grow with '
        f'train.ema_scheduler.{grow}.'
    )


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
    if now >= 0.01 * peak or future_rate(history, max) >= 0.01 * peak:
        return None
    unit = 'epochs' if history.options.train.total_epochs else 'iterations'
    return (
        f'The learning rate is used up: lr_g is {now:.2g}, {now / peak:.1%} of its peak, with '
        f'{1 - history.done:.0%} of the run left, which will hardly change anything. Stretch train.scheduler over the '
        f'whole run ({length_of_run(history.options)} {unit}), or end earlier.'
    )
