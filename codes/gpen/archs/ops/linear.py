"""The linear layer with equalised learning rate (Karras et al. 2018, Progressive Growing of GANs, section 4.1)."""

import math

from torch import Tensor
from torch.nn import functional as F

from gpen.archs.ops.activation import GAIN, leaky_relu_
from gpen.archs.ops.precision import full_precision, widen


def equal_linear(x: Tensor, weight: Tensor, bias: Tensor, lr_mul: float = 1.0, activate: bool = False) -> Tensor:
    """Return ``x @ weight.T * lr_mul / sqrt(in_features) + bias * lr_mul``, through a leaky ReLU if ``activate``.

    The gain of the leaky ReLU, which commutes with a positive factor, is part of weight and bias.

    Args:
        x: N x in_features.
        weight: out_features x in_features, stored with a variance of ``1 / lr_mul ** 2``.
        bias: out_features.
        lr_mul: factor on the learning rate of this layer.
        activate: apply ``leaky_relu(0.2) * sqrt(2)``.
    """
    gain = lr_mul * (GAIN if activate else 1)
    with full_precision(x):  # it costs little, and all that follows depends on the result
        x = F.linear(widen(x), weight * (gain / math.sqrt(weight.shape[1])), bias * gain)
        return leaky_relu_(x) if activate else x
