"""Where trials run: one for each device of this machine at a time, or on a Ray cluster."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from gpen.errors import UserError
from gpen.tuning.curves import Curves
from gpen.tuning.trial import Job, run_trial

FindEnd = Callable[[Curves], 'str | None']
VISIBLE = 'CUDA_VISIBLE_DEVICES'
ROUND = 1  # seconds


def choose_devices(names: Sequence[str], num_gpu: Any) -> list[dict[str, str]]:
    """Return the variables that bind a process to each device.

    Args:
        names: numbers of GPUs and ``cpu``; none: all GPUs, or the CPU where there are none or the recipe wants none.
        num_gpu: the recipe's.

    Raises:
        UserError: there is no such GPU.
    """
    import torch

    given = [name for name in os.environ.get(VISIBLE, '').split(',') if name]
    count = torch.cuda.device_count()
    chosen = list(names) or ([str(n) for n in range(count)] if num_gpu != 0 else []) or ['cpu']
    environments = []
    for name in chosen:
        if name != 'cpu' and not (name.isdecimal() and int(name) < count):
            raise UserError(f'--devices {name}: PyTorch finds {count} GPUs here. Give numbers from 0, or cpu.')
        number = '' if name == 'cpu' else given[int(name)] if given else name
        environments.append({VISIBLE: number})
    on_cpu = chosen.count('cpu')
    if on_cpu > 1 and 'OMP_NUM_THREADS' not in os.environ:
        threads = str(max((os.cpu_count() or 1) // on_cpu, 1))
        environments = [{**one, 'OMP_NUM_THREADS': threads} if not one[VISIBLE] else one for one in environments]
    return environments


class Workers(AbstractContextManager['Workers']):
    """Runs trials (a context manager).

    Attributes:
        count: how many run at a time.
    """

    count: int

    @abstractmethod
    def run(
        self, jobs: Sequence[Job], find_end: FindEnd, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, bool]]:
        """Yield each job, as it ends, and whether there is something to judge; see :func:`run_trial`."""


class Devices(Workers):
    """Runs trials on this machine, one for each device at a time (a context manager).

    Args:
        environments: the variables of each device, from :func:`choose_devices`.
    """

    def __init__(self, environments: Sequence[dict[str, str]]) -> None:
        self._environments = environments
        self.count = len(environments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to end."""

    def run(
        self, jobs: Sequence[Job], find_end: FindEnd, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, bool]]:
        import joblib

        free: SimpleQueue[dict[str, str]] = SimpleQueue()
        for environment in self._environments:
            free.put(environment)
        gave_up = threading.Event()

        def stops() -> bool:
            return gave_up.is_set() or should_stop()

        def work(job: Job) -> tuple[Job, bool]:
            environment = free.get()
            try:
                return job, not stops() and run_trial(job, environment, stops, find_end)
            except BaseException:
                gave_up.set()
                raise
            finally:
                free.put(environment)

        parallel = joblib.Parallel(n_jobs=self.count, backend='threading', return_as='generator_unordered')
        try:
            yield from parallel(joblib.delayed(work)(job) for job in jobs)
        finally:
            gave_up.set()
            for _ in self._environments:  # each comes back when its process has ended
                free.get()


class Cluster(Workers):
    """Runs trials on a Ray cluster, one for each GPU, or machine without one, at a time (a context manager).

    Its machines need the same paths: this project, the data and the experiments on storage that all of them share.

    Args:
        address: of the cluster; ``local`` starts one here.
        folder: on that storage; a file in it tells the trials to stop.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._stop_file = folder / '.stop'
        self._stack = ExitStack()
        self._needs: dict[str, float] = {}
        self.count = 1

    def __enter__(self) -> Cluster:
        from gpen.preparation.parallel import ray_cluster

        self._stack.enter_context(ray_cluster(self._address))
        import ray

        machines = [node['Resources'] for node in ray.nodes() if node['Alive']]
        gpus = sum(int(machine.get('GPU', 0)) for machine in machines)
        cores = min(int(machine.get('CPU', 1)) for machine in machines)
        self._needs = {'num_gpus': 1, 'num_cpus': 1} if gpus else {'num_cpus': cores}
        self.count = gpus or len(machines)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(
        self, jobs: Sequence[Job], find_end: FindEnd, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, bool]]:
        import ray

        self._stop_file.unlink(missing_ok=True)
        environment = {} if 'num_gpus' in self._needs else {'OMP_NUM_THREADS': str(int(self._needs['num_cpus']))}
        remote: Any = ray.remote(run_trial)
        remote = remote.options(**self._needs, max_retries=0)
        pending = {remote.remote(job, environment, self._stop_file.exists, find_end): job for job in jobs}
        try:
            while pending:
                if should_stop():
                    self._stop_file.touch()
                done, _ = ray.wait(list(pending), num_returns=1, timeout=ROUND)
                for reference in done:
                    yield pending.pop(reference), ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise getattr(error, 'cause', error) from None
        except ray.exceptions.RayError as error:
            raise UserError(
                f'--ray {self._address}: {error}. Run the search again; finished trials are kept.'
            ) from error
        finally:
            if pending:
                self._stop_file.touch()
                ray.wait(list(pending), num_returns=len(pending))
            self._stop_file.unlink(missing_ok=True)
