"""Components from outside the package: a dotted path in YAML, such as ``my_project.nets.PlainNet``, -> a class.

The module is looked for in the working directory and on ``sys.path`` (``PYTHONPATH``).  Its source tells what the
component takes; it is imported only to build it, or where the source does not tell (a decorator that may change the
arguments, a C extension).
"""

import importlib
import importlib.util
import pkgutil
import sys
import sysconfig
import traceback
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.registry.definitions import Definition, define_by_signature
from gpen.registry.source import ModuleSource
from gpen.utils.text import suggest


def find_outside(path: str, given: int) -> Definition | None:
    """Return the definition of what a dotted path names; None where there is no such module or name.

    Args:
        path: module and name, with dots between.
        given: how many leading arguments the program passes itself.

    Raises:
        UserError: the module is not Python, or had to be imported and cannot be.
    """
    module, _, name = path.rpartition('.')
    if not {name, '*'} & _list_names(module):
        return None

    # The module is imported where its source does not tell.
    definition = _define_by_source(path, given, ())
    item = get_outside(path) if definition is None else None
    return definition if item is None else define_by_signature(path, item, given)


def get_outside(path: str) -> Any:
    """Import and return the class or function that a dotted path names; None where there is no such module or name.

    Raises:
        UserError: the module cannot be imported.
    """
    module, _, name = path.rpartition('.')
    if module not in sys.modules and _find_module(module) is None:
        return None
    item = getattr(_import(module), name, None)
    return item if callable(item) else None


def explain_missing_outside(kind: str, path: str) -> str:
    """Return a sentence on a dotted path that names nothing, with the nearest name that there is.

    Args:
        kind: the word for what was looked for, such as ``'loss'``.
        path: the dotted path.
    """
    module, _, name = path.rpartition('.')
    spec = _find_module(module)
    if spec is None:
        package, dot, last = module.rpartition('.')
        above = _find_module(package)
        folders = above.submodule_search_locations if above is not None else None if dot else sys.path
        known = [entry.name for entry in pkgutil.iter_modules(folders or [])]
        hint = suggest(last, known, 0.5, f'{package}{dot}{{}}.{name}')
        return f'There is no {kind} {path!r}: {Path.cwd()} and PYTHONPATH have no module {module!r}.{hint}'

    names = _list_names(module)
    hint = suggest(name, dir(_import(module)) if '*' in names else names, 0.5, f'{module}.{{}}')
    return f'There is no {kind} {path!r}: {spec.origin} defines no class or function {name!r}.{hint}'


def _define_by_source(path: str, given: int, seen: tuple[str, ...]) -> Definition | None:
    """Return what the source states of a dotted path, following imports and base classes; None where it is in doubt."""
    module, _, name = path.rpartition('.')
    source = _read(module)
    if source is None or path in seen:
        return None
    node = source.nodes.get(name)

    # A name that is imported from elsewhere is defined there.
    if node is None:
        elsewhere = source.imports.get(name)
        definition = _define_by_source(elsewhere, given, (*seen, path)) if elsewhere is not None else None
        return replace(definition, name=path) if definition is not None else None

    # A constructor that the file does not have is that of the base class.
    if not source.has_plain_arguments(node):
        return None
    definition, bases = source.define(node, given, path)
    if not bases:
        return definition
    above = _define_by_source(bases[0], given, (*seen, path)) if len(bases) == 1 else None
    return definition.inherit(above) if above is not None else None


def _list_names(module: str) -> set[str]:
    """Return the names that a module has, none where there is no module; ``*`` where only its import can tell."""
    if _find_module(module) is None:
        return set()
    source = _read(module)
    return source.names if source is not None else {'*'}


def _read(module: str) -> ModuleSource | None:
    """Return the source of a module, or None where it has none."""
    spec = _find_module(module)
    if spec is None or spec.origin is None or not spec.origin.endswith('.py'):
        return None
    try:
        return ModuleSource(Path(spec.origin), module)
    except (SyntaxError, ValueError) as error:  # the latter for a file with zero bytes in it
        raise UserError(_explain_failure(module, error)) from error


def _find_module(module: str) -> ModuleSpec | None:
    """Return where a module is, or None.

    Nothing is imported, whereas ``importlib.util.find_spec`` would import the packages above the module.
    """
    import_from_working_directory()
    first, *below = module.split('.')
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # no name, or __main__ and the like
        return None
    for name in below:
        folders = spec.submodule_search_locations if spec is not None else None
        # For the finder, the name stands alone: it would look for its package among those that are imported.
        spec = PathFinder.find_spec(name, list(folders)) if folders and name else None
    return spec


def import_from_working_directory() -> None:
    """Let the working directory's modules be imported, after all others, so that they take nobody's name.

    Worker processes that are started afresh get ``sys.path`` from this one.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def _import(module: str) -> Any:
    import_from_working_directory()
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(_explain_failure(module, error)) from error


def _explain_failure(module: str, error: BaseException) -> str:
    """Return a sentence on an exception that a module's import ended with, and the line of the user's that did."""
    paths = sysconfig.get_paths()
    others = ('<frozen', str(Path(__file__).parents[1]), *(paths[name] for name in ('stdlib', 'purelib', 'platlib')))
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]

    place = f'{own[-1].filename}:{own[-1].lineno}: ' if own else ''
    if isinstance(error, SyntaxError) and error.filename is not None:
        place, error = f'{error.filename}:{error.lineno}: ', SyntaxError(error.msg)
    return f'The module {module!r} cannot be imported: {place}{type(error).__name__}: {error}. Correct that line.'
