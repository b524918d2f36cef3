"""The same function for many tasks, by joblib: in processes or threads of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from gpen.errors import UserError

Task = TypeVar('Task')
Result = TypeVar('Result')

ALL_CORES = 0

_PATIENCE = 10  # seconds
_PULSE = 1  # seconds
_SHARE = 32  # tasks per worker that Ray gets at a time; waiting for the slowest of them does not matter then


class Pool:
    """Workers that do tasks (a context manager); they end with its block, however that is left.

    Args:
        count: number of workers; :data:`ALL_CORES` takes what there is. A single worker is this process itself.
        ray: address of a Ray cluster (``local`` starts one here); None: this machine.
        by_device: the tasks start programs of their own on a device. Threads wait for them on this machine; on a Ray
            cluster there is a worker for each GPU, or for each machine where there are no GPUs.
        advice: sentence that tells the user what to do when a worker was lost.

    Attributes:
        count: number of workers.
        cores: number of CPU cores that belong to a worker.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """

    def __init__(
        self,
        count: int = ALL_CORES,
        ray: str | None = None,
        by_device: bool = False,
        advice: str = 'Run the command again.',
    ) -> None:
        self.count = count
        self.cores = 1
        self._ray = ray
        self._advice = advice
        self._by_device = by_device

        # What joblib is told
        backend = 'ray' if ray is not None else 'threading' if by_device else 'loky'
        self._backend: dict[str, Any] = {'n_jobs': count or -1, 'backend': backend}
        if backend == 'loky':
            self._backend['inner_max_num_threads'] = 1
        self._pre_dispatch: int | str = '2 * n_jobs'
        self._stack = ExitStack()

    def __enter__(self) -> Pool:
        if self._ray is not None:
            self._stack.enter_context(_ray_cluster(self._ray))
            if self._by_device:
                self._take_devices()
        elif self._backend['backend'] == 'loky' and self.count != 1:
            self._stack.callback(_end_processes)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _take_devices(self) -> None:
        """Ask Ray for a worker on each GPU, or on each machine where there are no GPUs."""
        import ray

        machines = [node['Resources'] for node in ray.nodes() if node['Alive']]
        cpus = [int(machine['CPU']) for machine in machines if 'CPU' in machine]
        gpus = sum(int(machine.get('GPU', 0)) for machine in machines)
        self.count = min(gpus or len(cpus), sum(cpus))
        self.cores = 1 if gpus else min(cpus)

        # Joblib does not use Ray for a single worker, so two share a single device, and one of them stays idle.
        actors = min(max(self.count, 2), sum(cpus))
        sharing = actors // self.count
        hints = {'num_gpus': 1 / sharing, 'num_cpus': 1} if gpus else {'num_cpus': self.cores // sharing}
        self._backend |= {'n_jobs': actors, 'ray_remote_args': hints}
        self._pre_dispatch = self.count

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], title: str | None = None
    ) -> Generator[Result, None, None]:
        """Yield the results in any order.

        Args:
            function: gets a task; a function of a module or a partial of one, except for threads.
            tasks: what can be pickled.
            title: of a progress bar on a terminal, a plural; None: no bar.

        Raises:
            UserError: what a task raised, or a worker was lost.
        """
        from tqdm import tqdm

        unit = (title or '').removesuffix('s')
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=len(tasks), desc=title, unit=unit, disable=None if title else True))
            stack.enter_context(self._explain_lost_worker())
            for result in stack.enter_context(closing(self._start(function, tasks))):
                bar.update()
                yield result

    def _start(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Generator[Any, None, None]:
        """Return a generator over the results; what is under way is given up when it is closed."""
        if self._backend['n_jobs'] == 1 and self._backend['backend'] == 'loky':
            return (function(task) for task in tasks)

        import joblib

        parent = os.getpid() if self._backend['backend'] == 'loky' else None
        calls = [joblib.delayed(_run_watched)(function, task, parent) for task in tasks]
        with joblib.parallel_config(**self._backend):
            if self._ray is not None:
                parallel = joblib.Parallel(pre_dispatch=self._pre_dispatch)
                return _run_in_shares(calls, parallel, _SHARE * joblib.effective_n_jobs())
            return joblib.Parallel(return_as='generator_unordered')(calls)

    @contextmanager
    def _explain_lost_worker(self) -> Iterator[None]:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        lost: tuple[type[Exception], ...] = (TerminatedWorkerError,)
        what = 'A worker process was killed, perhaps because the memory was full'
        if self._ray is not None:
            from ray.exceptions import RayError

            lost = (RayError,)
        try:
            yield
        except lost as error:
            if self._ray is not None:
                what = f'--ray {self._ray}: {str(error).splitlines()[0].removesuffix(".")}'
            raise UserError(f'{what}. {self._advice}') from error


def _run_in_shares(calls: Sequence[Any], parallel: Any, share: int) -> Generator[Any, None, None]:
    """Yield the results share by share: Ray's back end has no generator, and a bar should move."""
    with parallel:
        for start in range(0, len(calls), share):
            yield from parallel(calls[start : start + share])


def _end_processes() -> None:
    """End joblib's processes, which would wait for more tasks for minutes."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def _ray_cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster and make it known to joblib; the package travels there."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise UserError("--ray needs the package ray: pip install 'ray'. Without --ray all cores here work.") from error

    package = Path(__file__).resolve().parents[1]
    environment = {'py_modules': [str(package)], 'env_vars': {'OMP_NUM_THREADS': '1'}}
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


def _check_reachable(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT; Ray itself tries for minutes, and prints a lot."""
    host, _, port = address.rpartition('://')[2].rpartition(':')
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _run_watched(function: Callable[[Task], Result], task: Task, parent: int | None) -> Result:
    """Run a task; a process of this machine ends with its parent.

    Where there is one core, joblib runs the tasks in the parent itself.
    """
    if parent not in (None, os.getpid()) and os.name == 'posix':
        _end_with(parent)
    return function(task)


@cache
def _end_with(parent: int) -> None:
    """End this process when its parent is gone: joblib's workers would wait for ever for a parent that was killed."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_PULSE)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
