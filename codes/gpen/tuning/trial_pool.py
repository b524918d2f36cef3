"""Where trials run: one at a time on each device of this machine, or of a Ray cluster."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gpen.errors import UserError
from gpen.tuning.trial_run import FindEnd, TrialRun, run_trial
from gpen.utils.cpu import count_cpus
from gpen.utils.pool import Pool

VISIBLE = 'CUDA_VISIBLE_DEVICES'
THREADS = 'OMP_NUM_THREADS'
PULSE = 0.3  # seconds
ADVICE = 'Run the search again; finished trials are kept.'

Outcome = tuple[TrialRun, 'bool | Exception']


def choose_devices(names: Sequence[str], num_gpu: Any) -> list[dict[str, str]]:
    """Return the environment variables that bind a process to each device.

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

    # Trials that share the CPU share its cores.
    on_cpu = chosen.count('cpu')
    if on_cpu > 1 and THREADS not in os.environ:
        threads = str(max(count_cpus() // on_cpu, 1))
        environments = [one if one[VISIBLE] else {**one, THREADS: threads} for one in environments]
    return environments


class TrialPool(Pool):
    """Runs trials, one at a time on each device (a context manager).

    The machines of a Ray cluster need the same paths: this project, the data and the experiments lie on storage that
    all of them share.

    Args:
        folder: a file in it tells the trials to stop; on a cluster, on the shared storage.
        environments: the variables of each device of this machine, from :func:`choose_devices`.
        ray: address of a Ray cluster instead; ``local`` starts one here.
    """

    def __init__(self, folder: Path, environments: Sequence[Mapping[str, str]] = (), ray: str | None = None) -> None:
        super().__init__(len(environments), ray, by_device=True, advice=ADVICE)
        self._stop_file = folder / '.stop'
        self._environments = environments

    def run_trials(
        self, runs: Sequence[TrialRun], find_end: FindEnd, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[TrialRun, bool]]:
        """Yield each run as it ends, and whether there is something to judge; see :func:`run_trial`.

        All runs have ended when this ends, however it does.

        Raises:
            UserError: a trial failed; the others were stopped.
        """
        self._stop_file.unlink(missing_ok=True)
        work: Callable[[TrialRun], Outcome]
        if self._environments:
            free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
            for environment in self._environments:
                free.put(environment)
            work = partial(_run_on_device, free, self._stop_file, find_end)
        else:
            cores = {} if self.cores == 1 else {THREADS: str(self.cores)}
            work = partial(_run_unless_stopped, cores, self._stop_file, find_end)

        failure: Exception | None = None
        with closing(self.run(work, runs)) as outcomes, _touch_when(should_stop, self._stop_file):
            try:
                for run, outcome in outcomes:
                    if isinstance(outcome, Exception):
                        failure = failure or outcome
                    else:
                        yield run, outcome
            finally:
                self._stop_file.touch()
                for _ in outcomes:  # each trial saves and ends
                    pass
        self._stop_file.unlink(missing_ok=True)
        if failure is not None:
            raise failure


def _run_on_device(free: SimpleQueue[Mapping[str, str]], stop_file: Path, find_end: FindEnd, run: TrialRun) -> Outcome:
    """Run a trial on a device of this machine that is free."""
    environment = free.get()
    try:
        return _run_unless_stopped(environment, stop_file, find_end, run)
    finally:
        free.put(environment)


def _run_unless_stopped(environment: Mapping[str, str], stop_file: Path, find_end: FindEnd, run: TrialRun) -> Outcome:
    """Run a trial; one that fails stops the others, and its error is returned, so that they can end first."""
    if stop_file.exists():
        return run, False
    try:
        return run, run_trial(run, environment, stop_file.exists, find_end)
    except (UserError, OSError) as error:
        stop_file.touch()
        return run, error


@contextmanager
def _touch_when(should_stop: Callable[[], bool], stop_file: Path) -> Iterator[None]:
    """Write the stop file as soon as ``should_stop`` says so."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PULSE):
            if should_stop():
                stop_file.touch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
