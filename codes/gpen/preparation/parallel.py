"""The same function for many tasks, on all cores or on a Ray cluster, each process with one thread."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2
import torch

import gpen
from gpen.errors import UserError

Task = TypeVar('Task')
Result = TypeVar('Result')

ALL_CORES = 0

_PATIENCE = 10  # seconds
_PULSE = 1  # seconds
_PART = 32  # tasks for each process; longer waits for the slowest one do not matter then


class Workers:
    """Processes that do tasks (a context manager); they end with its block, however that is left.

    Args:
        count: processes; 1 without Ray works in this one, :data:`ALL_CORES` takes what there is.
        ray: address of a Ray cluster (``local`` starts one here); None: this machine.

    Raises:
        UserError: Ray is not installed or not there.
    """

    def __init__(self, count: int, ray: str | None) -> None:
        self._count = count
        self._ray = ray
        self._stack = ExitStack()

    def __enter__(self) -> Workers:
        if self._ray is not None:
            self._stack.enter_context(ray_cluster(self._ray))
        elif self._count != 1:
            self._stack.callback(_end_processes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], title: str
    ) -> Generator[Result, None, None]:
        """Yield the results in any order, with a progress bar on a terminal.

        Args:
            function: a function of a module; its results must not depend on the process that runs it.
            tasks: what can be pickled.
            title: the bar's, a plural.

        Raises:
            UserError: what a task raised, or a process was killed.
        """
        from tqdm import tqdm

        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=len(tasks), desc=title, unit=title.removesuffix('s'), disable=None))
            if self._count == 1 and self._ray is None:
                results: Iterator[Result] = (_run_alone(function, task) for task in tasks)
            else:
                results = stack.enter_context(self._distribute(function, tasks))
            for result in results:
                bar.update()
                yield result

    @contextmanager
    def _distribute(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Any]:
        """Give an iterator over the results; what is under way is given up when the block is left early."""
        import joblib
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        parent = None if self._ray else os.getpid()
        calls = [joblib.delayed(_run_elsewhere)(function, task, parent) for task in tasks]
        backend: dict[str, Any] = {'backend': 'ray'} if self._ray else {'backend': 'loky', 'inner_max_num_threads': 1}
        with ExitStack() as stack:
            stack.enter_context(joblib.parallel_config(n_jobs=self._count or -1, **backend))
            if self._ray:
                results = _run_in_parts(calls, stack.enter_context(joblib.Parallel()), joblib.effective_n_jobs())
            else:
                results = joblib.Parallel(return_as='generator_unordered')(calls)
            stack.callback(results.close)
            try:
                yield results
            except TerminatedWorkerError as error:
                raise UserError(
                    'A worker process was killed, perhaps because the memory was full. Run the command again with '
                    'fewer --workers or a smaller --max_pixels; what is done is kept.'
                ) from error


def _run_in_parts(calls: Sequence[Any], parallel: Any, workers: int) -> Generator[Any, None, None]:
    """Yield the results part by part: Ray's back end has no generator, and a bar should move."""
    step = _PART * workers
    for start in range(0, len(calls), step):
        yield from parallel(calls[start : start + step])


def _end_processes() -> None:
    """End joblib's processes, which would wait for more tasks for minutes."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster and make it known to joblib; the package travels there."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise UserError("--ray needs the package ray: pip install 'ray'. Without --ray all cores here work.") from error
    environment = {'py_modules': [str(Path(gpen.__file__).parent)], 'env_vars': {'OMP_NUM_THREADS': '1'}}
    try:
        _check_reachable(address)
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f'--ray {address}: there is no such cluster ({error}). Give the address that `ray start --head` printed, '
            'or local.'
        ) from error
    try:
        register_ray()
        yield
    finally:
        ray.shutdown()


def _run_elsewhere(function: Callable[[Task], Result], task: Task, parent: int | None) -> Result:
    """Run a task in a process of its own, which ends with its parent."""
    if parent is not None and os.name == 'posix':
        _watch(parent)
    return _run_alone(function, task)


@cache
def _watch(parent: int) -> None:
    """End this process when its parent is gone: joblib's would wait for ever for one that was killed."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_PULSE)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _check_reachable(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT; Ray itself tries for minutes, and prints a lot."""
    host, _, port = address.rpartition('://')[2].rpartition(':')
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _run_alone(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task with one thread, so that results do not depend on the number of cores.

    What libraries print about damaged files is left out; the reasons for which files are skipped are told at the end.
    """
    threads, torch_threads, level = cv2.getNumThreads(), torch.get_num_threads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')
            return function(task)
    finally:
        cv2.setNumThreads(threads)
        torch.set_num_threads(torch_threads)
        cv2.utils.logging.setLogLevel(level)
