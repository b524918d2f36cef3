"""Differentiable augmentation of what the discriminator sees, for training on few images.

The discriminator would soon know a few hundred images by heart.  Real and generated images get the same kinds of change
before it sees them, and the generator's gradients flow through the changes, so that it does not learn to make them
(Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpen.archs.ops.layout import memory_format
from gpen.distributed import ranks

if TYPE_CHECKING:
    from gpen.options.train import Augment

SHIFT = 1 / 8  # of the side, either way
CUTOUT = 1 / 2  # of the side
INTERVAL = 4  # iterations between two changes of the adaptive probability (StyleGAN2-ADA, section 3.1)


class Augmentation:
    """Changes of images with a fixed or an adaptive probability.

    With ``ada_target``, the probability rises where the discriminator is surer of the real images than that, and falls
    where it is less sure: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", equation 1,
    r_t = E[sign(D(real))].

    Args:
        options: which changes, and how often.
        images_per_iteration: the batch size of all ranks together.
        device: where the probability lives.

    Attributes:
        probability: of each change of each image, a scalar on the device.
    """

    def __init__(self, options: Augment, images_per_iteration: int, device: torch.device) -> None:
        self._changes = [CHANGES[name] for name in options.policy]
        self._target = options.ada_target
        self._step = INTERVAL * images_per_iteration / options.ada_images
        start = options.probability if options.ada_target is None else 0.0
        self.probability = torch.tensor(start, device=device)
        self._sure = torch.zeros((), device=device)  # sum of r_t less the target since the last change

    def draw(self, count: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Draw the changes of a batch from torch's global generator.

        Args:
            count: images in the batch.
            device: of the images.

        Returns:
            A function that makes the same changes to any batch of so many images, N x 3 x H x W in [-1, 1] (the result
            may leave that range); gradients flow through it.
        """
        numbers = [torch.rand(4, count, 1, 1, 1, device=device) for _ in self._changes]  # 3 of a change, and whether

        def change(images: Tensor) -> Tensor:
            changed = images
            for function, (*drawn, chance) in zip(self._changes, numbers, strict=True):
                changed = torch.where(chance < self.probability, function(changed, drawn), changed)
            return changed.contiguous(memory_format=memory_format(images))

        return change

    @torch.no_grad()
    def adapt(self, acc_real: Tensor, loss_real: Tensor, iteration: int) -> None:
        """Follow the share of the real images of a step that the discriminator takes for real.

        A no-op with a fixed probability.

        Args:
            acc_real: that share, a scalar in [0, 1]; the mean of the signs of the logits is twice that, less 1.
            loss_real: a step whose loss is not finite on any rank is skipped, so it counts neither way.
            iteration: counted from 1.
        """
        if self._target is None:
            return

        # All-reduced in each step, since the training state is that of rank 0.
        observed = torch.stack([2 * acc_real.float() - 1, loss_real.detach().float()])
        ranks.all_reduce_mean([observed])
        sure, loss = observed.unbind()
        self._sure = self._sure + torch.where(torch.isfinite(loss), sure - self._target, 0.0)
        if iteration % INTERVAL:
            return

        change = torch.sign(self._sure) * self._step
        self.probability = (self.probability + change).clamp(0, 1)
        self._sure = torch.zeros_like(self._sure)

    def state_dict(self) -> dict[str, Any]:
        """Return probability and the signs so far."""
        return {'probability': self.probability, 'sure': self._sure}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a fixed probability is that of the options."""
        if self._target is not None:
            self.probability, self._sure = (state[name].to(self.probability) for name in ('probability', 'sure'))


def change_colour(images: Tensor, drawn: list[Tensor]) -> Tensor:
    """Change brightness, saturation and contrast.

    Args:
        images: N x 3 x H x W.
        drawn: three batches of numbers in [0, 1), N x 1 x 1 x 1: brightness is shifted by -0.5 to 0.5, saturation
            multiplied by 0 to 2, contrast by 0.5 to 1.5.
    """
    brightness, saturation, contrast = drawn
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)  # N x 1 x H x W
    images = grey + (images - grey) * (saturation * 2)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)  # N x 1 x 1 x 1
    return mean + (images - mean) * (contrast + 0.5)


def translate(images: Tensor, drawn: list[Tensor]) -> Tensor:
    """Shift each image by up to an eighth of its side, by whole pixels; what comes in is 0."""
    moved = images
    for dim, number in zip((2, 3), drawn[:2], strict=True):
        side = images.shape[dim]
        reach = round(side * SHIFT)
        shape = (-1, 1, side, 1) if dim == 2 else (-1, 1, 1, side)
        start = (number.flatten() * (2 * reach + 1)).floor().long() - reach  # N, from -reach to reach

        # Each pixel comes from one source at most, so the gradient is deterministic on a GPU, too.
        source = (start[:, None] + torch.arange(side, device=images.device)).view(shape)
        inside = (source >= 0) & (source < side)
        moved = moved.gather(dim, source.clamp(0, side - 1).expand_as(moved)) * inside
    return moved


def cut_out(images: Tensor, drawn: list[Tensor]) -> Tensor:
    """Set a square of half the side, around a random pixel, to 0 in each image."""
    height, width = images.shape[2:]
    is_inside = []
    for number, side in zip(drawn[:2], (height, width), strict=True):
        centre = (number.flatten()[:, None] * side).floor()  # N x 1
        place = torch.arange(side, device=images.device)
        start = centre - int(side * CUTOUT) // 2
        is_inside.append((place >= start) & (place < start + int(side * CUTOUT)))  # N x side
    rows, columns = is_inside
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


CHANGES: dict[str, Callable[[Tensor, list[Tensor]], Tensor]] = {
    'color': change_colour,
    'translation': translate,
    'cutout': cut_out,
}
