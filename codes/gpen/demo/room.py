"""The folder of uploads and results: the old ones are forgotten, and where there are too many, the oldest."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

LIFETIME = 15 * 60
"""Seconds after which uploads and results are deleted."""

MAX_STORED = 2 << 30
"""Bytes that they have together at most, and no more than half of what the folder's disk or memory has."""

EXAMPLES = 'examples'
"""Name of the folder inside that stays."""

_GRACE = 60  # seconds that nothing is deleted before: time to restore it and to fetch the result
_LEAST = 1 << 18  # bytes that a file counts at least, so that there are never very many


def make_room(folder: Path, wanted: int = 0) -> bool:
    """Delete what is too old, and more, oldest first, where the folder would be too full.

    Args:
        folder: of uploads and results.
        wanted: bytes that are to come.

    Returns:
        whether there is room for them.
    """
    now = time.time()
    stored = sorted(_list_below(folder / EXAMPLES, folder))
    free = min(MAX_STORED, shutil.disk_usage(folder).total // 2) - wanted - sum(size for _, _, size in stored)
    for changed, path, size in stored:
        age = now - changed
        if age <= _GRACE if free < 0 else age <= LIFETIME:
            break
        with suppress(OSError):  # it was deleted just now, or is a folder that is not empty
            (path.unlink if size else path.rmdir)()
            free += size
    return free >= 0


def _list_below(kept: Path, folder: Path) -> list[tuple[float, Path, int]]:
    """Return when each file and folder was changed, its path, and the bytes that it counts; a folder counts none."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(root, name) != kept]
        for name in folders + files:
            with suppress(FileNotFoundError):
                facts = os.lstat(path := Path(root, name))
                found.append((facts.st_mtime, path, 0 if name in folders else max(facts.st_size, _LEAST)))
    return found
