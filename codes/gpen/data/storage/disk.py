"""Image files in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from gpen.data.file_check import walk_images
from gpen.data.storage.base import Storage, key_of
from gpen.errors import UserError


class DiskStorage(Storage):
    """Image files in a folder and its sub-folders; hidden files are left out.

    Raises:
        UserError: ``root`` is not a folder.
    """

    root: Path

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, str] = {}
        self._problems: list[str] = []
        if not root.is_dir():
            raise UserError(f'There is no folder {root}.')
        for relative in sorted(path.relative_to(root).as_posix() for path in walk_images(root)):
            key = key_of(relative)
            if key in self._files:
                self._problems.append(f'{self.describe(key)} and {root / relative} have the same name')
            else:
                self._files[key] = relative

    def keys(self) -> list[str]:
        return sorted(self._files)

    def problems(self) -> list[str]:
        return list(self._problems)

    def file_name(self, key: str) -> str:
        return self._files[key]

    def open(self, key: str) -> BinaryIO:
        return (self.root / self._files[key]).open('rb')

    def load(self, key: str) -> bytes:
        return (self.root / self._files[key]).read_bytes()

    def describe(self, key: str) -> str:
        return str(self.root / self._files[key])

    def stat(self, key: str) -> tuple[int, int]:
        status = (self.root / self._files[key]).stat()
        return status.st_size, status.st_mtime_ns
