"""Parquet: each row group is read once, and the order is random, yet fixed and the same for any number of workers."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from gpen.data.loader import build_train_loader, build_val_loader
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.row_groups import RowGroups
from gpen.data.sampler import InfiniteBatchSampler
from gpen.data.storage import writing
from gpen.data.storage.shards import ParquetShard
from gpen.data.storage.writing import write_tables
from gpen.utils.seeds import derive_generator
from storage_fixtures import COUNT, GROUPS, ROWS, SIZE, TABLE, make_stores, open_pairs

pytest.importorskip('datasets')


@pytest.fixture(scope='module')
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stores(tmp_path_factory.mktemp('stores'))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often this process reads each row group (file, number) of images from Parquet."""
    counts: Counter[tuple[int, int]] = Counter()
    original = ParquetShard.read

    def count(shard: ParquetShard, group: int, column: str, field: str = '') -> Any:
        if column == 'image' and not field:
            counts[id(shard), group] += 1
        return original(shard, group, column, field)

    monkeypatch.setattr(ParquetShard, 'read', count)
    return counts


def sampler_of(row_groups: RowGroups | None, batch_size: int = 3, **options: Any) -> InfiniteBatchSampler:
    return InfiniteBatchSampler(COUNT, batch_size, 5, row_groups=row_groups, **options)


def test_row_group_order_sees_each_sample_once_in_few_groups_at_a_time(stores: Path) -> None:
    row_groups = open_pairs(stores, 'parquet').row_groups
    assert row_groups is not None
    assert row_groups.count == GROUPS
    assert row_groups.window == 3  # of 3.75 images on average, for 8 images
    sampler = sampler_of(row_groups)
    orders = []
    for epoch in range(3):
        order = [index for step in range(10) for _, index in sampler.batch_of_iteration(epoch * 10 + step)]
        assert sorted(order) == list(range(COUNT))
        orders.append(order)
        used = [int(group) for group in row_groups.of_sample[order]]
        first, last = ({group: used.index(group) for group in used}, {group: n for n, group in enumerate(used)})
        open_at = [sum(first[group] <= n <= last[group] for group in first) for n in range(COUNT)]
        assert max(open_at) == row_groups.window
        assert len({index // ROWS for index in order[:ROWS]}) > 1, 'the samples of a row group follow each other'
    assert orders[0] != orders[1] != orders[2]


def test_row_group_order_starts_anywhere_and_ranks_take_slices_of_it(stores: Path) -> None:
    row_groups = open_pairs(stores, 'streamed').row_groups
    whole = [sampler_of(row_groups).batch_of_iteration(iteration) for iteration in range(25)]
    for start in (1, 9, 10, 17):
        assert list(sampler_of(row_groups, start_iteration=start, end_iteration=25)) == whole[start:]
    ranks = [sampler_of(row_groups, batch_size=1, rank=rank, world_size=3) for rank in range(3)]
    for iteration in range(25):
        assert [pair for rank in ranks for pair in rank.batch_of_iteration(iteration)] == whole[iteration]


def test_without_row_groups_the_order_is_the_plain_permutation(stores: Path) -> None:
    for kind in ('disk', 'lmdb', 'arrow'):
        dataset = open_pairs(stores, kind)
        assert dataset.row_groups is None
    order = [index for step in range(10) for _, index in sampler_of(None).batch_of_iteration(step)]
    assert order == derive_generator(5, 'order', 0).permutation(COUNT).tolist()


@pytest.mark.parametrize('kind', ['parquet', 'streamed'])
def test_an_epoch_reads_each_row_group_once(
    kind: str,
    stores: Path,
    tmp_path: Path,
    reads: Counter[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))  # no image was looked at before
    dataset = open_pairs(stores, kind)
    if kind == 'streamed':
        assert not reads, 'what is streamed is not looked at first'
    else:  # a thread that lags behind the others may find its row group gone
        assert len(reads) == 2 * GROUPS
        assert sum(reads.values()) <= 3 * GROUPS
    reads.clear()
    assert len(list(build_train_loader(dataset, 3, 0, 1, end_iteration=10))) == 10
    assert len(reads) == 2 * GROUPS
    assert set(reads.values()) == {1}
    reads.clear()
    assert sum(len(batch['name']) for batch in build_val_loader(open_pairs(stores, kind, scan=False), 4, 0)) == COUNT
    assert set(reads.values()) == {1}


def test_sides_with_row_groups_of_other_sizes_read_few_too(
    stores: Path, tmp_path: Path, reads: Counter[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, 'ROWS_PER_GROUP', 7)
    write_tables(stores / 'blurry', tmp_path / 'blurry', 'parquet')
    dataset = PairedImageDataset(
        str(stores / 'sharp.parquet'), str(tmp_path / 'blurry'), SIZE, io_backend=TABLE, scan=False
    )
    assert dataset.row_groups is not None
    assert dataset.row_groups.count == 5
    list(build_train_loader(dataset, 3, 0, 1, end_iteration=10))
    assert sum(reads.values()) <= 1.5 * (5 + GROUPS)


@pytest.mark.parametrize('kind', ['arrow', 'parquet', 'streamed'])
def test_ranks_with_workers_that_start_again_get_the_batches_of_an_unbroken_run(kind: str, stores: Path) -> None:
    def names(start: int, end: int, batch_size: int, workers: int, **options: Any) -> list[list[str]]:
        loader = build_train_loader(open_pairs(stores, kind), batch_size, workers, 1, start, end, **options)
        return [batch['name'] for batch in loader]

    unbroken = names(0, 18, 4, 0)
    for start, end in ((0, 7), (7, 18)):
        ranks = [names(start, end, 2, 2, rank=rank, world_size=2) for rank in range(2)]
        assert [first + second for first, second in zip(*ranks, strict=True)] == unbroken[start:end]


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_streamed_samples_do_not_depend_on_the_workers(method: str, stores: Path) -> None:
    if method == 'fork' and not hasattr(os, 'fork'):
        pytest.skip('this platform has no fork')
    dataset = open_pairs(stores, 'streamed', use_hflip=True)
    expected = list(build_train_loader(dataset, 4, 0, 1, 3, 12))
    found = list(build_train_loader(dataset, 4, 2, 1, 3, 12, start_method=method))
    for one, other in zip(expected, found, strict=True):
        assert one['name'] == other['name']
        assert torch.equal(one['gt'], other['gt'])
        assert torch.equal(one['lq'], other['lq'])
