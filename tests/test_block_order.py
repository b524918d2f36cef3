"""Where only whole blocks can be read, few are read, and the order is still random, fixed and free of the workers."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from gpen.data.blocks import Blocks, RecentlyUsed
from gpen.data.loader import build_train_loader, build_val_loader
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.sampler import InfiniteBatchSampler
from gpen.data.storage import write_parquet, writing
from gpen.data.storage.shards import ParquetShard
from gpen.utils.seeds import derive_generator
from storage_fixtures import BLOCKS, COUNT, ROWS, SIZE, TABLE, make_stores, open_pairs

pytest.importorskip('datasets')


@pytest.fixture(scope='module')
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stores(tmp_path_factory.mktemp('stores'))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often this process reads each block (file, number) of images from Parquet."""
    counts: Counter[tuple[int, int]] = Counter()
    original = ParquetShard.read

    def count(shard: ParquetShard, block: int, column: str, field: str = '') -> Any:
        if column == 'image' and not field:
            counts[id(shard), block] += 1
        return original(shard, block, column, field)

    monkeypatch.setattr(ParquetShard, 'read', count)
    return counts


def sampler_of(blocks: Blocks | None, batch_size: int = 3, **options: Any) -> InfiniteBatchSampler:
    return InfiniteBatchSampler(COUNT, batch_size, 5, blocks=blocks, **options)


def test_block_order_sees_each_sample_once_in_few_blocks_at_a_time(stores: Path) -> None:
    blocks = open_pairs(stores, 'parquet').blocks
    assert blocks is not None
    assert blocks.count == BLOCKS
    assert blocks.window == 3  # of 3.75 images on average, for 8 images
    sampler = sampler_of(blocks)
    orders = []
    for epoch in range(3):
        order = [index for step in range(10) for _, index in sampler.batch_of_iteration(epoch * 10 + step)]
        assert sorted(order) == list(range(COUNT))
        orders.append(order)
        used = [int(block) for block in blocks.of_sample[order]]
        first, last = ({block: used.index(block) for block in used}, {block: n for n, block in enumerate(used)})
        open_at = [sum(first[block] <= n <= last[block] for block in first) for n in range(COUNT)]
        assert max(open_at) == blocks.window
        assert len({index // ROWS for index in order[:ROWS]}) > 1, 'the samples of a block follow each other'
    assert orders[0] != orders[1] != orders[2]


def test_block_order_starts_anywhere_and_is_shared_out_to_ranks(stores: Path) -> None:
    blocks = open_pairs(stores, 'streamed').blocks
    whole = [sampler_of(blocks).batch_of_iteration(iteration) for iteration in range(25)]
    for start in (1, 9, 10, 17):
        assert list(sampler_of(blocks, start_iteration=start, end_iteration=25)) == whole[start:]
    ranks = [sampler_of(blocks, batch_size=1, rank=rank, world_size=3) for rank in range(3)]
    for iteration in range(25):
        assert [pair for rank in ranks for pair in rank.batch_of_iteration(iteration)] == whole[iteration]


def test_without_blocks_the_order_is_the_plain_permutation(stores: Path) -> None:
    for kind in ('disk', 'lmdb', 'arrow'):
        dataset = open_pairs(stores, kind)
        assert dataset.blocks is None
    order = [index for step in range(10) for _, index in sampler_of(None).batch_of_iteration(step)]
    assert order == derive_generator(5, 'order', 0).permutation(COUNT).tolist()


@pytest.mark.parametrize('kind', ['parquet', 'streamed'])
def test_an_epoch_reads_each_block_once(
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
    else:  # a thread that lags behind the others may find its block gone
        assert len(reads) == 2 * BLOCKS
        assert sum(reads.values()) <= 3 * BLOCKS
    reads.clear()
    assert len(list(build_train_loader(dataset, 3, 0, 1, end_iteration=10))) == 10
    assert len(reads) == 2 * BLOCKS
    assert set(reads.values()) == {1}
    reads.clear()
    assert sum(len(batch['name']) for batch in build_val_loader(open_pairs(stores, kind, scan=False), 4, 0)) == COUNT
    assert set(reads.values()) == {1}


def test_sides_with_blocks_of_other_sizes_read_few_blocks_too(
    stores: Path, tmp_path: Path, reads: Counter[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, 'ROWS_PER_BLOCK', 7)
    write_parquet(stores / 'blurry', tmp_path / 'blurry')
    dataset = PairedImageDataset(
        str(stores / 'sharp.parquet'), str(tmp_path / 'blurry'), SIZE, io_backend=TABLE, scan=False
    )
    assert dataset.blocks is not None
    assert dataset.blocks.count == 5
    list(build_train_loader(dataset, 3, 0, 1, end_iteration=10))
    assert sum(reads.values()) <= 1.5 * (5 + BLOCKS)


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


def test_a_memory_of_blocks_keeps_those_used_last() -> None:
    loaded: list[str] = []
    memory: RecentlyUsed[str, str] = RecentlyUsed(5)
    for key in 'abacabd':
        assert memory.get(key, lambda key=key: loaded.append(key) or key.upper(), weight=2) == key.upper()  # type: ignore[misc]
    assert loaded == ['a', 'b', 'c', 'b', 'd']
    assert memory.get('big', lambda: 'BIG', weight=100) == 'BIG'
    assert memory.get('big', lambda: pytest.fail('it was kept'), weight=100) == 'BIG'
