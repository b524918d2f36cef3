"""The training loop: read it from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from gpen import __version__
from gpen.data.loader import build_train_loader
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.evaluation.validation import ValidationResult, validate, write_sheet
from gpen.health.measures import add_measures
from gpen.health.watch import Health
from gpen.runs.checkpoints import Checkpoint, CheckpointStore
from gpen.runs.experiment import LOGGER
from gpen.runs.recorder import Recorder, Stopwatch
from gpen.training.parts import Parts
from gpen.training.signals import StopRequest
from gpen.utils.text import format_duration

STATE_KEYS = {'options', 'data', 'model', 'early_stopping', 'validation_is_due'}


@dataclass
class Run:
    """A run in progress: its parts, where it writes, and how far it is.

    Of the processes that train together, only rank 0 has a recorder, and only it writes.
    """

    parts: Parts
    store: CheckpointStore
    recorder: Recorder | None
    stop: StopRequest
    iteration: int = 0
    saved_iteration: int = 0
    validation_is_due: bool = False
    watch: Stopwatch = field(default_factory=Stopwatch)
    health: Health | None = None


def train(run: Run) -> str:
    """Train from ``run.iteration`` to the end, early stopping or a signal; return why it ended.

    Per epoch: set the learning rates, train, validate the EMA generator, save.

    Raises:
        UserError: the loss was not finite too often, or a file could not be read or written.
    """
    parts, model = run.parts, run.parts.model
    train_options = parts.options.datasets.train
    assert train_options is not None
    if run.recorder is not None and parts.options.logger.health:
        run.health = Health(parts.options, parts.total_iterations, parts.rates.at, run.recorder.read())
    if run.validation_is_due:  # an interruption came before it
        done = _validate(run) is not None
        run.stop.agree()
        if not done:
            return _stopped_sentence(run)
        run.saved_iteration = -1
        save(run)
    if parts.early_stopping is not None and parts.early_stopping.should_stop:
        return _early_stopping_sentence(parts)
    loader = build_train_loader(
        parts.train_set,
        batch_size=train_options.batch_size_per_gpu,
        num_workers=train_options.num_worker_per_gpu,
        manual_seed=parts.options.seed,
        start_iteration=run.iteration,
        end_iteration=parts.total_iterations,
        pin_memory=train_options.pin_memory and parts.device.type == 'cuda',
        prefetch_factor=train_options.prefetch_factor,
        rank=ranks.rank(),
        world_size=ranks.world_size(),
    )
    with _open_bar(run) as bar:
        for batch in loader:
            run.iteration += 1
            model.set_learning_rates(parts.rates.at(run.iteration))
            model.train_step(batch, run.iteration)
            run.watch.step()
            bar.update()
            logs = run.iteration % parts.options.logger.print_freq == 0
            if logs or parts.device.type == 'cpu':  # reading losses makes a GPU wait
                for message in model.guard.review():
                    LOGGER.warning(message)
            if logs:
                _record_training(run, bar)
            run.validation_is_due = parts.validates_at(run.iteration)
            improved = bool(run.validation_is_due and _validate(run))
            run.stop.agree()
            stops_early = parts.early_stopping is not None and parts.early_stopping.should_stop
            if improved or stops_early or run.stop.is_set or parts.saves_at(run.iteration):
                save(run)
            if run.stop.is_set:
                return _stopped_sentence(run)
            if stops_early:
                return _early_stopping_sentence(parts)
    if run.iteration > parts.total_iterations:
        return f'Nothing to do: {run.iteration} iterations are done, and the options ask for {parts.total_iterations}.'
    return f'Finished: all {parts.total_iterations} iterations are done.'


def _open_bar(run: Run) -> tqdm[Any]:
    return tqdm(
        total=run.parts.total_iterations,
        initial=run.iteration,
        unit='it',
        dynamic_ncols=True,
        disable=None if ranks.is_main() else True,  # None: where there is no terminal
    )


def save(run: Run) -> None:
    """Write a checkpoint of the run as it is now, unless there is one."""
    if run.saved_iteration == run.iteration:
        return
    parts = run.parts
    for message in parts.model.guard.review():
        LOGGER.warning(message)
    if run.recorder is not None:
        run.recorder.flush()
        _write_checkpoint(run)
    run.saved_iteration = run.iteration


def _write_checkpoint(run: Run) -> None:
    parts = run.parts
    early = parts.early_stopping
    state: dict[str, Any] = {
        'version': __version__,
        'epoch': parts.epoch_of(run.iteration),
        'options': parts.options.model_dump(mode='json'),
        'data': {'pairs': len(parts.train_set), 'processes': ranks.world_size()},
        'model': parts.model.state_dict(),
        'early_stopping': early.state_dict() if early is not None else None,
        'validation_is_due': run.validation_is_due,
    }
    best = early.best_iteration if early is not None else None
    good_until = parts.model.guard.last_finite_iteration
    run.store.save(run.iteration, parts.model.network_states(), state, best, good_until)


def restore_run(parts: Parts, checkpoint: Checkpoint) -> None:
    """Put the parts into the state of a checkpoint.

    Raises:
        UserError: the checkpoint holds other networks or optimizers.
    """
    state = checkpoint.state
    try:
        parts.model.load_network_states(checkpoint.networks)
        parts.model.load_state_dict(state['model'])
        early, saved = parts.early_stopping, state['early_stopping']
        if early is not None and saved is not None and not early.load_state_dict(saved):
            LOGGER.info('Early stopping starts anew: it follows %s now.', early.metric)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f'{checkpoint.path} does not fit this run: {error}. Start anew without --auto_resume.'
        ) from error


def _record_training(run: Run, bar: tqdm[Any]) -> None:
    parts = run.parts
    rates = parts.rates.at(run.iteration)
    values = parts.model.means.read()
    values |= {f'lr_{name}': rate for name, rate in rates.items() if name[0] == 'g' or parts.model.net_d is not None}
    seconds = run.watch.read()
    if run.recorder is None:
        return
    epoch = parts.epoch_of(run.iteration)
    record = run.recorder.scalars(run.iteration, epoch, 'train', values, seconds_per_iter=seconds)
    losses = {name: value for name, value in values.items() if name.startswith(('G_', 'D_'))}
    bar.set_postfix({name.replace('_loss', ''): f'{value:.3g}' for name, value in losses.items()}, refresh=False)
    numbers = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
    left = format_duration(seconds * (parts.total_iterations - run.iteration))
    LOGGER.info(
        'epoch %d  iter %d/%d  %s  %.3f s/it  %s left',
        epoch,
        run.iteration,
        parts.total_iterations,
        numbers,
        seconds,
        left,
    )
    _check_health(run, run.recorder, record)


def _validate(run: Run) -> bool | None:
    """Validate and record; return whether it is the best so far, or None when a signal came before the end."""
    parts, options = run.parts, run.parts.options.val
    restore, metrics = parts.model.restore, parts.metrics
    if parts.options.logger.health:
        restore, metrics = add_measures(parts.model, metrics)
    result = validate(
        restore,
        parts.val_loader,
        metrics,
        parts.options.seed,
        options.num_pictures,
        should_stop=lambda: run.stop.is_noted,
        is_sharded=True,
        restores=parts.model.restores,
    )
    run.watch.pause()
    if result is None:  # the state says that this validation is still due
        return None
    run.validation_is_due = False
    if run.recorder is not None:
        _record_validation(run, run.recorder, result)
    epoch, early = parts.epoch_of(run.iteration), parts.early_stopping
    improved = early is not None and early.update(result.means[early.metric], run.iteration)
    numbers = '  '.join(f'{name} {value:.4f}' for name, value in result.means.items())
    LOGGER.info('epoch %d  iter %d  validation  %s%s', epoch, run.iteration, numbers, '  (best)' if improved else '')
    return improved


def _record_validation(run: Run, recorder: Recorder, result: ValidationResult) -> None:
    means = {f'val/{name}': value for name, value in result.means.items()}
    record = recorder.scalars(run.iteration, run.parts.epoch_of(run.iteration), 'val', means)
    _check_health(run, recorder, record)
    if result.sheet is not None:
        tag = 'val/input_restored_sharp' if run.parts.model.restores else 'val/samples'
        recorder.picture(tag, result.sheet, run.iteration)
        if run.parts.options.val.save_img:
            write_sheet(run.store.models.parent / 'visualization' / f'{run.iteration}.png', result.sheet)


def _check_health(run: Run, recorder: Recorder, record: dict[str, Any]) -> None:
    if run.health is None:
        return
    epoch = run.parts.epoch_of(run.iteration)
    for finding in run.health.add(record):
        recorder.sentence(run.iteration, epoch, 'health', finding.name, finding.severity, finding.sentence)
        LOGGER.warning('Health, iter %d: %s', run.iteration, finding.sentence)


def _stopped_sentence(run: Run) -> str:
    return f'Stopped by {run.stop.name} after iteration {run.iteration}.'


def _early_stopping_sentence(parts: Parts) -> str:
    early = parts.early_stopping
    assert early is not None
    return f'Early stopping: {early.metric} has not improved for {early.waited} validations.'
