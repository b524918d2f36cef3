"""The same function for many tasks, on all cores or on a Ray cluster, each process with one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

import gpen
from gpen.errors import UserError

Task = TypeVar('Task')
Result = TypeVar('Result')

ALL_CORES = 0
_LOCAL_RAY = 'local'


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, ray: str | None, title: str
) -> Iterator[Result]:
    """Yield the results in any order, with a progress bar on a terminal.

    Args:
        function: a function of a module; its results must not depend on the process that runs it.
        tasks: what can be pickled.
        workers: processes; 1 without Ray works in this one, :data:`ALL_CORES` takes what there is.
        ray: address of a Ray cluster (``local`` starts one here); None: this machine.
        title: the bar's.

    Raises:
        UserError: what a task raised, a process that was killed, Ray that is not installed or not there.
    """
    from tqdm import tqdm

    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(tasks), desc=title, unit=title.removesuffix('s'), disable=None))
        if workers == 1 and ray is None:
            results: Iterator[Result] = (_run_alone(function, task) for task in tasks)
        else:
            results = stack.enter_context(_pool(function, tasks, workers, ray))
        for result in results:
            bar.update()
            yield result


@contextmanager
def _pool(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, ray: str | None) -> Iterator[Any]:
    """Give an iterator over the results; processes that still work are ended when the block is left early."""
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    count = workers or -1
    with ExitStack() as stack:
        if ray is None:
            stack.enter_context(joblib.parallel_config('loky', n_jobs=count, inner_max_num_threads=1))
        else:
            stack.enter_context(_ray_cluster(ray))
            stack.enter_context(joblib.parallel_config('ray', n_jobs=count))
        parallel = joblib.Parallel(return_as='generator_unordered')
        results = parallel(joblib.delayed(_run_alone)(function, task) for task in tasks)
        stack.callback(results.close)
        try:
            yield results
        except TerminatedWorkerError as error:
            raise UserError(
                'A worker process was killed, perhaps because the memory was full. Run the command again with fewer '
                '--workers or a smaller --max_pixels; what is done is kept.'
            ) from error


@contextmanager
def _ray_cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster and make it known to joblib; the package travels there."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise UserError("--ray needs the package ray: pip install 'ray'. Without --ray all cores here work.") from error
    environment = {'py_modules': [str(Path(gpen.__file__).parent)], 'env_vars': {'OMP_NUM_THREADS': '1'}}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level='ERROR')
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f'--ray {address}: there is no such cluster ({error}). Give the address that `ray start --head` printed, '
            f'or {_LOCAL_RAY}.'
        ) from error
    try:
        register_ray()
        yield
    finally:
        ray.shutdown()


def _run_alone(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task with one thread and without OpenCV's log; results do not depend on the number of cores."""
    threads, torch_threads, level = cv2.getNumThreads(), torch.get_num_threads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return function(task)
    finally:
        cv2.setNumThreads(threads)
        torch.set_num_threads(torch_threads)
        cv2.utils.logging.setLogLevel(level)
