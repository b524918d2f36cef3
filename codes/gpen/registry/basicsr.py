"""The bridge to ``basicsr``: its networks, losses, data sets and metrics by name, under our conventions.

It is imported only when an option file names something that is not ours and that its source defines, because importing
it takes seconds.
"""

import importlib
from dataclasses import dataclass, replace
from typing import Any

from gpen.registry.basicsr_package import import_basicsr, is_installed, source_registers
from gpen.registry.definitions import Definition, define_by_signature

SUFFIX = '_basicsr'  # BasicSR appends it to some names, and its own look-up tries both


@dataclass(frozen=True)
class BasicSR:
    """A registry of BasicSR, as the fallback of one of ours.

    Args:
        registry_name: ``ARCH_REGISTRY``, ``LOSS_REGISTRY``, ``DATASET_REGISTRY`` or ``METRIC_REGISTRY``.
    """

    registry_name: str

    def find(self, name: str) -> Definition | None:
        """Return what ``name`` takes, or None where ``basicsr`` is not installed or has no such name.

        The images are left out of a metric's arguments.  A data set takes one dict of options, so anything goes.

        Raises:
            UserError: ``basicsr`` is installed but cannot be imported.
        """
        item = self._get_original(name)
        if item is None:
            return None

        # Networks take what they say; the others are called in our way, not in BasicSR's.
        definition = define_by_signature(name, item)
        if self.registry_name == 'DATASET_REGISTRY':
            return replace(definition, parameters=(), open_ended=True)
        if self.registry_name == 'METRIC_REGISTRY':
            parameters = tuple(one for one in definition.parameters if one.name not in ('img', 'img2'))
            return replace(definition, parameters=parameters)
        if self.registry_name == 'LOSS_REGISTRY' and 'target_is_real' in (definition.inputs or ()):
            return replace(definition, role='adversarial')
        return definition

    def get(self, name: str) -> Any:
        """Return BasicSR's network, loss, data set or metric called ``name``, adapted to our conventions.

        Args:
            name: with or without BasicSR's suffix ``_basicsr``.

        Returns:
            A callable that is used like one of our own, or None where ``basicsr`` is not installed or has no such name.

        Raises:
            UserError: ``basicsr`` is installed but cannot be imported.
        """
        item = self._get_original(name)
        if item is None:
            return None
        from gpen.registry.basicsr_adapters import adapt

        return adapt(item, self.registry_name)

    def explain_missing(self) -> str:
        """Return what is to be said where a name was not found."""
        if is_installed():
            return ''
        return " (basicsr is not installed, so its names cannot be used: pip install 'basicsr==1.4.2'.)"

    def _get_original(self, name: str) -> Any:
        """Return BasicSR's own item, or None; its source is asked first, which spares the import."""
        if not source_registers(name.removesuffix(SUFFIX), self.registry_name):
            return None
        import_basicsr()
        items = dict(iter(getattr(importlib.import_module('basicsr.utils.registry'), self.registry_name)))
        return items.get(name, items.get(name + SUFFIX))
