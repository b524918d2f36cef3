"""Seconds per training step, ours and with the published code's formulas.

Each variant has a process of its own.  The variants and a matrix product take turns, so that other programs disturb all
alike, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.machine import describe_machine, format_machine
from benchmarks.step_worker import DEPTHWISE, OURS, PLAIN, Shares, StepSetting, Worker
from benchmarks.tables import format_table, write_json
from gpen.archs.channels import channel_counts
from gpen.errors import UserError
from gpen.utils.device import explain_out_of_memory, select_device

FULL = StepSetting(512, 1.0, 1)
MATRIX_SIDE = 2048
_PRODUCTS = 3  # samples before each step, so that a disturbed one does not matter


@dataclass
class StepCost:
    """The cost of a step of one variant: seconds of each round, operations, shares of the time, memory."""

    setting: StepSetting
    variant: str
    with_r1: bool
    seconds: list[float] = field(default_factory=list)
    flops: int = 0
    shares: Shares = field(default_factory=lambda: Shares(0, 0))
    peak_memory: float = 0  # MiB above the process before its first step

    @property
    def median(self) -> float:
        """The median of the rounds in seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.flops / self.median

    def name(self) -> str:
        """Return setting, kind and variant."""
        return f'{self.setting}{", with R1" if self.with_r1 else ""}: {self.variant}'

    def to_dict(self, plain: StepCost, product_rate: float) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        rates = {'flops_per_second': self.rate, 'share_of_matrix_product': self.rate / product_rate}
        return {**asdict(self), 'median': self.median, 'times_as_fast': plain.median / self.median, **rates}


class MatrixProduct:
    """The rate of this machine's matrix product in float32, in operations per second."""

    def __init__(self, side: int = MATRIX_SIDE) -> None:
        generator = torch.Generator().manual_seed(0)
        self._factors = [torch.randn(side, side, generator=generator) for _ in range(2)]
        self._out = torch.empty(side, side)
        self._flops = 2 * side**3
        self.rates: list[float] = []
        self._multiply()  # warm-up

    def measure(self) -> None:
        """Take a few samples."""
        for _ in range(_PRODUCTS):
            self.rates.append(self._flops / self._multiply())

    @property
    def median(self) -> float:
        """The median of all samples."""
        return statistics.median(self.rates)

    def _multiply(self) -> float:
        start = time.perf_counter()
        torch.mm(*self._factors, out=self._out)
        return time.perf_counter() - start


def measure_steps(args: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON file; return the exit status."""
    # What to measure.
    settings = choose_settings(args)
    select_device(0)  # sets PyTorch's number of threads as a training does
    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    product = MatrixProduct()
    variants = (PLAIN, DEPTHWISE, OURS) if args.depthwise else (PLAIN, OURS)
    kinds = (False, True) if args.r1 else (False,)

    # Measurements: the rounds, and a step each to warm up, to count operations and to profile.
    costs: list[StepCost] = []
    steps = len(settings) * len(variants) * len(kinds) * (args.rounds + 3)
    with tqdm(total=steps, desc='steps', disable=None) as progress:
        for setting in settings:
            with explain_out_of_memory(f'Lower --batch (now {setting.batch}), --size or --narrow.'):
                costs += measure_setting(setting, variants, kinds, args.rounds, threads, product, progress)

    # Results.
    machine = describe_machine(('torch',))
    print(_describe(machine, threads, args.rounds, product))
    print(f'\n{format_costs(costs, product.median)}')
    rates = {'side': MATRIX_SIDE, 'median': product.median, 'best': max(product.rates), 'rates': product.rates}
    rows = [cost.to_dict(_plain_of(costs, cost), product.median) for cost in costs]
    numbers = {'machine': machine, 'settings': {'threads': threads, 'rounds': args.rounds}}
    write_json(args.json, {**numbers, 'matrix_product': rates, 'steps': rows})
    return 0


def choose_settings(args: argparse.Namespace) -> list[StepSetting]:
    """Return the settings: the n-th values of ``--size``, ``--narrow`` and ``--batch`` make up the n-th setting.

    Raises:
        UserError: the numbers of values differ (a single one is used in all settings), or no such network can be built.
    """
    # A column of values for each option.
    given = {'--size': args.size, '--narrow': args.narrow, '--batch': args.batch}
    count = max(len(values) for values in given.values())
    for option, values in given.items():
        if len(values) not in (1, count):
            raise UserError(f'{option} has {len(values)} values where another has {count}. Give it 1 or {count}.')
    columns = [values * (count // len(values)) for values in given.values()]

    settings = [StepSetting(*values) for values in zip(*columns, strict=True)]
    if args.full:
        settings.append(FULL)
    for setting in settings:
        channel_counts(setting.size, 2, setting.narrow)
    return list(dict.fromkeys(settings))


def measure_setting(
    setting: StepSetting,
    variants: Sequence[str],
    kinds: Sequence[bool],
    rounds: int,
    threads: int,
    product: MatrixProduct,
    progress: tqdm,
) -> list[StepCost]:
    """Return the costs of one setting, for each kind (with R1 or without) and variant.

    Raises:
        UserError: a variant ran out of memory.
    """
    with ExitStack() as stack:
        workers = {variant: stack.enter_context(Worker(variant, setting, threads)) for variant in variants}
        try:
            costs = [StepCost(setting, variant, with_r1) for with_r1 in kinds for variant in variants]
            for with_r1 in kinds:
                _time(workers, [cost for cost in costs if cost.with_r1 == with_r1], rounds, product, progress)
            # The counter and the profiler take memory too, so they come after the peaks.
            for cost in costs:
                cost.flops = workers[cost.variant].call('count_flops', cost.with_r1)
                progress.update()
                cost.shares = workers[cost.variant].call('profile', cost.with_r1)
                progress.update()
        except BrokenProcessPool as error:
            raise UserError(
                f'{setting}: a process was ended from outside, most likely for want of memory. '
                'Lower --batch, --size or --narrow.'
            ) from error
    return costs


def _time(
    workers: dict[str, Worker], costs: Sequence[StepCost], rounds: int, product: MatrixProduct, progress: tqdm
) -> None:
    """Measure the seconds of each round and the peak memory."""
    for number in range(-1, rounds):
        for cost in costs[:: 1 if number % 2 else -1]:
            if number >= 0:
                product.measure()
            seconds = workers[cost.variant].call('time', cost.with_r1)
            if number >= 0:  # round -1 is a warm-up
                cost.seconds.append(seconds)
            progress.update()

    for cost in costs:
        cost.peak_memory = workers[cost.variant].call('peak_memory')


def format_costs(costs: Sequence[StepCost], product_rate: float) -> str:
    """Return a table with a line for each step; the range of the rounds is in brackets after their median."""
    header = ['training step', 'seconds (range)', 'times as fast', 'GFLOP', 'GFLOP/s', 'of matrix product']
    header += ['convolutions', 'other products', 'peak MiB']
    return format_table([header, *(_format_cost(cost, _plain_of(costs, cost), product_rate) for cost in costs)])


def _format_cost(cost: StepCost, plain: StepCost, product_rate: float) -> list[str]:
    return [
        cost.name(),
        f'{cost.median:.3g} ({min(cost.seconds):.3g} to {max(cost.seconds):.3g})',
        f'{plain.median / cost.median:.2f}',
        f'{cost.flops / 1e9:.4g}',
        f'{cost.rate / 1e9:.3g}',
        f'{cost.rate / product_rate:.0%}',
        f'{cost.shares.convolutions:.0%}',
        f'{cost.shares.matrix_products:.0%}',
        f'{cost.peak_memory:.0f}',
    ]


def _plain_of(costs: Sequence[StepCost], cost: StepCost) -> StepCost:
    """Return the cost of the plain step of the same setting and kind."""
    same = (other for other in costs if (other.setting, other.with_r1) == (cost.setting, cost.with_r1))
    return next(other for other in same if other.variant == PLAIN)


def _describe(machine: dict[str, Any], threads: int, rounds: int, product: MatrixProduct) -> str:
    """Return a description of machine and method."""
    return '\n'.join(
        [
            format_machine(machine),
            f'{threads} threads, in turns, median (and range) of {rounds} rounds, the clock on the wall.',
            f'Matrix product of {MATRIX_SIDE} x {MATRIX_SIDE}: median {product.median / 1e9:.0f} GFLOP/s, which the '
            f'shares refer to; best {max(product.rates) / 1e9:.0f}.',
            'Convolutions, other products (of matrices): their shares of the time. Peak: the largest size of the '
            'process above that before its first step, when weights and EMA are there.',
        ]
    )
