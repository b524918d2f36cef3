"""The run of a trial: the training command in a process of its own, watched while it trains."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.options.schema import Options
from gpen.tuning.curves import Curves, read_curves
from gpen.utils.files import project_root

RECORDS = 60  # of the losses in a trial
VALIDATIONS = 4
PULSE = 0.3  # seconds
PATIENCE = 120  # seconds to finish a step and save after SIGTERM
TAIL = 12  # lines of a log that are shown
OUTPUT_FILE = 'output.txt'
PSNR = 'calculate_psnr'

FindEnd = Callable[[Curves], 'str | None']
"""Returns why a run with such curves need not go on, or None."""


@dataclass(frozen=True)
class TrialRun:
    """The training run of a trial.

    Attributes:
        label: what messages call it.
        command: the training command.
        folder: the run's experiment folder.
        iterations: its length.
        psnr: the name of the PSNR under ``val.metrics``; None without validation.
    """

    label: str
    command: tuple[str, ...]
    folder: Path
    iterations: int
    psnr: str | None

    @property
    def output(self) -> Path:
        """The file that the command's output goes to."""
        return self.folder.with_name(f'{self.folder.name}.{OUTPUT_FILE}')

    def read_curves(self) -> Curves:
        """Return its curves, as far as it is."""
        return read_curves(self.folder, self.psnr)


def name_of_psnr(options: Options) -> str | None:
    """Return what ``val.metrics`` calls the PSNR, ``psnr`` where it has none; None without a validation set."""
    if options.datasets.val is None:
        return None
    return next((name for name, metric in options.val.metrics.items() if metric.type == PSNR), 'psnr')


def build_overrides(options: Options, iterations: int) -> list[str]:
    """Return what every trial changes in the recipe, as ``--force_yml`` settings; the rest is the real training."""
    train = options.train
    validate_every = max(1, iterations // VALIDATIONS)
    every = max(1, iterations // RECORDS)
    every = min(-(-every // train.net_d_iters) * train.net_d_iters, iterations)  # G's losses are in each record
    changes = [
        'train:total_epochs=~',
        f'train:total_iter={iterations}',
        'train:scheduler=~',
        'train:warmup_epochs=0',
        f'train:warmup_iter={iterations // 10 if train.warmup_epochs or train.warmup_iter > 0 else 0}',
        'train:early_stopping:enabled=false',
        f'val:val_freq={validate_every}',
        'logger:health=false',
        'logger:wandb=~',
        'val:num_pictures=0',
        f'logger:print_freq={every}',
        f'logger:save_checkpoint_freq={validate_every}',
        'logger:keep_last=1',
        'path:resume_state=~',
    ]
    half_life = 0.5 ** (10 / iterations)
    if train.ema_halflife_images is not None or (train.ema_decay or 1) > half_life:
        # The average has to keep up with a short trial.
        changes += ['train:ema_halflife_images=~', f'train:ema_decay={half_life:.6g}']
    psnr = name_of_psnr(options)
    if psnr is not None:
        changes += [f'val:metrics:{name}=~' for name in options.val.metrics if name != psnr]
        changes.append(f'val:metrics:{psnr}:type={PSNR}')  # where the block is left out, it is there by default
    return changes


def build_rates(options: Options, rate: float, rate_d: float | None) -> list[str]:
    """Return the settings of a trial's rates; groups of parameters keep their share of the optimizer's."""
    changes = [f'train:base_lr={rate / 10!r}']
    for name, new in (('optim_g', rate), ('optim_d', rate_d)):
        if new is None:
            continue
        optimizer = getattr(options.train, name)
        changes.append(f'train:{name}:lr={new!r}')
        changes += [
            f'train:{name}:param_groups:{group}:lr={block.lr * new / optimizer.lr!r}'
            for group, block in optimizer.param_groups.items()
        ]
    return changes


def build_command(option_file: Path, overrides: list[str], folder: Path) -> tuple[str, ...]:
    """Return the training command of a run.

    Args:
        option_file: the recipe.
        overrides: ``--force_yml`` settings.
        folder: the run's experiment folder; its name is the run's.
    """
    place = [f'name={folder.name}', f'path:experiments_root={json.dumps(str(folder.parent), ensure_ascii=False)}']
    script = project_root() / 'codes' / 'train.py'
    start = (str(script),) if script.is_file() else ('-m', 'gpen', 'train')
    return (sys.executable, *start, '-opt', str(option_file), '--auto_resume', '--force_yml', *overrides, *place)


def run_trial(
    run: TrialRun, environment: Mapping[str, str], should_stop: Callable[[], bool], find_end: FindEnd
) -> bool:
    """Run a trial to its end, or until its curves say enough; continue where it was stopped.

    Args:
        run: what to run.
        environment: variables to set, such as CUDA_VISIBLE_DEVICES; an empty value is set, too.
        should_stop: asked again and again; when true, the run is stopped so that it can go on later.
        find_end: returns why the run need not go on, or None.

    Returns:
        Whether there is something to judge: it came to its end, or ``find_end`` saw reason to end it; false when it was
        stopped before.

    Raises:
        UserError: the run failed for another reason than losses that were not finite; with the end of its output.
    """
    if not any((run.folder / 'training_states').glob('*.state')) and run.folder.exists():
        shutil.rmtree(run.folder)  # stopped before its first checkpoint

    if find_end(run.read_curves()) is not None:
        return True

    run.output.parent.mkdir(parents=True, exist_ok=True)
    with run.output.open('w', encoding='utf-8') as stream:
        process = subprocess.Popen(
            run.command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONIOENCODING': 'utf-8', **environment},
        )
        try:
            _watch(process, run, should_stop, find_end)
        finally:
            _end(process)

    if process.returncode == 0 or find_end(run.read_curves()) is not None:
        return True
    if not should_stop():
        time.sleep(PULSE)  # Ctrl-C reaches both at once
    if should_stop():
        return False
    raise UserError(describe_failure(run, process.returncode))


def _watch(
    process: subprocess.Popen[Any],
    run: TrialRun,
    should_stop: Callable[[], bool],
    find_end: FindEnd,
) -> None:
    """Return when the process has ended, or should."""
    length = -1  # of the records when they were last judged
    while process.poll() is None and not should_stop():
        curves = run.read_curves()
        if len(curves.rates.x) + curves.skipped != length:
            length = len(curves.rates.x) + curves.skipped
            if find_end(curves) is not None:
                return
        time.sleep(PULSE)


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process; it finishes its step and saves."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def describe_failure(run: TrialRun, status: int) -> str:
    """Return a message for the user with the end of the output of a run that failed."""
    text = run.output.read_text(encoding='utf-8', errors='replace').strip()
    _, error, own = text.rpartition('\nError: ') if '\nError: ' in text else text.rpartition('Error: ')
    end = own if error and 'Traceback' not in own else '\n'.join(text.splitlines()[-TAIL:])
    reason = f'was ended by signal {-status}' if status < 0 else f'failed with status {status}'
    return (
        f'The trial {run.label} {reason}, and not because of its rate. It said:\n{end}\n'
        f'All of it is in {run.output}. Put it right and run the search again; finished trials are kept.'
    )


def remove_weights(folder: Path) -> None:
    """Remove the checkpoints of a trial that is judged; its records stay."""
    for name in ('models', 'training_states', 'superseded'):
        shutil.rmtree(folder / name, ignore_errors=True)
