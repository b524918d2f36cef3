"""Commands on an option file, as tests run them, and what they left behind."""

import json
from pathlib import Path
from typing import Any

import processes

Result = tuple[int, str]


def run(option_file: Path, *overrides: str, flags: tuple[str, ...] = (), command: str = 'train') -> Result:
    """Run a command on an option file in a process of its own; return exit status and output."""
    force = ('--force_yml', *overrides) if overrides else ()
    return processes.run(option_file.with_name('log'), '-opt', option_file, *flags, *force, command=command)


def succeed(*arguments: Any, **settings: Any) -> str:
    status, printed = run(*arguments, **settings)
    assert status == 0, printed
    assert 'Traceback' not in printed
    return printed


def fail(*arguments: Any, **settings: Any) -> str:
    status, printed = run(*arguments, **settings)
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
