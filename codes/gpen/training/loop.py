"""The training loop: read it from top to bottom."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from tqdm import tqdm

from gpen.data.loader import Batch
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.evaluation.validation import ValidationResult, validate
from gpen.health.measures import add_measures
from gpen.health.watch import Health
from gpen.models.step_log import describe_gradients
from gpen.runs.checkpoints import CheckpointStore
from gpen.runs.log import LOGGER, RECORDED
from gpen.runs.recorder import Recorder
from gpen.runs.run_file import RunFile, Status
from gpen.runs.sheets import keep_sheet
from gpen.runs.training_state import check_finite, pack_networks, pack_state
from gpen.training.lines import ValidationTable, describe_record
from gpen.training.setup import Setup
from gpen.training.signals import StopRequest
from gpen.utils.timing import StepTimer


@dataclass
class TrainingRun:
    """A run in progress.

    Attributes:
        setup: what it works with.
        store: its checkpoints.
        recorder: its records; None on all ranks but 0, which alone writes.
        run_file: what it is and how far it is; written by rank 0.
        stop: whether a signal asks it to stop.
        iteration: the last iteration that was done.
        saved_iteration: the iteration of the newest checkpoint.
        validation_is_due: the validation of this iteration has not been done, or was cut off.
        is_within_step: the iteration is not complete; networks and optimizers are of no iteration.
        timer: seconds per step.
        health: the rules that watch it; None without records or where they are switched off.
        table: of its validations, on the screen.
    """

    setup: Setup
    store: CheckpointStore
    recorder: Recorder | None
    run_file: RunFile
    stop: StopRequest
    iteration: int = 0
    saved_iteration: int = 0
    validation_is_due: bool = False
    is_within_step: bool = False
    timer: StepTimer = field(default_factory=StepTimer)
    health: Health | None = None
    table: ValidationTable = field(init=False)

    def __post_init__(self) -> None:
        total = self.setup.total_iterations
        self.table = ValidationTable(self.setup.metrics, self.setup.epoch_of(total), total)

    @property
    def epoch(self) -> int:
        """The epoch that the last iteration belongs to."""
        return self.setup.epoch_of(self.iteration)

    @property
    def best_files(self) -> dict[str, int]:
        """The iteration that the best file of each metric stands for, and that of the metric for early stopping."""
        found = {f'net_g_best_{name}': summary.best_iteration for name, summary in self.run_file.metrics.items()}
        if self.setup.early_stopping is not None:
            found['net_g_best'] = self.setup.early_stopping.best_iteration
        return {name: iteration for name, iteration in found.items() if iteration is not None}


@dataclass(frozen=True)
class Ending:
    """Why a run ended: a status for ``run.json``, and a sentence."""

    status: Status
    reason: str


def train(run: TrainingRun) -> Ending:
    """Train from ``run.iteration`` to the last iteration, early stopping or a signal.

    In each iteration: set the learning rates, train one step, and, where it is due, record, validate the EMA generator
    and save.

    Raises:
        UserError: the loss was not finite too often or never, or a file could not be read or written.
    """
    setup, model, stop, start = run.setup, run.setup.model, run.stop, run.iteration
    if run.recorder is not None and setup.options.logger.health:
        run.health = Health(setup.options, setup.total_iterations, setup.rates.at, run.recorder.read())

    # A validation that an interruption cut off comes first.
    if run.validation_is_due:
        is_done = _validate(run) is not None
        stop.all_reduce()
        if is_done:
            save(run, anew=True)
    ending = _find_ending(run)
    if ending is not None:
        return ending

    batches = iter(setup.load_batches(run.iteration, setup.total_iterations))
    with _open_bar(run) as bar:
        batch = _next_batch(run, batches)
        stop.all_reduce()
        _check_data(run)
        while batch is not None:
            # Step
            run.is_within_step = True
            run.iteration += 1
            model.set_learning_rates(setup.rates.at(run.iteration))
            model.train_step(batch, run.iteration)
            run.is_within_step = False
            run.timer.step()
            bar.update()
            if len(model.gradient_norms) > 1:
                _report_gradients(run)

            # Records: what the device holds is read here alone, because that makes a GPU wait.
            records_now = run.iteration % setup.options.logger.print_freq == 0
            if records_now or model.guard.needs_review():
                _report_skipped_steps(run)
            if records_now:
                _record_training(run, bar)

            # Validation
            run.validation_is_due = setup.validates_at(run.iteration)
            improved = bool(run.validation_is_due and _validate(run))

            # Checkpoint and end: all ranks stop after the same step, also where one of them has no next batch.
            batch = _next_batch(run, batches)
            stop.all_reduce()
            _check_data(run)
            ending = _find_ending(run)
            if improved or ending is not None or setup.saves_at(run.iteration):
                save(run)
            if ending is not None:
                return ending

    total = setup.total_iterations
    _report_skipped_steps(run)
    if run.iteration > start >= model.guard.last_finite_iteration:
        raise UserError(
            f'None of the steps from {start + 1} to {run.iteration} was finite, so the networks have learned nothing. '
            'Look at the weights that training started from, and at the data.'
        )
    if run.iteration > total:
        return Ending(
            'finished', f'Nothing to do: {run.iteration} iterations are done, and the options ask for {total}.'
        )
    return Ending('finished', f'Finished: all {total} iterations are done.')


def save(run: TrainingRun, anew: bool = False) -> None:
    """Write a checkpoint of the run as it is now, unless there is one (``anew``: all the same)."""
    if run.saved_iteration == run.iteration and not anew:
        return
    setup, early = run.setup, run.setup.early_stopping
    _report_skipped_steps(run)
    check_finite(setup.model)

    if run.recorder is not None:
        run.recorder.flush()  # first: no record of a saved iteration may be missing after a power cut
        state = pack_state(
            setup.model,
            setup.options,
            early.state_dict() if early is not None else None,
            epoch=run.epoch,
            pairs=len(setup.train_set),
            processes=ranks.world_size(),
            validation_is_due=run.validation_is_due,
            images=setup.pack_stamps(),
        )
        good_until = setup.model.guard.last_finite_iteration
        run.store.save(run.iteration, pack_networks(setup.model), state, run.best_files, good_until)
        write_run_file(run)
    run.saved_iteration = run.iteration


def write_run_file(run: TrainingRun, **changes: Any) -> None:
    """Write ``run.json`` with how far the run is, and with further changes of its fields."""
    if run.recorder is not None:
        run.run_file.iteration = run.iteration
        run.run_file.seconds += run.timer.read_total()
        run.run_file = run.run_file.model_copy(update=changes)
        run.run_file.write(run.recorder.folder)


# ---- data


def _next_batch(run: TrainingRun, batches: Iterator[Batch]) -> Batch | None:
    """Return the next batch; None at the end of the run, or where it cannot be read, which is noted."""
    try:
        return next(batches, None)
    except UserError as error:
        run.stop.note_failure(error)
        return None


def _check_data(run: TrainingRun) -> None:
    """Raise UserError on all ranks where any of them could not read its batch."""
    if run.stop.has_failed:
        ranks.on_all(run.stop.raise_failure)


# ---- records


def _open_bar(run: TrainingRun) -> tqdm:
    return tqdm(
        total=run.setup.total_iterations,
        initial=run.iteration,
        unit='it',
        dynamic_ncols=True,
        disable=None if ranks.is_main() else True,  # None: where there is no terminal
    )


def _report_skipped_steps(run: TrainingRun) -> None:
    """Say and record which steps since the last call were skipped because a value was not finite."""
    for sentence in run.setup.model.guard.review():
        LOGGER.warning(sentence, extra=RECORDED)
        if run.recorder is not None:
            run.recorder.event(run.iteration, run.epoch, 'skipped_step', 'warning', sentence)


def _report_gradients(run: TrainingRun) -> None:
    """Say and record how much of the gradient at the images each loss has in the first step."""
    sentence = describe_gradients(run.setup.model.gradient_norms)
    run.setup.model.gradient_norms = {}
    LOGGER.info(sentence)
    if run.recorder is not None:
        run.recorder.event(run.iteration, run.epoch, 'gradient_shares', 'info', sentence)


def _record_training(run: TrainingRun, bar: tqdm) -> None:
    """Record the means since the last record, the learning rates and the time per step; ask the health rules."""
    setup = run.setup
    values = setup.model.means.read()
    has_discriminator = setup.model.net_d is not None
    rates = setup.rates.at(run.iteration)
    values |= {f'lr_{name}': rate for name, rate in rates.items() if name[0] == 'g' or has_discriminator}
    seconds = run.timer.read()
    if run.recorder is None:
        return

    # Files
    record = run.recorder.scalars(run.iteration, run.epoch, 'train', values, seconds_per_iter=seconds)

    # Screen
    losses = {name: value for name, value in values.items() if name.startswith(('G_', 'D_'))}
    bar.set_postfix({name.replace('_loss', ''): f'{value:.3g}' for name, value in losses.items()}, refresh=False)
    total = setup.total_iterations
    place = run.epoch, setup.epoch_of(total), run.iteration, total
    shown = {name: rate for name, rate in rates.items() if name == 'g' or (name == 'd' and has_discriminator)}
    LOGGER.info(describe_record(place, values, shown, seconds))

    _check_health(run, run.recorder, record)


def _check_health(run: TrainingRun, recorder: Recorder, record: dict[str, Any]) -> None:
    for finding in run.health.add(record) if run.health is not None else []:
        recorder.finding(run.iteration, run.epoch, finding.name, finding.severity, finding.sentence)
        LOGGER.warning('Health, iter %d: %s', run.iteration, finding.sentence, extra=RECORDED)


# ---- validation


def _validate(run: TrainingRun) -> bool | None:
    """Validate and record; return whether any metric is the best so far, or None when a signal came before the end."""
    setup, options = run.setup, run.setup.options.val
    restore: Callable[[Tensor], Tensor] = setup.model.restore
    metrics = setup.metrics
    if setup.options.logger.health:
        restore, metrics = add_measures(setup.model, metrics)

    # Each rank restores its share of the images; the result is that of all, on every rank.
    result = validate(
        restore,
        setup.val_loader,
        metrics,
        setup.options.seed,
        options.num_pictures,
        should_stop=lambda: run.stop.is_noted,
        is_sharded=True,
        restores=setup.model.restores,
    )
    run.timer.pause()
    if result is None:  # the checkpoint will say that this validation is still due
        return None
    run.validation_is_due = False

    # The best so far
    early = setup.early_stopping
    improved = early is not None and early.update(result.means[early.metric], run.iteration)
    best = [name for name, its in run.run_file.metrics.items() if its.update(result.means[name], run.iteration)]

    # Records
    for fault in result.faults:
        LOGGER.warning('Validation, iter %d: %s', run.iteration, fault, extra=RECORDED)
    if run.recorder is not None:
        _record_validation(run, run.recorder, result)
        write_run_file(run)
    for line in run.table.add(run.epoch, run.iteration, result.means, best):
        LOGGER.info(line)
    return improved or bool(best)


def _record_validation(run: TrainingRun, recorder: Recorder, result: ValidationResult) -> None:
    """Record the metrics, what is wrong with them, and the sheet of pictures; ask the health rules."""
    for fault in result.faults:
        recorder.event(run.iteration, run.epoch, 'validation', 'warning', fault)
    means = {f'val/{name}': value for name, value in result.means.items()}
    record = recorder.scalars(run.iteration, run.epoch, 'val', means)
    _check_health(run, recorder, record)
    if result.sheet is not None:
        setup, early = run.setup, run.setup.early_stopping
        tag = 'val/input_restored_sharp' if setup.model.restores else 'val/samples'
        recorder.picture(tag, result.sheet, run.iteration)
        best = early.best_iteration if early is not None else None
        keep_sheet(recorder.folder, result.sheet, run.iteration, best, keeps_all=setup.options.val.save_img)


# ---- the end


def _find_ending(run: TrainingRun) -> Ending | None:
    """Return why the run ends after this iteration, or None where it goes on."""
    early = run.setup.early_stopping
    if run.stop.is_set:
        return Ending('stopped', f'Stopped by {run.stop.name} after iteration {run.iteration}.')
    if early is not None and early.should_stop:
        reason = f'Early stopping: {early.metric} has not improved for {early.waited} validations.'
        return Ending('stopped_early', reason)
    return None
