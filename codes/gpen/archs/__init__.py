"""The networks by name, and the function that builds them from a block of an option file.

It imports the registry, option types and rooms below; weights, losses, models and everything above may import it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpen.errors import UserError
from gpen.registry import ARCH_REGISTRY

if TYPE_CHECKING:
    from torch import nn

__all__ = ['build_network']


def build_network(options: Mapping[str, Any]) -> nn.Module:
    """Build the network that ``options`` describes.

    Args:
        options: ``type`` names the network, the rest are its arguments, such as ``{'type': 'GPEN', 'size': 512}``.

    Raises:
        UserError: ``type`` is missing or unknown, or an argument is missing, unknown or out of range.
    """
    arguments = dict(options)
    name = arguments.pop('type', None)
    if not isinstance(name, str):
        raise UserError("A network needs the option 'type', such as {'type': 'GPEN', 'size': 512}.")

    network_class = ARCH_REGISTRY.get(name)
    signature = inspect.signature(network_class)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UserError(f'The network {name}: {error}. Its arguments: {", ".join(signature.parameters)}.') from error
    network: nn.Module = network_class(**arguments)
    return network
