"""Adversarial and style losses on the eyes and the mouth."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from gpen.archs.component_discriminator import ComponentDiscriminators
from gpen.archs.ops.precision import full_precision, widen
from gpen.archs.recompute import run_in_micro_batches
from gpen.data.landmarks import COMPONENTS
from gpen.losses.gan import GANLoss
from gpen.losses.perceptual import gram_matrix
from gpen.options.types import NonNegativeFloat, Width
from gpen.registry import LOSS_REGISTRY

SMALLEST_CROP = 16


@LOSS_REGISTRY.register(role='components')
class ComponentLoss(nn.Module):
    """Facial component losses (Wang et al. 2021, "GFPGAN", section 3.4).

    Left eye, right eye and mouth are cut out of restored and GT images and judged by a small discriminator each, which
    learns in the same step.  Besides its adversarial loss there is a style loss for each: the L1 distance between the
    Gram matrices of the discriminator's features of the restored and of the GT crop, summed over two resolutions.  The
    discriminators start from random weights, and have neither an R1 penalty nor gradient clipping.

    Args:
        loss_weight: factor on adversarial and style losses; 0: no component losses.
        style_weight: factor on the style losses beside the adversarial ones.
        gan_type: the adversarial loss, see ``GANLoss``.
        channels: channel count of a discriminator's first layer.
        eye_size: width and height, in pixels, that crops of eyes are resampled to. Default: 5/32 of the image's, at
            least 16.
        mouth_size: the same for mouths. Default: 15/64 of the image's, at least 16.

    Attributes:
        discriminators: by component.
    """

    def __init__(
        self,
        loss_weight: NonNegativeFloat = 1.0,
        style_weight: NonNegativeFloat = 200.0,
        gan_type: Literal['logistic', 'hinge', 'least_squares', 'wgan_softplus', 'vanilla', 'lsgan'] = 'logistic',
        channels: Width = 64,
        eye_size: Width | None = None,
        mouth_size: Width | None = None,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.style_weight = style_weight
        self.gan = GANLoss(gan_type)
        self.discriminators = ComponentDiscriminators(COMPONENTS, channels)
        self._crop_sizes = {'left_eye': eye_size, 'right_eye': eye_size, 'mouth': mouth_size}

    def discriminator(self, restored: Tensor, gt: Tensor, boxes: Tensor, micro_batches: int = 1) -> dict[str, Tensor]:
        """Return the loss of each discriminator, a scalar without weight, by component.

        Args:
            restored: N x 3 x H x W, RGB, [-1, 1], without gradients.
            gt: the real ones.
            boxes: N x 3 x 4, see :meth:`gpen.data.landmarks.Landmarks.boxes`.
            micro_batches: number of micro-batches, for less memory.
        """
        self.discriminators.requires_grad_(True)
        losses = {}
        for name, fake, real in self._crop_both(restored, gt, boxes):
            logits, *_ = run_in_micro_batches(self.discriminators[name], torch.cat([real, fake]), micro_batches)
            loss_real, loss_fake = self.gan.discriminator(*logits.chunk(2))
            losses[name] = loss_real + loss_fake
        return losses

    def generator(self, restored: Tensor, gt: Tensor, boxes: Tensor, micro_batches: int = 1) -> dict[str, Tensor]:
        """Return the adversarial losses by component, and the sum of their style losses as ``style``; with weights.

        Gradients flow into ``restored`` alone, within the boxes; see :meth:`discriminator` for the arguments.
        """
        self.discriminators.requires_grad_(False)
        losses = {}
        style = restored.new_zeros((), dtype=torch.float32)
        for name, fake, real in self._crop_both(restored, gt, boxes):
            network = self.discriminators[name]
            logits, *features = run_in_micro_batches(network, fake, micro_batches)
            losses[name] = self.loss_weight * self.gan.generator(logits)

            with torch.no_grad():
                _, *gt_features = run_in_micro_batches(network, real, micro_batches)
            for one, other in zip(features, gt_features, strict=True):
                with full_precision(one):
                    style = style + (gram_matrix(widen(one)) - gram_matrix(widen(other))).abs().mean()
        return {**losses, 'style': self.loss_weight * self.style_weight * style}

    def _crop_both(self, restored: Tensor, gt: Tensor, boxes: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each component's name, its crops of the restored images and of the GT images, N x 3 x S x S each."""
        for number, name in enumerate(COMPONENTS):
            share = 15 / 64 if name == 'mouth' else 5 / 32
            size = self._crop_sizes[name] or max(SMALLEST_CROP, round(restored.shape[-1] * share / 4) * 4)
            yield name, crop_boxes(restored, boxes[:, number], size), crop_boxes(gt, boxes[:, number], size)


def crop_boxes(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Return a box of each image, resampled (He et al. 2017, "Mask R-CNN", RoIAlign).

    Rows and columns are resampled one after the other, each by a matrix product.  Unlike torchvision's kernel for GPUs,
    whose gradient depends on which thread comes first, it gives the same bits each time.

    Args:
        images: N x 3 x H x W.
        boxes: N x 4: x0, y0, x1, y1 in pixels, edges, within the image.
        size: width and height of the result.

    Returns:
        N x 3 x size x size, float32.
    """
    height, width = images.shape[2:]
    x0, y0, x1, y1 = boxes.float().unbind(1)  # N each
    with full_precision(images):
        rows, columns = _weights(y0, y1, height, size), _weights(x0, x1, width, size)  # N x size x H, N x size x W
        return rows[:, None] @ (images.float() @ columns.transpose(1, 2)[:, None])


def _weights(start: Tensor, end: Tensor, length: int, size: int) -> Tensor:
    """Return the weights of ``length`` pixels in each of the ``size`` pixels that lie between two edges.

    A new pixel is the mean of as many interpolated samples as it covers pixels, rounded up.

    Args:
        start: of each box, N.
        end: of each box, N.
        length: of the image.
        size: of the result.

    Returns:
        N x size x length.
    """
    extent = ((end - start) / size)[:, None, None]  # of a new pixel, N x 1 x 1
    count = extent.ceil().clamp(min=1)
    samples = torch.arange(math.ceil(length / size), device=start.device)
    steps = torch.arange(size, device=start.device)[:, None] + (samples + 0.5) / count  # N x size x samples
    positions = (start[:, None, None] + extent * steps - 0.5).clamp(0, length - 1)  # 0: the middle of the first pixel

    pixels = torch.arange(length, device=start.device)
    weights = (1 - (positions[..., None] - pixels).abs()).clamp(min=0)  # N x size x samples x length
    is_used = (samples < count)[..., None]  # N x 1 x samples x 1
    return (weights * is_used).sum(2) / count
