"""Less memory for more time: activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return ``function(*inputs)``, of which only the inputs and the result stay in memory until the backward pass.

    Gradients, second derivatives too, are the same.  Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


def run_in_parts(function: Callable[[Tensor], Sequence[Tensor]], images: Tensor, parts: int) -> list[Tensor]:
    """Return what ``function`` gives for a batch, computed part by part, so that one part's activations fit.

    Args:
        function: treats each sample by itself; gives tensors whose first dimension is the batch.
        images: N x ...
        parts: how many parts; fewer where there are fewer samples.
    """
    if parts == 1:
        return list(function(images))
    results = [recompute(function, part) for part in images.chunk(parts)]
    return [torch.cat(pieces) for pieces in zip(*results, strict=True)]
