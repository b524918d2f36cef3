"""The experiment folder: locked, moved aside, or a part of it set aside."""

import os
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import count
from pathlib import Path

from gpen.errors import UserError
from gpen.runs.log import LOGGER
from gpen.utils.files import explain_writing, write_bytes
from gpen.utils.locks import hold_lock, is_held

LOCK_PATIENCE = 6  # seconds; torch's workers look for their parent every 5


def lock_experiment(folder: Path) -> AbstractContextManager[None]:
    """Return a context that holds the folder for this run alone; the lock goes with the process, however it ends.

    Raises:
        UserError: another run holds it, or it is a link to nowhere.
    """
    _check_links(folder)

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
    """Return the lock of a folder: the same one for the folder and for links to it, where its parent can be written."""
    place = folder.resolve() if folder.is_symlink() else folder
    place = place if os.access(place.parent, os.W_OK) else folder
    return place.parent / '.locks' / f'{place.name}.lock'


def _check_links(folder: Path) -> None:
    """Raise a UserError where the folder, one above it or one in it is a link to nowhere: a disk may be missing."""
    parts = [folder, *folder.parents, *(folder.iterdir() if folder.is_dir() else ())]
    for part in parts:
        if part.is_symlink() and not part.exists():
            raise UserError(
                f'{part} is a link to {part.readlink()}, which is not there. Mount the disk that it lies on, make it, '
                'or remove the link.'
            )


def move_aside(folder: Path) -> Path | None:
    """Rename a folder that exists, with the date added; return its new path, or None where nothing was in it.

    Of a link, the folder that it leads to is renamed, and a new one takes its place.  What cannot be renamed, such as
    a disk of its own, stays, and its content is moved to a folder in it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None

    # A new name
    place = folder.resolve() if folder.is_symlink() else folder
    stem = f'{folder.name}_archived_{datetime.now():%Y%m%d_%H%M%S}'
    names = (stem if n == 1 else f'{stem}_{n}' for n in count(1))
    name = next(name for name in names if not (place.with_name(name).exists() or (place / name).exists()))

    target = place.with_name(name)
    with explain_writing(target, f'{folder} is as it was'):
        try:
            place.rename(target)
        except OSError:
            if not place.is_dir():
                raise
            target = folder / name
            _move_content(folder, target)
        if folder.is_symlink():
            place.mkdir(exist_ok=True)
    return target


def _move_content(folder: Path, target: Path) -> None:
    """Move all that is in a folder to a new folder in it, apart from what was moved so before."""
    content = [path for path in folder.iterdir() if '_archived_' not in path.name and path.name != 'lost+found']
    target.mkdir()
    for path in content:
        path.rename(target / path.name)


def set_aside(folder: Path, name: str, content: bytes) -> Path:
    """Keep what is damaged of a file of a run, under a name that is free; return its path, ``damaged/NAME.NUMBER``."""
    target = next(place for n in count(1) if not (place := folder / 'damaged' / f'{name}.{n}').exists())
    write_bytes(target, content)
    return target
