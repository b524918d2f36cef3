"""The experiment folder: locked, moved aside or continued; and the run's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from gpen.errors import UserError
from gpen.registry import ARCH_REGISTRY

LOGGER = logging.getLogger('gpen')
LOCK_PATIENCE = 6  # seconds; torch's workers look for their parent every 5


@contextmanager
def lock_experiment(folder: Path) -> Iterator[None]:
    """Hold the folder for this run alone; the lock goes with the process, however it ends.

    Raises:
        UserError: another run holds it.
    """
    from filelock import FileLock, Timeout

    path = _lock_path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            # The reading processes of a run that was killed hold it until they notice, some seconds later.
            LOGGER.info('%s is in use; waiting up to %d s for it ...', folder, LOCK_PATIENCE)
            lock.acquire(timeout=LOCK_PATIENCE)
    except Timeout as error:
        raise UserError(
            f'Another run is using {folder}. Wait for it, stop it, or give this run another name in the option file.'
        ) from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f'Cannot write in or lock {folder.parent}: {error}. Set path.experiments_root.') from error
    try:
        yield
    finally:
        lock.release()


def is_in_use(folder: Path) -> bool:
    """Return whether a run on this machine holds the folder; where locks cannot be had, it seems that none does."""
    from filelock import FileLock, Timeout

    if not _lock_path(folder).is_file():
        return False
    try:
        with FileLock(_lock_path(folder), timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _lock_path(folder: Path) -> Path:
    return folder.parent / '.locks' / f'{folder.name}.lock'


def move_aside(folder: Path) -> Path | None:
    """Rename a folder that exists, with the date added; return its new path, or None if there was none."""
    if not folder.exists():
        return None
    stem = f'{folder.name}_archived_{datetime.now():%Y%m%d_%H%M%S}'
    target = folder.with_name(stem)
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f'{stem}_{number}')
    folder.rename(target)
    return target


class _TqdmHandler(logging.StreamHandler):
    """Prints above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=self.stream)
        self.flush()


class RunLog:
    """The log of a run (a context manager): to the screen at once, to a file as soon as there is a folder.

    Args:
        is_main: this process speaks for all that train together; the others say only what ends them.
    """

    def __init__(self, is_main: bool = True) -> None:
        self._screen = _TqdmHandler()
        self._screen.setFormatter(logging.Formatter('%(message)s'))
        self._screen.setLevel(logging.INFO if is_main else logging.ERROR)
        self._buffer = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)

    def __enter__(self) -> RunLog:
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        LOGGER.addHandler(self._screen)
        LOGGER.addHandler(self._buffer)
        return self

    def write_to(self, folder: Path) -> None:
        """Append all messages, those before this call too, to ``train.log`` in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / 'train.log', encoding='utf-8')
        file.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s', datefmt='%Y-%m-%d %H:%M:%S'))
        self._buffer.setTarget(file)
        self._buffer.flush()
        LOGGER.removeHandler(self._buffer)
        LOGGER.addHandler(file)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handler in list(LOGGER.handlers):
            LOGGER.removeHandler(handler)
            handler.close()


UNUSABLE = ('network_g.', 'network_d.', 'model_type', 'train.optim_g.type', 'train.optim_d.type')


def compare_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line ``path: old -> new`` for every option that changed since a state was saved.

    Raises:
        UserError: one of them makes the state unusable (another network, model or optimizer).
    """
    old, new = flatten(_with_defaults(before)), flatten(_with_defaults(now))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    lines = {key: f'{key}: {_show(old.get(key))} -> {_show(new.get(key))}' for key in changed}
    unusable = [line for key, line in lines.items() if key.startswith(UNUSABLE)]
    if 'train.gan_opt.type' in lines and 'train.gan_opt.type' not in old:  # there is no trained discriminator
        unusable.append(lines['train.gan_opt.type'])
    if unusable:
        listing = '\n  '.join(unusable)
        raise UserError(
            f'The saved state does not fit the options any more:\n  {listing}\n'
            'Put them back, give the run another name, or start anew without --auto_resume.'
        )
    return list(lines.values())


def _with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with the defaults of both networks written out, so that writing one out is no change."""
    filled = dict(options)
    for name in ('network_g', 'network_d'):
        block = options.get(name)
        definition = ARCH_REGISTRY.find(block['type']) if block else None
        if block and definition is not None:
            defaults = {parameter.name: parameter.default for parameter in definition.parameters}
            filled[name] = {**defaults, **block}
    return filled


def flatten(data: Any, prefix: str = '') -> dict[str, Any]:
    """Return nested dicts as one dict with dotted keys; empty dicts and None leave no key."""
    if not isinstance(data, dict):
        return {} if data is None else {prefix: data}
    result: dict[str, Any] = {}
    for key, value in data.items():
        result |= flatten(value, f'{prefix}.{key}' if prefix else str(key))
    return result


def _show(value: Any) -> str:
    return 'not set' if value is None else repr(value)
