"""From the ``datasets`` options to batches; the samples do not depend on the number of workers."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import parent_process, resource_tracker
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from gpen.data.sampler import InfiniteBatchSampler
from gpen.errors import UserError
from gpen.registry import DATASET_REGISTRY
from gpen.utils.cpu import count_cpus
from gpen.utils.seeds import derive_seed
from gpen.utils.stop_signals import STOP_SIGNALS

LOGGER = logging.getLogger('gpen')

Batch = dict[str, Any]

build_dataset = DATASET_REGISTRY.build
"""Build the data set that a block describes: ``type``, and the arguments of that type.

Raises:
    UserError: there is no such type, or its files are not as they should be.
"""


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
        batch_size: samples per batch of this rank.
        num_workers: worker processes, at most one per CPU; 0: read in the caller's process. The samples do not depend
            on it.
        manual_seed: the run's seed.
        start_iteration: first iteration, counted from 0.
        end_iteration: the iteration to stop before; None: there is no end.
        pin_memory: copy batches to page-locked memory, where there is a GPU.
        prefetch_factor: batches that each worker reads ahead.
        start_method: how workers start (fork, spawn, forkserver); None: the platform's default.
        rank: this process's rank.
        world_size: number of ranks.
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

    workers = _worker_options(num_workers, prefetch_factor, start_method)
    return _build_loader(dataset, sampler, derive_seed(manual_seed, 'loader'), pin_memory, workers)


def build_val_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
    prefetch_factor: int = 2,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader:
    """Return a loader of all samples once, in order; the last batch may be smaller.

    The workers are kept between uses.  Each rank gets every ``world_size``-th batch, starting at batch ``rank``.
    """
    samples = range(len(dataset))
    firsts = range(rank * batch_size, len(dataset), world_size * batch_size)
    batches = [list(samples[first : first + batch_size]) for first in firsts]

    workers = _worker_options(num_workers, prefetch_factor) | {'persistent_workers': num_workers > 0}
    return _build_loader(dataset, batches, 0, pin_memory, workers)


class BatchLoader:
    """A DataLoader that raises a UserError of a worker as it is, without a worker's traceback around it.

    Iterating gives dicts of stacked tensors (N x ...) and lists of strings.

    Raises:
        UserError: while iterating; a file is bad, or workers cannot be started, or one was ended from outside.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def dataset(self) -> Any:
        """The data set that the samples come from."""
        return self.loader.dataset.dataset  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Batch]:
        try:
            batches = self._start()
        except OSError as error:  # of semaphores or processes
            raise UserError(_explain_lost_worker(error)) from error

        has_warned = False
        try:
            while (batch := _next(batches)) is not None:
                if isinstance(batch, _Failure):
                    raise UserError(batch.message)
                if isinstance(batch, _Pickled):
                    has_warned = has_warned or _warn_of_shared_memory()
                    batch = default_collate(batch.load())
                yield batch
        finally:
            del batches  # ends the workers now, also while a traceback keeps this frame alive

    def _start(self) -> Iterator[Any]:
        if self.loader.num_workers == 0:
            return iter(self.loader)
        # A forked process does not have the threads that OpenCV believes to have, and would wait for them for ever.
        cv2.setNumThreads(1)
        context = self.loader.multiprocessing_context or multiprocessing.get_context()
        context.Queue().close()  # where none can be made, torch would print a traceback beside raising
        if context.get_start_method() != 'fork':
            resource_tracker.ensure_running()  # now, because starting it lets signals through again
        with _signals_held_back():
            batches = iter(self.loader)
        _CHILDREN.take_over()
        return batches


class _Children:
    """Lets torch say that a worker has ended only between two batches.

    torch says so by an exception out of a signal's handler, which comes out of whatever the main process does then: in
    the middle of a step, while a checkpoint is being written, or while it receives a batch from another worker.  While
    it waits for a batch, torch looks for lost workers every 5 seconds.
    """

    def __init__(self) -> None:
        self._raise_if_lost: Callable[[int, Any], object] | None = None
        self._is_noted = False

    def take_over(self) -> None:
        """Stand in front of the handler that torch has set."""
        if hasattr(signal, 'SIGCHLD') and threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGCHLD)
            if callable(handler) and handler != self._note:
                self._raise_if_lost = handler
                signal.signal(signal.SIGCHLD, self._note)

    def _note(self, _number: int, _frame: Any) -> None:
        self._is_noted = True

    def check(self) -> None:
        """Raise RuntimeError where a worker has ended as it should not."""
        if self._is_noted and self._raise_if_lost is not None:
            self._is_noted = False
            self._raise_if_lost(signal.SIGCHLD, None)


_CHILDREN = _Children()


def _next(batches: Iterator[Any]) -> Any:
    """Return the next batch, or None.

    Raises:
        UserError: a worker has ended, or what it sent cannot be received.
    """
    try:
        _CHILDREN.check()
        return next(batches, None)
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith(_LOST):
            raise  # a bug in a data set
        raise UserError(_explain_lost_worker(error)) from error


@dataclass(frozen=True)
class _Failure:
    """Stands in for a sample or a batch that could not be read; it carries the message out of the worker."""

    message: str


class _Guarded(Dataset[Any]):
    """Returns a :class:`_Failure` where the data set raises a UserError, which torch would wrap in a traceback."""

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
        except OSError as error:  # of a data set of the user's own
            return _Failure(f'Sample {index} of {type(self.dataset).__name__} cannot be read: {error}.')
        except StopIteration as error:  # which would be taken for the end of the data
            raise RuntimeError(f'sample {index} of {type(self.dataset).__name__} raised StopIteration') from error


@dataclass(frozen=True)
class _Pickled:
    """The samples of a batch for which a worker found no shared memory: they go through a pipe instead."""

    content: bytes

    def load(self) -> list[Any]:
        """Return the samples."""
        return pickle.loads(self.content)  # type: ignore[no-any-return]  # noqa: S301  (a worker of ours wrote it)


def _collate(samples: list[Any]) -> Any:
    failures = [sample for sample in samples if isinstance(sample, _Failure)]
    if failures:
        return failures[0]
    try:
        return default_collate(samples)
    except (RuntimeError, OSError) as error:
        # Batches are made in shared memory, in files /dev/shm/torch_...; Docker gives 64 MB.
        if torch.utils.data.get_worker_info() is None or '/torch_' not in str(error):
            raise
        return _Pickled(pickle.dumps(samples))


def _worker_options(num_workers: int, prefetch_factor: int, start_method: str | None = None) -> dict[str, Any]:
    """Return the arguments of a DataLoader about its workers."""
    if num_workers == 0:
        return {}
    return {
        'num_workers': min(num_workers, count_cpus()),  # more would only slow each other down
        'worker_init_fn': _initialise_worker,
        'prefetch_factor': prefetch_factor,
        'multiprocessing_context': start_method,
    }


def _build_loader(dataset: Any, batches: Any, seed: int, pin_memory: bool, workers: dict[str, Any]) -> BatchLoader:
    """Return a loader of ``batches``: lists of what ``dataset[...]`` takes."""
    loader = DataLoader(
        _Guarded(dataset),
        batch_sampler=batches,
        collate_fn=_collate,
        pin_memory=pin_memory and torch.cuda.is_available(),
        # Without a generator the loader would draw a number from torch's global one.
        generator=torch.Generator().manual_seed(seed),
        **workers,
    )
    return BatchLoader(loader)


_LOST = ('DataLoader worker', 'Pin memory thread', 'Too many open files', 'received ')


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block the stop signals; what is started in this block keeps them blocked, this process gets them afterwards."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _initialise_worker(worker: int) -> None:  # noqa: ARG001  (all are alike)
    """Use one thread for OpenCV and torch each, and leave the stop signals to the main process.

    A terminal, ``timeout`` or a batch system signals the whole process group, and the main process still wants to
    finish its step and save.  So SIGTERM ends a worker only when the main process sends it.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)

    # Exit without finalising the interpreter: doing so while torch still sends a batch can abort the process, which
    # the main process would report as a crash.
    atexit.register(os._exit, 0)

    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigtimedwait'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_main_says_so, daemon=True).start()
    elif hasattr(signal, 'pthread_sigmask'):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _exit_when_main_says_so() -> None:
    """End this worker when the main process sends SIGTERM, or has ended without doing so.

    torch looks for another parent, but a worker that a fork server started keeps its own, which then waits for it.
    """
    main = parent_process()
    while True:
        received = signal.sigtimedwait({signal.SIGTERM}, 1)
        if main is None or not main.is_alive() or (received is not None and received.si_pid == main.pid):
            os._exit(0)


_MORE_ROOM = (
    'lower num_worker_per_gpu, prefetch_factor or batch_size_per_gpu, or allow more of it (memory in Docker with '
    '--memory, /dev/shm with --shm-size or --ipc=host, files with ulimit -n)'
)


def _explain_lost_worker(error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip('. ')
    return (
        f'A process that reads images could not be started or ended unexpectedly ({reason}). Usually memory, shared '
        f'memory (/dev/shm) or the number of open files ran out: {_MORE_ROOM}.'
    )


def _warn_of_shared_memory() -> bool:
    LOGGER.warning(
        'Warning: shared memory (/dev/shm) or the number of open files ran out, so that batches take a slower way from '
        'the processes that read images: %s.',
        _MORE_ROOM,
    )
    return True
