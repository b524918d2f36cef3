"""The networks by name, and the function that builds them from a block of an option file.

It imports the registry, option types and rooms below; weights, losses, models and everything above may import it.
"""

from gpen.registry import ARCH_REGISTRY

build_network = ARCH_REGISTRY.build
"""Build the network that a block such as ``{'type': 'GPEN', 'size': 512}`` describes (a ``torch.nn.Module``).

Raises:
    UserError: ``type`` is missing or unknown, or an argument is missing, unknown or out of range.
"""
