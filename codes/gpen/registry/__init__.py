"""A name in an option file -> a class or function.

Adding one takes one file in the registry's package and one decorator; no list has to be edited:

    # codes/gpen/losses/my_loss.py
    @LOSS_REGISTRY.register
    class MyLoss(torch.nn.Module): ...

Names are found by reading the source of the package's modules, not by importing them: a name, its arguments and their
types are known without importing torch, and only the one module that defines the chosen name is ever imported.  A name
that is not ours is looked up in BasicSR's registry, when ``basicsr`` is installed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

from gpen.errors import UserError

T = TypeVar('T', bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """One argument of a registered class or function, as its source states it."""

    name: str
    annotation: str | None
    default: Any
    required: bool
    meaning: str = ''


@dataclass(frozen=True)
class Definition:
    """Where a registered name is defined and what it takes, as its source states it.

    Attributes:
        parameters: its arguments (``self`` and what the program passes itself left out).
        open_ended: it takes any further argument, or has a constructor that could not be found.
        methods: names of the methods that a class or its bases define.
        inputs: arguments of the ``forward`` of a class.
    """

    name: str
    module: str
    attribute: str
    parameters: tuple[Parameter, ...]
    open_ended: bool
    methods: frozenset[str] = frozenset()
    inputs: tuple[str, ...] = ()
    summary: str = ''


class Registry:
    """Names of one kind.

    Args:
        kind: the word for messages, such as ``'loss'``.
        package: the package whose modules define them, such as ``'gpen.losses'``.
        variable: the name of the module variable that holds this registry; decorators are recognised by it.
        given: how many leading arguments the program passes itself, so that they are no options
            (for instance ``params`` of an optimizer).
        basicsr: the name of BasicSR's registry to fall back to.
    """

    def __init__(self, kind: str, package: str, variable: str, given: int = 0, basicsr: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.variable = variable
        self.given = given
        self.basicsr = basicsr

    @overload
    def register(self, item: T) -> T: ...

    @overload
    def register(self) -> Callable[[T], T]: ...

    def register(self, item: T | None = None) -> T | Callable[[T], T]:
        """Mark a class or function as available under its own name (a decorator, with or without parentheses)."""
        return item if item is not None else lambda decorated: decorated

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """All names that our package defines, found in its source files."""
        found: dict[str, Definition] = {}
        inherited: dict[str, str] = {}
        spec = importlib.util.find_spec(self.package)
        locations = spec.submodule_search_locations if spec else None
        for folder in locations or []:
            for path in sorted(Path(folder).rglob('*.py')):
                relative = path.relative_to(folder).with_suffix('')
                module = '.'.join([self.package, *relative.parts]).removesuffix('.__init__')
                source = path.read_text(encoding='utf-8')
                if f'@{self.variable}.register' in source:
                    for definition, base in self._read(ast.parse(source, str(path)), module):
                        found[definition.name] = definition
                        inherited |= {definition.name: base} if base else {}
        for name, base in inherited.items():
            if base in found:
                own, above = found[name], found[base]
                methods, inputs = own.methods | above.methods, own.inputs or above.inputs
                found[name] = replace(
                    above,
                    name=name,
                    module=own.module,
                    attribute=name,
                    methods=methods,
                    inputs=inputs,
                    summary=own.summary,
                )
        return found

    def find(self, name: str) -> Definition | None:
        """Return the definition of one of our own names, or None."""
        return self.definitions.get(name)

    def get(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            UserError: nothing has this name, neither here nor in BasicSR.
        """
        definition = self.find(name)
        if definition is not None:
            return getattr(importlib.import_module(definition.module), definition.attribute)
        found = self._get_from_basicsr(name)
        if found is None:
            raise UserError(self.explain_missing(name))
        return found

    def exists(self, name: str) -> bool:
        """Tell whether ``name`` is ours or, when ``basicsr`` is installed, BasicSR's."""
        return self.find(name) is not None or self._get_from_basicsr(name) is not None

    def explain_missing(self, name: str) -> str:
        """Return a sentence that lists what exists, and the nearest name."""
        names = sorted(self.definitions)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f' Did you mean {near[0]!r}?' if near else ''
        message = f'There is no {self.kind} named {name!r}.{hint} Available: {", ".join(names)}.'
        if self.basicsr and importlib.util.find_spec('basicsr') is None:
            message += " (basicsr is not installed, so its names cannot be used: pip install 'basicsr==1.4.2'.)"
        return message

    def _get_from_basicsr(self, name: str) -> Any:
        if self.basicsr is None or not _basicsr_defines(name):
            return None
        bridge = importlib.import_module('gpen.registry.basicsr_bridge')
        return bridge.find(self.basicsr, name)

    def _read(self, tree: ast.Module, module: str) -> list[tuple[Definition, str | None]]:
        """Return the definitions of a module; beside each, the base class elsewhere that its constructor comes from."""
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        found = []
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            if not any(self._is_decorator(decorator) for decorator in node.decorator_list):
                continue
            family = [] if isinstance(node, ast.FunctionDef) else _list_family(node, classes)
            methods = {
                item.name: item for kin in reversed(family) for item in kin.body if isinstance(item, ast.FunctionDef)
            }
            function = node if isinstance(node, ast.FunctionDef) else methods.get('__init__')
            skip = self.given + isinstance(node, ast.ClassDef)
            elsewhere = _find_base_elsewhere(family, classes) if function is None else None
            meanings = {name: text for kin in (*reversed(family), node) for name, text in _read_meanings(kin).items()}
            parameters, open_ended = (
                _read_parameters(function, skip, meanings) if function else ((), elsewhere is not None)
            )
            forward = methods.get('forward')
            inputs = tuple(argument.arg for argument in forward.args.args[1:]) if forward else ()
            summary = (ast.get_docstring(node) or '').partition('\n\n')[0]
            definition = Definition(
                node.name, module, node.name, parameters, open_ended, frozenset(methods), inputs, summary
            )
            found.append((definition, elsewhere))
        return found

    def _is_decorator(self, node: ast.expr) -> bool:
        return ast.unparse(node) in {f'{self.variable}.register', f'{self.variable}.register()'}


def _basicsr_defines(name: str) -> bool:
    """Whether BasicSR is installed and its source defines ``name``; spares its import, which takes seconds."""
    spec = importlib.util.find_spec('basicsr')
    pattern = re.compile(rf'^(class|def) {re.escape(name)}\b', re.MULTILINE)
    return any(
        pattern.search(path.read_text(encoding='utf-8', errors='replace'))
        for folder in (spec.submodule_search_locations if spec else None) or []
        for path in Path(folder).rglob('*.py')
    )


def _list_family(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """Return a class and its bases in the same file, nearest first."""
    family = [node]
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            family += _list_family(classes[base.id], classes)
    return family


def _find_base_elsewhere(family: list[ast.ClassDef], classes: dict[str, ast.ClassDef]) -> str | None:
    """Return the first base class that another file defines and that may have a constructor with arguments."""
    names = [ast.unparse(base).rpartition('.')[2] for kin in family for base in kin.bases]
    plain = {'Module', 'Dataset', 'object', 'ABC', 'Protocol', *classes}
    return next((name.partition('[')[0] for name in names if name.partition('[')[0] not in plain), None)


def _read_meanings(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """Return what the section ``Args:`` of a docstring says of each argument."""
    lines = (ast.get_docstring(node) or '').partition('Args:\n')[2].splitlines()
    entries: list[str] = []
    for line in itertools.takewhile(lambda line: not line or line.startswith('    '), lines):
        if line.startswith('        ') and entries:
            entries[-1] += ' ' + line.strip()
        else:
            entries.append(line.strip())
    return {name: text[1:2].upper() + text[2:] for name, _, text in (entry.partition(':') for entry in entries)}


def _read_parameters(
    function: ast.FunctionDef, skip: int, meanings: dict[str, str]
) -> tuple[tuple[Parameter, ...], bool]:
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
    pairs = list(zip(positional, defaults, strict=True))[skip:]
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    parameters = tuple(
        Parameter(
            name=argument.arg,
            annotation=ast.unparse(argument.annotation) if argument.annotation else None,
            default=_literal(default),
            required=default is None,
            meaning=meanings.get(argument.arg, ''),
        )
        for argument, default in pairs
    )
    return parameters, arguments.kwarg is not None


def _literal(node: ast.expr | None) -> Any:
    """Return a default value when it is a literal; other defaults are computed by the constructor itself."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


ARCH_REGISTRY = Registry('network', 'gpen.archs', 'ARCH_REGISTRY', basicsr='ARCH_REGISTRY')
DATASET_REGISTRY = Registry('dataset', 'gpen.data', 'DATASET_REGISTRY', basicsr='DATASET_REGISTRY')
DEGRADATION_REGISTRY = Registry('degradation', 'gpen.data.degradations', 'DEGRADATION_REGISTRY', given=2)
LOSS_REGISTRY = Registry('loss', 'gpen.losses', 'LOSS_REGISTRY', basicsr='LOSS_REGISTRY')
METRIC_REGISTRY = Registry('metric', 'gpen.metrics', 'METRIC_REGISTRY', given=2, basicsr='METRIC_REGISTRY')
MODEL_REGISTRY = Registry('model', 'gpen.models', 'MODEL_REGISTRY', given=2)
OPTIMIZER_REGISTRY = Registry('optimizer', 'gpen.models', 'OPTIMIZER_REGISTRY', given=1)
SCHEDULER_REGISTRY = Registry('scheduler', 'gpen.training', 'SCHEDULER_REGISTRY')
