"""Arrow and Parquet files: which there are, and their rows, read block by block where they lie.

Read with pyarrow and fsspec, which come with ``datasets``, and not with ``datasets.load_dataset``: that would copy a
Parquet file to a cache in the user's home first, and its streams cannot start anywhere.  A block is a record batch of
an Arrow file, mapped to memory, or a row group of a Parquet file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from gpen.errors import UserError
from gpen.options.io_backend import is_url

_SPLITS = ('train', 'training', 'val', 'valid', 'validation', 'dev', 'test', 'testing', 'eval')
_BRACES = re.compile(r'\{(\d+)\.\.(\d+)\}')
_ADVICE = (
    'Point to a folder written by save_to_disk, a folder of .parquet files, or one .parquet or .arrow file; for image '
    'files set io_backend.type to disk.'
)


class ShardError(OSError):
    """A shard cannot be read; the message is a clause that says why.

    Attributes:
        is_final: the file itself is at fault, so that there is no use in trying again.
    """

    is_final = False


@dataclass(frozen=True)
class Shards:
    """The files of a data set.

    Attributes:
        root: where they were looked for: a path, or a URL when they are fetched while training.
        paths: each file, as its file system takes it.
    """

    root: Path | str
    paths: tuple[str, ...]

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.root, str)

    @property
    def has_row_groups(self) -> bool:
        return self.is_streamed or self.paths[0].endswith('.parquet')

    def open(self, number: int) -> ArrowShard | ParquetShard:
        """Open a file; ShardError where that fails.  What is returned belongs to this process."""
        path = self.paths[number]
        with explaining(path):
            if not self.has_row_groups:
                return ArrowShard(path)
            return ParquetShard(open_url(str(self.root), path) if self.is_streamed else path)


def find_shards(root: Path | str, split: str | None, streaming: bool) -> Shards:
    """Return the files of the data set at ``root``.

    Args:
        root: what ``save_to_disk`` wrote, a folder of .parquet or .arrow files, or one of these; or a URL of Parquet
            files, with ``*`` or ``{00..09}``, or of a folder of them.
        split: which split, where there are several.
        streaming: ``root`` is a URL, or to be treated as one.

    Raises:
        UserError: there is nothing there, nothing of this kind, or no such split.
    """
    import_pyarrow()
    if isinstance(root, str) and is_url(root) and not streaming:
        raise UserError(f'{root} is a URL, which takes io_backend: {{type: datasets, streaming: true}}.')
    if streaming:
        url = root if isinstance(root, str) and is_url(root) else f'file://{Path(root).as_posix()}'
        paths = _find_remote(url)
        return Shards(url, tuple(_choose_split(paths, split, url)))
    root = Path(root)
    if not root.exists():
        raise UserError(f'There is no file or folder {root}. {_ADVICE}')
    if (root / 'dataset_dict.json').is_file():
        root, split = _choose_saved_split(root, split), None
    if (root / 'state.json').is_file():
        paths = [str(root / name) for name in _read_state(root / 'state.json')]
    elif root.is_dir():
        paths = _find_files(root, '.parquet') or _find_files(root, '.arrow')
    else:
        paths = [str(root)] if root.suffix in ('.parquet', '.arrow') else []
    if not paths:
        raise UserError(f'{root} is no data set of Arrow or Parquet files. {_ADVICE}')
    return Shards(root, tuple(_choose_split(paths, split, str(root))))


def is_data_set(root: Path) -> bool:
    """Tell whether ``root`` looks like what :func:`find_shards` takes, rather than a folder of image files."""
    if root.is_file():
        return root.suffix in ('.parquet', '.arrow')
    marks = ('dataset_dict.json', 'state.json')
    return any((root / mark).is_file() for mark in marks) or bool(
        _find_files(root, '.parquet') or _find_files(root, '.arrow')
    )


class ArrowShard:
    """An Arrow file as ``datasets`` writes it (or in the IPC file format), mapped to memory."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa

        source = pa.memory_map(path)
        is_file = source.read(6) == b'ARROW1'
        source.seek(0)
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        self.schema = reader.schema
        self._batches = reader.read_all().to_batches()

    @property
    def block_sizes(self) -> list[int]:
        """Number of rows of each block."""
        return [batch.num_rows for batch in self._batches]

    def read(self, block: int, column: str, field: str = '') -> Any:
        """Return a column of a block, or a field of it."""
        values = self._batches[block].column(column)
        return _field_of(values, field) if field else values


class ParquetShard:
    """A Parquet file; ``source`` is a path or an open file."""

    def __init__(self, source: Any) -> None:
        import pyarrow.parquet as pq

        is_remote = not isinstance(source, str)
        self._file = pq.ParquetFile(source, pre_buffer=is_remote, page_checksum_verification=True)
        self.schema = self._file.schema_arrow

    @cached_property
    def block_sizes(self) -> list[int]:
        """Number of rows of each block."""
        metadata = self._file.metadata
        return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]

    def read(self, block: int, column: str, field: str = '') -> Any:
        """Return a column of a block, or a field of it; no more than that is fetched."""
        wanted = f'{column}.{field}' if field else column
        values = self._file.read_row_group(block, columns=[wanted], use_threads=False).column(column)
        return _field_of(values, field) if field else values


@contextmanager
def explaining(place: str) -> Iterator[None]:
    """Turn whatever goes wrong while ``place`` is read into a :class:`ShardError`."""
    import pyarrow as pa

    try:
        yield
    except (ShardError, UserError):
        raise
    except Exception as error:  # file systems raise what their libraries raise
        reason = _first_line(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            found = ShardError(f'there is no {place}')
        elif isinstance(error, pa.ArrowException):
            found = ShardError(f'{place} is damaged ({reason})')
        else:
            found = ShardError(f'{place} cannot be read ({reason})')
        found.is_final = isinstance(error, FileNotFoundError | pa.ArrowException)
        raise found from error


def open_url(root: str, path: str) -> Any:
    """Return an open file; each read is one request for just these bytes."""
    file_system, _ = _file_system(root)
    return file_system.open(path, 'rb', cache_type='none')


def _field_of(values: Any, field: str) -> Any:
    import pyarrow.compute as pc

    return pc.struct_field(values, field)


def import_pyarrow() -> None:
    """Make sure that what reads Arrow and Parquet is installed; UserError where it is not."""
    try:
        import fsspec  # noqa: F401
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError('io_backend.type datasets needs the package datasets: pip install datasets.') from error


def _find_remote(url: str) -> list[str]:
    """Return the Parquet files that a URL, a pattern or a folder's URL stands for, sorted."""
    found = []
    try:
        with explaining(url):
            for pattern in _expand_braces(url):
                file_system, path = _file_system(pattern)
                if '*' in path or '[' in path:
                    found += [name for name in file_system.glob(path) if name.endswith('.parquet')]
                elif path.endswith('.parquet') and not _is_folder(file_system, pattern, path):
                    found.append(path)
                else:
                    found += [name for name in file_system.find(path) if name.endswith('.parquet')]
    except ShardError as error:
        raise UserError(f'Cannot list the files of {url}: {error}. Check the address and the connection.') from error
    if not found:
        raise UserError(f'There are no .parquet files at {url}. Streaming reads Parquet: files, a folder or a pattern.')
    return sorted(found)


def _is_folder(file_system: Any, url: str, path: str) -> bool:
    # Of a web server this cannot be asked without fetching all of what may be a file.
    return not url.partition('://')[0].endswith(('http', 'https')) and bool(file_system.isdir(path))


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f'Cannot read {url}: {error}. Install what it names.') from error
    except ValueError as error:
        raise UserError(f'Cannot read {url}: {error}.') from error
    return file_system, path


def _expand_braces(pattern: str) -> list[str]:
    """Return the addresses that ``{00000..00003}`` in a pattern stands for: not every server lists its folders."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (f'{number:0{len(first)}d}' for number in range(int(first), int(last) + 1))
    return [end for number in numbers for end in _expand_braces(pattern.replace(match[0], number, 1))]


def _find_files(root: Path, suffix: str) -> list[str]:
    paths = (path for path in root.rglob(f'*{suffix}') if path.is_file())
    return sorted(str(path) for path in paths if not any(part[0] == '.' for part in path.relative_to(root).parts))


def _read_state(path: Path) -> list[str]:
    try:
        names = [str(entry['filename']) for entry in json.loads(path.read_text(encoding='utf-8'))['_data_files']]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{path} is damaged: it does not list the files of the data set. Save the set again.'
        ) from error
    if not names or any(PurePosixPath(name).name != name for name in names):
        raise UserError(f'{path} lists no files of its own folder. Save the data set again.')
    return names


def _choose_saved_split(root: Path, split: str | None) -> Path:
    """Return the folder of a split in what ``DatasetDict.save_to_disk`` wrote."""
    splits = sorted(path.parent.name for path in root.glob('*/state.json'))
    if split is None and len(splits) == 1:
        return root / splits[0]
    if split not in splits:
        raise _split_error(str(root), split, splits)
    return root / split


def _choose_split(paths: Sequence[str], split: str | None, root: str) -> list[str]:
    """Return the files of a split, told by their folders and names as on the Hugging Face hub."""
    words = {path: _split_words(path) for path in paths}
    if split is not None:
        chosen = [path for path in paths if split in words[path]]
        if chosen:
            return chosen
    common = set.intersection(*words.values())  # such as a folder that all are in
    known = {word for found in words.values() for word in found - common if word in _SPLITS}
    if split is not None or len(known) > 1:
        raise _split_error(root, split, sorted(known))
    return list(paths)


def _split_words(path: str) -> set[str]:
    parts = PurePosixPath(Path(path).as_posix()).parts
    return {*parts[-3:-1], re.split(r'-\d|[.]', parts[-1])[0], re.split(r'[-_.]', parts[-1])[0]}


def _split_error(root: str, split: str | None, splits: list[str]) -> UserError:
    listed = f'it has {", ".join(splits)}' if splits else 'it has none'
    problem = 'has several splits' if split is None else f'has no split {split!r}'
    return UserError(f'{root} {problem}: {listed}. Set io_backend.split, or remove it where there is none.')


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), '').rstrip('. ')
