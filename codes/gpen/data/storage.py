"""Where the encoded images lie: a folder of files, or an LMDB in BasicSR's layout.

A key is an image's path below the root, with ``/`` and without its suffix; the two sides of a pair have the same key.
Storages are small and can be pickled, so that they travel to workers that are started afresh.
"""

from __future__ import annotations

import os
import shutil
import threading
import unicodedata
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from gpen.data.file_check import SUFFIXES, DamagedFileError, read_size
from gpen.errors import UserError
from gpen.utils.files import write_text

_META_FILE = 'meta_info.txt'


class Storage(Protocol):
    """What a data set needs to know about the images of one side."""

    root: Path

    def keys(self) -> list[str]:
        """Return the keys of all images, sorted."""

    def problems(self) -> list[str]:
        """Return what was found wrong while listing the images, a clause each."""

    def open(self, key: str) -> BinaryIO:
        """Return a stream of one encoded image, for a look at its header; OSError where it cannot be opened."""

    def read(self, key: str) -> bytes:
        """Return one encoded image; UserError where it cannot be read."""

    def describe(self, key: str) -> str:
        """Return how messages name the image."""

    def stat(self, key: str) -> tuple[int, int]:
        """Return (size in bytes, time of the last change in ns) of the file that holds the image."""


def open_storage(root: Path, io_backend: dict[str, Any] | None = None) -> Storage:
    """Return the storage that ``io_backend`` (``{type: disk}``, the default, or ``{type: lmdb}``) describes.

    Raises:
        UserError: no such back end, or ``root`` is not there or has another layout.
    """
    options = {'type': 'disk'} if io_backend is None else dict(io_backend)
    name = options.pop('type', 'disk')
    if name not in ('disk', 'lmdb'):
        raise UserError(f'io_backend.type is {name!r}; it can be disk or lmdb.')
    if options:
        raise UserError(f'io_backend has only the option type; remove {", ".join(map(str, options))}.')
    return DiskStorage(root) if name == 'disk' else LmdbStorage(root)


class DiskStorage:
    """Image files in a folder and its sub-folders; hidden files are left out.

    Raises:
        UserError: ``root`` is not a folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, str] = {}
        self._problems: list[str] = []
        if not root.is_dir():
            raise UserError(f'There is no folder {root}.')
        for relative in _list_images(root):
            # Unicode can write an accented letter in two ways; macOS uses the other one in file names.
            key = unicodedata.normalize('NFC', PurePosixPath(relative).with_suffix('').as_posix())
            if key in self._files:
                self._problems.append(f'{self.describe(key)} and {root / relative} have the same name')
            else:
                self._files[key] = relative

    def keys(self) -> list[str]:
        return sorted(self._files)

    def problems(self) -> list[str]:
        return list(self._problems)

    def open(self, key: str) -> BinaryIO:
        return (self.root / self._files[key]).open('rb')

    def read(self, key: str) -> bytes:
        try:
            return (self.root / self._files[key]).read_bytes()
        except OSError as error:
            raise UserError(f'{self.describe(key)} cannot be read: {error.strerror or error}.') from error

    def describe(self, key: str) -> str:
        return str(self.root / self._files[key])

    def stat(self, key: str) -> tuple[int, int]:
        status = (self.root / self._files[key]).stat()
        return status.st_size, status.st_mtime_ns


class LmdbStorage:
    """An LMDB as BasicSR writes it: a folder NAME.lmdb whose meta_info.txt lists ``NAME.png (H,W,C) COMPRESSION``.

    The database is opened when first read, once per process.

    Raises:
        UserError: ``root`` does not have this layout, or lmdb is not installed.
    """

    def __init__(self, root: Path) -> None:
        _import_lmdb()
        self.root = root
        missing = [name for name in ('data.mdb', _META_FILE) if not (root / name).is_file()]
        if root.suffix != '.lmdb' or missing:
            reason = f'without {" and ".join(missing)}' if root.is_dir() and missing else 'not a folder NAME.lmdb'
            raise UserError(
                f'{root} is no LMDB of images: it is {reason}. Point to one, or set io_backend.type to disk.'
            )
        lines = (root / _META_FILE).read_text(encoding='utf-8').splitlines()
        names = {line.rsplit(' ', 2)[0].strip() for line in lines} - {''}
        self._keys = sorted({PurePosixPath(name).with_suffix('').as_posix() for name in names})

    def keys(self) -> list[str]:
        return list(self._keys)

    def problems(self) -> list[str]:
        return []

    def open(self, key: str) -> BinaryIO:
        return BytesIO(self._get(key))

    def read(self, key: str) -> bytes:
        try:
            return self._get(key)
        except OSError as error:
            raise UserError(f'{self.describe(key)} cannot be read: {error}.') from error

    def describe(self, key: str) -> str:
        return f'{key} in {self.root}'

    def stat(self, key: str) -> tuple[int, int]:  # noqa: ARG002  (one file holds all images)
        status = (self.root / 'data.mdb').stat()
        return status.st_size, status.st_mtime_ns

    def _get(self, key: str) -> bytes:
        lmdb = _import_lmdb()
        try:
            with _open_environment(self.root).begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
        except lmdb.Error as error:
            raise OSError(f'the database is damaged ({error})') from error
        if value is None:
            raise OSError(f'{_META_FILE} lists it but the database does not hold it')
        return value


def write_lmdb(folder: Path, target: Path) -> int:
    """Copy the images of ``folder`` into a new LMDB ``target`` (NAME.lmdb), whole or not at all; return their number.

    The encoded files are stored as they are; BasicSR reads the result too.

    Raises:
        UserError: ``target`` exists or has another suffix, or a file of ``folder`` is no whole image.
    """
    lmdb = _import_lmdb()
    if target.suffix != '.lmdb' or target.exists():
        raise UserError(f'Cannot write {target}: the name should end in .lmdb, and nothing of this name may exist yet.')
    source = DiskStorage(folder)
    keys = source.keys()
    if not keys or source.problems():
        raise UserError(f'Cannot use {folder}: {"; ".join(source.problems()) or "it holds no images"}.')
    # A value takes whole pages of 4 KiB, and the tree around the values some more.
    map_size = sum((source.stat(key)[0] // 4096 + 4) * 4096 for key in keys) + (1 << 22)
    temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    try:
        temporary.mkdir(parents=True)
        lines = []
        with lmdb.open(str(temporary), map_size=map_size) as environment, environment.begin(write=True) as transaction:
            for key in keys:
                data = source.read(key)
                lines.append(_describe_for_meta(source, key, data))
                transaction.put(key.encode(), data)
        write_text(temporary / _META_FILE, '\n'.join(lines) + '\n')
        temporary.rename(target)
    except (OSError, lmdb.Error) as error:
        raise UserError(f'Cannot write {target}: {error}.') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(keys)


def _describe_for_meta(source: DiskStorage, key: str, data: bytes) -> str:
    try:
        width, height = read_size(BytesIO(data))
    except DamagedFileError as error:
        raise UserError(f'{source.describe(key)} cannot be used: {error}. Replace or remove the file.') from error
    return f'{key}{Path(source.describe(key)).suffix} ({height},{width},3) 1'


def _list_images(root: Path) -> list[str]:
    """Return the paths of all images below ``root``, relative to it, sorted; links to folders are followed once."""
    found = []
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        images = [name for name in names if not name.startswith('.') and name.lower().endswith(SUFFIXES)]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in images]
    return sorted(found)


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UserError('io_backend.type lmdb needs the package lmdb: pip install lmdb.') from error
    return lmdb


_environments: dict[Path, Any] = {}
_environments_process = 0
_environments_lock = threading.Lock()


def _open_environment(root: Path) -> Any:
    """Return the process's environment for ``root``: LMDB allows one per process, and none inherited by a fork."""
    global _environments_process
    with _environments_lock:
        if _environments_process != os.getpid():
            for inherited in _environments.values():
                inherited.close()
            _environments.clear()
            _environments_process = os.getpid()
        path = root.resolve()
        if path not in _environments:
            _environments[path] = _import_lmdb().open(
                str(path), readonly=True, lock=False, readahead=False, meminit=False
            )
        return _environments[path]
