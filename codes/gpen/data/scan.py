"""Check all images before training starts, so that a bad file stops the run now and not after hours.

Each file's header and end are read, not its pixels.  The sizes of good files are kept in the user's cache folder by
path, file size and time of change, so that the next scan takes moments.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from gpen.data.file_check import SUFFIXES, DamagedFileError, read_size
from gpen.data.storage.base import Storage
from gpen.data.storage.disk import DiskStorage
from gpen.errors import UserError
from gpen.utils.files import write_text

LISTED = 10
"""How many files of one problem a message names; a count follows."""

_THREADS = 16
_writes_cache: ContextVar[bool] = ContextVar('_writes_cache', default=True)
_CACHE_VERSION = 1

Size = tuple[int, int]


def scan_pairs(gt: Storage, lq: Storage, reduction: int = 1, check_files: bool = True) -> list[str]:
    """Return the keys of all pairs, sorted, after checking the files.

    Args:
        gt: the GT images.
        lq: the LQ images.
        reduction: an LQ image may also be smaller than its GT by this factor.
        check_files: read each file's header and end; otherwise only names are compared.

    Raises:
        UserError: empty folders, images without a partner, files that are cut off or no images, pairs of different
            sizes; all that was found in one message.
    """
    gt_keys, lq_keys = gt.keys(), lq.keys()
    problems = [*_explain_empty(gt, gt_keys), *_explain_empty(lq, lq_keys)]
    if not problems:
        problems += _explain_missing(gt, gt_keys, lq, lq_keys) + _explain_missing(lq, lq_keys, gt, gt_keys)
    problems += _shorten('two files with one name', gt.problems + lq.problems)

    pairs = sorted(set(gt_keys) & set(lq_keys))
    if check_files:
        problems += _check_files(gt, lq, pairs, reduction)

    if problems:
        lines = '\n'.join(f'  - {problem}' for problem in problems)
        raise UserError(
            f'The images in {gt.root} (sharp) and {lq.root} (blurry) cannot be used as pairs:\n{lines}\n'
            'Add, replace or remove these files. A sharp and a blurry image belong together when they have the same '
            'name, apart from the suffix.'
        )
    return pairs


def scan_images(storage: Storage, check_files: bool = True) -> list[str]:
    """Return the keys of all images, sorted, after checking the files.

    Args:
        storage: the images.
        check_files: read each file's header and end; otherwise only names are looked at.

    Raises:
        UserError: no images, two files of one name, files that are cut off or no images; all in one message.
    """
    keys = storage.keys()
    problems = [*_explain_empty(storage, keys), *_shorten('two files with one name', storage.problems)]
    if check_files:
        problems += _shorten('unreadable or damaged', scan_storage(storage, keys)[1])

    if problems:
        lines = '\n'.join(f'  - {problem}' for problem in problems)
        raise UserError(f'The images in {storage.root} cannot be used:\n{lines}\nAdd, replace or remove these files.')
    return keys


def sizes_agree(gt_size: Size, lq_size: Size, reduction: int) -> bool:
    """Tell whether an LQ image has the size (width, height) of its GT, or that divided by ``reduction``."""
    reduced = all(abs(a - b * reduction) < reduction for a, b in zip(gt_size, lq_size, strict=True))
    return gt_size == lq_size or reduced


def explain_sizes(gt_name: str, gt_size: Size, lq_name: str, lq_size: Size) -> str:
    """Return a clause that names both images with their sizes."""
    return f'{gt_name} is {gt_size[0]} x {gt_size[1]} but {lq_name} is {lq_size[0]} x {lq_size[1]}'


def _check_files(gt: Storage, lq: Storage, pairs: list[str], reduction: int) -> list[str]:
    gt_sizes, gt_damages = scan_storage(gt, pairs)
    lq_sizes, lq_damages = scan_storage(lq, pairs)
    different = [
        explain_sizes(gt.describe(key), gt_sizes[key], lq.describe(key), lq_sizes[key])
        for key in pairs
        if key in gt_sizes and key in lq_sizes and not sizes_agree(gt_sizes[key], lq_sizes[key], reduction)
    ]
    damages = _shorten('unreadable or damaged', [*gt_damages, *lq_damages])
    return damages + _shorten('different sizes in a pair', different)


@contextmanager
def writing_nothing() -> Iterator[None]:
    """Read the cache of scans in this block but do not write it, for a dry run."""
    token = _writes_cache.set(False)
    try:
        yield
    finally:
        _writes_cache.reset(token)


def scan_storage(storage: Storage, keys: Sequence[str]) -> tuple[dict[str, Size], list[str]]:
    """Return the sizes (width, height) of the good images by key, and a clause for each damaged one.

    Streamed images are not scanned: each is checked when it is read.
    """
    if storage.is_streamed:
        return {}, []

    keys = storage.stored_order(keys)
    cache_file = _locate_cache(storage.root)
    known = _load_cache(cache_file)
    sizes: dict[str, Size] = {}
    damages: list[str] = []
    fresh: dict[str, list[int]] = {}

    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(lambda key: _inspect(storage, key, known), keys, chunksize=1)
        for key, (record, damage) in zip(keys, results, strict=True):
            if record is None:
                damages.append(f'{storage.describe(key)}: {damage}')
            else:
                sizes[key] = (record[2], record[3])
                fresh[storage.describe(key)] = record

    storage.close()
    if _writes_cache.get() and any(known.get(name) != record for name, record in fresh.items()):
        _save_cache(cache_file, {**known, **fresh})
    return sizes, damages


def _inspect(storage: Storage, key: str, known: dict[str, list[int]]) -> tuple[list[int] | None, str]:
    """Return ([bytes, changed, width, height], '') of a good image, or (None, what is wrong)."""
    try:
        stat = list(storage.stat(key))
        record = known.get(storage.describe(key), [])
        if record[:2] == stat:
            return record, ''
        with storage.open(key) as stream:
            return [*stat, *read_size(stream)], ''
    except DamagedFileError as error:
        return None, str(error)
    except OSError as error:
        return None, f'it cannot be read ({error.strerror or error})'


def _explain_empty(storage: Storage, keys: list[str]) -> list[str]:
    looked_for = f' (looked for {", ".join(SUFFIXES)})' if isinstance(storage, DiskStorage) else ''
    return [] if keys else [f'there are no images in {storage.root}{looked_for}']


def _explain_missing(here: Storage, here_keys: list[str], there: Storage, there_keys: list[str]) -> list[str]:
    alone = sorted(set(here_keys) - set(there_keys))
    return _shorten(f'no partner in {there.root}', [here.describe(key) for key in alone])


def _shorten(title: str, items: list[str]) -> list[str]:
    """Return one problem with its first items named, or nothing."""
    if not items:
        return []
    more = [f'... and {len(items) - LISTED} more'] if len(items) > LISTED else []
    return [f'{title} ({len(items)}):' + ''.join(f'\n      {item}' for item in items[:LISTED] + more)]


def _locate_cache(root: Path | str) -> Path | None:
    """Return the cache file of one folder, or None for a user without a home."""
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    try:
        folder = base if base.is_absolute() else Path.home() / '.cache'
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(Path(root).resolve())).hexdigest()[:16]
    return folder / 'gpen' / f'scan-{name}.json'


def _load_cache(path: Path | None) -> dict[str, list[int]]:
    """Return the remembered records; nothing where the cache is absent, unreadable or not ours."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['version'] != _CACHE_VERSION:
            return {}
        files = content['files'].items()
        return {name: [int(number) for number in record] for name, record in files if len(record) == 4}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _save_cache(path: Path | None, files: dict[str, list[int]]) -> None:
    if path is not None:
        with suppress(UserError, OSError):  # a cache is a convenience
            write_text(path, json.dumps({'version': _CACHE_VERSION, 'files': files}))
