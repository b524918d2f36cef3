"""Which files a data set consists of, in 8 bytes for each image, so that it shows later which were replaced."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_NAMED = 3
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)


@dataclass(frozen=True, eq=False)
class Stamps:
    """The images of a data set at one time.

    Attributes:
        names: a hash of all keys.
        values: of each image, from the sizes in bytes and the times of change of its files; int64.
    """

    names: str
    values: np.ndarray

    @classmethod
    def of(cls, keys: Sequence[str], stats: np.ndarray) -> 'Stamps':
        """Return the stamps of images with these keys; ``stats`` is N x up to 4 integers on the files of each."""
        names = hashlib.sha256('\0'.join(keys).encode('utf-8', 'surrogatepass')).hexdigest()
        mixed = stats.astype(np.uint64) * _MIX[: stats.shape[1]]  # modulo 2**64
        return cls(names, mixed.sum(axis=1, dtype=np.uint64).view(np.int64))

    def pack(self) -> dict[str, Any]:
        """Return the content as a training state may hold it."""
        return {'names': self.names, 'values': torch.from_numpy(self.values)}

    def explain_changes(self, before: dict[str, Any], keys: Sequence[str]) -> list[str]:
        """Return a clause on what has changed since :meth:`pack` was called, or nothing.

        Args:
            before: what it returned.
            keys: of these images now.
        """
        if before['names'] != self.names:
            return ['the names of the images are others than then']
        rows = np.flatnonzero(before['values'].numpy() != self.values)
        if not len(rows):
            return []
        more = ', ...' if len(rows) > _NAMED else ''
        named = ', '.join(keys[row] for row in rows[:_NAMED])
        return [
            f'{len(rows)} of {len(keys)} images have another size in bytes or time of change than then, so they may '
            f'have been replaced: {named}{more}'
        ]
