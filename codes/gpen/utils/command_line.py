"""Commands as the user types them, for messages that say what to do next."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from gpen.utils.files import project_root
from gpen.utils.text import to_yaml

SCRIPTS = {
    'prepare': 'scripts/prepare_dataset.py',
    'portraits': 'scripts/make_portraits.py',
    'convert': 'scripts/convert_dataset.py',
    'preview': 'scripts/preview_degradation.py',
    'plan-memory': 'scripts/plan_memory.py',
    'search-lr': 'scripts/search_lr.py',
    'train': 'codes/train.py',
    'report': 'scripts/report.py',
    'test': 'codes/test.py',
    'restore': 'codes/restore.py',
    'export': 'scripts/export.py',
    'demo': 'scripts/demo.py',
}
"""The modes of ``gpen``, and the script of a checkout that does the same."""


def spell_command(mode: str, *words: str | Path) -> str:
    """Return a command to paste: ``gpen MODE`` where that was typed or there is no checkout, else the script's.

    Args:
        mode: one of :data:`SCRIPTS`.
        words: its arguments; a path below the working directory is written from there.
    """
    script = project_root() / SCRIPTS[mode]
    if Path(sys.argv[0]).name.startswith(('gpen', 'python -m gpen')) or not script.is_file():
        start = f'gpen {mode}' if shutil.which('gpen') else f'{_spell_python()} -m gpen {mode}'
    else:
        start = f'{_spell_python()} {spell(script)}'
    return ' '.join([start, *map(spell, words)])


def spell_setting(key: str, value: Any) -> str:
    """Return a word for ``--force_yml``, such as ``datasets:train:batch_size_per_gpu=4``."""
    return f'{key}={to_yaml(value)}'


def _spell_python() -> str:
    names = [name for name in ('python', 'python3') if shutil.which(name) == sys.executable]
    return names[0] if names else spell(Path(sys.executable))


def spell(word: str | Path) -> str:
    """Return a word for the shell; a path below the working directory is written from there."""
    is_below = isinstance(word, Path) and word.is_relative_to(Path.cwd())
    return shlex.quote(str(Path(word).relative_to(Path.cwd()) if is_below else word))
