"""Copy the images of one storage into another kind, as they are encoded; whole or not at all."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gpen.data.file_check import SUFFIXES, DamagedFileError, read_size
from gpen.data.storage.base import Storage, explain_unsafe
from gpen.data.storage.basicsr_lmdb import META_FILE, import_lmdb
from gpen.data.storage.disk import DiskStorage
from gpen.data.storage.shards import import_pyarrow
from gpen.errors import UserError
from gpen.utils.files import write_text

Track = Callable[[list[str]], Iterable[str]]
"""Hands on the keys one by one, and may show a progress bar while it does."""

ROWS_PER_BLOCK = 16
"""Rows of a row group: what is read for one image, so few; both sides of a pair have the same, so that they agree."""

_COMMIT_BYTES = 1 << 28  # LMDB holds what is not committed in memory
_FORMATS = {b'\x89PNG': '.png', b'\xff\xd8': '.jpg', b'RIFF': '.webp', b'II': '.tif', b'MM': '.tif', b'BM': '.bmp'}


@dataclass(frozen=True)
class _Image:
    key: str
    file_name: str
    data: bytes
    width: int
    height: int


def write_lmdb(source: Storage | Path, target: Path, track: Track = iter) -> int:
    """Copy images into a new LMDB ``target`` (NAME.lmdb); return their number.

    BasicSR reads the result too, apart from names that are not ASCII.

    Args:
        source: a storage, or a folder of image files.
        target: must not exist yet.
        track: see :data:`Track`.

    Raises:
        UserError: ``target`` exists or has another suffix, an image is damaged, or the disk is full.
    """
    lmdb = import_lmdb()
    if target.suffix != '.lmdb':
        raise UserError(f'Cannot write {target}: the name of an LMDB should end in .lmdb.')
    storage = _as_storage(source)
    lines = []
    with new_folder(target) as folder:
        try:
            with lmdb.open(str(folder), map_size=1 << 24) as environment:
                for images in _portions(_read_images(storage, track), _COMMIT_BYTES):
                    _put(environment, images)
                    lines += [_meta_line(image) for image in images]
        except lmdb.Error as error:
            raise OSError(str(error)) from error
        write_text(folder / META_FILE, '\n'.join(lines) + '\n')
    return len(lines)


def write_parquet(source: Storage | Path, target: Path, shard_megabytes: int = 256, track: Track = iter) -> int:
    """Copy images into a new folder ``target`` of Parquet files, with row groups of a few images; return their number.

    The columns are ``image`` (an ``Image`` of ``datasets``: bytes and path) and ``name`` (path below the root).

    Raises:
        UserError: ``target`` exists, an image is damaged, the disk is full, or ``datasets`` is not installed.
    """
    import_pyarrow()
    import pyarrow.parquet as pq

    # The images are compressed already; checksums tell a damaged shard.
    settings = {'compression': 'none', 'use_dictionary': False, 'write_statistics': ['name']}

    def open_shard(path: Path, schema: Any) -> Any:
        return pq.ParquetWriter(path, schema, write_page_checksum=True, **settings)

    with new_folder(target) as folder:
        return _write_shards(_as_storage(source), folder, 'parquet', open_shard, shard_megabytes, track)


def write_arrow(source: Storage | Path, target: Path, shard_megabytes: int = 256, track: Track = iter) -> int:
    """Copy images into a new folder ``target`` as ``Dataset.save_to_disk`` writes it; return their number.

    Columns and errors are those of :func:`write_parquet`.
    """
    import_pyarrow()
    import pyarrow as pa

    @contextmanager
    def open_shard(path: Path, schema: Any) -> Iterator[Any]:
        with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, schema) as writer:
            yield writer

    with new_folder(target) as folder:
        count = _write_shards(_as_storage(source), folder, 'arrow', open_shard, shard_megabytes, track)
        _describe_saved_dataset(folder)
    return count


def write_files(source: Storage | Path, target: Path, track: Track = iter) -> int:
    """Copy images into a new folder ``target``, a file each; return their number.

    Raises:
        UserError: ``target`` exists, a name leads out of it, an image is damaged, or the disk is full.
    """
    count = 0
    with new_folder(target) as folder:
        for image in _read_images(_as_storage(source), track):
            path = folder / image.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('xb') as stream:  # a file system may take A.png and a.png for one
                stream.write(image.data)
            count += 1
    return count


def _as_storage(source: Storage | Path) -> Storage:
    return DiskStorage(source) if isinstance(source, Path) else source


def _read_images(source: Storage, track: Track) -> Iterator[_Image]:
    """Yield all images in an order that is quick to read, after a check that they are whole."""
    keys = source.keys()
    if not keys or source.problems():
        raise UserError(f'Cannot use {source.root}: {"; ".join(source.problems()) or "it holds no images"}.')
    blocks = source.blocks(keys)
    if blocks is not None:
        keys = [keys[position] for position in np.argsort(blocks.of_sample, kind='stable')]
    for key in track(keys):
        data = source.read(key)
        try:
            width, height = read_size(BytesIO(data))
        except DamagedFileError as error:
            raise UserError(f'{source.describe(key)} cannot be used: {error}. Replace or remove the file.') from error
        name = source.file_name(key)
        if not name.lower().endswith(SUFFIXES):
            name += next((suffix for mark, suffix in _FORMATS.items() if data.startswith(mark)), '')
        reason = explain_unsafe(name)
        if reason:
            raise UserError(f'{source.describe(key)} cannot be stored: its name {reason}. Rename it.')
        yield _Image(key, name, data, width, height)


def _portions(images: Iterator[_Image], size: int) -> Iterator[list[_Image]]:
    """Yield lists of images that have ``size`` bytes together, or a little more."""
    portion: list[_Image] = []
    held = 0
    for image in images:
        portion.append(image)
        held += len(image.data)
        if held >= size:
            yield portion
            portion, held = [], 0
    if portion:
        yield portion


def _put(environment: Any, images: list[_Image]) -> None:
    """Store images in one transaction, after making room: a value takes whole pages, the tree around it some more."""
    room = sum((len(image.data) // 4096 + 4) * 4096 for image in images)
    environment.set_mapsize(environment.info()['map_size'] + room)
    with environment.begin(write=True) as transaction:
        for image in images:
            transaction.put(image.key.encode(), image.data)


def _meta_line(image: _Image) -> str:
    return f'{image.key}{PurePosixPath(image.file_name).suffix} ({image.height},{image.width},3) 1'


def _write_shards(
    source: Storage, folder: Path, suffix: str, open_shard: Callable[[Path, Any], Any], megabytes: int, track: Track
) -> int:
    """Write data-NNNNN-of-NNNNN.SUFFIX in blocks of a few rows; return the number of rows."""
    schema = _features().arrow_schema
    images = _read_images(source, track)
    paths: list[Path] = []
    count = 0
    rows = list(islice(images, ROWS_PER_BLOCK))
    while rows:
        paths.append(folder / f'{len(paths)}.{suffix}')
        room = megabytes << 20
        with open_shard(paths[-1], schema) as writer:
            while rows and room > 0:
                writer.write_batch(_to_batch(rows, schema))
                room -= sum(len(row.data) for row in rows)
                count += len(rows)
                rows = list(islice(images, ROWS_PER_BLOCK))
    for number, path in enumerate(paths):
        path.rename(folder / f'data-{number:05d}-of-{len(paths):05d}.{suffix}')
    return count


def _to_batch(rows: list[_Image], schema: Any) -> Any:
    import pyarrow as pa

    values = [{'image': {'bytes': row.data, 'path': row.file_name}, 'name': row.file_name} for row in rows]
    return pa.RecordBatch.from_pylist(values, schema)


def _features() -> Any:
    datasets = _import_datasets()
    return datasets.Features({'image': datasets.Image(), 'name': datasets.Value('string')})


def _describe_saved_dataset(folder: Path) -> None:
    """Add the two JSON files by which ``datasets.load_from_disk`` knows its own."""
    names = sorted(path.name for path in folder.iterdir())
    state: dict[str, Any] = {
        '_data_files': [{'filename': name} for name in names],
        '_fingerprint': os.urandom(8).hex(),
        '_format_columns': None,
        '_format_kwargs': {},
        '_format_type': None,
        '_output_all_columns': False,
        '_split': None,
    }
    write_text(folder / 'state.json', json.dumps(state, indent=2))
    _import_datasets().DatasetInfo(features=_features()).write_to_directory(str(folder))


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError('Writing Arrow or Parquet needs the package datasets: pip install datasets.') from error
    return datasets


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; it becomes ``target`` when the block ends without an exception."""
    if os.path.lexists(target):
        raise UserError(f'Cannot write {target}: it is there already. Choose another name, or remove it.')
    temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    _remove_leftovers(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _flush(temporary)
        temporary.rename(target)
    except OSError as error:
        raise UserError(
            f'Cannot write {target}: {error}. Free some space or choose another folder; nothing was changed.'
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of processes that were killed while they wrote ``target``; POSIX alone tells."""
    for folder in target.parent.glob(f'.{glob.escape(target.name)}.*.tmp') if os.name == 'posix' else ():
        number = folder.name.split('.')[-2]
        if number.isdecimal() and not _is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _flush(folder: Path) -> None:
    """Make what a folder holds last through a power cut."""
    for path in folder.rglob('*'):
        if path.is_file():
            with path.open('rb+') as stream:
                os.fsync(stream.fileno())
