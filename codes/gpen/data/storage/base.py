"""What a data set needs to know about stored images, and how their names become keys."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from gpen.data.blocks import Blocks
from gpen.data.file_check import SUFFIXES
from gpen.errors import UserError

_DRIVE = re.compile(r'[A-Za-z]:')


class Storage(ABC):
    """The encoded images of one side.

    A key is an image's path below the root, with ``/`` and without its suffix; the two sides of a pair have the same
    key.  Storages are small and can be pickled, so that they travel to workers that are started afresh.

    Attributes:
        root: folder, file or URL.
        is_streamed: the images are fetched while training, so looking at all of them beforehand is no option.
    """

    root: Path | str
    is_streamed = False

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the keys of all images, sorted."""

    @abstractmethod
    def problems(self) -> list[str]:
        """Return what was found wrong while listing the images, a clause each."""

    @abstractmethod
    def file_name(self, key: str) -> str:
        """Return the image's path below the root with its suffix, as far as the suffix is known."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Return a stream of one encoded image, for a look at its header; OSError where it cannot be opened."""

    @abstractmethod
    def load(self, key: str) -> bytes:
        """Return one encoded image; OSError where it cannot be read."""

    @abstractmethod
    def describe(self, key: str) -> str:
        """Return how messages name the image."""

    @abstractmethod
    def stat(self, key: str) -> tuple[int, int]:
        """Return (size in bytes, time of the last change in ns) of the file that holds the image."""

    def read(self, key: str) -> bytes:
        """Return one encoded image; UserError where it cannot be read."""
        try:
            return self.load(key)
        except OSError as error:
            raise UserError(f'{self.describe(key)} cannot be read: {error.strerror or error}.') from error

    def blocks(self, keys: Sequence[str]) -> Blocks | None:  # noqa: ARG002  (for those that have blocks)
        """Return which of the images lie together; None where each can be read alone."""
        return None

    def close(self) -> None:  # noqa: B027  (most have nothing open)
        """Let go of what this process has open or keeps in memory; it is opened again when it is needed."""


def key_of(name: str) -> str:
    """Return the key of an image's name: without a suffix of image files, accents composed.

    Unicode can write an accented letter in two ways; macOS uses the other one in file names.
    """
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), '')
    return unicodedata.normalize('NFC', name[: len(name) - len(suffix)])


def explain_unsafe(name: str) -> str:
    """Return what is wrong with a name that came out of a data set as the path of a file below a folder, or ''."""
    parts = name.split('/')
    if not name or '\0' in name:
        return 'is empty or has a NUL in it'
    if '' in parts or '\\' in name or _DRIVE.match(name):
        return 'is no plain relative path'
    if any(part.startswith('.') for part in parts):
        return 'leads elsewhere or would be hidden'
    return ''


def find_problems(names: Sequence[str], keys: Sequence[str], describe: Callable[[int], str]) -> list[str]:
    """Return a clause for each name that cannot be used, and for each that is there twice.

    Args:
        names: as they are stored.
        keys: the keys of these.
        describe: returns how messages name the image of a position.
    """
    problems = []
    seen: dict[str, int] = {}
    for position, (name, key) in enumerate(zip(names, keys, strict=True)):
        reason = explain_unsafe(name)
        if reason:
            problems.append(f'the name {name!r} of {describe(position)} {reason}')
        elif key in seen:
            problems.append(f'{describe(seen[key])} and {describe(position)} have the same name')
        seen.setdefault(key, position)
    return problems
