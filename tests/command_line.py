"""Commands on an option file, as tests run them, and what they left behind."""

import importlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import processes

Result = tuple[int, str]


def run(option_file: Path, *overrides: str, flags: tuple[str, ...] = (), command: str = 'train') -> Result:
    """Run a command on an option file in a process of its own; return exit status and output."""
    return processes.run(option_file.with_name('log'), *_words(option_file, overrides, flags), command=command)


def run_here(option_file: Path, *overrides: str, flags: tuple[str, ...] = (), command: str = 'train') -> Result:
    """Run the same in this process, which saves time: this one has imported and built already what a command needs."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        status = importlib.import_module(f'gpen.commands.{command}').main(_words(option_file, overrides, flags))
    return status, printed.getvalue()


def _words(option_file: Path, overrides: tuple[str, ...], flags: tuple[str, ...]) -> list[str]:
    return ['-opt', str(option_file), *flags, *(('--force_yml', *overrides) if overrides else ())]


def succeed(*arguments: Any, runner: Callable[..., Result] = run_here, **settings: Any) -> str:
    status, printed = runner(*arguments, **settings)
    assert status == 0, printed
    assert 'Traceback' not in printed
    return printed


def fail(*arguments: Any, runner: Callable[..., Result] = run_here, **settings: Any) -> str:
    status, printed = runner(*arguments, **settings)
    assert status == 2, printed
    assert 'Traceback' not in printed
    return printed


def read_records(folder: Path, phase: str) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    chosen = [line for line in lines if line['phase'] == phase]
    assert len({line['iter'] for line in chosen}) == len(chosen), 'a record stands there twice'
    return {line['iter']: line for line in chosen}


def states_in(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in (folder / 'training_states').iterdir())
