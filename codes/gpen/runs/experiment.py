"""The experiment folder: locked, or moved aside."""

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from gpen.runs.log import LOGGER
from gpen.utils.locks import hold_lock, is_held

LOCK_PATIENCE = 6  # seconds; torch's workers look for their parent every 5


def lock_experiment(folder: Path) -> AbstractContextManager[None]:
    """Return a context that holds the folder for this run alone; the lock goes with the process, however it ends.

    Raises:
        UserError: another run holds it.
    """

    def say_waiting() -> None:
        # The reading processes of a run that was killed hold it until they notice, some seconds later.
        LOGGER.info('%s is in use; waiting up to %d s for it ...', folder, LOCK_PATIENCE)

    return hold_lock(
        _lock_path(folder),
        in_use=f'Another run is using {folder}. Wait for it, stop it, or give this run another name in the option '
        'file.',
        unusable=lambda error: f'Cannot write in or lock {folder.parent}: {error}. Set path.experiments_root.',
        patience=LOCK_PATIENCE,
        say_waiting=say_waiting,
    )


def is_in_use(folder: Path) -> bool:
    """Return whether a run on this machine holds the folder; where locks cannot be had, it seems that none does."""
    return is_held(_lock_path(folder))


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
