"""What a data set needs to know about stored images, and how their names become keys."""

import os
import re
import unicodedata
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpen.data.file_check import SUFFIXES
from gpen.data.row_groups import RowGroups
from gpen.errors import UserError

_DRIVE = re.compile(r'[A-Za-z]:')


class Storage(ABC):
    """The encoded images of one side of the data: GT or LQ.

    A key is an image's path below the root, with ``/`` and without its suffix; the two sides of a pair have the same
    key.  Storages are small and can be pickled, so that workers that are spawned get a copy.

    Args:
        root: folder, file or URL.
        names: the path of each image below the root by key, with its suffix as far as that is known.
        problems: what was found wrong while listing the images, a clause each.

    Attributes:
        is_streamed: the images are fetched while training, so they cannot all be checked beforehand.
    """

    is_streamed = False

    def __init__(self, root: Path | str, names: dict[str, str], problems: Sequence[str] = ()) -> None:
        self.root = root
        self.problems = list(problems)
        self._names = names

    def keys(self) -> list[str]:
        """Return the keys of all images, sorted."""
        return sorted(self._names)

    def file_name(self, key: str) -> str:
        """Return the image's path below the root with its suffix, as far as the suffix is known."""
        return self._names[key]

    def stored_order(self, keys: Sequence[str]) -> list[str]:
        """Return ``keys`` in the order that is quickest to read."""
        return list(keys)

    def row_groups(self, keys: Sequence[str]) -> RowGroups | None:  # noqa: ARG002  (for storages that have some)
        """Return which of the images lie together; None where each can be read alone."""
        return None

    @abstractmethod
    def file_of(self, key: str) -> str:
        """Return the path of the file that holds the image."""

    @abstractmethod
    def load(self, key: str) -> bytes:
        """Return one encoded image; OSError where it cannot be read."""

    def open(self, key: str) -> BinaryIO:
        """Return a stream of one encoded image, to read its header; OSError where it cannot be opened."""
        return BytesIO(self.load(key))

    def read(self, key: str) -> bytes:
        """Return one encoded image; UserError where it cannot be read."""
        try:
            return self.load(key)
        except OSError as error:
            raise UserError(f'{self.describe(key)} cannot be read: {error.strerror or error}.') from error

    def describe(self, key: str) -> str:
        """Return how messages name the image."""
        return f'{key} in {self.file_of(key)}'

    def stats(self, keys: Sequence[str]) -> np.ndarray:
        """Return size in bytes and time of the last change (ns) of each image's file, N x 2; -1 where it has none."""
        found = array('q')  # numbers in tuples would take twice as long, and there may be millions
        for path in map(self.file_of, keys):
            try:
                status = os.stat(path)  # noqa: PTH116  (without a Path for each)
            except OSError:
                found.extend((-1, -1))
            else:
                found.append(status.st_size)
                found.append(status.st_mtime_ns)
        return np.array(found, np.int64).reshape(-1, 2)

    def check_structure(self) -> None:  # noqa: B027  (only some have one that can be damaged)
        """Raise UserError where what holds the images is damaged in a way that ends a process that reads it."""

    def close(self) -> None:  # noqa: B027  (most keep nothing open)
        """Release open files and memory of this process; they are opened again when needed."""


def key_of(name: str) -> str:
    """Return the key of an image's name: without a suffix of image files, accents composed.

    Unicode can write an accented letter in two ways; macOS uses the other one in file names.
    """
    stem = name.rpartition('.')[0] if name.lower().endswith(SUFFIXES) else name
    return stem if stem.isascii() else unicodedata.normalize('NFC', stem)


def explain_unsafe(name: str) -> str:
    """Return what is wrong with a name that came out of a data set as the path of a file below a folder, or ''."""
    folders = name.split('/')
    if not name or '\0' in name:
        return 'is empty or has a NUL in it'
    if '' in folders or '\\' in name or _DRIVE.match(name):
        return 'is no plain relative path'
    if any(folder.startswith('.') for folder in folders):
        return 'leads elsewhere or would be hidden'
    return ''


def find_unsafe(names: Sequence[str], describe: Callable[[int], str]) -> list[str]:
    """Return a clause for each name that cannot be used; ``describe`` names the image of a position."""
    reasons = enumerate(map(explain_unsafe, names))
    return [f'the name {names[n]!r} of {describe(n)} {reason}' for n, reason in reasons if reason]


def find_duplicates(keys: Sequence[str], describe: Callable[[int], str]) -> list[str]:
    """Return a clause for each key that is there twice; ``describe`` names the image of a position."""
    if len(set(keys)) == len(keys):
        return []
    problems = []
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        if first.setdefault(key, position) != position:
            problems.append(f'{describe(first[key])} and {describe(position)} have the same name')
    return problems
