"""The experiment folder: locked, or moved aside."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from gpen.errors import UserError

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
