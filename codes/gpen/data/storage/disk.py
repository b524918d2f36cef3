"""Image files in a folder."""

import logging
import os
from pathlib import Path
from typing import BinaryIO

from gpen.data.file_check import open_file, read_file
from gpen.data.image_folder import HIDDEN, describe_left_out, walk_images
from gpen.data.storage.base import Storage, find_duplicates, key_of
from gpen.errors import UserError
from gpen.utils.text import list_names, printable

LOGGER = logging.getLogger('gpen')


class DiskStorage(Storage):
    """Image files in a folder and its sub-folders; other files are named in a warning, hidden ones are left out.

    Raises:
        UserError: ``root`` is not a folder, or it or a folder in it cannot be read.
    """

    root: Path

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f'There is no folder {root}.')
        left_out: dict[str, str] = {}
        unreadable: list[OSError] = []
        names = _pack(sorted(walk_images(root, unreadable.append, left_out.__setitem__)))
        if unreadable:  # a part of the data, which nobody would miss otherwise
            listed = list_names(
                printable(f'{os.path.relpath(error.filename, root)} ({error.strerror})') for error in unreadable
            )
            raise UserError(
                f'{root} has {len(unreadable)} folder{"s" * (len(unreadable) > 1)} that cannot be read: {listed}. '
                'Make them readable, or move them elsewhere.'
            )
        for sentence in describe_left_out({name: why for name, why in left_out.items() if why != HIDDEN}):
            LOGGER.warning('Warning: %s: %s', root, sentence)
        keys = [key_of(name) for name in names]
        problems = find_duplicates(keys, lambda position: str(root / names[position]))
        # Of two files with the same key the first counts.
        super().__init__(root, dict(zip(reversed(keys), reversed(names), strict=True)), problems)
        self._folder = os.path.join(root, '')  # noqa: PTH118  (with the separator at its end)

    def file_of(self, key: str) -> str:
        return self._folder + self._names[key].replace('/', os.sep)

    def open(self, key: str) -> BinaryIO:
        return open_file(self.file_of(key))

    def load(self, key: str) -> bytes:
        return read_file(self.file_of(key))

    def describe(self, key: str) -> str:
        return self.file_of(key)


def _pack(texts: list[str]) -> list[str]:
    """Return equal texts that lie one after the other in memory.

    A folder lists its files in any order.  Sorted, a million names are all over the memory, and each later loop over
    them would take half as long again.
    """
    return '\0'.join(texts).split('\0') if texts else []
