"""The Arrow and Parquet files of a data set: finding them, opening one, reading its columns.

Arrow files are opened by ``datasets``, which maps them to memory.  Parquet files are read with pyarrow and fsspec, row
group by row group, where they lie: ``datasets.load_dataset`` would copy them to a cache in the user's home first, and
its streams can only be read from the start (by ``reshard`` and ``shard``, a row group took about ten times as long).
"""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gpen.errors import UserError
from gpen.utils.packages import import_package

T = TypeVar('T')

_SUFFIXES = ('.parquet', '.arrow')
_SPLITS = ('train', 'training', 'val', 'valid', 'validation', 'dev', 'test', 'testing', 'eval')
_BRACES = re.compile(r'\{(\d+)\.\.(\d+)\}')
_PAUSES = (1, 2, 4, 8)  # seconds before a fetch is tried again
_ADVICE = (
    'Point to a folder written by save_to_disk, a folder of .parquet files, or one .parquet or .arrow file; for image '
    'files set io_backend.type to disk.'
)


def find_shards(root: Path | str, split: str | None, streaming: bool) -> tuple[Path | str, list[str]]:
    """Return where the shards of a data set lie (a URL where they are streamed), and the path of each.

    Args:
        root: what ``save_to_disk`` wrote, a folder of .parquet or .arrow files, or one of these; or a URL of Parquet
            files, with ``*`` or ``{00..09}``, or of a folder of them.
        split: which split, where there are several.
        streaming: ``root`` is a URL, or to be treated as one.

    Raises:
        UserError: there is nothing there, nothing of this kind, or no such split.
    """
    for name in ('fsspec', 'pyarrow.parquet'):
        import_for_tables(name)
    if streaming:
        url = f'file://{root.as_posix()}' if isinstance(root, Path) else root
        return url, _choose_split(_find_remote(url), split, url)

    root = Path(root)
    if not root.exists():
        raise UserError(f'There is no file or folder {root}. {_ADVICE}')
    if (root / 'dataset_dict.json').is_file():
        root, split = _choose_saved_split(root, split), None
    state = root / 'state.json'
    paths = _read_state(state) if state.is_file() else _find_local(root)
    if not paths:
        raise UserError(f'{root} is no data set of Arrow or Parquet files. {_ADVICE}')
    return root, _choose_split(paths, split, str(root))


def is_data_set(root: Path) -> bool:
    """Tell whether ``root`` looks like what :func:`find_shards` takes, rather than a folder of image files."""
    return any((root / mark).is_file() for mark in ('dataset_dict.json', 'state.json')) or bool(_find_local(root))


class ArrowShard:
    """An Arrow file as ``datasets`` writes it, or in the IPC file format; any row can be read alone."""

    def __init__(self, path: str) -> None:
        datasets = import_for_tables('datasets')
        import pyarrow as pa

        with Path(path).open('rb') as file:
            is_ipc_file = file.read(6) == b'ARROW1'  # as pandas and Polars write; datasets does not read it
        self._table: Any = (
            pa.ipc.open_file(pa.memory_map(path)).read_all() if is_ipc_file else datasets.Dataset.from_file(path).data
        )
        self.schema = self._table.schema
        self.group_sizes = [self._table.num_rows]

    def read(self, group: int, column: str, field: str = '') -> Any:  # noqa: ARG002  (the file is one group)
        """Return a column of the file, or a field of it."""
        return _take_field(self._table.column(column), field)


class ParquetShard:
    """A Parquet file.

    Args:
        path: as its file system takes it.
        url: where the files are fetched from; '': ``path`` is local.
    """

    def __init__(self, path: str, url: str = '') -> None:
        import pyarrow.parquet as pq

        # Without a cache, each read is one request for just these bytes.
        source = _file_system(url)[0].open(path, 'rb', cache_type='none') if url else path
        self._file = pq.ParquetFile(source, pre_buffer=bool(url), page_checksum_verification=True)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.group_sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]

    def read(self, group: int, column: str, field: str = '') -> Any:
        """Return a column of a row group, or a field of it; no more than that is fetched."""
        wanted = f'{column}.{field}' if field else column
        table = self._file.read_row_group(group, columns=[wanted], use_threads=False)
        return _take_field(table.column(column), field)


def _take_field(values: Any, field: str) -> Any:
    import pyarrow.compute as pc

    return pc.struct_field(values, field) if field else values


def attempt(place: str, action: Callable[[], T], is_streamed: bool) -> T:
    """Return what ``action`` returns; where files are streamed, failures of the connection are tried again.

    Raises:
        OSError: ``place`` is damaged or cannot be read; the message is a clause.
    """
    import pyarrow as pa

    for pause in (*(_PAUSES if is_streamed else ()), None):
        try:
            return action()
        except UserError:
            raise
        except FileNotFoundError as error:
            raise OSError(f'there is no {place}') from error
        except Exception as error:  # file systems raise what their libraries raise
            reason = next(iter(str(error).strip().splitlines()), '').rstrip('. ') or type(error).__name__
            if isinstance(error, pa.ArrowException):
                raise OSError(f'{place} is damaged ({reason})') from error
            if pause is None:
                raise OSError(f'{place} cannot be read ({reason})') from error
            time.sleep(pause)
    raise AssertionError('unreachable: the last attempt returns or raises')


def import_for_tables(name: str) -> Any:
    """Return ``datasets`` or a module that comes with it; UserError where it is not installed."""
    return import_package(name, 'Arrow and Parquet files need the package datasets: pip install datasets.')


def _find_local(root: Path) -> list[str]:
    """Return the Parquet files of a folder, or the Arrow files where there are none; or a file itself."""
    if not root.is_dir():
        return [str(root)] if root.is_file() and root.suffix in _SUFFIXES else []
    found = []
    for folder, folders, names in os.walk(root, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        paths = [Path(folder, name) for name in names if not name.startswith('.')]
        found += [str(path) for path in paths if path.suffix in _SUFFIXES and path.is_file()]
    return next(filter(None, (sorted(path for path in found if path.endswith(suffix)) for suffix in _SUFFIXES)), [])


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f'{error.filename} cannot be read: {error.strerror}. Make this folder readable, or move it elsewhere.'
    ) from error


def _find_remote(url: str) -> list[str]:
    """Return the Parquet files that a URL, a pattern or a folder's URL stands for, sorted."""
    try:
        found = attempt(url, lambda: [path for address in _expand_braces(url) for path in _list_url(address)], False)
    except OSError as error:
        raise UserError(f'Cannot list the files of {url}: {error}. Check the address and the connection.') from error
    paths = sorted(path for path in found if path.endswith('.parquet'))
    if not paths:
        raise UserError(f'There are no .parquet files at {url}. Streaming reads Parquet: files, a folder or a pattern.')
    return paths


def _list_url(url: str) -> list[str]:
    file_system, path = _file_system(url)
    if '*' in path or '[' in path:
        return list(file_system.glob(path))
    # A web server cannot be asked whether this is a folder without fetching what may be a file.
    is_web = url.partition('://')[0].endswith(('http', 'https'))
    if path.endswith('.parquet') and (is_web or not file_system.isdir(path)):
        return [path]
    return list(file_system.find(path))


def _expand_braces(pattern: str) -> list[str]:
    """Return the addresses that ``{00000..00003}`` in a pattern stands for: not every server lists its folders."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = [f'{number:0{len(first)}d}' for number in range(int(first), int(last) + 1)]
    return [address for number in numbers for address in _expand_braces(pattern.replace(match[0], number, 1))]


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path as it takes it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        advice = ' Install what it names.' if isinstance(error, ImportError) else ''
        raise UserError(f'Cannot read {url}: {error}.{advice}') from error


def _read_state(path: Path) -> list[str]:
    """Return the files of a data set that ``save_to_disk`` wrote: beside them may lie caches, which are left out."""
    try:
        names = [str(entry['filename']) for entry in json.loads(path.read_text(encoding='utf-8'))['_data_files']]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{path} is damaged: it does not list the files of the data set. Save the set again.'
        ) from error
    if not names or any(PurePosixPath(name).name != name for name in names):
        raise UserError(f'{path} lists no files of its own folder. Save the data set again.')
    return [str(path.parent / name) for name in names]


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
    # A word that all paths share, such as a folder that all are in, tells no splits apart.
    common = set.intersection(*words.values())
    known = {word for found in words.values() for word in found - common if word in _SPLITS}
    if split is not None or len(known) > 1:
        raise _split_error(root, split, sorted(known))
    return list(paths)


def _split_words(path: str) -> set[str]:
    """Return the words of a path that may name a split: two folders, and how the file's name starts."""
    *folders, name = PurePosixPath(Path(path).as_posix()).parts
    return {*folders[-2:], re.split(r'-\d|[.]', name)[0], re.split(r'[-_.]', name)[0]}


def _split_error(root: str, split: str | None, splits: list[str]) -> UserError:
    listed = f'it has {", ".join(splits)}' if splits else 'it has none'
    problem = 'has several splits' if split is None else f'has no split {split!r}'
    return UserError(f'{root} {problem}: {listed}. Set io_backend.split, or remove it where there is none.')
