"""Fixed networks inside losses and metrics: loaded once, never trained, never saved."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from gpen.errors import UserError
from gpen.weights.networks import compare_weights


def load_frozen(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path, what: str) -> None:
    """Load weights into a network and fix it for good, in place.

    Parameters become buffers that are not saved, so an optimizer finds none and the state dict is empty.  The network
    still follows ``.to(device)``, and gradients flow through it to its input.

    Args:
        network: may have been built on the ``meta`` device, which takes no time and draws no random numbers.
        state: weights by name; names that the network does not have are ignored.
        path: the file that they come from, for messages.
        what: what the file should hold, for messages.

    Raises:
        UserError: a weight is missing or has another shape.
    """
    # Check names and shapes.
    names = network.state_dict()
    left_out = compare_weights(state, names)
    shapes = left_out.mismatched.items()
    faults = [f'it has no {name!r}' for name in left_out.missing]
    faults += [f'{name!r} is {found} there, but should be {expected}' for name, (found, expected) in shapes]
    faults += [f'{name!r} is {found} there, but should be {ours}' for name, (found, ours) in left_out.retyped.items()]
    if faults:
        raise UserError(f'{path} does not hold {what}: {faults[0]}. Remove it or replace it by the right file.')

    # Load in float32, then turn parameters into buffers.
    weights = {name: state[name].float() if state[name].is_floating_point() else state[name] for name in names}
    network.load_state_dict(weights, assign=True)
    for module in network.modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, value in tensors:
            delattr(module, name)
            module.register_buffer(name, value.detach(), persistent=False)
    network.eval()
