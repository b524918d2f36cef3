"""What a registered class or function is called, and what it takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

BUILTINS = {'int', 'float', 'bool', 'str', 'list', 'dict', 'None'}  # tuples and the like are not written in YAML
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Parameter:
    """One argument of a registered class or function.

    Attributes:
        name: its name, which is that of the option.
        annotation: its type as source text, of builtins and names of :mod:`gpen.options.types`; None where it is of
            others, or has none.
        default: its default; None where that is computed.
        required: whether it has none.
        meaning: what the docstring says of it.
    """

    name: str
    annotation: str | None
    default: Any
    required: bool
    meaning: str = ''


@dataclass(frozen=True, eq=False)
class Definition:
    """A registered class or function.

    Attributes:
        name: what option files call it.
        module: where it is defined.
        attribute: what its module calls it.
        parameters: its arguments (``self`` and what the program passes itself left out).
        open_ended: whether it takes any further argument, or has a constructor that could not be found.
        inputs: arguments of the ``forward`` of a class; None where there is none or it could not be found.
        role: what it declares to be for, such as ``'discriminator'``; None where it declares nothing.
        summary: the first paragraph of its docstring.
    """

    name: str
    module: str
    attribute: str
    parameters: tuple[Parameter, ...]
    open_ended: bool
    inputs: tuple[str, ...] | None = None
    role: str | None = None
    summary: str = ''

    @property
    def defaults(self) -> dict[str, Any]:
        """The arguments by name, with their defaults."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    def inherit(self, base: Definition) -> Definition:
        """Return the definition of a class that has the constructor of its base class, ``base``."""
        return replace(
            self,
            parameters=base.parameters,
            open_ended=base.open_ended,
            inputs=self.inputs if self.inputs is not None else base.inputs,
            role=self.role or base.role,
        )


def define_by_signature(name: str, item: Callable[..., Any], given: int = 0) -> Definition:
    """Return the definition of what is imported already.

    Args:
        name: what option files call it.
        item: the class or function.
        given: how many leading arguments the program passes itself.
    """
    try:
        arguments = list(inspect.signature(item).parameters.values())[given:]
    except (TypeError, ValueError):  # some C extensions do not tell theirs
        arguments = [inspect.Parameter('arguments', inspect.Parameter.VAR_KEYWORD)]

    parameters = tuple(
        Parameter(
            name=argument.name,
            annotation=_format_annotation(argument.annotation),
            default=None if argument.default is argument.empty else argument.default,
            required=argument.default is argument.empty,
        )
        for argument in arguments
        if argument.kind not in VARIABLE
    )
    forward = getattr(item, 'forward', None) if isinstance(item, type) else None
    return Definition(
        name=name,
        module=getattr(item, '__module__', ''),
        attribute=getattr(item, '__name__', name),
        parameters=parameters,
        open_ended=any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments),
        inputs=tuple(inspect.signature(forward).parameters)[1:] if callable(forward) else None,
        role=getattr(item, 'role', None),
    )


def _format_annotation(annotation: Any) -> str | None:
    """Return an annotation as source text where it is of builtins alone; other names may mean anything."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text if set(re.findall(r'\w+', text)) <= BUILTINS else None
