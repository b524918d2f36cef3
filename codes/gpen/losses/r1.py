"""The R1 penalty of the discriminator."""

from typing import Any

import torch

from gpen.archs.ops.conv import only_gradients_of_images


def r1_penalty(gt_logits: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """Return the mean over the batch of the squared norm of d(sum of logits) / d(image), differentiable again.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, equation 9 (without its gamma / 2).

    Args:
        gt_logits: the discriminator's output for ``gt``, any shape.
        gt: N x C x H x W, with ``requires_grad`` set before it went through the discriminator.

    Returns:
        A scalar, not weighted.
    """
    with only_gradients_of_images():
        (gradient,) = torch.autograd.grad(gt_logits.sum(), gt, create_graph=True)  # N x C x H x W
    return gradient.square().flatten(1).sum(1).mean()


def r1_in_micro_batches(net_d: Any, gt: torch.Tensor, micro_batches: int) -> torch.Tensor:
    """Return the :func:`r1_penalty` of a discriminator, with the activations of one micro-batch at a time in memory.

    The logits of a batch depend on each other through the last layers, which are cheap and see the whole batch; the
    layers below, which need the memory, see one micro-batch at a time.  With f the features of an image x and h the
    gradient of the sum of all logits with respect to f, the penalty is the mean of |h df/dx|^2.  Its gradient with
    respect to the parameters has two terms: through h df/dx with h fixed, and through h, which depends on all f.

    Args:
        net_d: has ``look`` and ``judge``, as :class:`gpen.archs.discriminator.GPENDiscriminator`.
        gt: N x C x H x W.
        micro_batches: number of micro-batches.

    Returns:
        A scalar; its gradients with respect to the parameters of ``net_d`` are computed here, not in its backward pass.
    """
    parameters = [parameter for parameter in net_d.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]

    def accumulate(
        outputs: torch.Tensor, inputs: list[torch.Tensor], weights: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Add the gradients of ``outputs`` to those of the parameters; return those of ``inputs``."""
        found = torch.autograd.grad(outputs, [*inputs, *parameters], weights, allow_unused=True, materialize_grads=True)
        for total, gradient in zip(gradients, found[len(inputs) :], strict=True):
            total += gradient
        return list(found[: len(inputs)])

    # Features f of the whole batch, N x C x 4 x 4, and h, of the same shape.
    chunks = gt.detach().chunk(micro_batches)
    with torch.no_grad():
        features = torch.cat([net_d.look(chunk)[-1] for chunk in chunks])
    features.requires_grad_(True)
    (h,) = torch.autograd.grad(net_d.judge(features).sum(), features, create_graph=True)

    # The penalty, and its gradient through h df/dx with h fixed.
    penalty = gt.new_zeros(())
    h_gradients = []
    for chunk, chunk_h in zip(chunks, h.detach().chunk(micro_batches), strict=True):
        images, fixed_h = chunk.detach().requires_grad_(True), chunk_h.clone().requires_grad_(True)
        last = net_d.look(images)[-1]
        with only_gradients_of_images():
            (gradient,) = torch.autograd.grad(last, images, fixed_h, create_graph=True)
        share = gradient.square().sum() / len(gt)
        penalty += share.detach()
        h_gradients += accumulate(share, [fixed_h], None)

    # The gradient through h: first through the last layers, then through the features.
    (feature_gradients,) = accumulate(h, [features], torch.cat(h_gradients))
    for chunk, feature_gradient in zip(chunks, feature_gradients.chunk(micro_batches), strict=True):
        accumulate(net_d.look(chunk)[-1], [], feature_gradient)

    return _KnownGradients.apply(penalty, gradients, *parameters)


class _KnownGradients(torch.autograd.Function):
    """Attaches gradients that are known already to a scalar."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, gradients: list[torch.Tensor], *_parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        return None, None, *(outer[0] * gradient for gradient in ctx.gradients)
