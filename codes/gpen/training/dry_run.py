"""A rehearsal of a training run that writes nothing."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from gpen.data.loader import build_train_loader
from gpen.data.scan import writing_nothing
from gpen.distributed import ranks
from gpen.evaluation.validation import validate
from gpen.options import Options, ParsedOptions
from gpen.training.parts import Parts, build_parts
from gpen.training.run import batch_size, describe_run
from gpen.utils.device import explain_out_of_memory, peak_memory, select_device
from gpen.utils.text import format_duration


def run_dry(parsed: ParsedOptions) -> list[str]:
    """Build everything, run one training step and one validation batch; write nothing.

    Returns:
        Lines to print: parameters, schedule, time per step, peak memory.

    Raises:
        UserError: anything that the user can put right.
    """
    options = parsed.options
    device, sentence = select_device(options.num_gpu, ranks.local_rank(), ranks.world_size())
    one_batch = batch_size(options)
    seconds: list[float] = []
    with explain_out_of_memory(one_batch), writing_nothing():
        parts = ranks.one_first(lambda: build_parts(options, device))
        lines = [*parsed.warnings, sentence, describe_run(parts), _describe_schedule(parts)]
        loader = build_train_loader(
            parts.train_set,
            one_batch,
            0,
            options.seed,
            end_iteration=2,
            rank=ranks.rank(),
            world_size=ranks.world_size(),
        )
        for iteration, batch in zip(_iterations_to_try(options), loader, strict=True):
            started = time.perf_counter()
            parts.model.set_learning_rates(parts.rates.at(iteration))
            parts.model.train_step(batch, iteration)
            _synchronize(device)
            seconds.append(time.perf_counter() - started)
        for message in parts.model.guard.review():
            lines.append(f'Warning: {message}')
        if parts.val_loader is not None and ranks.is_main():
            lines.append(_validate_one_batch(parts))
    means: dict[str, Any] = parts.model.means.read()
    lines.append('Losses: ' + '  '.join(f'{name} {value:.4g}' for name, value in means.items()))
    total = format_duration(seconds[-1] * parts.total_iterations)
    lines.append(
        f'Time per step: {seconds[-1]:.3f} s (the first: {seconds[0]:.3f} s); the whole run at this rate: {total}'
    )
    lines.append(f'Peak memory: {peak_memory(device):,.0f} MiB')
    lines.append('The options are good. Nothing was written.')
    return lines


def _describe_schedule(parts: Parts) -> str:
    """Return the learning rates as a table, a row per change (the first and last of a run of many changes)."""
    rows: list[tuple[int, dict[str, float]]] = []
    step = max(1, parts.total_iterations // 2000)
    epoch = parts.iterations_per_epoch
    for iteration in sorted(
        {*range(1, parts.total_iterations + 1, step), *range(1, parts.total_iterations + 1, epoch)}
    ):
        rates = parts.rates.at(iteration)
        if not rows or rows[-1][1] != rates:
            rows.append((iteration, rates))
    if len(rows) > 12:
        rows = [rows[round(n * (len(rows) - 1) / 11)] for n in range(12)]
    table = [
        f'  from iteration {i:>8}  epoch {parts.epoch_of(i):>5}'
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


def _validate_one_batch(parts: Parts) -> str:
    batch = next(iter(parts.val_loader))
    result = validate(
        parts.model.restore, [batch], parts.metrics, parts.options.seed, num_pictures=1, restores=parts.model.restores
    )
    assert result is not None
    numbers = '  '.join(f'{name} {value:.4f}' for name, value in result.means.items())
    return f'Validation of one batch ({len(batch["name"])} images, untrained): {numbers}'


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
