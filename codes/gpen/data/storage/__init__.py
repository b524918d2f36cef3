"""How the encoded images are stored: a folder of files, an LMDB in BasicSR's layout, or tables of ``datasets``."""

from pathlib import Path
from typing import Any

from gpen.data.storage.base import Storage
from gpen.data.storage.basicsr_lmdb import LmdbStorage
from gpen.data.storage.disk import DiskStorage
from gpen.data.storage.shards import is_data_set
from gpen.data.storage.tables import DatasetsStorage
from gpen.errors import UserError
from gpen.options.io_backend import DatasetsBackend, check_io_backend, is_url, read_io_backend
from gpen.utils.files import resolve_path


def open_storage(root: str | Path, io_backend: dict[str, Any] | None = None) -> Storage:
    """Return the storage that ``io_backend`` describes; see :mod:`gpen.options.io_backend`.

    Args:
        root: a path (a relative one starts at the project's root), or a URL for ``{type: datasets, streaming: true}``.
        io_backend: ``{type: disk}`` (default), ``{type: lmdb}`` or ``{type: datasets}`` with its options.

    Raises:
        UserError: no such back end, or ``root`` is not there or has another layout.
    """
    options = io_backend or {}
    problems = check_io_backend(options)
    if problems:
        raise UserError('\n'.join(f'{".".join(map(str, problem.key))}: {problem.message}' for problem in problems))

    backend = read_io_backend(options)
    place = root if isinstance(root, str) and is_url(root) else resolve_path(root)
    if isinstance(backend, DatasetsBackend) and (backend.streaming or isinstance(place, Path)):
        return DatasetsStorage(place, backend)
    if isinstance(place, str):
        raise UserError(f'{place} is a URL, which takes io_backend: {{type: datasets, streaming: true}}.')
    return DiskStorage(place) if backend.type == 'disk' else LmdbStorage(place)


def find_backend(root: Path) -> dict[str, Any]:
    """Return the option ``io_backend`` that fits what lies at ``root``."""
    if (root / 'data.mdb').is_file():
        return {'type': 'lmdb'}
    return {'type': 'datasets' if is_data_set(root) else 'disk'}
