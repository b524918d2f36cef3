"""The R1 penalty of the discriminator."""

from __future__ import annotations

from typing import Any

import torch


def r1_penalty(real_logits: torch.Tensor, real_images: torch.Tensor) -> torch.Tensor:
    """Return the mean over the batch of the squared norm of d(sum of logits) / d(image), differentiable again.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, equation 9 (without its gamma / 2).

    Args:
        real_logits: the discriminator's output for ``real_images``, any shape.
        real_images: N x C x H x W, with ``requires_grad`` set before they went through the discriminator.

    Returns:
        A scalar, not weighted.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)  # N x C x H x W
    return gradient.square().flatten(1).sum(1).mean()


def r1_in_parts(net_d: Any, real: torch.Tensor, parts: int) -> torch.Tensor:
    """Return what :func:`r1_penalty` gives for a discriminator, with the memory for one part of the batch.

    The logits of a batch depend on each other through the last layers.  Those are taken of the whole batch; the layers
    below, which need the memory, once for each part.  With f the features of an image x and h the gradient of the
    logits' sum with respect to f, the penalty is the mean of |h df/dx|^2, so its gradient is that through h df/dx with
    h fixed, plus that through h, which depends on all f.

    Args:
        net_d: has ``look`` and ``judge``, as :class:`gpen.archs.discriminator.GPENDiscriminator`.
        real: N x C x H x W.
        parts: how many parts.

    Returns:
        A scalar whose gradients with respect to the parameters of ``net_d`` are known already.
    """
    parameters = [parameter for parameter in net_d.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]

    def add(outputs: torch.Tensor, inputs: list[torch.Tensor], weights: torch.Tensor | None) -> list[torch.Tensor]:
        """Add gradients of the parameters to the sum; return those of ``inputs``."""
        found = torch.autograd.grad(outputs, [*inputs, *parameters], weights, allow_unused=True, materialize_grads=True)
        for total, gradient in zip(gradients, found[len(inputs) :], strict=True):
            total += gradient
        return list(found[: len(inputs)])

    with torch.no_grad():
        features = torch.cat([net_d.look(part)[-1] for part in real.chunk(parts)])  # N x C x 4 x 4
    features.requires_grad_(True)
    (weights,) = torch.autograd.grad(net_d.judge(features).sum(), features, create_graph=True)  # h
    penalty = real.new_zeros(())
    through_weights = []
    for part, weight in zip(real.chunk(parts), weights.detach().chunk(parts), strict=True):
        image, fixed = part.detach().requires_grad_(True), weight.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(net_d.look(image)[-1], image, fixed, create_graph=True)
        share = gradient.square().sum() / len(real)
        penalty += share.detach()
        through_weights += add(share, [fixed], None)
    (through_features,) = add(weights, [features], torch.cat(through_weights))
    for part, weight in zip(real.chunk(parts), through_features.chunk(parts), strict=True):
        add(net_d.look(part)[-1], [], weight)
    known: torch.Tensor = _KnownGradients.apply(penalty, gradients, *parameters)
    return known


class _KnownGradients(torch.autograd.Function):
    """A scalar whose gradients were computed beforehand."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, gradients: list[torch.Tensor], *_parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        return None, None, *(outer[0] * gradient for gradient in ctx.gradients)
