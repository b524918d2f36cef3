"""What the last scan of a folder found, kept in the user's cache folder, so that the next scan opens no file again."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpen.errors import UserError
from gpen.utils.files import atomic_path

_VERSION = 3
COLUMNS = 5
"""Of the records."""

_writes: ContextVar[bool] = ContextVar('_writes', default=True)


@contextmanager
def writing_nothing() -> Iterator[None]:
    """Read the cache of scans in this block but do not write it, for a dry run."""
    token = _writes.set(False)
    try:
        yield
    finally:
        _writes.reset(token)


@dataclass
class ScanCache:
    """The good images of one root at its last scans.

    It is columns, not an object for each image, so that a million of them load in a second.

    Attributes:
        file: where it is kept; None for a user without a home.
        names: of the images, in any order.
        records: N x 5, int64: bytes and time of the last change (ns) of the file, width and height of the image, and
            whether its pixels were decoded.
    """

    file: Path | None
    names: list[str]
    records: np.ndarray

    @classmethod
    def load(cls, root: Path | str) -> 'ScanCache':
        """Return the cache of a root; it is empty where there is none, or one that is damaged or of another version."""
        file = _locate(root)
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            if file is not None:
                with np.load(file) as content:
                    names = content['names'].tobytes().decode('utf-8', 'surrogatepass').split('\0')
                    records = content['records']
                    if content['version'] == _VERSION and records.shape == (len(names), COLUMNS):
                        return cls(file, names, records.astype(np.int64))
        return cls(file, [], np.zeros((0, COLUMNS), np.int64))

    def find(self, names: list[str]) -> np.ndarray:
        """Return the records of images by name, N x 5; -1 where the name is not known."""
        if names == self.names:  # nothing was added, removed or renamed
            return self.records.copy()
        rows = dict(zip(self.names, range(len(self.names)), strict=True))
        found = np.fromiter((rows.get(name, -1) for name in names), np.int64, len(names))
        return np.vstack([self.records, np.full((1, COLUMNS), -1)])[found]  # -1: the row that was added at the end

    def save(self, names: list[str], records: np.ndarray) -> None:
        """Write the records of ``names``, beside those of other names that were known before."""
        if self.file is None or not _writes.get():
            return
        current = set(names)
        others = [row for row, name in enumerate(self.names) if name not in current]
        text = '\0'.join([*names, *(self.names[row] for row in others)]).encode('utf-8', 'surrogatepass')

        with suppress(UserError, OSError):  # a cache is a convenience
            with atomic_path(self.file) as temporary, temporary.open('wb') as stream:
                together = np.vstack([records, self.records[others]])
                np.savez(stream, version=_VERSION, names=np.frombuffer(text, np.uint8), records=together)
            self.file.with_suffix('.json').unlink(missing_ok=True)  # of an earlier version


def _locate(root: Path | str) -> Path | None:
    """Return the cache file of one root, or None for a user without a home."""
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    try:
        folder = base if base.is_absolute() else Path.home() / '.cache'
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(Path(root).resolve())).hexdigest()[:16]
    return folder / 'gpen' / f'scan-{name}.npz'
