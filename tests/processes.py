"""Runs the commands in processes of their own that start fast: forked from a server that has imported everything."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context('forkserver')
PRELOADED = ['preloaded']
CONTEXT.set_forkserver_preload(PRELOADED)


@dataclass
class Command:
    """A running or ended command, and the file that its output goes to."""

    process: Any
    log: Path

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return the exit status (minus the signal's number when killed) and what it printed."""
        self.process.join(timeout=120)
        assert self.process.exitcode is not None, f'still running: {self.log.read_text()}'
        return self.process.exitcode, self.log.read_text(encoding='utf-8')


def start(
    log: Path,
    *arguments: object,
    command: str = 'train',
    kill_at: tuple[str, int] | None = None,
    signal_at: tuple[str, signal.Signals] | None = None,
    environment: dict[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Command:
    """Start ``gpen-COMMAND`` with arguments.

    ``kill_at`` kills it when it passes a place for the n-th time; ``signal_at``, such as ``('validation 2', SIGTERM)``,
    sends it a signal when its second validation begins; ``environment`` adds variables; it calls ``prepare`` first.
    """
    words = [str(argument) for argument in arguments]
    process = CONTEXT.Process(target=_run, args=(log, command, words, kill_at, signal_at, environment or {}, prepare))
    process.start()
    return Command(process, log)


def run(log: Path, *arguments: object, **settings: Any) -> tuple[int, str]:
    """Run ``gpen-COMMAND`` to its end, see :func:`start`; return its exit status and what it printed."""
    return start(log, *arguments, **settings).wait()


def run_python(log: Path, code: str) -> tuple[int, str]:
    """Run Python instead of a command; return the same.  PyTorch and what it trains with are imported already."""
    process = CONTEXT.Process(target=_execute, args=(log, code))
    process.start()
    return Command(process, log).wait()


def start_together(
    folder: Path,
    *arguments: object,
    count: int = 2,
    special: dict[int, dict[str, Any]] | None = None,
    environment: dict[str, str] | None = None,
) -> list[Command]:
    """Start ``count`` processes of one training, with the variables that torchrun sets.

    ``environment`` adds variables to all; ``special`` are further settings of :func:`start` by rank; process N prints
    to ``rankN`` in the folder.
    """
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        port = listener.getsockname()[1]
    place = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(count), **(environment or {})}
    commands = []
    for rank in range(count):
        settings = dict((special or {}).get(rank, {}))
        environment = {**place, 'RANK': str(rank), 'LOCAL_RANK': str(rank), **settings.pop('environment', {})}
        words = (*arguments, '--launcher', 'pytorch')
        commands.append(start(folder / f'rank{rank}', *words, environment=environment, **settings))
    return commands


def run_together(folder: Path, *arguments: object, **settings: Any) -> list[tuple[int, str]]:
    """Run processes of one training to their end, see :func:`start_together`; return what :func:`run` does of each."""
    return [command.wait() for command in start_together(folder, *arguments, **settings)]


def _run(
    log: Path,
    command: str,
    arguments: list[str],
    kill_at: tuple[str, int] | None,
    signal_at: tuple[str, signal.Signals] | None,
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    os.environ.update(environment)
    _print_to(log)
    if kill_at is not None:
        install_kill(*kill_at)
    if signal_at is not None:
        install_signal(int(signal_at[0].rpartition(' ')[2]), signal_at[1])
    if prepare is not None:
        prepare()
    # Workers start as the platform starts them, not from a server of their own that imports everything again; files are
    # left to the system, as in tests/conftest.py.
    multiprocessing.set_start_method(None, force=True)
    os.fsync = lambda _: None  # type: ignore[assignment]
    sys.exit(importlib.import_module(f'gpen.commands.{command}').main(arguments))


def _execute(log: Path, code: str) -> None:
    _print_to(log)
    exec(code, {'__name__': '__main__'})  # noqa: S102


def _print_to(log: Path) -> None:
    with log.open('w', encoding='utf-8') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = os.fdopen(1, 'w', encoding='utf-8')
    sys.stderr = os.fdopen(2, 'w', encoding='utf-8', buffering=1)


def kill() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def install_signal(count: int, number: signal.Signals) -> None:
    """Send this process a signal when its ``count``-th validation begins."""
    from gpen.training import loop

    begun = 0
    real = loop.validate

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == count:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    loop.validate = wrapper


def install_kill(place: str, count: int) -> None:
    """Replace the function at ``place`` by one that kills the process at its ``count``-th call."""
    import torch

    from gpen.models import gpen_model, prior_model
    from gpen.runs import checkpoints, recorder
    from gpen.training import loop

    calls = 0

    def counted(function: Callable[..., Any], before: Callable[..., None] | None = None) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                if before is not None:
                    before(*args)
                kill()
            return function(*args, **kwargs)

        return wrapper

    def write_half(content: Any, stream: Any) -> None:
        real_save(content, stream)
        stream.truncate(stream.tell() // 2)

    real_save = torch.save
    owners: dict[str, tuple[Any, str, Any]] = {
        'step': (gpen_model.GPENModel, 'train_step', None),
        'step of a prior': (prior_model.GPENPriorModel, 'train_step', None),
        'restore': (gpen_model.GPENModel, 'restore', None),  # in the middle of a validation
        'half_written': (torch, 'save', write_half),
        'link': (checkpoints, 'link_or_copy', None),
        'prune': (checkpoints.CheckpointStore, 'prune', None),
        'save': (loop, 'save', None),
        'trim': (recorder, 'trim_tensorboard', None),
    }
    owner, name, before = owners[place]
    setattr(owner, name, counted(getattr(owner, name), before))
