"""The option ``io_backend``: how the images of a data set are stored, and what each way takes."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from gpen.options.blocks import Section
from gpen.options.problems import Problem, find_problems
from gpen.options.types import PositiveInt
from gpen.options.yaml_values import Key
from gpen.utils.files import is_file, is_folder, resolve_path

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+(::|://)')  # two letters at least: C:\ is a drive


class PlainBackend(Section):
    """Image files in folders (``disk``), or a database in BasicSR's layout (``lmdb``)."""

    type: Literal['disk', 'lmdb'] = 'disk'
    """disk: folders of image files; lmdb: databases in BasicSR's layout."""


class DatasetsBackend(Section):
    """Tables of Hugging Face ``datasets``: a folder of ``save_to_disk``, Parquet files, or URLs of these."""

    type: Literal['datasets']
    """Tables of Hugging Face datasets (Arrow or Parquet)."""
    image_column: str = Field('image', min_length=1)
    """The column of encoded images."""
    name_column: str | None = Field('name', min_length=1)
    """The column of names. Where it is not given: name if there is one, else the images' own path, else the number of
    the row; null: the number of the row."""
    split: str | None = Field(None, min_length=1)
    """Which split, where the data set has several."""
    streaming: bool = False
    """Fetch the shards while training; dataroot_* may be a URL then."""
    buffer_size: PositiveInt = 256
    """Images that are shuffled together, where only whole blocks of rows can be read quickly."""


_BACKENDS: dict[str, type[PlainBackend] | type[DatasetsBackend]] = {
    'disk': PlainBackend,
    'lmdb': PlainBackend,
    'datasets': DatasetsBackend,
}


def check_io_backend(options: dict[str, Any], key: Key = ('io_backend',)) -> list[Problem]:
    """Return what is wrong with the option ``io_backend`` that stands at ``key``."""
    name = options.get('type', 'disk')
    model = _BACKENDS.get(name) if isinstance(name, str) else None
    if model is None:
        return [Problem((*key, 'type'), f'is {name!r}; it can be disk, lmdb or datasets')]
    return find_problems(model, options, key)


def read_io_backend(options: dict[str, Any]) -> PlainBackend | DatasetsBackend:
    """Return the option ``io_backend``, in which :func:`check_io_backend` found nothing wrong."""
    return _BACKENDS[options.get('type', 'disk')].model_validate(options)


def check_dataroots(arguments: dict[str, Any], key: Key) -> Iterator[Problem]:
    """Yield each ``dataroot_*`` among a data set's arguments that is not there; ``key`` is the data set's option."""
    backend = arguments.get('io_backend')
    backend = backend if isinstance(backend, dict) else {}
    is_table = backend.get('type') == 'datasets'

    for name, value in arguments.items():
        if not name.startswith('dataroot') or not isinstance(value, str):
            continue
        if is_url(value):
            if not is_table or backend.get('streaming') is not True:
                yield Problem((*key, name), 'is a URL, which takes io_backend: {type: datasets, streaming: true}')
            continue
        if not value.strip():  # the project's root would be meant
            yield Problem((*key, name), 'is empty. Give the folder of the images.')
            continue
        path = resolve_path(value)
        if not (is_folder(path) or (is_table and is_file(path))):
            kind = 'file or folder' if is_table else 'folder'
            yield Problem((*key, name), f'there is no {kind} {path}. Put the images there, or change this line.')


def is_url(root: str) -> bool:
    """Tell whether a ``dataroot_*`` is a URL (``https://``, ``hf://``, ``s3://``, ``file://``), not a path."""
    return _URL.match(root) is not None
