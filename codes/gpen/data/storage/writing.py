"""Copy the images of one storage into another kind, as they are encoded; whole or not at all."""

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
from typing import Any, Literal

from gpen.data.file_check import SUFFIXES, read_size
from gpen.data.pixels import DamagedFileError
from gpen.data.storage.base import Storage, explain_unsafe
from gpen.data.storage.basicsr_lmdb import META_FILE, import_lmdb
from gpen.data.storage.disk import DiskStorage
from gpen.data.storage.shards import import_for_tables
from gpen.errors import UserError
from gpen.utils.files import explain_writing, write_text

Track = Callable[[list[str]], Iterable[str]]
"""Takes the keys and yields them one by one, for example with a progress bar."""

ROWS_PER_GROUP = 16
"""Rows of a row group: few, since all are read for one image; the same for both sides of a pair, so that they agree."""

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

    lines = []
    with new_folder(target) as folder:
        try:
            # Nothing is flushed after each image: new_folder flushes the files at the end.
            with lmdb.open(str(folder), map_size=1 << 24, sync=False) as environment:
                for image in _read_images(source, track):
                    # A value takes whole pages, the tree around it some more.
                    room = (len(image.data) // 4096 + 4) * 4096
                    environment.set_mapsize(environment.info()['map_size'] + room)
                    with environment.begin(write=True) as transaction:
                        transaction.put(image.key.encode(), image.data)
                    suffix = PurePosixPath(image.file_name).suffix
                    lines.append(f'{image.key}{suffix} ({image.height},{image.width},3) 1\n')
        except lmdb.Error as error:
            raise OSError(str(error)) from error
        write_text(folder / META_FILE, ''.join(lines))
    return len(lines)


def write_tables(
    source: Storage | Path,
    target: Path,
    kind: Literal['parquet', 'arrow'],
    shard_megabytes: int = 256,
    track: Track = iter,
) -> int:
    """Copy images into a new folder ``target`` of Arrow or Parquet files; return their number.

    The columns are ``image`` (an ``Image`` of ``datasets``: bytes and path) and ``name`` (path below the root).  The
    Arrow files are what ``Dataset.save_to_disk`` writes; the Parquet files have row groups of a few images.

    Raises:
        UserError: ``target`` exists, an image is damaged, the disk is full, or ``datasets`` is not installed.
    """
    datasets = import_for_tables('datasets')
    features = datasets.Features({'image': datasets.Image(), 'name': datasets.Value('string')})
    images = _read_images(source, track)
    paths: list[Path] = []
    count = 0

    with new_folder(target) as folder:
        rows = list(islice(images, ROWS_PER_GROUP))
        while rows:
            paths.append(folder / f'{len(paths)}.{kind}')
            room = shard_megabytes << 20
            with _open_shard(paths[-1], features.arrow_schema) as writer:
                while rows and room > 0:
                    writer.write_batch(_to_batch(rows, features.arrow_schema))
                    room -= sum(len(row.data) for row in rows)
                    count += len(rows)
                    rows = list(islice(images, ROWS_PER_GROUP))

        # The number of files, which is part of their names, is known only now.
        names = [f'data-{number:05d}-of-{len(paths):05d}.{kind}' for number in range(len(paths))]
        for path, name in zip(paths, names, strict=True):
            path.rename(folder / name)
        if kind == 'arrow':
            write_text(folder / 'state.json', json.dumps(_describe_state(names), indent=2))
            datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    return count


def write_files(source: Storage | Path, target: Path, track: Track = iter) -> int:
    """Copy images into a new folder ``target``, a file each; return their number.

    Raises:
        UserError: ``target`` exists, a name leads out of it, an image is damaged, or the disk is full.
    """
    count = 0
    with new_folder(target) as folder:
        for image in _read_images(source, track):
            path = folder / image.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('xb') as stream:  # a file system may take A.png and a.png for one
                stream.write(image.data)
            count += 1
    return count


def _read_images(source: Storage | Path, track: Track) -> Iterator[_Image]:
    """Yield all images in an order that is quick to read, after a check that they are whole."""
    storage = DiskStorage(source) if isinstance(source, Path) else source
    keys = storage.stored_order(storage.keys())
    if not keys or storage.problems:
        raise UserError(f'Cannot use {storage.root}: {"; ".join(storage.problems) or "it holds no images"}.')

    storage.check_structure()
    for key in track(keys):
        data = storage.read(key)
        try:
            width, height = read_size(BytesIO(data))
        except DamagedFileError as error:
            raise UserError(f'{storage.describe(key)} cannot be used: {error}. Replace or remove the file.') from error

        name = storage.file_name(key)
        if not name.lower().endswith(SUFFIXES):
            name += next((suffix for mark, suffix in _FORMATS.items() if data.startswith(mark)), '')
        reason = explain_unsafe(name)
        if reason:
            raise UserError(f'{storage.describe(key)} cannot be stored: its name {reason}. Rename it.')
        yield _Image(key, name, data, width, height)


@contextmanager
def _open_shard(path: Path, schema: Any) -> Iterator[Any]:
    """Yield a writer of record batches for a new Arrow or Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == '.arrow':
        with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, schema) as writer:
            yield writer
        return
    # The images are compressed already; checksums reveal a damaged shard.
    settings = {'compression': 'none', 'use_dictionary': False, 'write_statistics': ['name']}
    with pq.ParquetWriter(path, schema, write_page_checksum=True, **settings) as writer:
        yield writer


def _to_batch(rows: list[_Image], schema: Any) -> Any:
    import pyarrow as pa

    values = [{'image': {'bytes': row.data, 'path': row.file_name}, 'name': row.file_name} for row in rows]
    return pa.RecordBatch.from_pylist(values, schema)


def _describe_state(names: list[str]) -> dict[str, Any]:
    """Return the content of state.json, by which ``datasets.load_from_disk`` knows its files."""
    return {
        '_data_files': [{'filename': name} for name in names],
        '_fingerprint': os.urandom(8).hex(),
        '_format_columns': None,
        '_format_kwargs': {},
        '_format_type': None,
        '_output_all_columns': False,
        '_split': None,
    }


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; it becomes ``target`` when the block ends without an exception."""
    if os.path.lexists(target):
        raise UserError(f'Cannot write {target}: it is there already. Choose another name, or remove it.')
    temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    _remove_leftovers(target)

    try:
        with explain_writing(target):
            temporary.mkdir(parents=True)
            yield temporary
            _flush(temporary)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of processes that were killed while they wrote ``target``.

    Only POSIX systems can tell whether a process still runs.
    """
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
    """Flush all files of a folder to the disk."""
    for path in folder.rglob('*'):
        if path.is_file():
            with path.open('rb+') as stream:
                os.fsync(stream.fileno())
