"""Less memory for more time: gradient checkpointing, and batches that are computed in micro-batches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return ``function(*inputs)``; the backward pass computes the activations in between again.

    Only the inputs and the result stay in memory until then.  Gradients are the same, second derivatives too (Chen et
    al. 2016, "Training Deep Nets with Sublinear Memory Cost").
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


def run_in_micro_batches(
    function: Callable[[Tensor], Sequence[Tensor]], batch: Tensor, micro_batches: int
) -> list[Tensor]:
    """Return ``function(batch)``, computed one micro-batch after the other to save memory.

    The activations of one micro-batch at a time are in memory, in the backward pass too.

    Args:
        function: treats each sample by itself, and returns tensors whose first dimension is the batch.
        batch: N x ...
        micro_batches: number of micro-batches; there are fewer where the batch has fewer samples.
    """
    if micro_batches == 1:
        return list(function(batch))
    results = [recompute(function, micro_batch) for micro_batch in batch.chunk(micro_batches)]
    return [torch.cat(tensors) for tensors in zip(*results, strict=True)]
