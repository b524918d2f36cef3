"""The registry of one kind of component."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

from gpen.errors import UserError
from gpen.registry.basicsr import BasicSR
from gpen.registry.definitions import Definition
from gpen.registry.outside import explain_missing_outside, find_outside, get_outside
from gpen.registry.source import ModuleSource
from gpen.utils.text import suggest

T = TypeVar('T', bound=Callable[..., Any])


class Registry:
    """Names of one kind.

    Args:
        kind: the word for messages, such as ``'loss'``.
        package: the package whose modules define them, such as ``'gpen.losses'``.
        variable: the name of the module variable that holds this registry; decorators are recognised by it.
        given: how many leading arguments the program passes itself, so that they are no options
            (for instance ``params`` of an optimizer).
        fallback: where a name is looked up that is not ours.
    """

    def __init__(self, kind: str, package: str, variable: str, given: int = 0, fallback: BasicSR | None = None) -> None:
        self.kind = kind
        self.package = package
        self.variable = variable
        self.given = given
        self.fallback = fallback

    @overload
    def register(self, item: T, *, role: str | None = None) -> T: ...

    @overload
    def register(self, *, role: str | None = None) -> Callable[[T], T]: ...

    def register(self, item: T | None = None, *, role: str | None = None) -> T | Callable[[T], T]:
        """Mark a class or function as available under its own name (a decorator, with or without parentheses).

        Args:
            item: the class or function.
            role: what it is for, where options differ in that: ``'generator'``, ``'discriminator'`` or ``'prior'`` (a
                network), ``'adversarial'``, ``'feature_matching'`` or ``'components'`` (a loss).  A class attribute
                ``role`` says the same.
        """

        def mark(decorated: T) -> T:
            if role is not None:
                vars_of: Any = decorated
                vars_of.role = role
            return decorated

        return mark if item is None else mark(item)

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """All names that our package defines, found in its source files."""
        found: dict[str, Definition] = {}
        inherited: dict[str, str] = {}
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations if spec is not None else None) or []:
            for path in sorted(Path(folder).rglob('*.py')):
                relative = path.relative_to(folder).with_suffix('')
                module = '.'.join([self.package, *relative.parts]).removesuffix('.__init__')
                if self.variable.encode() not in path.read_bytes():
                    continue
                source = ModuleSource(path, module)
                for name, node in source.nodes.items():
                    if source.is_registered(node, self.variable):
                        found[name], bases = source.define(node, self.given)
                        if bases:
                            inherited[name] = bases[0].rpartition('.')[2]

        # A constructor that comes from a registered class of another file is known, too.
        for name, base in inherited.items():
            if base in found:
                found[name] = found[name].inherit(found[base])
        return found

    def find(self, name: str) -> Definition | None:
        """Return what a name stands for and takes, or None; imported only where it cannot be known otherwise.

        Args:
            name: one of ours, the dotted path of one outside the package, or one of the fallback's.

        Raises:
            UserError: it is from outside the package, and cannot be imported.
        """
        if _is_dotted(name):
            return find_outside(name, self.given)

        return self.definitions.get(name) or (self.fallback.find(name) if self.fallback is not None else None)

    def get(self, name: str) -> Any:
        """Import and return what a name stands for.

        Raises:
            UserError: nothing has this name, or its module cannot be imported.
        """
        definition = self.definitions.get(name)
        if definition is not None:
            return getattr(importlib.import_module(definition.module), definition.attribute)

        found = None
        if _is_dotted(name):
            found = get_outside(name)
        elif self.fallback is not None:
            found = self.fallback.get(name)
        if found is None:
            raise UserError(self.explain_missing(name))
        return found

    def build(self, options: Mapping[str, Any], *given: Any) -> Any:
        """Build what a block such as ``{'type': 'L1Loss', 'loss_weight': 1.0}`` names.

        Args:
            options: ``type``, and the arguments of what it names; left unchanged.
            given: leading arguments that the program passes itself.

        Raises:
            UserError: ``type`` is missing or unknown, or an argument is missing or unknown.
        """
        arguments = dict(options)
        name = arguments.pop('type', None)
        if not isinstance(name, str):
            raise UserError(f'A {self.kind} block needs "type: NAME" ({self.explain_missing(str(name))})')

        component = self.get(name)
        signature = inspect.signature(component)
        try:
            signature.bind(*given, **arguments)
        except TypeError as error:
            raise UserError(
                f'The {self.kind} {name}: {error}. Its arguments: {", ".join(signature.parameters)}.'
            ) from error
        return component(*given, **arguments)

    def explain_missing(self, name: str) -> str:
        """Return a sentence that says what exists, and the nearest name."""
        if _is_dotted(name):
            return explain_missing_outside(self.kind, name)
        hint = suggest(name, self.definitions, 0.5)
        message = f'There is no {self.kind} named {name!r}.{hint} Available: {", ".join(sorted(self.definitions))}.'
        return message + (self.fallback.explain_missing() if self.fallback is not None else '')


def _is_dotted(name: str) -> bool:
    """Tell whether a name is a dotted path, such as ``my_project.nets.PlainNet``."""
    return '.' in name and all(part.isidentifier() for part in name.split('.'))
