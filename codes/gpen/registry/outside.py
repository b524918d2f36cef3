"""Components from outside the package: a dotted path in YAML, such as ``my_project.nets.PlainNet``, -> a class.

The module is looked for in the working directory and on ``sys.path`` (``PYTHONPATH``).  Its source tells what the
component takes; it is imported only to build it, or where the source does not tell (a name that it imports from
elsewhere, a constructor that a base class in another file has, a C extension).
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.registry.definitions import Definition, define_by_signature
from gpen.registry.source import ModuleSource


def find_outside(path: str, given: int) -> Definition | None:
    """Return the definition of what a dotted path names; None where there is no such module or name.

    Args:
        path: module and name, with dots between.
        given: how many leading arguments the program passes itself.

    Raises:
        UserError: the module is not Python, or had to be imported and cannot be.
    """
    definition = _define_by_source(path, given, ())
    if definition is not None or not _is_in_doubt(path):
        return definition
    module, _, name = path.rpartition('.')
    item = getattr(_import(module), name, None)
    return define_by_signature(path, item, given) if callable(item) else None


def _define_by_source(path: str, given: int, seen: tuple[str, ...]) -> Definition | None:
    """Return what the source states of a dotted path, following imports and base classes; None where it is in doubt."""
    module, _, name = path.rpartition('.')
    file = _find_file(module)
    if file is None or file.suffix != '.py' or path in seen:
        return None
    source = _read(file, module)
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


def _is_in_doubt(path: str) -> bool:
    """Tell whether a module may have a name that its source does not define."""
    module, _, name = path.rpartition('.')
    file = _find_file(module)
    return file is not None and (file.suffix != '.py' or bool({name, '*'} & _read(file, module).names))


def get_outside(path: str) -> Any:
    """Import and return what a dotted path names; None where there is no such module or name.

    Raises:
        UserError: the module cannot be imported.
    """
    module, _, name = path.rpartition('.')
    if module not in sys.modules and _find_file(module) is None:
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
    file = _find_file(module)
    if file is None:
        *above, last = module.split('.')
        known = [entry.name for entry in pkgutil.iter_modules(_find_folders(above))]
        hint = _suggest(last, known, '.'.join([*above, '{}', name]))
        return f'There is no {kind} {path!r}: {Path.cwd()} and PYTHONPATH have no module {module!r}.{hint}'
    names = _read(file, module).names if file.suffix == '.py' else {'*'}
    if '*' in names:
        names = {*dir(_import(module))}
    hint = _suggest(name, names, f'{module}.{{}}')
    return f'There is no {kind} {path!r}: {file} defines no class or function {name!r}.{hint}'


def _suggest(name: str, known: Iterable[str], form: str) -> str:
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f' Did you mean {form.format(near[0])!r}?' if near else ''


def _find_file(module: str) -> Path | None:
    """Return the file of a module, or the folder of a package without one; None where there is no such module.

    Nothing is imported, whereas ``importlib.util.find_spec`` would import the packages above the module.
    """
    *above, last = module.split('.')
    if not all(part.isidentifier() for part in (*above, last)):
        return None
    if not above:
        spec = _find_spec(last)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin)
    suffixes = [f'/__init__{suffix}' for suffix in importlib.machinery.all_suffixes()]
    for folder in _find_folders(above):
        for suffix in [*suffixes, *importlib.machinery.all_suffixes(), '']:
            file = Path(f'{folder}/{last}{suffix}')
            if file.is_file() or (not suffix and file.is_dir()):
                return file
    return None


def _find_folders(packages: list[str]) -> list[str]:
    """Return the folders that hold the modules of a package: those of ``sys.path`` for no package."""
    import_from_working_directory()
    if not packages:
        return sys.path
    spec = _find_spec(packages[0])
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for package in packages[1:]:
        folders = [inner for folder in folders if Path(inner := f'{folder}/{package}').is_dir()]
    return folders


def _find_spec(package: str) -> importlib.machinery.ModuleSpec | None:
    """Return where a module without a package is, which imports nothing."""
    import_from_working_directory()
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # __main__ and the like
        return None


def import_from_working_directory() -> None:
    """Let the working directory's modules be imported, after all others, so that they take nobody's name.

    Worker processes that are started afresh get ``sys.path`` from this one.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def _read(file: Path, module: str) -> ModuleSource:
    try:
        return ModuleSource(file, module)
    except (SyntaxError, ValueError) as error:  # the latter for a file with zero bytes in it
        raise UserError(_explain_failure(module, error)) from error


def _import(module: str) -> Any:
    import_from_working_directory()
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(_explain_failure(module, error)) from error


def _explain_failure(module: str, error: BaseException) -> str:
    """Return a sentence on an exception that a module's import ended with, and the line of the user's that did."""
    libraries = tuple(sysconfig.get_paths()[name] for name in ('stdlib', 'platstdlib', 'purelib', 'platlib'))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith('<frozen')]
    own = [frame for frame in frames if not frame.filename.startswith((*libraries, __file__))]

    place = f'{own[-1].filename}:{own[-1].lineno}: ' if own else ''
    if isinstance(error, SyntaxError) and error.filename is not None:
        place, error = f'{error.filename}:{error.lineno}: ', SyntaxError(error.msg)
    return f'The module {module!r} cannot be imported: {place}{type(error).__name__}: {error}. Correct that line.'
