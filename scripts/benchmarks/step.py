"""How long a training step takes, beside the same by the published code's formulas.

Each variant has a process of its own.  They take turns with each other and with a matrix product, so that other
programs disturb all alike; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.report import format_table
from benchmarks.step_worker import DEPTHWISE, OURS, PLAIN, Setting, Shares, Worker
from gpen.archs.channels import channel_counts, check_size
from gpen.errors import UserError
from gpen.utils.device import explain_out_of_memory, select_device
from gpen.utils.files import write_text

FULL = Setting(512, 1.0, 1)
MATRIX_SIDE = 2048
_PRODUCTS = 3  # before each step, so that one that is disturbed does not matter


@dataclass
class Cost:
    """What a step of one variant costs: seconds of each round, operations, shares, memory."""

    setting: Setting
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
        """Return what was measured."""
        return f'{self.setting}{", with R1" if self.with_r1 else ""}: {self.variant}'

    def to_dict(self, plain: Cost, product_rate: float) -> dict[str, Any]:
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
        self._multiply()  # warms up

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
    settings = choose_settings(args)
    select_device(0)  # sets PyTorch's number of threads as a training does
    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    product = MatrixProduct()
    variants = (PLAIN, DEPTHWISE, OURS) if args.depthwise else (PLAIN, OURS)
    kinds = (False, True) if args.r1 else (False,)
    costs: list[Cost] = []
    steps = len(settings) * len(variants) * len(kinds) * (args.rounds + 3)  # one warms up, one counts, one is profiled
    with tqdm(total=steps, desc='steps', disable=None) as progress:
        for setting in settings:
            with explain_out_of_memory(setting.batch, '--batch', '--size or --narrow'):
                costs += measure_setting(setting, variants, kinds, args.rounds, threads, product, progress)
    machine = describe_machine(('torch',))
    print(_describe(machine, threads, args.rounds, product))
    print(f'\n{format_costs(costs, product.median)}')
    if args.json:
        rates = {'side': MATRIX_SIDE, 'median': product.median, 'best': max(product.rates), 'rates': product.rates}
        rows = [cost.to_dict(_plain_of(costs, cost), product.median) for cost in costs]
        numbers = {'machine': machine, 'settings': {'threads': threads, 'rounds': args.rounds}}
        text = json.dumps({**numbers, 'matrix_product': rates, 'steps': rows}, indent=2)
        write_text(Path(args.json).expanduser(), text + '\n')
    return 0


def choose_settings(args: argparse.Namespace) -> list[Setting]:
    """Return what to measure: the values of ``--size``, ``--narrow`` and ``--batch`` belong together by their places.

    Raises:
        UserError: they are not equally many (a single one counts for all), or the networks cannot be built.
    """
    given = {'--size': args.size, '--narrow': args.narrow, '--batch': args.batch}
    count = max(len(values) for values in given.values())
    for option, values in given.items():
        if len(values) not in (1, count):
            raise UserError(f'{option} has {len(values)} values where another has {count}. Give it 1 or {count}.')
    columns = [values * (count // len(values)) for values in given.values()]
    settings = [Setting(*values) for values in zip(*columns, strict=True)]
    if args.full:
        settings.append(FULL)
    for setting in settings:
        check_size('--size', setting.size)
        channel_counts(setting.size, 2, setting.narrow)
    return list(dict.fromkeys(settings))


def measure_setting(
    setting: Setting,
    variants: Sequence[str],
    kinds: Sequence[bool],
    rounds: int,
    threads: int,
    product: MatrixProduct,
    progress: tqdm[Any],
) -> list[Cost]:
    """Return the costs of one setting, of each kind (with R1 or without) and variant.

    Raises:
        UserError: memory ran out.
    """
    with ExitStack() as stack:
        workers = {variant: stack.enter_context(Worker(variant, setting, threads)) for variant in variants}
        try:
            costs = [Cost(setting, variant, with_r1) for with_r1 in kinds for variant in variants]
            for with_r1 in kinds:
                _time(workers, [cost for cost in costs if cost.with_r1 == with_r1], rounds, product, progress)
            for cost in costs:  # after all peaks are known, since the counter and the profiler take memory too
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
    workers: dict[str, Worker], costs: Sequence[Cost], rounds: int, product: MatrixProduct, progress: tqdm[Any]
) -> None:
    """Measure the seconds of each round and the peak memory."""
    for number in range(-1, rounds):
        for cost in costs[:: 1 if number % 2 else -1]:
            if number >= 0:
                product.measure()
            seconds = workers[cost.variant].call('time', cost.with_r1)
            if number >= 0:  # the one before the first warms up
                cost.seconds.append(seconds)
            progress.update()
    for cost in costs:
        cost.peak_memory = workers[cost.variant].call('peak_memory')


def format_costs(costs: Sequence[Cost], product_rate: float) -> str:
    """Return a line for each step; the range of the rounds stands behind their median."""
    header = ['training step', 'seconds (range)', 'times as fast', 'GFLOP', 'GFLOP/s', 'of matrix product']
    header += ['convolutions', 'other products', 'peak MiB']
    return format_table([header, *(_format_cost(cost, _plain_of(costs, cost), product_rate) for cost in costs)])


def _format_cost(cost: Cost, plain: Cost, product_rate: float) -> list[str]:
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


def _plain_of(costs: Sequence[Cost], cost: Cost) -> Cost:
    """Return the plain step that ``cost`` is compared with."""
    same = (other for other in costs if (other.setting, other.with_r1) == (cost.setting, cost.with_r1))
    return next(other for other in same if other.variant == PLAIN)


def _describe(machine: dict[str, Any], threads: int, rounds: int, product: MatrixProduct) -> str:
    """Return on what and how it was measured."""
    packages = {name: value for name, value in machine.items() if name not in ('processor', 'cores', 'system')}
    return '\n'.join(
        [
            f'{machine["processor"]}, {machine["cores"]} cores, {machine["system"]}',
            ', '.join(f'{name} {value}' for name, value in packages.items() if value is not None),
            f'{threads} threads, in turns, median (and range) of {rounds} rounds, the clock on the wall.',
            f'Matrix product of {MATRIX_SIDE} x {MATRIX_SIDE}: median {product.median / 1e9:.0f} GFLOP/s, which the '
            f'shares refer to; best {max(product.rates) / 1e9:.0f}.',
            'Convolutions, other products (of matrices): their shares of the time. Peak: the largest size of the '
            'process above that before its first step, when weights and EMA are there.',
        ]
    )
