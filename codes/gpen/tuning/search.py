"""The coarse-to-fine search: ask the plan which rates to try, run and judge them, until it asks for no more."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from gpen.errors import UserError
from gpen.runs.experiment import lock_experiment
from gpen.tuning import judge
from gpen.tuning.display import Display
from gpen.tuning.judge import Judgement
from gpen.tuning.plan import next_trials
from gpen.tuning.rates import Trial
from gpen.tuning.study import Study, claim_folder
from gpen.tuning.trial_pool import TrialPool
from gpen.tuning.trial_run import TrialRun, remove_weights
from gpen.utils.files import write_json

RATES = 1e-2, 2e-3, 5e-4, 1e-4
RATIO = 4.0
RESULT_FILE = 'trial.json'


@dataclass
class SearchResult:
    """What a search has found so far.

    Attributes:
        judgements: of the trials that are done, each by its own curves.
        runs: the training runs of all trials.
        exit_status: 0, or 128 and the number of the signal that stopped it.
    """

    judgements: dict[Trial, Judgement] = field(default_factory=dict)
    runs: dict[Trial, TrialRun] = field(default_factory=dict)
    exit_status: int = 0

    @property
    def ranking(self) -> list[Trial]:
        """The trials from the best on, without those whose rate is too high."""
        return judge.rank(self.judgements)

    @property
    def compared(self) -> dict[Trial, Judgement]:
        """The judgements, corrected by each other."""
        return judge.compare(self.judgements)


def run_search(
    study: Study,
    pool: TrialPool,
    display: Display,
    rates: Sequence[float] = RATES,
    ratios: Sequence[float] | None = None,
) -> SearchResult:
    """Search, or continue a search that was stopped.

    Args:
        study: what the trials share.
        pool: runs them.
        display: shows them.
        rates: of the generator, to begin with.
        ratios: of the discriminator's rate to the generator's; None: 4.

    Raises:
        UserError: a trial failed for another reason than its rate.
    """
    from gpen.training.signals import StopRequest

    if ratios is not None and not study.has_discriminator:
        raise UserError('--ratio: the recipe trains no discriminator (train.gan_opt is off). Leave it out.')
    chosen: Sequence[float | None] = (ratios or [RATIO]) if study.has_discriminator else [None]
    result = SearchResult()
    with ExitStack() as stack:
        stack.enter_context(lock_experiment(study.folder))
        claim_folder(study, display.say)
        stack.enter_context(pool)
        stop = stack.enter_context(StopRequest())
        stack.enter_context(display)

        while not stop.is_noted:
            trials = next_trials(rates, chosen, result.judgements, max(1, pool.count // 2))
            if not trials:
                break
            for trial in trials:
                _look_up(study, trial, result, display)
            missing = {result.runs[trial]: trial for trial in trials if trial not in result.judgements}
            for run, is_done in pool.run_trials(list(missing), judge.find_too_high, lambda: stop.is_noted):
                if is_done:
                    _finish(missing[run], result, display)

        # Show the verdicts that the comparison with other trials has changed.
        for trial, judgement in result.compared.items():
            if judgement.verdict != result.judgements[trial].verdict:
                display.show(result.runs[trial], judgement)
        stop.all_reduce()
    result.exit_status = stop.exit_status if stop.is_set else 0
    return result


def _look_up(study: Study, trial: Trial, result: SearchResult, display: Display) -> None:
    """Judge a trial that an earlier run of the search finished, and show the trial."""
    run = result.runs.setdefault(trial, study.build_run(trial))
    if (run.folder / RESULT_FILE).is_file():
        result.judgements[trial] = judge.judge(run.read_curves())
    display.show(run, result.judgements.get(trial))


def _finish(trial: Trial, result: SearchResult, display: Display) -> None:
    """Judge a trial, and keep the judgement beside its records."""
    run = result.runs[trial]
    judgement = judge.judge(run.read_curves())
    result.judgements[trial] = judgement
    write_json(run.folder / RESULT_FILE, {'lr_g': trial.rate, 'lr_d': trial.rate_d, **asdict(judgement)})
    remove_weights(run.folder)
    display.show(run, judgement)
