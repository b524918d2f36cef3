"""A rehearsal of a training run that writes nothing."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from gpen.data.scan_cache import writing_nothing
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.evaluation.validation import validate
from gpen.memory.cures import advise
from gpen.models.step_log import describe_gradients
from gpen.options import Options, ParsedOptions
from gpen.runs.wandb_run import import_wandb
from gpen.training.device import prepare_device, settle_micro_batches
from gpen.training.run import describe_setup
from gpen.training.setup import Setup, build_data_sets, build_setup
from gpen.utils.device import explain_out_of_memory, peak_memory
from gpen.utils.text import format_duration


def run_dry(parsed: ParsedOptions) -> list[str]:
    """Build everything, run one training step and one validation batch; write nothing.

    Returns:
        Lines to print: parameters, schedule, time per step, peak memory; none on other ranks than 0.

    Raises:
        UserError: anything that the user can put right.
    """
    options = parsed.options
    if options.logger.uses_wandb:
        import_wandb()  # or say what is missing
    device, sentence, warnings = prepare_device(options)
    chosen = settle_micro_batches(options, device, None)
    with explain_out_of_memory(advise(options)), writing_nothing():
        data = build_data_sets(options)
        setup = ranks.one_first(lambda: build_setup(options, device, data))
        seconds = _train_two_steps(setup)
        _refuse_skipped(setup.model.guard.review())
        validation = [_validate_one_batch(setup)] if setup.val_loader is not None and ranks.is_main() else []
        means: dict[str, Any] = setup.model.means.read()
        norms = setup.model.gradient_norms
    if not ranks.is_main():
        return []

    total = format_duration(seconds[-1] * setup.total_iterations)
    return [
        *parsed.warnings,
        *parsed.find_late_warnings(setup.iterations_per_epoch),
        sentence,
        *[f'Warning: {warning}' for warning in warnings],
        *([chosen] if chosen is not None else []),
        describe_setup(setup),
        _describe_schedule(setup),
        *validation,
        'Losses: ' + '  '.join(f'{name} {value:.4g}' for name, value in means.items()),
        *([describe_gradients(norms)] if len(norms) > 1 else []),
        f'Time per step: {seconds[-1]:.3f} s (the first: {seconds[0]:.3f} s); the whole run at this rate: {total}',
        f'Peak memory: {peak_memory(device):,.0f} MiB',
        'The options are good. Nothing was written.',
    ]


def _train_two_steps(setup: Setup) -> list[float]:
    """Train the two steps of :func:`_iterations_to_try`; return the seconds that each took."""
    loader = setup.load_batches(0, 2, num_workers=0)
    seconds = []
    setup.model.first_iteration = _iterations_to_try(setup.options)[0]
    for iteration, batch in zip(_iterations_to_try(setup.options), loader, strict=True):
        started = time.perf_counter()
        setup.model.set_learning_rates(setup.rates.at(iteration))
        setup.model.train_step(batch, iteration)
        if setup.device.type == 'cuda':
            torch.cuda.synchronize(setup.device)
        seconds.append(time.perf_counter() - started)
    return seconds


def _refuse_skipped(skipped: Sequence[str]) -> None:
    """Raise UserError where a step had a loss or gradient that is not finite."""
    if skipped:
        raise UserError(
            f'{skipped[0]} A run would learn nothing from such steps. Look at the weights that it starts from, at '
            'these files and at the loss weights.'
        )


def _describe_schedule(setup: Setup) -> str:
    """Return the learning rates as a table, a row per change (the first and last of a run of many changes)."""
    rows: list[tuple[int, dict[str, float]]] = []
    total = setup.total_iterations
    step = max(1, total // 2000)
    epoch = setup.iterations_per_epoch * max(1, total // setup.iterations_per_epoch // 2000)
    for iteration in sorted({*range(1, total + 1, step), *range(1, total + 1, epoch)}):
        rates = setup.rates.at(iteration)
        if not rows or rows[-1][1] != rates:
            rows.append((iteration, rates))

    # A dozen of them, spread over the run, where there are more
    if len(rows) > 12:
        rows = [rows[round(n * (len(rows) - 1) / 11)] for n in range(12)]
    table = [
        f'  from iteration {i:>8}  epoch {setup.epoch_of(i):>5}'
        + ''.join(f'  lr_{name} {rate:.3g}' for name, rate in rates.items())
        for i, rates in rows
    ]
    return '\n'.join(['Learning rates:', *table])


def _iterations_to_try(options: Options) -> tuple[int, int]:
    """Return two iterations in which the generator learns; the first also has R1, which needs the most memory."""
    train = options.train
    interval = math.lcm(train.net_d_iters, train.net_d_reg_every)
    first = (train.net_d_init_iters // interval + 1) * interval
    return first, first + train.net_d_iters


def _validate_one_batch(setup: Setup) -> str:
    batch = next(iter(setup.val_loader))
    result = validate(
        setup.model.restore, [batch], setup.metrics, setup.options.seed, num_pictures=1, restores=setup.model.restores
    )
    assert result is not None
    if result.is_spoilt:
        raise UserError(f'Validation: {result.faults[0]}')
    numbers = '  '.join(f'{name} {value:.4f}' for name, value in result.means.items())
    faults = ''.join(f'\nWarning: {fault}' for fault in result.faults)
    return f'Validation of one batch ({len(batch["name"])} images, untrained): {numbers}{faults}'
