"""The networks by name, and the function that builds them from a block of an option file.

It imports the registry, option types and rooms below; weights, losses, models and everything above may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpen.registry import ARCH_REGISTRY

if TYPE_CHECKING:
    from torch import nn


def build_network(options: Mapping[str, Any]) -> nn.Module:
    """Build the network that ``options`` describes.

    Args:
        options: ``type`` names the network, the rest are its arguments, such as ``{'type': 'GPEN', 'size': 512}``.

    Raises:
        UserError: ``type`` is missing or unknown, or an argument is missing, unknown or out of range.
    """
    network: nn.Module = ARCH_REGISTRY.build(options)
    return network
