"""Losses by name: pixel, adversarial (with R1), perceptual, identity, feature matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpen.errors import UserError
from gpen.registry import LOSS_REGISTRY

if TYPE_CHECKING:
    from torch import nn


def build_loss(options: Mapping[str, Any]) -> nn.Module:
    """Build a loss from a block such as ``{'type': 'L1Loss', 'loss_weight': 1.0}``.

    Losses on images are called as ``loss(restored, target)`` with two N x 3 x H x W batches in [-1, 1] and give a
    scalar that their weight has been applied to.  Adversarial losses have ``generator``, ``discriminator`` and
    ``accuracy`` instead (see :class:`gpen.losses.gan.GANLoss`).

    Args:
        options: ``type``, and the arguments of the loss that it names; left unchanged.

    Raises:
        UserError: there is no such loss, or a weight file that it needs cannot be had.
    """
    arguments = dict(options)
    name = arguments.pop('type', None)
    if not isinstance(name, str):
        raise UserError(f'A loss block needs "type: NAME" ({LOSS_REGISTRY.explain_missing(str(name))})')
    return LOSS_REGISTRY.get(name)(**arguments)
