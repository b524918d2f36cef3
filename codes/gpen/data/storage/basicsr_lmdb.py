"""An LMDB in BasicSR's layout: read here, written in :mod:`gpen.data.storage.writing`."""

import os
import posixpath
import struct
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

from gpen.data.storage.base import Storage, find_duplicates, find_unsafe
from gpen.errors import UserError
from gpen.utils.packages import import_package

META_FILE = 'meta_info.txt'

_PAGE_HEADER = 16  # bytes
# What LMDB's first two pages hold: magic, version, map size, page size, ..., last page, transaction
_META = struct.Struct('=II8xQI92xQQ')
_MAGIC = 0xBEEFC0DE
_SMALLEST_PAGE = 256
# Reads both ends of each image whose key stands in a line; what is damaged otherwise is said when it is read.
_READ_ALL = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False, readahead=False) as environment:
    with environment.begin(buffers=True) as transaction:
        for line in sys.stdin.buffer:
            value = transaction.get(line[:-1]) or b''
            bytes(value[:1]), bytes(value[-1:])
"""


class LmdbStorage(Storage):
    """An LMDB as BasicSR writes it: a folder NAME.lmdb whose meta_info.txt lists ``NAME.png (H,W,C) COMPRESSION``.

    The database is opened when first read, once per process.

    Raises:
        UserError: ``root`` does not have this layout, or lmdb is not installed.
    """

    root: Path

    def __init__(self, root: Path) -> None:
        import_lmdb()
        missing = [name for name in ('data.mdb', META_FILE) if not (root / name).is_file()]
        if root.suffix != '.lmdb' or missing:
            reason = f'without {" and ".join(missing)}' if root.is_dir() and missing else 'not a folder NAME.lmdb'
            raise UserError(
                f'{root} is no LMDB of images: it is {reason}. Point to one, or set io_backend.type to disk.'
            )

        try:
            _check_length(root / 'data.mdb')
        except OSError as error:
            raise UserError(f'{root} cannot be used: {error}. Copy or write it again.') from error
        names = _read_names(root / META_FILE)
        keys = [unicodedata.normalize('NFC', _database_key(name)) for name in names]

        def describe(position: int) -> str:
            return f'{names[position]} in {root}'

        problems = find_unsafe(names, describe) + find_duplicates(keys, describe)
        super().__init__(root, dict(zip(keys, names, strict=True)), problems)
        self._file = str(root / 'data.mdb')

    def file_of(self, key: str) -> str:  # noqa: ARG002  (one file holds all images)
        return self._file

    def load(self, key: str) -> bytes:
        lmdb = import_lmdb()
        try:
            with _open_environment(self.root).begin() as transaction:
                value: bytes | None = transaction.get(_database_key(self._names[key]).encode())
        except lmdb.Error as error:
            raise OSError(f'the database is damaged ({error})') from error
        if value is None:
            raise OSError(f'{META_FILE} lists it but the database does not hold it')
        return value

    def check_structure(self) -> None:
        # A pointer that is damaged makes LMDB read behind the end of the file, which ends the process.
        keys = ''.join(f'{_database_key(name)}\n' for name in self._names.values())
        command = [sys.executable, '-c', _READ_ALL, str(self.root)]
        done = subprocess.run(command, input=keys.encode(), capture_output=True, check=False)
        if done.returncode < 0:
            raise UserError(f'{self.root} is damaged: its data.mdb leads out of itself. Copy or write it again.')

    def describe(self, key: str) -> str:
        return f'{key} in {self.root}'


def _read_names(meta: Path) -> list[str]:
    try:
        lines = meta.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{meta} is damaged: it is no UTF-8 text. Write the LMDB again.') from error
    return sorted({line.rsplit(' ', 2)[0].strip() for line in lines} - {''})


def _check_length(file: Path) -> None:
    """Raise OSError where a database is cut off, by its own header: reading behind the end would end the process."""
    with file.open('rb') as stream:
        first = stream.read(_PAGE_HEADER + _META.size)
        page_size = _META.unpack_from(first, _PAGE_HEADER)[3] if len(first) == _PAGE_HEADER + _META.size else 0
        stream.seek(page_size)
        metas = [head[_PAGE_HEADER:] for head in (first, stream.read(len(first))) if len(head) > _PAGE_HEADER]
        length = stream.seek(0, os.SEEK_END)

    # The newer of the two counts.
    found = [_META.unpack(meta) for meta in metas if len(meta) == _META.size]
    if len(found) < 2 or page_size < _SMALLEST_PAGE or any(meta[0] != _MAGIC for meta in found):
        raise OSError('its data.mdb is cut off or no LMDB')
    needed = (max(found, key=lambda meta: meta[-1])[-2] + 1) * page_size
    if length < needed:
        raise OSError(f'its data.mdb is cut off: it has {length:,} of {needed:,} bytes')


def _database_key(name: str) -> str:
    return posixpath.splitext(name)[0]


def import_lmdb() -> Any:
    """Return the module ``lmdb``; UserError where it is not installed."""
    return import_package('lmdb', 'io_backend.type lmdb needs the package lmdb: pip install lmdb.')


_environments: dict[Path, Any] = {}
_environments_process = 0
_environments_lock = threading.Lock()


def _open_environment(root: Path) -> Any:
    """Return the process's environment for ``root``: LMDB allows one per process, and none inherited by a fork."""
    global _environments_process
    with _environments_lock:
        # Close what the parent process had open.
        if _environments_process != os.getpid():
            for inherited in _environments.values():
                inherited.close()
            _environments.clear()
            _environments_process = os.getpid()

        path = root.resolve()
        if path not in _environments:
            _environments[path] = import_lmdb().open(
                str(path), readonly=True, lock=False, readahead=False, meminit=False
            )
        return _environments[path]
