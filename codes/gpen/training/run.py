"""A training run from parsed options to its end."""

from __future__ import annotations

import time
from contextlib import ExitStack

import torch

from gpen.distributed import ranks
from gpen.errors import UserError, explain_os_error
from gpen.options import Options, ParsedOptions
from gpen.runs.checkpoints import Checkpoint, CheckpointStore
from gpen.runs.experiment import LOGGER, RunLog, compare_options, lock_experiment, move_aside
from gpen.runs.recorder import Recorder
from gpen.training.loop import STATE_KEYS, Run, restore_run, save, train
from gpen.training.parts import Parts, build_parts
from gpen.training.signals import StopRequest
from gpen.utils.device import explain_out_of_memory, select_device
from gpen.utils.files import resolve_path
from gpen.utils.text import format_duration


def run_training(parsed: ParsedOptions, auto_resume: bool = False) -> int:
    """Train as the options say.

    Args:
        parsed: checked options.
        auto_resume: continue from the newest state that is whole, if there is one.

    Returns:
        The exit status: 0, or 130 or 143 after Ctrl-C or SIGTERM.

    Raises:
        UserError: anything that the user can put right.
    """
    options = parsed.options
    store = CheckpointStore(options.experiment_folder, options.logger.keep_last)
    with RunLog(ranks.is_main()) as log, ExitStack() as stack, ranks.explain_lost_process():
        for warning in parsed.warnings:
            LOGGER.warning('Warning: %s', warning)
        device, sentence = ranks.on_all(lambda: select_device(options.num_gpu, ranks.local_rank(), ranks.world_size()))
        LOGGER.info(sentence)

        def claim() -> Checkpoint | None:
            stack.enter_context(lock_experiment(options.experiment_folder))
            return _find_checkpoint(options, store, auto_resume)

        checkpoint = ranks.on_main(claim)
        parts = _build_parts(options, device, checkpoint)
        due = checkpoint is not None and checkpoint.state['validation_is_due'] and parts.val_loader is not None
        stop = stack.enter_context(StopRequest())

        def open_records() -> Recorder | None:
            if not ranks.is_main():
                return None
            recorder = _open_records(parts, store, checkpoint, log, due)
            stack.callback(recorder.close)
            if checkpoint is None:
                recorder.text('options', parsed.text, 0)
            return recorder

        start = checkpoint.iteration if checkpoint is not None else 0
        run = Run(parts, store, ranks.on_all(open_records), stop, start, start, due)
        if checkpoint is not None and not store.owns(checkpoint):
            run.saved_iteration = -1
            save(run)
        return _train_and_report(run)


def _build_parts(options: Options, device: torch.device, checkpoint: Checkpoint | None) -> Parts:
    """Build the parts, in the state of the checkpoint."""

    def build() -> Parts:
        with explain_out_of_memory(batch_size(options)):
            parts = build_parts(options, device)
            if checkpoint is not None:
                _continue_from(checkpoint, parts)
            return parts

    parts = ranks.one_first(build)
    parts.model.copy_from_main()
    return parts


def _find_checkpoint(options: Options, store: CheckpointStore, auto_resume: bool) -> Checkpoint | None:
    """Return the checkpoint to continue from, if any; say what was passed over."""
    if auto_resume:
        checkpoint, damaged = store.load_newest()
        for sentence in damaged:
            LOGGER.warning('Passed over: %s', sentence)
        if checkpoint is not None:
            return checkpoint
    if options.path.resume_state is not None:
        return store.load(resolve_path(options.path.resume_state))
    return None


def _continue_from(checkpoint: Checkpoint, parts: Parts) -> None:
    """Put the parts into the state of the checkpoint; say so, and which options changed."""
    if not set(checkpoint.state) >= STATE_KEYS:
        version = checkpoint.state.get('version', 'another version')
        raise UserError(
            f'{checkpoint.path} was written by {version} of this program. Start anew without --auto_resume.'
        )
    changed = compare_options(checkpoint.state['options'], parts.options.model_dump(mode='json'))
    before = {'processes': 1, **checkpoint.state['data']}
    for name, what, now in (
        ('pairs', 'pairs to train on', len(parts.train_set)),
        ('processes', 'processes that train together', ranks.world_size()),
    ):
        if before[name] != now:
            epoch = f'an epoch has {parts.iterations_per_epoch} iterations'
            changed.append(f'{what}: {before[name]} -> {now}; {epoch}')
    restore_run(parts, checkpoint)
    LOGGER.info('Continuing from %s, after iteration %d.', checkpoint.path, checkpoint.iteration)
    for line in changed:
        LOGGER.info('Changed since then: %s', line)


def _open_records(
    parts: Parts, store: CheckpointStore, checkpoint: Checkpoint | None, log: RunLog, validation_is_due: bool
) -> Recorder:
    """Bring the experiment folder to the state of the checkpoint; open log and records."""
    folder = store.models.parent
    if checkpoint is None or not store.owns(checkpoint):
        moved_to = move_aside(folder)
        if moved_to is not None:
            LOGGER.info('%s was there already: it is now %s.', folder, moved_to)
    log.write_to(folder)
    start = checkpoint.iteration if checkpoint is not None else 0
    moved = store.clean_up(start)
    if moved:
        LOGGER.info('Moved to superseded/: %s', ', '.join(moved))
    if checkpoint is not None:
        best = parts.early_stopping.best_iteration if parts.early_stopping is not None else None
        if store.owns(checkpoint):
            store.link(start, list(checkpoint.networks), best)
        else:
            store.adopt_best(checkpoint)
    return Recorder(folder, parts.options.logger.use_tb_logger, start, validation_is_due)


def _train_and_report(run: Run) -> int:
    """Train; say why it ended, its best metric and where the best file is; return the exit status."""
    LOGGER.info(describe_run(run.parts))
    started = time.perf_counter()
    try:
        with explain_out_of_memory(batch_size(run.parts.options)), ranks.explain_lost_process():
            reason = train(run)
    except (UserError, OSError) as error:
        if not getattr(error, 'is_logged', False):
            LOGGER.error('%s', explain_os_error(error) if isinstance(error, OSError) else error)
        error.is_logged = True  # type: ignore[union-attr]
        if run.parts.model.guard.gave_up and ranks.is_main():
            _go_back_to_good_checkpoint(run)
        raise
    LOGGER.info('%s Time: %s.', reason, format_duration(time.perf_counter() - started))
    early = run.parts.early_stopping
    best = run.store.models / 'net_g_best.pth'
    if early is not None and early.best is not None and best.exists():
        LOGGER.info('Best %s: %.4f at iteration %s: %s', early.metric, early.best, early.best_iteration, best)
    if (run.store.models / 'net_g_latest.pth').exists():
        LOGGER.info('Latest weights: %s', run.store.models / 'net_g_latest.pth')
    if not run.stop.is_set:
        return 0
    LOGGER.info('Continue with the same command and --auto_resume.')
    return run.stop.exit_status


def _go_back_to_good_checkpoint(run: Run) -> None:
    """Make the newest checkpoint from before the steps that were not finite the latest, and move later ones aside.

    Weights that give no finite loss any more may have been saved while training still tried to go on.
    """
    good = [n for n in run.store.iterations() if n <= run.parts.model.guard.last_finite_iteration]
    if good:
        moved = run.store.clean_up(good[-1])
        run.store.link(good[-1], list(run.parts.model.network_states()), None)
        LOGGER.info('Last good checkpoint: %s', run.store.states / f'{good[-1]}.state')
        if moved:
            LOGGER.info('Moved to superseded/: %s', ', '.join(moved))


def batch_size(options: Options) -> int:
    """Return how many images each process takes at a time."""
    return options.datasets.train.batch_size_per_gpu if options.datasets.train is not None else 1


def describe_run(parts: Parts) -> str:
    """Return a few lines: networks, data, length."""
    lines = []
    for name, network in (('network_g', parts.model.net_g), ('network_d', parts.model.net_d)):
        if network is not None:
            count = sum(parameter.numel() for parameter in network.parameters())
            lines.append(f'{name}: {type(network).__name__}, {count:,} parameters')
    val = len(parts.val_loader.loader.dataset) if parts.val_loader is not None else 0
    datasets = parts.options.datasets
    train_name, val_name = (f' ({data.name})' if data and data.name else '' for data in (datasets.train, datasets.val))
    if ranks.world_size() > 1:
        one = batch_size(parts.options)
        lines.append(f'Batch: {one} in each of {ranks.world_size()} processes, {one * ranks.world_size()} in all')
    what = 'pairs' if parts.model.restores else 'faces'
    lines.append(f'Data: {len(parts.train_set)} {what} to train on{train_name}, {val} to validate on{val_name}')
    epochs = parts.epoch_of(parts.total_iterations)
    lines.append(f'Length: {parts.total_iterations} iterations, {parts.iterations_per_epoch} an epoch, {epochs} epochs')
    return '\n'.join(lines)
