"""Images in the tables of Hugging Face ``datasets``: Arrow or Parquet files, here or fetched while training."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from gpen.data.blocks import Blocks, RecentlyUsed
from gpen.data.storage.base import Storage, find_problems, key_of
from gpen.data.storage.shards import ArrowShard, ParquetShard, ShardError, Shards, explaining, find_shards
from gpen.errors import UserError
from gpen.options.io_backend import DatasetsBackend
from gpen.options.problems import suggest

T = TypeVar('T')

_THREADS = 16  # that list shards; they mostly wait for an answer
_OPEN_SHARDS = 64
_PAUSES = (1, 2, 4, 8)  # seconds before a fetch is tried again
_LISTED = 10
_opening = threading.Lock()
_ABSOLUTE = re.compile(r'[\\/]|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]+://')


class DatasetsStorage(Storage):
    """Encoded images in a column of Arrow or Parquet files.

    The column is an ``Image`` of ``datasets`` (a struct of ``bytes`` and ``path``) or one of plain bytes.  Arrow files
    are mapped to memory, and each image is read alone.  Of Parquet, row groups are read whole; each process keeps the
    last ones, so that in the order of :meth:`Blocks.permute` it reads each once.  Files are opened when first needed,
    once per process.

    Args:
        root: see :func:`gpen.data.storage.shards.find_shards`.
        backend: the option ``io_backend``.

    Raises:
        UserError: no such files, damaged ones, no such column, names that cannot be used, or a package is missing.
    """

    def __init__(self, root: Path | str, backend: DatasetsBackend) -> None:
        self._shards = find_shards(root, backend.split, backend.streaming)
        self.root = self._shards.root
        self.is_streamed = self._shards.is_streamed
        self.backend = backend
        self._opened: _Opened | None = None
        contents = self._list_shards()
        self._blocks = [(shard, block) for shard, (sizes, _) in enumerate(contents) for block in range(len(sizes))]
        self._block_sizes = [size for sizes, _ in contents for size in sizes]
        names = [name for _, listed in contents for name in listed]
        numbered = [f'{row:08d}' if name is None else name for row, name in enumerate(names)]
        keys = [key_of(name) for name in numbered]
        self._check_names(numbered, keys, [sum(sizes) for sizes, _ in contents])
        rows = [(block, row) for block, size in enumerate(self._block_sizes) for row in range(size)]
        self._places = dict(zip(keys, rows, strict=True))
        self._names = dict(zip(keys, numbered, strict=True))

    def keys(self) -> list[str]:
        return sorted(self._places)

    def problems(self) -> list[str]:
        return []

    def file_name(self, key: str) -> str:
        return self._names[key]

    def open(self, key: str) -> BinaryIO:
        import pyarrow as pa

        return cast(BinaryIO, pa.BufferReader(self._find(key).as_buffer()))

    def load(self, key: str) -> bytes:
        value: bytes = self._find(key).as_py()
        return value

    def describe(self, key: str) -> str:
        return f'{key} in {self._path_of(key)}'

    def stat(self, key: str) -> tuple[int, int]:
        status = Path(self._path_of(key)).stat()
        return status.st_size, status.st_mtime_ns

    def blocks(self, keys: Sequence[str]) -> Blocks | None:
        if not self._shards.has_row_groups or not keys:
            return None
        used, of_sample = np.unique([self._places[key][0] for key in keys], return_inverse=True)
        # Two at least: otherwise the rows of a block would only ever meet each other.
        return Blocks(of_sample, window=max(2, -(-self.backend.buffer_size * len(used) // len(keys))))

    def close(self) -> None:
        self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_opened': None}

    def _path_of(self, key: str) -> str:
        shard, _ = self._blocks[self._places[key][0]]
        return self._shards.paths[shard]

    def _find(self, key: str) -> Any:
        """Return the pyarrow scalar of an image's bytes."""
        block, row = self._places[key]
        value = self._open_here().read(*self._blocks[block], self._block_sizes[block])[row]
        if value.is_valid and hasattr(value, 'keys'):
            value = value['bytes']
        if not value.is_valid:
            raise ShardError('its row holds no image, or only the path of one')
        return value

    def _open_here(self) -> _Opened:
        """Return what this process has open; nothing is taken over from the process that it was forked from."""
        with _opening:
            if self._opened is None or self._opened.process != os.getpid():
                # A window's rows, and as many again, since blocks of the other side may overlap.
                rows = max(2 * self.backend.buffer_size, 3 * max(self._block_sizes))
                self._opened = _Opened(self._shards, self.backend.image_column, rows)
            return self._opened

    def _check_names(self, names: list[str], keys: list[str], shard_sizes: list[int]) -> None:
        starts = [0, *accumulate(shard_sizes)]

        def describe(position: int) -> str:
            shard = int(np.searchsorted(starts, position, side='right')) - 1
            return f'row {position - starts[shard]} of {self._shards.paths[shard]}'

        problems = find_problems(names, keys, describe)
        if problems:
            more = [f'... and {len(problems) - _LISTED} more'] if len(problems) > _LISTED else []
            lines = ''.join(f'\n  - {problem}' for problem in problems[:_LISTED] + more)
            raise UserError(
                f'The names in {self.root} cannot be used:{lines}\nSet io_backend.name_column to the column of names, '
                'or to null, which numbers the rows.'
            )

    def _list_shards(self) -> list[tuple[list[int], list[str | None]]]:
        """Return the sizes of each shard's blocks, and the names of its rows; None where a row has no name."""
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                return list(pool.map(self._list_shard, range(len(self._shards.paths))))
        except ShardError as error:
            raise UserError(f'The data set {self.root} cannot be used: {error}. Replace or remove the file.') from error

    def _list_shard(self, number: int) -> tuple[list[int], list[str | None]]:
        path = self._shards.paths[number]

        def list_once() -> tuple[list[int], list[str | None]]:
            shard = self._shards.open(number)
            sizes = shard.block_sizes
            _check_images(shard.schema, self.backend, path)
            column, field = _choose_names(shard.schema, self.backend, path)
            if not column:
                return sizes, [None] * sum(sizes)
            with explaining(path):
                names = [name for block in range(len(sizes)) for name in shard.read(block, column, field).to_pylist()]
            if field:
                return sizes, [_shorten_path(name) if name else None for name in names]
            return sizes, ['' if name is None else str(name) for name in names]

        return _insist(self.is_streamed, list_once)


class _Opened:
    """What one process has open: some shards, and the image columns of the blocks used last."""

    def __init__(self, shards: Shards, column: str, rows: int) -> None:
        self.process = os.getpid()
        self._shards = shards
        self._column = column
        self._files: RecentlyUsed[int, ArrowShard | ParquetShard] = RecentlyUsed(_OPEN_SHARDS)
        self._blocks: RecentlyUsed[tuple[int, int], Any] = RecentlyUsed(rows)

    def read(self, shard: int, block: int, rows: int) -> Any:
        """Return the images of a block; ShardError where it cannot be read."""
        if not self._shards.has_row_groups:
            return self._read(shard, block)
        return self._blocks.get(
            (shard, block), lambda: _insist(self._shards.is_streamed, lambda: self._read(shard, block)), rows
        )

    def _read(self, shard: int, block: int) -> Any:
        file = self._files.get(shard, lambda: self._shards.open(shard))
        try:
            with explaining(self._shards.paths[shard]):
                return file.read(block, self._column)
        except ShardError:
            self._files.forget(shard)  # what has failed is not used again
            raise


def _insist(is_streamed: bool, action: Callable[[], T]) -> T:
    """Return what ``action`` returns; where the shards are fetched, failures of the connection are tried again."""
    for pause in _PAUSES if is_streamed else ():
        try:
            return action()
        except ShardError as error:
            if error.is_final:
                raise
        time.sleep(pause)
    return action()


def _check_images(schema: Any, backend: DatasetsBackend, path: str) -> None:
    import pyarrow as pa

    name = backend.image_column
    if name not in schema.names:
        raise _column_error(path, name, schema.names, 'image_column')
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        kind = kind.field('bytes').type if kind.get_field_index('bytes') >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f'The column {name!r} of {path} holds {schema.field(name).type}, not images. Set io_backend.image_column '
            f'to another of its columns: {", ".join(schema.names)}.'
        )


def _choose_names(schema: Any, backend: DatasetsBackend, path: str) -> tuple[str, str]:
    """Return the column that holds the names, and the field of it or ''; no column where the rows are numbered."""
    import pyarrow as pa

    name = backend.name_column
    if name is None:
        return '', ''
    kind = schema.field(name).type if name in schema.names else None
    if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        return name, ''
    if 'name_column' in backend.model_fields_set:
        if kind is None:
            raise _column_error(path, name, schema.names, 'name_column')
        raise UserError(
            f'The column {name!r} of {path} holds {kind}, not names. Set io_backend.name_column to another.'
        )
    images = schema.field(backend.image_column).type
    has_paths = pa.types.is_struct(images) and images.get_field_index('path') >= 0
    return (backend.image_column, 'path') if has_paths else ('', '')


def _column_error(path: str, name: str, names: list[str], option: str) -> UserError:
    return UserError(
        f'{path} has no column {name!r}; it has {", ".join(names) or "none"}.{suggest(name, names)} '
        f'Set io_backend.{option}.'
    )


def _shorten_path(path: str) -> str:
    """Return an image's path as a name: where it is absolute, only the name of the file, as ``datasets`` keeps it."""
    return re.split(r'[\\/]', path)[-1] if _ABSOLUTE.match(path) else path
