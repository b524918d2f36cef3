"""Images in the tables of Hugging Face ``datasets``: Arrow or Parquet files, local or fetched while training."""

import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from gpen.data.row_groups import RowGroups
from gpen.data.storage.base import Storage, find_duplicates, find_unsafe, key_of
from gpen.data.storage.shards import ArrowShard, ParquetShard, attempt, find_shards
from gpen.errors import UserError
from gpen.options.io_backend import DatasetsBackend
from gpen.utils.text import suggest

_THREADS = 16  # that list shards; they mostly wait for an answer
_OPEN_SHARDS = 64
_LISTED = 10
_ABSOLUTE = re.compile(r'[\\/]|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]+://')


class DatasetsStorage(Storage):
    """Encoded images in a column of Arrow or Parquet files.

    The column is an ``Image`` of ``datasets`` (a struct of ``bytes`` and ``path``) or one of plain bytes.  Arrow files
    are mapped to memory, and each image is read alone.  Of Parquet, row groups are read whole; each process keeps the
    last ones, so that in the order of :meth:`RowGroups.permute` it reads each once.  Files are opened when first
    needed, once per process.

    Args:
        root: see :func:`gpen.data.storage.shards.find_shards`.
        backend: the option ``io_backend``.

    Raises:
        UserError: no such files, damaged ones, no such column, names that cannot be used, or a package is missing.
    """

    def __init__(self, root: Path | str, backend: DatasetsBackend) -> None:
        place, self._paths = find_shards(root, backend.split, backend.streaming)
        self.is_streamed = isinstance(place, str)
        self._url = str(place) if self.is_streamed else ''
        self._backend = backend
        self._has_row_groups = self._paths[0].endswith('.parquet')

        # Number the row groups of all files; an Arrow file counts as one.
        contents = self._list_shards(place)
        self._groups = [(shard, group) for shard, (sizes, _) in enumerate(contents) for group in range(len(sizes))]
        sizes = [size for group_sizes, _ in contents for size in group_sizes]
        rows = [(group, row) for group, size in enumerate(sizes) for row in range(size)]

        # Give each row a name, and a key by it.
        listed = [name for _, names in contents for name in names]
        names = [f'{row:08d}' if name is None else name for row, name in enumerate(listed)]
        keys = [key_of(name) for name in names]
        self._check_names(place, names, keys, [len(names) for _, names in contents])
        self._places = dict(zip(keys, rows, strict=True))
        super().__init__(place, dict(zip(keys, names, strict=True)))

        # Keep the row groups of a window, and as many again, since those of the other side of a pair may overlap.
        mean_size = max(1, len(rows) // max(1, len(sizes)))
        self._kept = max(3, -(-2 * backend.buffer_size // mean_size)) if self._has_row_groups else _OPEN_SHARDS
        self.close()

    def stored_order(self, keys: Sequence[str]) -> list[str]:
        return sorted(keys, key=self._places.__getitem__)

    def row_groups(self, keys: Sequence[str]) -> RowGroups | None:
        if not self._has_row_groups or not keys:
            return None
        used, of_sample = np.unique([self._places[key][0] for key in keys], return_inverse=True)
        # At least two: otherwise the rows of a row group would only ever meet each other.
        return RowGroups(of_sample, window=max(2, -(-self._backend.buffer_size * len(used) // len(keys))))

    def file_of(self, key: str) -> str:
        shard, _ = self._groups[self._places[key][0]]
        return self._paths[shard]

    def open(self, key: str) -> BinaryIO:
        import pyarrow as pa

        return cast(BinaryIO, pa.BufferReader(self._find(key).as_buffer()))

    def load(self, key: str) -> bytes:
        return self._find(key).as_py()

    def close(self) -> None:
        self._process = os.getpid()
        self._reading = threading.Lock()
        self._open_shard = lru_cache(_OPEN_SHARDS)(self._open)
        self._read_group = lru_cache(self._kept)(self._read)

    def __getstate__(self) -> dict[str, Any]:
        opened = ('_process', '_reading', '_open_shard', '_read_group')
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.close()

    def _find(self, key: str) -> Any:
        """Return the pyarrow scalar of an image's bytes."""
        if self._process != os.getpid():
            self.close()  # files that the parent process opened are not used after a fork
        group, row = self._places[key]
        with self._reading:  # so that threads do not read the same row group twice
            value = self._read_group(group)[row]
        if value.is_valid and hasattr(value, 'keys'):
            value = value['bytes']
        if not value.is_valid:
            raise OSError('its row holds no image, or only the path of one')
        return value

    def _read(self, group: int) -> Any:
        """Return the images of a row group; OSError where it cannot be read."""
        shard, number = self._groups[group]

        def read() -> Any:
            try:
                return self._open_shard(shard).read(number, self._backend.image_column)
            except Exception:
                self._open_shard.cache_clear()  # a connection that has failed is not used again
                raise

        return attempt(self._paths[shard], read, self.is_streamed)

    def _open(self, shard: int) -> ArrowShard | ParquetShard:
        path = self._paths[shard]
        return ParquetShard(path, self._url) if self._has_row_groups else ArrowShard(path)

    def _list_shards(self, place: Path | str) -> list[tuple[list[int], list[str | None]]]:
        """Return the sizes of each shard's row groups, and the names of its rows; None where a row has no name."""

        def list_shard(number: int) -> tuple[list[int], list[str | None]]:
            return attempt(self._paths[number], lambda: self._list_shard(number), self.is_streamed)

        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                return list(pool.map(list_shard, range(len(self._paths))))
        except OSError as error:
            raise UserError(f'The data set {place} cannot be used: {error}. Replace or remove the file.') from error

    def _list_shard(self, number: int) -> tuple[list[int], list[str | None]]:
        shard = self._open(number)
        path = self._paths[number]
        _check_images(shard.schema, self._backend, path)
        column, field = _choose_names(shard.schema, self._backend, path)
        sizes = shard.group_sizes
        if not column:
            return sizes, [None] * sum(sizes)
        names = [name for group in range(len(sizes)) for name in shard.read(group, column, field).to_pylist()]
        if field:
            return sizes, [_shorten_path(name) if name else None for name in names]
        return sizes, ['' if name is None else str(name) for name in names]

    def _check_names(self, place: Path | str, names: list[str], keys: list[str], shard_sizes: list[int]) -> None:
        starts = [0, *accumulate(shard_sizes)]

        def describe(position: int) -> str:
            shard = int(np.searchsorted(starts, position, side='right')) - 1
            return f'row {position - starts[shard]} of {self._paths[shard]}'

        problems = find_duplicates(keys, describe) + find_unsafe(names, describe)
        if problems:
            more = [f'... and {len(problems) - _LISTED} more'] if len(problems) > _LISTED else []
            lines = ''.join(f'\n  - {problem}' for problem in problems[:_LISTED] + more)
            raise UserError(
                f'The names in {place} cannot be used:{lines}\nSet io_backend.name_column to the column of names, '
                'or to null, which numbers the rows.'
            )


def _check_images(schema: Any, backend: DatasetsBackend, path: str) -> None:
    import pyarrow as pa

    kind = _type_of(schema, backend.image_column, path, 'image_column')
    if pa.types.is_struct(kind) and kind.get_field_index('bytes') >= 0:
        kind = kind.field('bytes').type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        name = backend.image_column
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
    is_given = 'name_column' in backend.model_fields_set
    if is_given or name in schema.names:
        kind = _type_of(schema, name, path, 'name_column')
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
            return name, ''
        if is_given:
            raise UserError(
                f'The column {name!r} of {path} holds {kind}, not names. Set io_backend.name_column to another.'
            )
    images = schema.field(backend.image_column).type
    has_paths = pa.types.is_struct(images) and images.get_field_index('path') >= 0
    return (backend.image_column, 'path') if has_paths else ('', '')


def _type_of(schema: Any, name: str, path: str, option: str) -> Any:
    """Return the type of a column; UserError where there is no such column."""
    if name not in schema.names:
        raise UserError(
            f'{path} has no column {name!r}; it has {", ".join(schema.names) or "none"}.'
            f'{suggest(name, schema.names)} Set io_backend.{option}.'
        )
    return schema.field(name).type


def _shorten_path(path: str) -> str:
    """Return an image's path as a name: where it is absolute, only the name of the file, as ``datasets`` keeps it."""
    return re.split(r'[\\/]', path)[-1] if _ABSOLUTE.match(path) else path
