"""Path-length regularisation of a style-based generator."""

import math

import torch
from torch import Tensor

DECAY = 0.01
"""Weight of a new batch in the running mean of the lengths."""


def measure_path_lengths(images: Tensor, latents: Tensor) -> Tensor:
    """Return the path length of each image, differentiable again.

    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 3.2: the norm of
    J^T y = d(g(w) . y) / dw with normal y, here of variance 1 / (H W) so that it does not depend on the resolution.
    y comes from torch's global generator.

    Args:
        images: N x C x H x W, generated from ``latents``.
        latents: N x L x D, one row for each layer.

    Returns:
        N lengths: the root of the mean over the layers of the squared norm.
    """
    direction = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * direction).sum(), latents, create_graph=True)  # N x L x D
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def penalize_path_lengths(lengths: Tensor, mean: Tensor, running_mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the running mean, moved towards ``mean``, and the mean squared distance of the lengths from it.

    Args:
        lengths: N.
        mean: mean length over the batch of all ranks, a scalar.
        running_mean: running mean after the previous step, a scalar; it does not move where ``mean`` is not finite.
    """
    moved = torch.where(torch.isfinite(mean), running_mean.lerp(mean, DECAY), running_mean)
    return moved, (lengths - moved).square().mean()
