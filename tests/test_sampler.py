"""Batches: which samples they hold, however many workers read them and wherever a run starts."""

import os
import signal
import subprocess
import sys
import textwrap
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from gpen.data.image_io import write_image
from gpen.data.loader import BatchLoader, build_train_loader, build_val_loader
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.sampler import InfiniteBatchSampler
from gpen.data.storage.writing import write_lmdb
from gpen.errors import UserError
from gpen.utils.cpu import cpu_threads

SIZE = 8
COUNT = 7


class Threads(Dataset[dict[str, Any]]):
    """Tells how many threads its process uses."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        cv2.resize(np.zeros((1500, 1500, 3), np.float32), (500, 500), interpolation=cv2.INTER_AREA)
        return {'index': index, 'opencv': cv2.getNumThreads(), 'torch': torch.get_num_threads()}


class Fragile(Dataset[dict[str, Any]]):
    """Its sample 2 cannot be read: the user's fault or the program's."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2:
            if self.fault == 'user':
                raise UserError('face.png cannot be used: it is cut off.')
            raise ZeroDivisionError('a bug')
        return {'index': index}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PairedImageDataset:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for number in range(COUNT):
        image = np.random.default_rng(number).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
        write_image(tmp_path / 'sharp' / f'{number}.png', image)
        write_image(tmp_path / 'blurry' / f'{number}.png', image / 2)
    return PairedImageDataset(str(tmp_path / 'sharp'), str(tmp_path / 'blurry'), SIZE, use_hflip=True, manual_seed=1)


def batches_of(dataset: object, num_workers: int, start: int = 0, end: int = 6, **options: Any) -> list[Any]:
    return list(build_train_loader(dataset, 3, num_workers, 1, start, end, **options))


def assert_equal_batches(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a['name'] == b['name']
        assert torch.equal(a['gt'], b['gt'])
        assert torch.equal(a['lq'], b['lq'])


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    sampler = InfiniteBatchSampler(12, 3, manual_seed=0, end_iteration=8)
    assert sampler.iterations_per_epoch == 4
    flat = [sample for batch in sampler for sample in batch]
    first, second = ([index for epoch, index in flat if epoch == wanted] for wanted in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != list(range(12))


def test_another_seed_gives_another_order() -> None:
    orders = [list(InfiniteBatchSampler(20, 4, seed, end_iteration=5)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_last_batch_of_an_epoch_is_topped_up_and_no_sample_is_left_out() -> None:
    sampler = InfiniteBatchSampler(10, 4, manual_seed=0)
    assert sampler.iterations_per_epoch == 3
    for epoch in range(3):
        batches = [sampler.batch_of_iteration(epoch * 3 + step) for step in range(3)]
        assert all(len(batch) == 4 for batch in batches)
        indices = [index for batch in batches for _, index in batch]
        assert {epoch_of for batch in batches for epoch_of, _ in batch} == {epoch}
        assert sorted(indices[:10]) == list(range(10))
        assert len(set(indices[10:])) == 2


def test_batches_are_full_with_fewer_samples_than_a_batch() -> None:
    sampler = InfiniteBatchSampler(3, 8, manual_seed=0)
    assert sampler.iterations_per_epoch == 1
    indices = [index for _, index in sampler.batch_of_iteration(5)]
    assert sorted(indices[:3]) == sorted(indices[3:6]) == [0, 1, 2]
    assert len(indices) == 8


def test_start_anywhere_gives_the_same_batches() -> None:
    whole = list(InfiniteBatchSampler(10, 4, 7, end_iteration=20))
    for start in (1, 3, 11, 19):
        assert list(InfiniteBatchSampler(10, 4, 7, start, 20)) == whole[start:]
    backwards = InfiniteBatchSampler(10, 4, 7)
    assert [backwards.batch_of_iteration(iteration) for iteration in reversed(range(20))] == whole[::-1]


def test_iterating_twice_starts_again_at_the_start_iteration() -> None:
    sampler = InfiniteBatchSampler(10, 4, 7, 5, 9)
    assert list(sampler) == list(sampler)
    assert len(sampler) == 4


def test_sampler_without_an_end_goes_on() -> None:
    sampler = InfiniteBatchSampler(2, 1, 0)
    assert len(list(islice(sampler, 1000))) == 1000
    with pytest.raises(TypeError, match='without an end has no length'):
        len(sampler)


@pytest.mark.parametrize(('length', 'batch_size', 'world_size'), [(24, 4, 2), (10, 2, 3), (3, 2, 4)])
def test_ranks_together_see_the_batches_of_one_process(length: int, batch_size: int, world_size: int) -> None:
    alone = InfiniteBatchSampler(length, batch_size * world_size, 5)
    ranks = [
        InfiniteBatchSampler(length, batch_size, 5, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert {rank.iterations_per_epoch for rank in ranks} == {alone.iterations_per_epoch}
    for iteration in range(9):
        joined = [sample for rank in ranks for sample in rank.batch_of_iteration(iteration)]
        assert joined == alone.batch_of_iteration(iteration)


def test_without_shuffling_the_order_is_that_of_the_data_set() -> None:
    sampler = InfiniteBatchSampler(5, 2, 0, end_iteration=3, shuffle=False)
    assert list(sampler) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4), (0, 0)]]


@pytest.mark.parametrize(
    'arguments',
    [
        *({'length': 0}, {'batch_size': 0}, {'start_iteration': -1}, {'world_size': 0}, {'world_size': -1}),
        *({'rank': 2}, {'rank': 3}, {'rank': -1}),
    ],
)
def test_impossible_samplers_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f'no batches from .*{next(iter(arguments))}'):
        InfiniteBatchSampler(**{'length': 4, 'batch_size': 2, 'manual_seed': 0, 'world_size': 2, **arguments})


@pytest.mark.parametrize('rank', [0, 1])
def test_the_smallest_samplers_are_possible(rank: int) -> None:
    sampler = InfiniteBatchSampler(1, 1, 0, start_iteration=0, end_iteration=2, rank=rank, world_size=2)
    assert list(sampler) == [[(0, 0)], [(1, 0)]]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # on a machine with few cores
def test_samples_do_not_depend_on_the_number_of_workers(dataset: PairedImageDataset) -> None:
    alone = batches_of(dataset, 0)
    assert len(alone) == 6
    assert alone[0]['gt'].shape == (3, 3, SIZE, SIZE)
    assert_equal_batches(alone, batches_of(dataset, 1))
    assert_equal_batches(alone, batches_of(dataset, 3))


def test_start_in_the_middle_gives_the_rest(dataset: PairedImageDataset) -> None:
    alone = batches_of(dataset, 0)
    assert_equal_batches(alone[4:], batches_of(dataset, 0, start=4))
    assert_equal_batches(alone[1:], batches_of(dataset, 2, start=1))


@pytest.mark.timeout(180)
def test_spawned_workers_give_the_same_samples(dataset: PairedImageDataset) -> None:
    assert_equal_batches(batches_of(dataset, 0), batches_of(dataset, 2, start_method='spawn'))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this platform has no fork')
def test_forked_workers_read_an_lmdb_that_the_main_process_has_open(
    dataset: PairedImageDataset, tmp_path: Path
) -> None:
    for side in ('sharp', 'blurry'):
        write_lmdb(tmp_path / side, tmp_path / f'{side}.lmdb')
    database = PairedImageDataset(
        str(tmp_path / 'sharp.lmdb'),
        str(tmp_path / 'blurry.lmdb'),
        SIZE,
        io_backend={'type': 'lmdb'},
        use_hflip=True,
        manual_seed=1,
    )
    expected = batches_of(dataset, 0)
    assert_equal_batches(expected, batches_of(database, 0))
    assert_equal_batches(expected, batches_of(database, 2, start_method='fork'))
    assert_equal_batches(expected, batches_of(database, 0))


def test_augmentation_changes_from_epoch_to_epoch(dataset: PairedImageDataset) -> None:
    seen: dict[str, set[bytes]] = {}
    for batch in batches_of(dataset, 0, end=30):
        for name, image in zip(batch['name'], batch['gt'], strict=True):
            seen.setdefault(name, set()).add(image.numpy().tobytes())
    assert {len(versions) for versions in seen.values()} == {2}


@pytest.mark.parametrize('num_workers', [0, 2])
def test_global_random_state_is_left_alone(num_workers: int, dataset: PairedImageDataset) -> None:
    before = torch.get_rng_state()
    batches_of(dataset, num_workers)
    list(build_val_loader(dataset, 2, num_workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_validation_sees_every_sample_once_in_order_each_time(num_workers: int, dataset: PairedImageDataset) -> None:
    loader = build_val_loader(dataset, 2, num_workers)
    assert len(loader) == 4
    for _ in range(2):
        batches = list(loader)
        assert [name for batch in batches for name in batch['name']] == [str(number) for number in range(COUNT)]
        assert [len(batch['lq']) for batch in batches] == [2, 2, 2, 1]


def test_plain_data_set_gets_plain_indices() -> None:
    indices = [index for batch in build_train_loader(Threads(), 2, 0, 0, 0, 2) for index in batch['index'].tolist()]
    assert sorted(indices) == [0, 1, 2, 3]


@pytest.mark.timeout(60)
def test_workers_use_one_thread_also_where_the_main_process_used_several() -> None:
    cv2.setNumThreads(4)
    cv2.resize(np.zeros((3000, 3000, 3), np.float32), (1000, 1000), interpolation=cv2.INTER_AREA)
    for batch in build_train_loader(Threads(), 2, 2, 0, 0, 4):
        assert batch['opencv'].tolist() == [1, 1]
        assert batch['torch'].tolist() == [1, 1]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_user_error_of_a_worker_arrives_as_it_was_raised(num_workers: int) -> None:
    with pytest.raises(UserError) as caught:
        list(build_train_loader(Fragile('user'), 1, num_workers, 0, 0, 4))
    assert str(caught.value) == 'face.png cannot be used: it is cut off.'
    with pytest.raises(UserError, match='cut off'):
        list(build_val_loader(Fragile('user'), 2, num_workers))


def test_bug_in_a_worker_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match='in __getitem__'):
        list(build_train_loader(Fragile('bug'), 1, 1, 0, 0, 4))


def test_length_is_the_number_of_iterations_left() -> None:
    loader = build_train_loader(Threads(), 2, 0, 0, 5, 12)
    assert isinstance(loader, BatchLoader)
    assert len(loader) == 7


SIGNALLED = """
    import signal, sys, time
    sys.path.insert(0, {codes!r})
    from gpen.data.loader import build_train_loader

    class Slow:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            time.sleep(0.02)
            return {{'index': index}}

    if __name__ == '__main__':
        stop = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.append(1))
        after = 0
        for batch in build_train_loader(Slow(), 1, 2, 0, start_method={method!r}):
            print('ready', flush=True)
            after += len(stop)
            if after == 20:
                break
        print('ended in order after', len(stop), 'signals', flush=True)
"""


def start_loading(method: str, folder: Path) -> subprocess.Popen[str]:
    """Start a process that reads batches with two workers; return when it has the first."""
    script = folder / 'signalled.py'
    script.write_text(textwrap.dedent(SIGNALLED).format(codes=str(Path(__file__).parents[1] / 'codes'), method=method))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(signal, 'sigtimedwait'), reason='this platform does not tell who sent a signal')
@pytest.mark.parametrize(
    ('method', 'number'), [('fork', signal.SIGINT), ('fork', signal.SIGHUP), ('spawn', signal.SIGTERM)]
)
def test_signal_to_the_whole_process_group_leaves_the_workers_to_the_main_process(
    method: str, number: signal.Signals, tmp_path: Path
) -> None:
    with start_loading(method, tmp_path) as process:
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=60)
    # Under spawn, Python's own resource tracker may find semaphores of workers that are gone already, and says so.
    errors = '\n'.join(line for line in errors.splitlines() if 'resource_tracker' not in line and 'warn(' not in line)
    assert (process.returncode, output.splitlines()[-1], errors) == (0, 'ended in order after 1 signals', '')


@pytest.mark.skipif(not hasattr(signal, 'sigtimedwait'), reason='this platform cannot wait for a signal')
def test_workers_of_a_fork_server_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    with start_loading('forkserver', tmp_path) as process:
        process.kill()
        process.communicate(timeout=30)  # until the last worker has closed what it prints to, or an error
    assert process.returncode == -signal.SIGKILL
    assert process.stdout is not None
    assert process.stdout.closed  # at its end: no worker is left that could print


def test_cpu_threads_are_the_cores_of_this_process() -> None:
    assert 1 <= cpu_threads() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='this platform has no CPU affinity')
def test_cpu_threads_respect_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpu_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_hardware_threads_of_a_core_count_once_and_a_quota_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)), raising=False)
    monkeypatch.setattr('gpen.utils.cpu._siblings_of', lambda cpu: f'{cpu % 4},{cpu % 4 + 4}')
    monkeypatch.setattr('gpen.utils.cpu._read_cpu_quota', list)
    assert cpu_threads() == 4
    monkeypatch.setattr('gpen.utils.cpu._read_cpu_quota', lambda: [3])
    assert cpu_threads() == 3
