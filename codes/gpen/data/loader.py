"""From the ``datasets`` options to batches: loaders whose samples do not depend on how many workers read them."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import parent_process, resource_tracker
from typing import Any, cast

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from gpen.data.sampler import InfiniteBatchSampler
from gpen.errors import UserError
from gpen.registry import DATASET_REGISTRY
from gpen.utils.cpu import count_cpus
from gpen.utils.seeds import derive_seed

Batch = dict[str, Any]


def build_dataset(options: dict[str, Any]) -> Any:
    """Return the data set that ``options`` names: ``type``, and the arguments of that type.

    Raises:
        UserError: there is no such type, or its files are not as they should be.
    """
    arguments = dict(options)
    return DATASET_REGISTRY.get(arguments.pop('type'))(**arguments)


def build_train_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int,
    manual_seed: int,
    start_iteration: int = 0,
    end_iteration: int | None = None,
    pin_memory: bool = False,
    prefetch_factor: int = 2,
    start_method: str | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader:
    """Return one loader for a whole training: iterating it gives the batches from ``start_iteration`` on.

    Args:
        dataset: gives a dict for ``dataset[index]``; one with a true attribute ``takes_epoch`` is asked for
            ``dataset[epoch, index]``, so that its augmentation can change from epoch to epoch. An attribute
            ``row_groups`` (see :class:`gpen.data.row_groups.RowGroups`) says which samples are stored together.
        batch_size: samples per batch of this process.
        num_workers: processes that read, no more than there are CPUs; 0: the caller's own. The samples do not depend
            on it.
        manual_seed: the run's seed.
        start_iteration: first iteration, counted from 0.
        end_iteration: first iteration not to give; None: go on for ever.
        pin_memory: copy batches to page-locked memory, where there is a GPU.
        prefetch_factor: batches that each worker reads ahead.
        start_method: how workers start (fork, spawn, forkserver); None: the platform's way.
        rank: number of this process.
        world_size: number of processes that train together.
    """
    sampler = InfiniteBatchSampler(
        len(dataset),
        batch_size,
        manual_seed,
        start_iteration,
        end_iteration,
        rank=rank,
        world_size=world_size,
        row_groups=getattr(dataset, 'row_groups', None),
    )
    return BatchLoader(
        DataLoader(
            _Guarded(dataset),
            batch_sampler=cast(Any, sampler),
            pin_memory=pin_memory and torch.cuda.is_available(),
            # Otherwise the loader would draw a number from torch's global generator.
            generator=torch.Generator().manual_seed(derive_seed(manual_seed, 'loader')),
            **_worker_arguments(num_workers, prefetch_factor, start_method),
        )
    )


def build_val_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int,
    start_method: str | None = None,
    pin_memory: bool = False,
    prefetch_factor: int = 2,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader:
    """Return a loader of all samples once, in order; the last batch may be smaller.  Workers wait between uses.

    With several processes, each gets every ``world_size``-th of these batches, from number ``rank`` on.
    """
    samples = range(len(dataset))
    firsts = range(rank * batch_size, len(dataset), world_size * batch_size)
    return BatchLoader(
        DataLoader(
            _Guarded(dataset),
            batch_sampler=[list(samples[first : first + batch_size]) for first in firsts],
            pin_memory=pin_memory and torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(0),
            **_worker_arguments(num_workers, prefetch_factor, start_method),
        )
    )


class BatchLoader:
    """A DataLoader that raises what went wrong in a worker as it was meant for the user.

    Iterating gives dicts of stacked tensors (N x ...) and lists of strings.

    Raises:
        UserError: while iterating; a file is bad, or a worker was ended from outside.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._start()
        try:
            while True:
                batch = next(batches, None)
                if batch is None:
                    return
                if isinstance(batch, _Failure):
                    raise UserError(batch.message)
                yield batch
        except RuntimeError as error:
            if str(error).startswith('DataLoader worker'):
                raise UserError(_explain_lost_worker(error)) from error
            raise
        finally:
            del batches  # ends the workers now, also while a traceback keeps this frame alive

    def _start(self) -> Iterator[Any]:
        if self.loader.num_workers == 0:
            return iter(self.loader)
        # A forked process inherits OpenCV's threads as a fiction, and then waits for them for ever.
        cv2.setNumThreads(1)
        context = self.loader.multiprocessing_context or multiprocessing.get_context()
        if context.get_start_method() != 'fork':
            resource_tracker.ensure_running()  # now, because starting it lets signals through again
        with _signals_held_back():
            return iter(self.loader)


class _Failure:
    """Stands in for a sample or a batch that could not be read, on its way out of a worker."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Guarded(Dataset[Any]):
    """Hands out a :class:`_Failure` where the data set raises a UserError: torch would bury it in a traceback."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.takes_epoch = bool(getattr(dataset, 'takes_epoch', False))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int | tuple[int, int]) -> Any:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        try:
            return self.dataset[(epoch, index) if self.takes_epoch else index]
        except UserError as error:
            return _Failure(str(error))


def _collate(samples: list[Any]) -> Any:
    failures = [sample for sample in samples if isinstance(sample, _Failure)]
    return failures[0] if failures else default_collate(samples)


def _worker_arguments(num_workers: int, prefetch_factor: int, start_method: str | None) -> dict[str, Any]:
    num_workers = min(num_workers, count_cpus())  # more would only slow each other down
    arguments: dict[str, Any] = {'num_workers': num_workers, 'collate_fn': _collate}
    if num_workers > 0:
        arguments |= {
            'worker_init_fn': _initialise_worker,
            'prefetch_factor': prefetch_factor,
            'multiprocessing_context': start_method,
        }
    return arguments


_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM; processes and threads started meanwhile keep them blocked, this one gets them after."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _initialise_worker(worker: int) -> None:  # noqa: ARG001  (all are alike)
    """One thread for OpenCV and torch each; Ctrl-C and SIGTERM are the main process's to handle.

    A terminal, ``timeout`` or a batch system signals the whole process group, and the main process still wants to
    finish its step and save.  So SIGTERM ends a worker only when the main process sends it.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    # Leave like a forked process: taking the interpreter down while torch still sends a batch can abort the process,
    # which the main process would report as a crash.
    atexit.register(os._exit, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_main_says_so, daemon=True).start()
    elif hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _exit_when_main_says_so() -> None:
    main = parent_process()
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if main is None or sender == main.pid:
            os._exit(0)


def _explain_lost_worker(error: RuntimeError) -> str:
    reason = str(error).splitlines()[0].rstrip('. ')
    return (
        f'A process that reads images ended unexpectedly ({reason}). Usually memory or shared memory (/dev/shm) ran '
        'out: lower num_worker_per_gpu or batch_size_per_gpu.'
    )
