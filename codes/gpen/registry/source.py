"""Definitions as source files state them, read without importing these files or anything that they import."""

import ast
import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gpen.registry.definitions import Definition, Parameter

TYPE_MODULES = ('gpen.options.types', 'typing', 'collections.abc')  # a name from elsewhere may mean anything
PLAIN_BASES = {'Module', 'Dataset', 'object', 'ABC', 'Protocol'}  # their constructors take no arguments
MARKS = 'gpen.metrics.'  # its decorators leave a metric's arguments as they are

Node = ast.ClassDef | ast.FunctionDef


class ModuleSource:
    """The source of one module.

    Args:
        path: the file.
        module: the module's dotted name.

    Attributes:
        nodes: the classes and functions at its top level, by name.

    Raises:
        SyntaxError: the file is not Python.
    """

    def __init__(self, path: Path, module: str) -> None:
        self.module = module
        self._package = module if path.name == '__init__.py' else module.rpartition('.')[0]
        self._tree = ast.parse(path.read_bytes(), str(path))
        self.nodes: dict[str, Node] = {node.name: node for node in self._tree.body if isinstance(node, Node)}

    @cached_property
    def imports(self) -> dict[str, str]:
        """What each imported name stands for, as a dotted name."""
        names: dict[str, str] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ImportFrom):
                above = self._package.split('.')[: 1 - node.level or None] if node.level else []
                package = '.'.join([*above, *filter(None, [node.module])])
                names |= {alias.asname or alias.name: f'{package}.{alias.name}' for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        return names

    @cached_property
    def names(self) -> set[str]:
        """All names that the module has, however they are bound; ``*`` where it may have others."""
        found = {'*'} if '__getattr__' in self.nodes else set()
        todo: list[ast.AST] = [*self._tree.body]

        # Inside of blocks such as if and try, too, but not of classes and functions.
        while todo:
            node = todo.pop()
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.alias):
                found.add(node.asname or node.name.partition('.')[0])
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            else:
                todo += ast.iter_child_nodes(node)
        return found

    def define(self, node: Node, given: int = 0, name: str | None = None) -> tuple[Definition, list[str]]:
        """Return the definition of a class or function.

        Args:
            node: one of :attr:`nodes`.
            given: how many leading arguments the program passes itself.
            name: what option files call it; default: its own name.

        Returns:
            The definition, and the dotted names of the base classes in other files that its constructor may come from;
            none where it is in this file.
        """
        family: list[Any] = [node] if isinstance(node, ast.FunctionDef) else self._list_family(node)
        methods = {
            item.name: item for kin in reversed(family) for item in kin.body if isinstance(item, ast.FunctionDef)
        }
        function = node if isinstance(node, ast.FunctionDef) else methods.get('__init__')
        bases = self._find_bases_elsewhere(family) if function is None else []

        # Arguments: those of the function or constructor, with what the docstrings of the family say of them.
        parameters: tuple[Parameter, ...] = ()
        if function is not None:
            meanings = {name: text for kin in reversed(family) for name, text in _read_meanings(kin).items()}
            parameters = tuple(self._read_parameters(function, given + isinstance(node, ast.ClassDef), meanings))

        forward = methods.get('forward') if isinstance(node, ast.ClassDef) else None
        definition = Definition(
            name=name or node.name,
            module=self.module,
            attribute=node.name,
            parameters=parameters,
            open_ended=bool(bases) if function is None else function.args.kwarg is not None,
            inputs=tuple(argument.arg for argument in forward.args.args[1:]) if forward is not None else None,
            role=next(filter(None, map(self._read_role, family)), None),
            summary=(ast.get_docstring(node) or '').partition('\n\n')[0],
        )
        return definition, bases

    def is_registered(self, node: Node, variable: str) -> bool:
        """Tell whether a class or function has the decorator of the registry called ``variable``, by any name."""
        return any(f'.{name}'.endswith(f'.{variable}.register') for name in self._decorators(node))

    def has_plain_arguments(self, node: Node) -> bool:
        """Tell whether a class or function takes what its source states: no unknown decorator can have changed it."""
        return all(name.endswith('.register') or name.startswith(MARKS) for name in self._decorators(node))

    def _decorators(self, node: Node) -> Iterator[str]:
        for decorator in node.decorator_list:
            yield self.qualify(decorator.func if isinstance(decorator, ast.Call) else decorator)

    def qualify(self, node: ast.expr) -> str:
        """Return the dotted name that an expression stands for, with imported names as they are called at home."""
        if isinstance(node, ast.Attribute):
            return f'{self.qualify(node.value)}.{node.attr}'
        return self.imports.get(node.id, node.id) if isinstance(node, ast.Name) else ''

    def _list_family(self, node: ast.ClassDef) -> list[ast.ClassDef]:
        """Return a class and its bases in the same file, nearest first."""
        family = [node]
        for base in node.bases:
            above = self.nodes.get(base.id) if isinstance(base, ast.Name) else None
            if isinstance(above, ast.ClassDef) and above is not node:
                family += self._list_family(above)
        return family

    def _find_bases_elsewhere(self, family: list[Any]) -> list[str]:
        """Return the base classes that other files define and that may have a constructor with arguments."""
        bases = [base.value if isinstance(base, ast.Subscript) else base for kin in family for base in kin.bases]
        names = [self.qualify(base) for base in bases]
        return [name for name in names if name.rpartition('.')[2] not in PLAIN_BASES and name not in self.nodes]

    def _read_role(self, node: Node) -> str | None:
        """Return the role that a decorator declares, ``register(role=...)``, or the class attribute ``role``."""
        calls = [decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
        roles = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == 'role']
        for item in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(item, ast.Assign | ast.AnnAssign):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                roles += [item.value for target in targets if ast.unparse(target) == 'role' and item.value is not None]
        return next((role for role in map(_read_literal, roles) if isinstance(role, str)), None)

    def _read_parameters(self, function: ast.FunctionDef, skip: int, meanings: dict[str, str]) -> Iterator[Parameter]:
        arguments = function.args
        positional = arguments.posonlyargs + arguments.args
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
        pairs = list(zip(positional, defaults, strict=True))[skip:]
        for argument, default in [*pairs, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
            yield Parameter(
                name=argument.arg,
                annotation=self._read_annotation(argument.annotation),
                default=_read_literal(default),
                required=default is None,
                meaning=meanings.get(argument.arg, ''),
            )

    def _read_annotation(self, node: ast.expr | None) -> str | None:
        """Return an annotation with names as :mod:`gpen.options.types` calls them; None where others are in it."""
        if node is None:
            return None
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode='eval').body
        reader = _AnnotationReader(self)
        text = ast.unparse(reader.visit(node))
        return text if reader.is_known else None


class _AnnotationReader(ast.NodeTransformer):
    """Replaces names and dotted names in an annotation by those of :mod:`gpen.options.types`."""

    def __init__(self, source: ModuleSource) -> None:
        self.source = source
        self.is_known = True

    def visit_Name(self, node: ast.Name | ast.Attribute) -> ast.expr:
        home, _, name = self.source.qualify(node).rpartition('.')
        self.is_known &= home in TYPE_MODULES or (not home and name not in self.source.names)
        return ast.Name(name)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self.visit_Name(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        value = self.visit(node.value)
        is_literal = ast.unparse(value) == 'Literal'
        return ast.Subscript(value, node.slice if is_literal else self.visit(node.slice), node.ctx)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        self.is_known &= node.value is None  # no quoted names of classes
        return node


def _read_meanings(node: Node) -> dict[str, str]:
    """Return what the section ``Args:`` of a docstring says of each argument."""
    lines = (ast.get_docstring(node) or '').partition('Args:\n')[2].splitlines()
    entries: list[str] = []
    for line in itertools.takewhile(lambda line: not line or line.startswith('    '), lines):
        if line.startswith('        ') and entries:
            entries[-1] += f' {line.strip()}'
        else:
            entries.append(line.strip())
    return {name: text[1:2].upper() + text[2:] for name, _, text in (entry.partition(':') for entry in entries)}


def _read_literal(node: ast.expr | None) -> Any:
    """Return a default value when it is a literal; other defaults are computed by the constructor itself."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None
