"""The Fréchet distance of two sets of feature vectors, and files that keep the statistics of one."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from gpen.errors import UserError
from gpen.utils.files import atomic_path, explain_writing
from gpen.weights.files import read_file

KEYS = (('mu', 'sigma'), ('mean', 'cov'))  # of pytorch-fid and ours; of BasicSR, GFPGAN and VQFR

LOGGER = logging.getLogger('gpen')


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: F values, float64.
        covariance: F x F, float64, with ``count - 1`` as its divisor.
        count: how many vectors; None where a file does not tell.
        resize: how images were resized for the network; None where a file does not tell.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None
    resize: str | None = None


class Moments:
    """Sums over feature vectors, of which any number can be added.

    Args:
        features: F, the length of a vector.
        device: where the sums are.
    """

    def __init__(self, features: int, device: torch.device | str) -> None:
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.total = torch.zeros(features, dtype=torch.float64, device=device)
        self.products = torch.zeros(features, features, dtype=torch.float64, device=device)

    def add(self, vectors: Tensor) -> None:
        """Add N x F values."""
        vectors = vectors.to(self.total.device).double()
        self.count += len(vectors)
        self.total += vectors.sum(dim=0)
        self.products += vectors.T @ vectors

    def to_statistics(self, resize: str | None = None) -> Statistics:
        """Return mean and covariance; of fewer than two vectors, they are NaN."""
        count = int(self.count)
        mean = self.total / count
        covariance = (self.products - count * torch.outer(mean, mean)) / (count - 1 if count > 1 else math.nan)
        return Statistics(mean, covariance, count, resize)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the Fréchet distance of two normal distributions (Heusel et al. 2017, eq. 6), at least 0.

    It is ``|mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2))`` with the covariances A and B.
    """
    # The eigenvalues of A B are those of A^(1/2) B A^(1/2), which is symmetric: faster, and without complex numbers.
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    products = torch.linalg.eigvalsh(root @ b.covariance.to(root.device) @ root)

    squares = (a.mean - b.mean.to(a.mean.device)).square().sum()
    traces = a.covariance.trace() + b.covariance.trace().to(root.device) - 2 * products.clamp(min=0).sqrt().sum()
    return max(0.0, float(squares + traces))


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write an ``.npz`` with ``mu`` and ``sigma``, as pytorch-fid reads it, ``count`` and ``resize``.

    Raises:
        UserError: the file cannot be written.
    """
    with explain_writing(path), atomic_path(path) as temporary, temporary.open('wb') as stream:
        np.savez(
            stream,
            mu=statistics.mean.cpu().numpy(),
            sigma=statistics.covariance.cpu().numpy(),
            count=np.array(statistics.count),
            resize=np.array(statistics.resize or ''),
        )


def load_statistics(path: Path, features: int) -> Statistics:
    """Read the statistics of a set: an ``.npz`` with ``mu`` and ``sigma``, or a torch file with ``mean`` and ``cov``.

    Nothing in either is unpickled but arrays of numbers.

    Args:
        path: the file.
        features: F, the length of the vectors that are to be compared.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    content = _read_npz(path) if path.suffix.lower() == '.npz' else _read_torch(path)
    found = next((keys for keys in KEYS if all(key in content for key in keys)), None)
    if found is None:
        raise UserError(
            f'{path} does not hold the statistics of a set of images: it should have mu and sigma, or mean and cov. '
            'Write it with codes/test.py --save_fid_stats, or give the folder of images itself.'
        )

    # Shapes and values.
    try:
        mean, covariance = (torch.from_numpy(np.asarray(content[key], dtype=np.float64)) for key in found)
    except (TypeError, ValueError) as error:
        raise UserError(f'{path} is no file of statistics: {found[0]} and {found[1]} are no numbers.') from error
    if mean.shape != (features,) or covariance.shape != (features, features):
        shapes = ' and '.join(' x '.join(map(str, value.shape)) or 'one' for value in (mean, covariance))
        raise UserError(
            f'{path} holds the statistics of other features: {shapes} values, where {features} and {features} x '
            f'{features} are needed. FID compares the last pooling of InceptionV3 (2048 features).'
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise UserError(f'{path} is spoilt: it holds values that are not finite. Write it anew.')

    count, resize = (content.get(key) for key in ('count', 'resize'))
    return Statistics(mean, covariance, None if count is None else int(count), str(resize) if resize else None)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name][()] for name in archive.files}
    except (ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise UserError(f'{path} is damaged, or no .npz at all. Write it anew, or download it again.') from error


def _read_torch(path: Path) -> dict[str, Any]:
    """Read a file of ``torch.save`` that may hold arrays of NumPy beside tensors and plain values."""
    with _arrays_allowed():
        content = read_file(path)
    return content if isinstance(content, dict) else {}


@contextmanager
def _arrays_allowed() -> Iterator[None]:
    """Let torch's reader that runs no code rebuild NumPy's arrays of numbers."""
    import _codecs

    array = np.zeros(1)
    rebuild = array.__reduce__()[0]
    names = [(rebuild, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')]  # NumPy 1, NumPy 2
    kinds = [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8')]
    with torch.serialization.safe_globals([np.ndarray, np.dtype, _codecs.encode, *kinds, *names]):  # type: ignore[list-item]
        yield
