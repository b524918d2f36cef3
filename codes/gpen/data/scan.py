"""Check all images before training starts, so that a bad file stops the run now and not after hours.

Each file's header and end are read, not its pixels.  The sizes of good files are kept in the user's cache folder by
path, file size and time of change, so that the next scan takes moments.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress

import numpy as np

from gpen.data.file_check import SUFFIXES, DamagedFileError, read_size
from gpen.data.scan_cache import ScanCache
from gpen.data.storage.base import Storage
from gpen.data.storage.disk import DiskStorage
from gpen.errors import UserError

LISTED = 10
"""How many files of one problem a message names; a count follows."""

_THREADS = 16
_BLOCK = 1024

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
    if not problems and gt_keys != lq_keys:
        problems += _explain_missing(gt, gt_keys, lq, lq_keys) + _explain_missing(lq, lq_keys, gt, gt_keys)
    problems += _shorten('two files with one name', gt.problems + lq.problems)

    pairs = gt_keys if gt_keys == lq_keys else sorted(set(gt_keys) & set(lq_keys))
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


def sizes_agree(gt_size: Size | np.ndarray, lq_size: Size | np.ndarray, reduction: int) -> np.ndarray:
    """Tell whether an LQ image has the size (width, height) of its GT, or that divided by ``reduction``.

    Of many images, ... x 2, it tells that of each: ... booleans.
    """
    gt, lq = np.asarray(gt_size), np.asarray(lq_size)
    return (gt == lq).all(axis=-1) | (abs(gt - lq * reduction) < reduction).all(axis=-1)


def explain_sizes(gt_name: str, gt_size: Size | np.ndarray, lq_name: str, lq_size: Size | np.ndarray) -> str:
    """Return a clause that names both images with their sizes."""
    return f'{gt_name} is {gt_size[0]} x {gt_size[1]} but {lq_name} is {lq_size[0]} x {lq_size[1]}'


def _check_files(gt: Storage, lq: Storage, pairs: list[str], reduction: int) -> list[str]:
    gt_sizes, gt_damages = scan_storage(gt, pairs)
    lq_sizes, lq_damages = scan_storage(lq, pairs)
    is_known = (gt_sizes > 0).all(axis=1) & (lq_sizes > 0).all(axis=1)
    different = [
        explain_sizes(gt.describe(pairs[row]), gt_sizes[row], lq.describe(pairs[row]), lq_sizes[row])
        for row in np.flatnonzero(is_known & ~sizes_agree(gt_sizes, lq_sizes, reduction))
    ]
    damages = _shorten('unreadable or damaged', [*gt_damages, *lq_damages])
    return damages + _shorten('different sizes in a pair', different)


def scan_storage(storage: Storage, keys: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the sizes of the images (N x 2: width, height; 0 where damaged), and a clause for each damaged one.

    Streamed images are not scanned (all sizes are 0): each is checked when it is read.
    """
    if storage.is_streamed:
        return np.zeros((len(keys), 2), np.int64), []

    # What is known of files that have not changed since
    names = [storage.file_name(key) for key in keys]
    cache = ScanCache.load(storage.root)
    stats = _read_stats(storage, keys)  # N x 2
    records = cache.find(names)  # N x 4
    stale = np.flatnonzero((records[:, :2] != stats).any(axis=1) | (stats < 0).any(axis=1))
    records[stale] = np.pad(stats[stale], ((0, 0), (0, 2)))

    # The headers of the others
    damages = _read_sizes(storage, keys, stale.tolist(), records)
    storage.close()
    is_good = records[:, 2] > 0
    if is_good[stale].any():
        cache.save(list(compress(names, is_good)), records[is_good])
    return records[:, 2:], damages


def _read_stats(storage: Storage, keys: Sequence[str]) -> np.ndarray:
    """Return size in bytes and time of the last change of each image's file, N x 2; -1 where that cannot be read."""
    stats = np.empty((len(keys), 2), np.int64)

    def read(key: str) -> tuple[int, int]:
        try:
            return storage.stat(key)
        except OSError:
            return -1, -1

    def read_block(start: int) -> None:
        stats[start : start + _BLOCK] = list(map(read, keys[start : start + _BLOCK]))

    with ThreadPoolExecutor(_THREADS) as pool:  # a file system in the network answers many at once
        list(pool.map(read_block, range(0, len(keys), _BLOCK)))
    return stats


def _read_sizes(storage: Storage, keys: Sequence[str], rows: Sequence[int], records: np.ndarray) -> list[str]:
    """Write the sizes of the images ``rows`` into their records; return a clause for each damaged one."""
    row_of = {keys[row]: row for row in rows}
    ordered = storage.stored_order(list(row_of))
    damages: dict[str, str] = {}

    def read_share(first: int) -> None:
        for key in ordered[first::_THREADS]:
            try:
                with storage.open(key) as stream:
                    records[row_of[key], 2:] = read_size(stream)
            except DamagedFileError as error:
                damages[key] = str(error)
            except OSError as error:
                damages[key] = f'it cannot be read ({error.strerror or error})'

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(read_share, range(_THREADS)))
    return [f'{storage.describe(key)}: {damages[key]}' for key in ordered if key in damages]


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
