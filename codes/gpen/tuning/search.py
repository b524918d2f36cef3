"""The coarse-to-fine search: ask the plan what to try, run it, judge it, until the plan has no more to ask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from gpen.errors import UserError
from gpen.tuning import judge
from gpen.tuning.display import Display
from gpen.tuning.judge import Judgement
from gpen.tuning.plan import Trial, next_trials
from gpen.tuning.setting import Setting, claim_folder
from gpen.tuning.trial import Job, remove_weights
from gpen.tuning.workers import Cluster, Devices, Workers, choose_devices
from gpen.utils.files import write_text

RATES = 1e-3, 5e-4, 1e-4, 5e-5
RATIO = 4.0
RESULT_FILE = 'trial.json'
ENDING = 'lr_search'


@dataclass(frozen=True)
class Machines:
    """Where trials run.

    Attributes:
        devices: numbers of GPUs, and ``cpu``; none: what there is.
        ray: address of a Ray cluster instead.
    """

    devices: tuple[str, ...] = ()
    ray: str | None = None

    def open(self, setting: Setting) -> Workers:
        """Return what runs trials there."""
        if self.ray is not None:
            return Cluster(self.ray, setting.folder)
        return Devices(choose_devices(self.devices, setting.options.num_gpu))


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        judgements: of the trials that are done, each by its own curves.
        jobs: their runs.
        exit_status: 0, or 130 or 143 after Ctrl-C or SIGTERM.
    """

    judgements: dict[Trial, Judgement] = field(default_factory=dict)
    jobs: dict[Trial, Job] = field(default_factory=dict)
    exit_status: int = 0

    @property
    def ranking(self) -> list[Trial]:
        """The trials from the best on, those that are too high left out."""
        return judge.rank(self.judgements)

    @property
    def compared(self) -> Mapping[Trial, Judgement]:
        """The judgements, corrected by each other."""
        return judge.compare(self.judgements)


def run_search(
    setting: Setting,
    machines: Machines,
    display: Display,
    rates: Sequence[float] = RATES,
    ratios: Sequence[float] | None = None,
) -> Found:
    """Search, or go on with a search that was stopped.

    Args:
        setting: what the trials share.
        machines: where they run.
        display: shows them.
        rates: of the generator, to begin with.
        ratios: of the discriminator's rate to the generator's; None: 4.

    Raises:
        UserError: a trial failed for another reason than its rate.
    """
    from gpen.runs.experiment import lock_experiment
    from gpen.training.signals import StopRequest

    if ratios is not None and not setting.has_discriminator:
        raise UserError('--ratio: the recipe trains no discriminator (train.gan_opt is off). Leave it out.')
    chosen: Sequence[float | None] = (ratios or [RATIO]) if setting.has_discriminator else [None]
    found = Found()
    with ExitStack() as stack:
        stack.enter_context(lock_experiment(setting.folder))
        claim_folder(setting, display.say)
        workers = stack.enter_context(machines.open(setting))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(display)
        while not stop.is_noted:
            trials = next_trials(rates, chosen, found.judgements, max(1, workers.count // 2))
            if not trials:
                break
            for trial in trials:
                found.jobs.setdefault(trial, setting.build_job(trial.name, trial.label, trial.rate, trial.rate_d))
                _take(found, trial, display)
            missing = {found.jobs[trial]: trial for trial in trials if trial not in found.judgements}
            for job, is_done in workers.run(list(missing), judge.find_too_high, lambda: stop.is_noted):
                if is_done:
                    _finish(found, missing[job], display)
        for trial, judgement in found.compared.items():
            if judgement.verdict != found.judgements[trial].verdict:
                display.show(found.jobs[trial], judgement)
        stop.all_reduce()
    return Found(found.judgements, found.jobs, stop.exit_status if stop.is_set else 0)


def _take(found: Found, trial: Trial, display: Display) -> None:
    """Take the result of a trial that an earlier run of the search finished, and show the trial."""
    job = found.jobs[trial]
    if (job.folder / RESULT_FILE).is_file():
        found.judgements[trial] = judge.judge(job.read_curves())
    display.show(job, found.judgements.get(trial))


def _finish(found: Found, trial: Trial, display: Display) -> None:
    """Judge a trial, and keep the result beside its records."""
    job = found.jobs[trial]
    judgement = judge.judge(job.read_curves())
    found.judgements[trial] = judgement
    result = {'lr_g': trial.rate, 'lr_d': trial.rate_d, **plain(judgement)}
    write_text(job.folder / RESULT_FILE, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
    remove_weights(job.folder)
    display.show(job, judgement)


def plain(judgement: Judgement) -> dict[str, object]:
    """Return a judgement for JSON, which knows no number that is not finite."""
    return {name: None if value != value else value for name, value in asdict(judgement).items()}
