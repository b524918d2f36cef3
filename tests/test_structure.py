"""The rooms of the package: imports run downwards only, and never in a circle."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import find_tracked

PACKAGE = Path(__file__).parent.parent / 'codes' / 'gpen'

FLOORS = [
    'errors',
    'utils',
    'distributed',
    'registry',
    'options',
    'archs',
    'weights',
    'data',
    'portraits',
    'losses',
    'metrics',
    'models',
    'faces',
    'restoration',
    'evaluation',
    'memory',
    'health',
    'runs',
    'training',
    'reporting',
    'preparation',
    'tuning',
    'demo',
    'commands',
    '__main__',
]
"""Each room may import those above it in this list (``from gpen import __version__`` is free to all)."""


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    return '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(path): path for path in find_tracked(PACKAGE, '*.py')}


def find_imports(source: str) -> Iterator[str]:
    """Yield the modules of the package that a source imports: at its top, inside functions, or by a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f'{node.module}.{alias.name}'
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(('import_module', '__import__')):
            yield from (
                word.value for word in ast.walk(node) if isinstance(word, ast.Constant) and word.value in MODULES
            )


IMPORTS = {name: sorted(set(find_imports(path.read_text(encoding='utf-8'))) - {name}) for name, path in MODULES.items()}


def room_of(name: str) -> str:
    """Return the room that a module belongs to."""
    return [*name.split('.'), ''][1]


def test_every_room_has_its_floor() -> None:
    assert {room_of(name) for name in MODULES} - {''} == set(FLOORS)


@pytest.mark.parametrize('name', MODULES)
def test_imports_run_downwards(name: str) -> None:
    if name == 'gpen':
        return
    floor = FLOORS.index(room_of(name))
    upward = [other for other in IMPORTS[name] if room_of(other) and FLOORS.index(room_of(other)) > floor]
    assert not upward


def test_an_import_by_a_string_is_an_import() -> None:
    source = "import importlib\n\ndef late():\n    return importlib.import_module('gpen.utils.text')\n"
    assert list(find_imports(source)) == ['gpen.utils.text']


def test_there_is_no_import_circle() -> None:
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, ' -> '.join([*path[path.index(name) :], name])
        if name in finished:
            return
        for other in IMPORTS[name]:
            visit(other, [*path, name])
        finished.add(name)

    for name in MODULES:
        visit(name, [])


@pytest.mark.skipif(shutil.which('git') is None, reason='there is no git')
def test_files_that_a_user_has_added_are_not_tested(tmp_path: Path) -> None:
    for name in ('ours.yml', 'own.yml'):
        (tmp_path / name).touch()
    assert [path.name for path in find_tracked(tmp_path, '*.yml')] == ['ours.yml', 'own.yml']
    subprocess.run(['git', 'init', '-q', str(tmp_path)], check=True)
    subprocess.run(['git', '-C', str(tmp_path), 'add', 'ours.yml'], check=True)
    assert [path.name for path in find_tracked(tmp_path, '*.yml')] == ['ours.yml']
