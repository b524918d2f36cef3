"""Rules on the course of a run: each looks at the records so far and returns plain advice, or None.

A rule says what it saw, in numbers, and which option to change to what.  Thresholds are set so that the noise of
healthy runs triggers no rule; means are taken over windows of records, and a rule waits until it has enough of them.
"""

from gpen.health.rules.discriminator import (
    discriminator_losses_rising,
    discriminator_too_strong,
    discriminator_too_weak,
)
from gpen.health.rules.generator import collapse, generator_losses_rising, loss_flat, smoothing
from gpen.health.rules.optimization import (
    ema_behind,
    gradients_always_clipped,
    gradients_below_eps,
    learning_rate_spent,
    overfitting,
)
from gpen.health.rules.rule import Rule

RULES = (
    Rule('discriminator_too_strong', 'warning', discriminator_too_strong),
    Rule('discriminator_too_weak', 'warning', discriminator_too_weak),
    Rule('discriminator_losses_rising', 'warning', discriminator_losses_rising),
    Rule('collapse', 'warning', collapse),
    Rule('generator_losses_rising', 'warning', generator_losses_rising),
    Rule('smoothing', 'note', smoothing),
    Rule('overfitting', 'warning', overfitting),
    Rule('loss_flat', 'note', loss_flat),
    Rule('gradients_always_clipped', 'note', gradients_always_clipped),
    Rule('gradients_below_eps', 'note', gradients_below_eps),
    Rule('ema_behind', 'note', ema_behind),
    Rule('learning_rate_spent', 'note', learning_rate_spent),
)
