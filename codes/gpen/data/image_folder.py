"""The images in a folder, and the names of what is left out: nothing is left out in silence."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gpen.data.file_check import SUFFIXES
from gpen.utils.text import list_names, printable

FOREIGN, KEPT_BY_SYSTEM, HIDDEN = 'of kinds that are not read', 'kept by a NAS or desktop', 'hidden'
UNREADABLE = 'in a folder that cannot be read'

# Thumbnails, copies and deleted files that systems and programs keep beside photographs; in small letters.
_SYSTEM_FOLDERS = {
    *('@eadir', '@tmp', '@recycle', '@recently-snapshot', '@sharebin', '@sharesnap', '#recycle', '#snapshot'),  # NAS
    *('$recycle.bin', 'recycler', 'system volume information', 'found.000', 'lost+found'),  # Windows and Linux
    *('__macosx', 'network trash folder', 'temporary items', 'ipod photo cache'),  # macOS
    *('@__thumb', '_thumbs', 'zbthumbnails', 'thumbnails.lrdata', 'plex versions'),
}
_SYSTEM_SUFFIXES = ('.lrdata', '.cocatalogdb', '.aplibrary-cache')  # of folders with previews
_SYSTEM_FILES = {
    'thumbs.db',
    'ehthumbs.db',
    'desktop.ini',
    'folder.jpg.thumb',
    'zbthumbnail.info',
    'picasa.ini',
    'icon\r',
}

LeaveOut = Callable[[str, str], object]
"""Called with the path of a file or folder that is left out, and why: one of the reasons above."""


def walk_images(root: Path, on_error: Callable[[OSError], object], leave_out: LeaveOut | None = None) -> list[str]:
    """Return the paths below ``root``, with ``/``, of the files with a suffix of an image, in any order.

    Hidden files and folders are left out, and folders that NAS systems and desktops keep for themselves; links to
    folders are followed, each folder once.

    Args:
        root: the folder.
        on_error: called for a folder that cannot be read.
        leave_out: called for what is left out; of a folder for itself alone.
    """
    tell = leave_out or (lambda *_: None)
    top = str(root)
    found = []
    visited = set()
    for folder, folders, names in os.walk(top, followlinks=True, onerror=on_error):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue

        # Not a Path for each file: there may be millions.
        visited.add(real)
        below = '' if folder == top else f'{Path(folder).relative_to(root).as_posix()}/'
        reasons = {name: _judge_folder(name) for name in folders}
        folders[:] = sorted(name for name in folders if not reasons[name])
        for name, reason in reasons.items():
            if reason:
                tell(f'{below}{name}/', reason)

        for name in names:
            reason = _judge_file(name)
            if reason:
                tell(below + name, reason)
            else:
                found.append(below + name)
    return found


def describe_left_out(left_out: Mapping[str, str]) -> list[str]:
    """Return a sentence for each reason for which something was left out.

    Args:
        left_out: the reason of each file or folder, by its path.
    """
    sentences = []
    for reason in (FOREIGN, KEPT_BY_SYSTEM, HIDDEN, UNREADABLE):
        paths = sorted(path for path, own in left_out.items() if own == reason)
        if paths:
            of_kinds = f' ({_count_suffixes(paths)})' if reason == FOREIGN else ''
            noun = 'file' if reason == FOREIGN else 'file or folder' if len(paths) == 1 else 'files and folders'
            plural = 's' if noun == 'file' and len(paths) > 1 else ''
            names = list_names(map(printable, paths))
            sentences.append(f'Left out: {len(paths):,} {noun}{plural} {reason}{of_kinds}: {names}')
    return sentences


def _judge_folder(name: str) -> str:
    """Return why a folder is left out, or nothing."""
    if name.lower() in _SYSTEM_FOLDERS or name.lower().endswith(_SYSTEM_SUFFIXES):
        return KEPT_BY_SYSTEM
    return HIDDEN if name.startswith('.') else ''


def _judge_file(name: str) -> str:
    """Return why a file is left out, or nothing."""
    if name[0] == '.':
        return HIDDEN
    small = name.lower()
    if small.endswith(SUFFIXES):
        return ''
    return KEPT_BY_SYSTEM if small in _SYSTEM_FILES else FOREIGN


def _count_suffixes(paths: Iterable[str]) -> str:
    """Return how many files there are of each suffix, the most frequent first, such as ``12 .mp4, 1 .gif``."""
    counts = Counter(os.path.splitext(path)[1].lower() or 'without suffix' for path in paths)  # noqa: PTH122
    return list_names(f'{count} {printable(suffix)}' for suffix, count in counts.most_common())
