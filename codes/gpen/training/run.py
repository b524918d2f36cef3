"""A training run from parsed options to its end."""

import sys
from contextlib import ExitStack, suppress

import torch

from gpen.distributed import ranks
from gpen.errors import UserError, explain_os_error
from gpen.memory.cures import advise
from gpen.options import Options, ParsedOptions
from gpen.runs.changes import compare_options
from gpen.runs.checkpoints import CheckpointStore
from gpen.runs.experiment import lock_experiment, move_aside
from gpen.runs.log import LOGGER, RunLog
from gpen.runs.options_file import write_options
from gpen.runs.recorder import Recorder
from gpen.runs.run_file import MetricSummary, RunFile, find_git_commit, now, read_run_file
from gpen.runs.tensorboard import build_layout
from gpen.runs.training_state import Checkpoint, load_model, pack_networks
from gpen.runs.wandb_run import WandbRun, import_wandb
from gpen.training.device import prepare_device, settle_micro_batches
from gpen.training.lines import list_next_commands
from gpen.training.loop import Ending, TrainingRun, save, train, write_run_file
from gpen.training.setup import Setup, build_data_sets, build_setup
from gpen.training.signals import StopRequest
from gpen.utils.device import describe_device, explain_out_of_memory
from gpen.utils.files import resolve_path
from gpen.utils.text import format_duration


def run_training(parsed: ParsedOptions, auto_resume: bool = False) -> int:
    """Train as the options say.

    Args:
        parsed: checked options.
        auto_resume: continue from the newest checkpoint that is whole, if there is one.

    Returns:
        The exit status: 0, or 128 and the number of the signal that stopped it: 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        UserError: anything that the user can put right.
    """
    options = parsed.options
    store = CheckpointStore(options.experiment_folder, options.logger.keep_last)
    with RunLog(ranks.is_main()) as log, ExitStack() as stack, ranks.explain_lost_process():
        for warning in parsed.warnings:
            LOGGER.warning('Warning: %s', warning)
        device, sentence, warnings = ranks.on_all(lambda: prepare_device(options))
        LOGGER.info(sentence)
        for warning in warnings:
            LOGGER.warning('Warning: %s', warning)

        # The experiment folder is this run's alone from here on; rank 0 looks for a checkpoint in it.
        def find_checkpoint() -> Checkpoint | None:
            stack.enter_context(lock_experiment(options.experiment_folder))
            return _find_checkpoint(options, store, auto_resume)

        checkpoint = ranks.on_main(find_checkpoint)

        # Networks, data, schedule, metrics, in the state of the checkpoint
        chosen = settle_micro_batches(options, device, checkpoint.options if checkpoint is not None else None)
        if chosen is not None:
            LOGGER.info(chosen)
        setup = _build(options, device, checkpoint)
        for warning in parsed.find_late_warnings(setup.iterations_per_epoch):
            LOGGER.warning('Warning: %s', warning)
        run_file = _describe_as_data(setup)
        start = checkpoint.iteration if checkpoint is not None else 0
        is_due = checkpoint is not None and checkpoint.validation_is_due and setup.val_loader is not None
        stop = stack.enter_context(StopRequest())

        # Records: only rank 0 writes.
        def open_records() -> Recorder | None:
            if not ranks.is_main():
                return None
            if options.logger.uses_wandb:
                import_wandb()  # before anything is changed
            recorder = _open_records(parsed, setup, store, checkpoint, log, is_due)
            stack.callback(recorder.close)
            _write_start(parsed, setup, recorder, run_file, checkpoint)
            return recorder

        recorder = ranks.on_all(open_records)
        run_file.metrics = ranks.on_main(lambda: run_file.metrics)  # the best so far, which rank 0 has read
        run = TrainingRun(setup, store, recorder, run_file, stop, start, start, is_due)
        if checkpoint is not None and not store.owns(checkpoint):
            save(run, anew=True)
        elif checkpoint is not None:
            # What follows the writing of a checkpoint, and may have been cut off
            stems = list(checkpoint.networks)

            def complete() -> None:
                store.link(start, stems, run.best_files)
                store.prune(setup.model.guard.last_finite_iteration)

            ranks.on_main(complete)

        # Training
        LOGGER.info(describe_setup(setup))
        try:
            with explain_out_of_memory(advise(options)), ranks.explain_lost_process():
                ending = train(run)
        except Exception as error:
            _save_what_there_is(run)
            if isinstance(error, UserError | OSError):
                _report_failure(run, error)
            raise
        return _report_ending(run, ending)


# ---- the checkpoint to continue from


def _find_checkpoint(options: Options, store: CheckpointStore, auto_resume: bool) -> Checkpoint | None:
    """Return the checkpoint to continue from, if any; say what was passed over."""
    if auto_resume:
        checkpoint, sentences = store.load_newest()
        for sentence in sentences:
            LOGGER.warning(sentence)
        if checkpoint is not None:
            return checkpoint
    if options.path.resume_state is not None:
        return store.load(resolve_path(options.path.resume_state))
    return None


def _build(options: Options, device: torch.device, checkpoint: Checkpoint | None) -> Setup:
    """Build what the run works with, in the state of the checkpoint; rank 0's networks go to all ranks."""

    data = build_data_sets(options)

    def build() -> Setup:
        with explain_out_of_memory(advise(options)):
            setup = build_setup(options, device, data)
            if checkpoint is not None:
                _continue_from(checkpoint, setup)
            return setup

    setup = ranks.one_first(build)
    setup.model.broadcast()
    return setup


def _continue_from(checkpoint: Checkpoint, setup: Setup) -> None:
    """Put the setup into the state of the checkpoint; say so, and which options changed."""
    checkpoint.check()
    try:
        _take_over(checkpoint, setup)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of what another program may have written
        raise UserError(f'{checkpoint.path} is not a training state of this program ({error}).') from error


def _take_over(checkpoint: Checkpoint, setup: Setup) -> None:
    changed = compare_options(checkpoint.options, setup.options.model_dump(mode='json'))
    for name, what, value in (
        ('pairs', 'pairs to train on', len(setup.train_set)),
        ('processes', 'processes that train together', ranks.world_size()),
    ):
        if checkpoint.data[name] != value:
            epoch = f'an epoch has {setup.iterations_per_epoch} iterations'
            changed.append(f'{what}: {checkpoint.data[name]} -> {value}; {epoch}')
    changed += setup.explain_changed_images(checkpoint.images)

    load_model(setup.model, checkpoint)
    early = setup.early_stopping
    if early is not None and checkpoint.early_stopping and not early.load_state_dict(checkpoint.early_stopping):
        LOGGER.info('Early stopping starts anew: it follows %s now.', early.metric)

    LOGGER.info('Continuing from %s, after iteration %d.', checkpoint.path, checkpoint.iteration)
    for line in changed:
        LOGGER.info('Changed since then: %s', line)


# ---- the experiment folder


def _open_records(
    parsed: ParsedOptions,
    setup: Setup,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
    log: RunLog,
    validation_is_due: bool,
) -> Recorder:
    """Bring the experiment folder to the state of the checkpoint; open log and records."""
    folder = store.models.parent
    if checkpoint is None or not store.owns(checkpoint):
        moved_to = move_aside(folder)
        if moved_to is not None:
            LOGGER.info('%s was there already: it is now %s.', folder, moved_to)
    log.write_to(folder)

    # Checkpoints after this one belong to a course that is not followed any more.
    start = checkpoint.iteration if checkpoint is not None else 0
    moved = store.clean_up(start)
    if moved:
        LOGGER.info('Moved to superseded/: %s', ', '.join(moved))
    if checkpoint is not None and not store.owns(checkpoint):
        store.adopt_best(checkpoint)

    # Where wandb is asked for, it starts before the event file, since it passes over older ones.
    logger, wandb = setup.options.logger, None
    if logger.uses_wandb:
        before = read_run_file(folder)
        wandb = WandbRun(setup.options, folder, before.wandb_id if before is not None else None)
    recorder = Recorder(
        *(folder, logger.use_tb_logger, start, validation_is_due),
        restore_folder=lambda: write_options(folder, parsed),
        layout=build_layout(setup.options, setup.metrics),
        wandb=wandb,
    )
    epoch = setup.epoch_of(start)
    if moved:
        recorder.event(start, epoch, 'superseded', 'info', f'Moved to superseded/: {", ".join(moved)}')
    log.record_warnings(lambda sentence: recorder.event(start, epoch, 'warning', 'warning', sentence))
    return recorder


def _write_start(
    parsed: ParsedOptions, setup: Setup, recorder: Recorder, run_file: RunFile, checkpoint: Checkpoint | None
) -> None:
    """Write ``options.yml`` and ``run.json``, and record that the run starts or resumes."""
    write_options(recorder.folder, parsed)
    if checkpoint is not None:
        before = read_run_file(recorder.folder) or RunFile(started=run_file.started)  # none: of an earlier version
        run_file.started, run_file.seconds, run_file.resumes = before.started, before.seconds, before.resumes + 1
        run_file.wandb_id = before.wandb_id
        run_file.take_over_best(before, recorder.read(), checkpoint.iteration - checkpoint.validation_is_due)
    if recorder.wandb is not None:
        run_file.wandb_id = recorder.wandb.id

    if checkpoint is None:
        recorder.text('options', parsed.text, 0)
        recorder.event(0, 1, 'start', 'info', 'Training starts.')
    else:
        run_file.iteration = checkpoint.iteration
        sentence = f'Training resumes from {checkpoint.path}, after iteration {checkpoint.iteration}.'
        recorder.event(checkpoint.iteration, setup.epoch_of(checkpoint.iteration), 'resume', 'info', sentence)
    run_file.write(recorder.folder)


def _describe_as_data(setup: Setup) -> RunFile:
    """Return what ``run.json`` says of a run that starts now."""
    early = setup.early_stopping
    return RunFile(
        name=setup.options.name,
        torch=torch.__version__,
        git_commit=find_git_commit(),
        command=sys.argv,
        devices=ranks.all_gather(describe_device(setup.device)),
        processes=ranks.world_size(),
        started=now(),
        total_iterations=setup.total_iterations,
        iterations_per_epoch=setup.iterations_per_epoch,
        metrics={
            name: MetricSummary(higher_is_better=metric.higher_is_better) for name, metric in setup.metrics.items()
        },
        stopping_metric=early.metric if early is not None else None,
        train_images=len(setup.train_set),
        val_images=_count_validation_images(setup),
        batch_size=setup.options.batch_size,
    )


# ---- the end


def _save_what_there_is(run: TrainingRun) -> None:
    """Save the last step of a run that failed after it, as in reading an image or in a validation."""
    if not run.is_within_step and not run.setup.model.guard.gave_up:
        with suppress(Exception):  # what made it fail, such as a full disk or a lost rank, may prevent this too
            save(run)


def _report_failure(run: TrainingRun, error: UserError | OSError) -> None:
    """Say and record what ended the run, and go back to a good checkpoint where its weights may be spoilt."""
    sentence = explain_os_error(error) if isinstance(error, OSError) else str(error)
    if not getattr(error, 'is_logged', False):
        LOGGER.error('%s', sentence)
    error.is_logged = True  # type: ignore[union-attr]
    if run.saved_iteration and not run.setup.model.guard.gave_up:
        LOGGER.info('Iteration %d is saved: go on from there with --auto_resume.', run.saved_iteration)
    if run.recorder is None:
        return

    if run.setup.model.guard.gave_up:
        for skipped in run.setup.model.guard.unreported:
            run.recorder.event(run.iteration, run.epoch, 'skipped_step', 'warning', skipped)
        _go_back_to_good_checkpoint(run)
    with suppress(UserError, OSError):  # the disk may be full
        _record_end(run, run.recorder, Ending('failed', sentence), 'error')


def _go_back_to_good_checkpoint(run: TrainingRun) -> None:
    """Make the newest checkpoint from before the steps that were not finite the latest, and move later ones aside.

    Weights that give no finite loss any more may have been saved while training still tried to go on.
    """
    good = [n for n in run.store.iterations() if n <= run.setup.model.guard.last_finite_iteration]
    if good:
        moved = run.store.clean_up(good[-1])
        run.store.link(good[-1], list(pack_networks(run.setup.model)), {})
        LOGGER.info('Last good checkpoint: %s', run.store.states / f'{good[-1]}.state')
        if moved:
            LOGGER.info('Moved to superseded/: %s', ', '.join(moved))


def _report_ending(run: TrainingRun, ending: Ending) -> int:
    """Say and record why the run ended, its best metric and where its weights are; return the exit status."""
    if run.recorder is not None:
        _record_end(run, run.recorder, ending, 'info')
    LOGGER.info('%s Time: %s.', ending.reason, format_duration(run.timer.seconds_so_far))

    early = run.setup.early_stopping
    best, latest = run.store.models / 'net_g_best.pth', run.store.models / 'net_g_latest.pth'
    if early is not None and early.best is not None and best.exists():
        LOGGER.info('Best %s: %.4f at iteration %s: %s', early.metric, early.best, early.best_iteration, best)
    if latest.exists():
        LOGGER.info('Latest weights: %s', latest)

    if ending.status != 'stopped':
        weights = next((file for file in (best, latest) if file.exists()), None)
        if weights is not None:
            folder, setup = run.store.models.parent, run.setup
            commands = list_next_commands(setup.options, folder, weights, setup.model.restores)
            LOGGER.info('Next:\n%s', '\n'.join(f'  {command}' for command in commands))
        return 0
    LOGGER.info('Continue with the same command and --auto_resume.')
    return run.stop.exit_status


def _record_end(run: TrainingRun, recorder: Recorder, ending: Ending, severity: str) -> None:
    recorder.event(run.iteration, run.epoch, 'stop', severity, ending.reason)
    write_run_file(run, status=ending.status, reason=ending.reason, ended=now())


# ---- descriptions


def describe_setup(setup: Setup) -> str:
    """Return a few lines for people: networks, data, length."""
    lines = []
    model = setup.model
    networks = {'network_g': model.net_g, 'network_d': model.net_d, 'component_opt': model.net_d_components}
    for name, network in networks.items():
        if network is not None:
            count = sum(parameter.numel() for parameter in network.parameters())
            lines.append(f'{name}: {type(network).__name__}, {count:,} parameters')

    if ranks.world_size() > 1:
        one = setup.options.batch_size
        lines.append(f'Batch: {one} in each of {ranks.world_size()} processes, {one * ranks.world_size()} in all')

    datasets = setup.options.datasets
    train_name, val_name = (f' ({data.name})' if data and data.name else '' for data in (datasets.train, datasets.val))
    what, val = 'pairs' if setup.model.restores else 'faces', _count_validation_images(setup)
    lines.append(f'Data: {len(setup.train_set)} {what} to train on{train_name}, {val} to validate on{val_name}')

    total = setup.total_iterations
    per_epoch, epochs = setup.iterations_per_epoch, setup.epoch_of(total)
    lines.append(f'Length: {total} iterations, {per_epoch} an epoch, {epochs} epochs')
    return '\n'.join(lines)


def _count_validation_images(setup: Setup) -> int:
    return len(setup.val_loader.loader.dataset) if setup.val_loader is not None else 0
