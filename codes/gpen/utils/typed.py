"""Commands of this project as one types them, for messages that are pasted into a terminal."""

import shlex
import shutil
import sys
from pathlib import Path

from gpen.utils.files import project_root

_FOLDERS = ('codes', 'scripts')


def spell_command(name: str, *arguments: str | Path) -> str:
    """Return a command line that runs from the working directory, such as ``python codes/train.py -opt FILE``.

    Args:
        name: of the command, such as ``train``.
        arguments: quoted where a shell needs it; paths are written from the working directory if they lie below.
    """
    own = (_shorten(argument) if isinstance(argument, Path) else argument for argument in arguments)
    words = [*_spell_program(name), *own]
    return ' '.join(shlex.quote(word) for word in words)


def _spell_program(name: str) -> list[str]:
    """Return the words before the arguments: a script of the checkout, else a command that pip installed."""
    scripts = (project_root() / folder / f'{name}.py' for folder in _FOLDERS)
    script = next((path for path in scripts if path.is_file()), None)
    if Path(sys.argv[0]).name == 'gpen':
        return ['gpen', name.replace('_', '-')]
    if script is None:
        return [f'gpen-{name}']
    return [_spell_python(), _shorten(script)]


def _spell_python() -> str:
    """Return the shortest word that starts this very Python."""
    for word in ('python', 'python3'):
        found = shutil.which(word)
        if found is not None and Path(found) == Path(sys.executable):
            return word
    return _shorten(Path(sys.executable))


def _shorten(path: Path) -> str:
    """Return a path from the working directory if it lies below, and as it is otherwise."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
