"""Losses by name: pixel, adversarial, perceptual, identity, feature matching; R1 and path length regularisation.

It imports weights, option types, the registry and rooms below; metrics, models and everything above may import it.
"""

from gpen.registry import LOSS_REGISTRY

build_loss = LOSS_REGISTRY.build
"""Build a loss from a block such as ``{'type': 'L1Loss', 'loss_weight': 1.0}`` (a ``torch.nn.Module``).

Losses on images are called as ``loss(restored, gt)`` with two N x 3 x H x W batches in [-1, 1], and return a scalar
with their weight applied.  Adversarial losses have ``generator``, ``discriminator`` and ``accuracy`` instead (see
:class:`gpen.losses.gan.GANLoss`).

Raises:
    UserError: there is no such loss, or a weight file that it needs can neither be found nor downloaded.
"""
