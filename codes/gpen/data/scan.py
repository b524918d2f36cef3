"""Check all images before training starts, so that a bad file stops the run now and not after hours.

Each file's header and end are read and, in a full scan, its pixels.  The sizes of good files are kept in the user's
cache folder by path, file size and time of change, so that the next scan takes moments.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress

import numpy as np

from gpen.data.file_check import SUFFIXES, read_size
from gpen.data.image_io import check_pixels
from gpen.data.pixels import DamagedFileError
from gpen.data.scan_cache import COLUMNS, ScanCache
from gpen.data.stamps import Stamps
from gpen.data.storage.base import Storage
from gpen.data.storage.disk import DiskStorage
from gpen.errors import UserError
from gpen.options.types import Scan

LOGGER = logging.getLogger('gpen')

LISTED = 10
"""How many files of one problem a message names; a count follows."""

_THREADS = 16
_BLOCK = 1024
_SLOW = 1e-4
"""Seconds to ask for a file's size from which on threads ask for many at once."""

Size = tuple[int, int]


@dataclass(frozen=True)
class ScannedImages:
    """The images of a data set that can be used.

    Attributes:
        keys: sorted.
        stamps: by which it shows later that images were replaced; None where no file was looked at.
    """

    keys: list[str]
    stamps: Stamps | None = None


def scan_pairs(gt: Storage, lq: Storage, reduction: int = 1, scan: Scan = True, skip_damaged: int = 0) -> ScannedImages:
    """Return all pairs, after checking the files.

    Args:
        gt: the GT images.
        lq: the LQ images.
        reduction: an LQ image may also be smaller than its GT by this factor.
        scan: true: read each file's header and end; ``full``: also decode each image; false: only compare names.
        skip_damaged: leave out up to so many damaged images, and their partners; each image is then decoded.

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
    images = ScannedImages(pairs)
    if _looks_at_files(scan, skip_damaged, gt):
        scans = [_scan_storage(side, pairs, scan == 'full' or skip_damaged > 0) for side in (gt, lq)]
        images, found = _leave_out_damaged(pairs, scans, skip_damaged)
        problems += found + _find_different_sizes(gt, lq, pairs, scans, reduction)

    if problems:
        lines = '\n'.join(f'  - {problem}' for problem in problems)
        raise UserError(
            f'The images in {gt.root} (sharp) and {lq.root} (blurry) cannot be used as pairs:\n{lines}\n'
            'Add, replace or remove these files. A sharp and a blurry image belong together when they have the same '
            'name, apart from the suffix.'
        )
    return images


def scan_images(storage: Storage, scan: Scan = True, skip_damaged: int = 0) -> ScannedImages:
    """Return all images, after checking the files.

    Args:
        storage: the images.
        scan: true: read each file's header and end; ``full``: also decode each image; false: only look at names.
        skip_damaged: leave out up to so many damaged images; each image is then decoded.

    Raises:
        UserError: no images, two files of one name, files that are cut off or no images; all in one message.
    """
    keys = storage.keys()
    problems = [*_explain_empty(storage, keys), *_shorten('two files with one name', storage.problems)]
    images = ScannedImages(keys)
    if _looks_at_files(scan, skip_damaged, storage):
        scans = [_scan_storage(storage, keys, scan == 'full' or skip_damaged > 0)]
        images, found = _leave_out_damaged(keys, scans, skip_damaged)
        problems += found

    if problems:
        lines = '\n'.join(f'  - {problem}' for problem in problems)
        raise UserError(f'The images in {storage.root} cannot be used:\n{lines}\nAdd, replace or remove these files.')
    return images


def sizes_agree(gt_size: Size | np.ndarray, lq_size: Size | np.ndarray, reduction: int) -> np.ndarray:
    """Tell whether an LQ image has the size (width, height) of its GT, or that divided by ``reduction``.

    Of many images, ... x 2, it tells that of each: ... booleans.
    """
    gt, lq = np.asarray(gt_size), np.asarray(lq_size)
    return (gt == lq).all(axis=-1) | (abs(gt - lq * reduction) < reduction).all(axis=-1)


def explain_sizes(gt_name: str, gt_size: Size | np.ndarray, lq_name: str, lq_size: Size | np.ndarray) -> str:
    """Return a clause that names both images with their sizes."""
    return f'{gt_name} is {gt_size[0]} x {gt_size[1]} but {lq_name} is {lq_size[0]} x {lq_size[1]}'


def _looks_at_files(scan: Scan, skip_damaged: int, storage: Storage) -> bool:
    """Tell whether files are looked at beforehand; streamed ones are not: each is checked when it is read.

    Raises:
        UserError: it is asked for what needs that, and it cannot be done.
    """
    if skip_damaged and not scan:
        raise UserError('skip_damaged leaves out what the scan finds, but scan is false. Set scan to full.')
    if storage.is_streamed and (skip_damaged or scan == 'full'):
        option = 'skip_damaged' if skip_damaged else 'scan: full'
        raise UserError(
            f'{option} reads all images beforehand, but they are streamed. Leave it out, or copy them here.'
        )
    return bool(scan) and not storage.is_streamed


@dataclass(frozen=True)
class _Scan:
    """What the scan of a storage found.

    Attributes:
        stats: of the files, N x 2: bytes, and time of the last change in ns; -1 where that cannot be read.
        sizes: of the images, N x 2: width and height; 0 where damaged.
        damages: a clause for each damaged image, by its key.
    """

    stats: np.ndarray
    sizes: np.ndarray
    damages: dict[str, str]


def _leave_out_damaged(keys: list[str], scans: Sequence[_Scan], skip_damaged: int) -> tuple[ScannedImages, list[str]]:
    """Return the images that are good on all sides, and the problem of those that are not, where they are too many.

    Otherwise these are named in a warning.
    """
    damages = [clause for scan in scans for clause in scan.damages.values()]
    damaged = {key for scan in scans for key in scan.damages}
    is_good = np.array([key not in damaged for key in keys], bool)
    good = list(compress(keys, is_good))
    if len(damages) > skip_damaged or (damages and not good):
        allowed = f'unreadable or damaged, where skip_damaged allows {skip_damaged}'
        return ScannedImages(keys), _shorten(allowed if skip_damaged else 'unreadable or damaged', damages)

    if damages:
        listed = ''.join(f'\n  - {damage}' for damage in damages)
        LOGGER.warning(
            'Warning: %d of %d images are left out, as skip_damaged allows:%s', len(keys) - len(good), len(keys), listed
        )
    stats = np.hstack([scan.stats for scan in scans])
    return ScannedImages(good, Stamps.of(good, stats[is_good])), []


def _find_different_sizes(
    gt: Storage, lq: Storage, pairs: list[str], scans: Sequence[_Scan], reduction: int
) -> list[str]:
    gt_sizes, lq_sizes = (scan.sizes for scan in scans)
    is_known = (gt_sizes > 0).all(axis=1) & (lq_sizes > 0).all(axis=1)
    different = [
        explain_sizes(gt.describe(pairs[row]), gt_sizes[row], lq.describe(pairs[row]), lq_sizes[row])
        for row in np.flatnonzero(is_known & ~sizes_agree(gt_sizes, lq_sizes, reduction))
    ]
    return _shorten('different sizes in a pair', different)


def _scan_storage(storage: Storage, keys: Sequence[str], is_full: bool) -> _Scan:
    # What is known of files that have not changed since
    names = list(map(storage.file_name, keys))
    cache = ScanCache.load(storage.root)
    stats = _read_stats(storage, keys)  # N x 2
    records = cache.find(names)  # N x 5
    is_changed = (records[:, :2] != stats).any(axis=1) | (stats < 0).any(axis=1)
    stale = np.flatnonzero(is_changed | (records[:, 4] < is_full))
    records[stale] = np.pad(stats[stale], ((0, 0), (0, COLUMNS - 2)))

    # The others
    if len(stale):
        storage.check_structure()
    damages = _read_sizes(storage, keys, stale.tolist(), records, is_full)
    storage.close()
    is_good = records[:, 2] > 0
    if is_good[stale].any():
        cache.save(list(compress(names, is_good)), records[is_good])
    return _Scan(stats, records[:, 2:4], damages)


def _read_stats(storage: Storage, keys: Sequence[str]) -> np.ndarray:
    """Return size in bytes and time of the last change of each image's file, N x 2; -1 where that cannot be read."""
    stats = np.empty((len(keys), 2), np.int64)

    def read_block(start: int) -> None:
        stats[start : start + _BLOCK] = storage.stats(keys[start : start + _BLOCK])

    # A file system in the network answers many at once; a local one is hindered by threads that wait for each other.
    begun = time.perf_counter()
    read_block(0)
    is_slow = time.perf_counter() - begun > _SLOW * min(_BLOCK, len(keys))
    with ThreadPoolExecutor(_THREADS if is_slow else 1) as pool:
        list(pool.map(read_block, range(_BLOCK, len(keys), _BLOCK)))
    return stats


def _read_sizes(
    storage: Storage, keys: Sequence[str], rows: Sequence[int], records: np.ndarray, is_full: bool
) -> dict[str, str]:
    """Write the sizes of the images ``rows`` into their records; return a clause for each damaged one, by its key."""
    row_of = {keys[row]: row for row in rows}
    ordered = storage.stored_order(list(row_of))
    damages: dict[str, str] = {}

    def read_share(first: int) -> None:
        for key in ordered[first::_THREADS]:
            try:
                with storage.open(key) as stream:
                    size = read_size(stream)
                    if is_full:
                        stream.seek(0)
                        check_pixels(stream.read())
                records[row_of[key], 2:] = *size, is_full
            except DamagedFileError as error:
                damages[key] = str(error)
            except OSError as error:
                damages[key] = f'it cannot be read ({error.strerror or error})'

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(read_share, range(_THREADS)))
    return {key: f'{storage.describe(key)}: {damages[key]}' for key in ordered if key in damages}


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
