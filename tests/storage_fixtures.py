"""Pairs of tiny images in every kind of storage, for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpen.data.image_io import write_image
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.storage import writing
from gpen.data.storage.writing import write_lmdb, write_tables

SIZE = 8
COUNT = 30
ROWS = 4  # of a row group
GROUPS = 8
KINDS = ('disk', 'lmdb', 'arrow', 'arrow file', 'parquet', 'parquet file', 'streamed', 'streamed pattern')
TABLE = {'type': 'datasets', 'buffer_size': 8}


def make_stores(folder: Path) -> Path:
    """Write 30 pairs in every kind of storage below ``folder``; Parquet in row groups of 4 rows."""
    names = [f'face{number:02d}.png' for number in range(COUNT - 3)]
    names += ['more/face.with.dots.png', 'more/face ähnlich.webp', 'zuletzt.jpg']
    for number, name in enumerate(names):
        image = np.random.default_rng(number).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
        write_image(folder / 'sharp' / name, image)
        write_image(folder / 'blurry' / name, image / 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, 'ROWS_PER_GROUP', ROWS)
        for side in ('sharp', 'blurry'):
            assert write_lmdb(folder / side, folder / f'{side}.lmdb') == COUNT
            assert write_tables(folder / side, folder / f'{side}.arrow', 'arrow') == COUNT
            assert write_tables(folder / side, folder / f'{side}.parquet', 'parquet') == COUNT
    return folder


def locate(stores: Path, side: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Return ``dataroot`` and ``io_backend`` of one side in one kind of storage."""
    arrow, parquet = stores / f'{side}.arrow', stores / f'{side}.parquet'
    return {
        'disk': (str(stores / side), {'type': 'disk'}),
        'lmdb': (str(stores / f'{side}.lmdb'), {'type': 'lmdb'}),
        'arrow': (str(arrow), TABLE),
        'arrow file': (str(arrow / 'data-00000-of-00001.arrow'), TABLE),
        'parquet': (str(parquet), TABLE),
        'parquet file': (str(parquet / 'data-00000-of-00001.parquet'), TABLE),
        'streamed': (f'file://{parquet}', {**TABLE, 'streaming': True}),
        'streamed pattern': (f'file://{parquet}/data-*-of-{{00001..00002}}.parquet', {**TABLE, 'streaming': True}),
    }[kind]


def open_pairs(stores: Path, kind: str, **options: Any) -> PairedImageDataset:
    (gt, io_backend), (lq, _) = (locate(stores, side, kind) for side in ('sharp', 'blurry'))
    return PairedImageDataset(gt, lq, SIZE, io_backend=io_backend, **options)
