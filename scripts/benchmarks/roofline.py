"""What a training step costs on a GPU at least, counted without one.

The step of a recipe is rehearsed on fake tensors that seem to live on a GPU.  Each kernel takes as long as its
arithmetic at the card's peak or its memory traffic at the card's bandwidth, whichever is longer.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.fake_gpu import CPU, CUDA
from benchmarks.inductor import compile_networks
from benchmarks.kernels import CONVOLUTION, OTHER, Kernel, KernelCounter, Work
from benchmarks.tables import format_table, write_json
from gpen.errors import UserError
from gpen.memory.forecast import Rehearsal
from gpen.memory.plan import BatchSetting, Recipe
from gpen.options import Options
from gpen.utils.arithmetic import set_arithmetic

ROWS = 24


@dataclass(frozen=True)
class Card:
    """The limits of a card by its data sheet: peak operations per second without sparsity, and bytes per second."""

    name: str
    source: str
    peaks: dict[str, float]
    bandwidth: float

    def seconds(self, kernel: Kernel, work: Work) -> float:
        """Return how long a call takes at least."""
        return max(work.flops / self.peaks[kernel.precision], work.bytes / self.bandwidth)


CARDS = {
    'h100': Card(
        'H100 SXM 80 GB',
        'NVIDIA H100 Tensor Core GPU data sheet',
        {'fp32': 67e12, 'tf32': 494.5e12, 'bf16': 989.5e12, 'fp16': 989.5e12},
        3350e9,
    ),
    'a100': Card(
        'A100 SXM 80 GB',
        'NVIDIA A100 Tensor Core GPU data sheet',
        {'fp32': 19.5e12, 'tf32': 156e12, 'bf16': 312e12, 'fp16': 312e12},
        2039e9,
    ),
    '4090': Card(
        'GeForce RTX 4090',
        'NVIDIA Ada GPU architecture white paper, appendix A (float16 and bfloat16 with sums in float32)',
        {'fp32': 82.6e12, 'tf32': 82.6e12, 'bf16': 165.2e12, 'fp16': 165.2e12},
        1008e9,
    ),
}


@dataclass(frozen=True)
class Cost:
    """Work, and the seconds that it takes at least, summed call by call."""

    work: Work = field(default_factory=Work)
    seconds: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.work + other.work, self.seconds + other.seconds)

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.work * factor, self.seconds * factor)


Costs = dict[Kernel, Cost]


def measure_roofline(args: argparse.Namespace) -> int:
    """Count, print the tables, and write the JSON file; return the exit status."""
    # What to count.
    overrides = [*args.force_yml, *([f'train:amp={args.amp}'] if args.amp else [])]
    options = Recipe(args.opt, tuple(overrides)).read(f'train:compile={args.compile}'.lower())
    options.train.channels_last = bool(options.train.channels_last)  # what a GPU does by default, whatever traces it
    set_arithmetic(options.train.tf32, deterministic=False)
    card = CARDS[args.device]
    setting = BatchSetting.of(options)
    if args.compile and (setting.micro_batches > 1 or setting.checkpoint):
        raise UserError(
            '--compile cannot count recomputation. Add --force_yml datasets:train:accumulate=1 and no grad_checkpoint.'
        )

    # The steps of an interval; graphs are compiled from those of the CPU, where torch can trace without a GPU.
    device = CPU if args.compile else CUDA
    rehearsal, counter = Rehearsal(options, device), KernelCounter(device)
    if args.compile:
        compile_networks(rehearsal.model, counter)
    steps = {}
    shares = find_steps(options, rehearsal.model.path_weight)
    for name, (iteration, _) in shares.items():
        rehearsal.run(iteration, setting.batch, counter)
        steps[name] = cost_calls(counter.take(), card)
    mean = average([(steps[name], share) for name, (_, share) in shares.items()])

    # Results
    precision = options.train.amp or 'float32'
    print(
        f'{args.opt}: {rehearsal.size} x {rehearsal.size}, batch {setting.batch}, accumulate {setting.micro_batches}, '
        f'{precision}{", compiled" if args.compile else ""}\n{card.name}: {describe(card)} ({card.source})\n'
    )
    print(format_steps({**steps, 'mean': mean}, {name: share for name, (_, share) in shares.items()}), end='\n\n')
    print(format_costs(mean, lambda kernel: kernel.name if kernel.kind == OTHER else f'{kernel.kind}: {kernel.name}'))
    print(f'\n{format_costs(mean, describe_arithmetic, lambda kernel: kernel.kind != OTHER)}')
    rows = {name: [asdict(kernel) | _to_dict(cost) for kernel, cost in costs.items()] for name, costs in steps.items()}
    write_json(args.json, {'card': asdict(card), 'shares': shares, 'steps': rows})
    return 0


def find_steps(options: Options, path_weight: float) -> dict[str, tuple[int, float]]:
    """Return each kind of step: an iteration that is one, and the share of all steps that are."""
    train = options.train
    intervals = {'generator': train.net_d_iters, 'R1': 0, 'path length': 0}
    if train.gan_opt is not None and train.gan_opt.is_on and train.r1_reg_weight > 0:
        intervals['R1'] = train.net_d_reg_every
    if path_weight:
        intervals['path length'] = train.net_g_reg_every

    # An interval in which all kinds occur; after the first step, which measures more, and between two records
    period = math.lcm(*filter(None, intervals.values()))
    start = (train.net_d_init_iters // period + 2) * period
    kinds: dict[str, list[int]] = {}
    for iteration in range(start, start + period):
        due = [name for name, every in intervals.items() if every and iteration % every == 0]
        kinds.setdefault(' + '.join(['discriminator', *due]), []).append(iteration)
    every = options.logger.print_freq
    quiet = {name: next((i for i in found if i % every), found[0]) for name, found in kinds.items()}
    return {name: (quiet[name], len(found) / period) for name, found in kinds.items()}


def cost_calls(calls: Sequence[tuple[Kernel, Work]], card: Card) -> Costs:
    """Return the costs of calls by kernel."""
    costs: Costs = {}
    for kernel, work in calls:
        costs[kernel] = costs.get(kernel, Cost()) + Cost(work, card.seconds(kernel, work))
    return costs


def average(parts: Sequence[tuple[Costs, float]]) -> Costs:
    """Return the weighted sum of costs."""
    mean: Costs = {}
    for costs, share in parts:
        for kernel, cost in costs.items():
            mean[kernel] = mean.get(kernel, Cost()) + cost * share
    return mean


def total(costs: Costs, wanted: Callable[[Kernel], bool] = lambda _: True) -> Cost:
    """Return the sum of some costs."""
    return sum((cost for kernel, cost in costs.items() if wanted(kernel)), Cost())


def describe(card: Card) -> str:
    """Return a card's limits in words."""
    peaks = ', '.join(f'{name} {peak / 1e12:g}' for name, peak in card.peaks.items())
    return f'TFLOP/s {peaks}; {card.bandwidth / 1e9:g} GB/s'


def describe_arithmetic(kernel: Kernel) -> str:
    """Return the line of the table of arithmetic that a kernel belongs to."""
    layout = ('NHWC ' if kernel.nhwc else 'NCHW ') + kernel.backend if kernel.backend else ''
    return f'{kernel.kind}, {kernel.precision}{", " if layout else ""}{layout}'


def format_steps(steps: dict[str, Costs], shares: dict[str, float]) -> str:
    """Return a table with a line for each kind of step."""
    header = ['step', 'share', 'TFLOP', 'of convolutions', 'of them NHWC', 'GB', 'outside convolutions', 'ms']
    lines = [header]
    for name, costs in steps.items():
        whole, convolutions = total(costs), total(costs, lambda kernel: kernel.kind == CONVOLUTION)
        nhwc = total(costs, lambda kernel: kernel.kind == CONVOLUTION and kernel.nhwc)
        lines.append(
            [
                name,
                f'{shares.get(name, 1):.1%}',
                f'{whole.work.flops / 1e12:.2f}',
                f'{convolutions.work.flops / 1e12:.2f}',
                f'{nhwc.work.flops / max(convolutions.work.flops, 1):.0%}',
                f'{whole.work.bytes / 1e9:.1f}',
                f'{(whole.work.bytes - convolutions.work.bytes) / 1e9:.1f}',
                f'{whole.seconds * 1e3:.1f}',
            ]
        )
    return format_table(lines)


def format_costs(costs: Costs, name: Callable[[Kernel], str], wanted: Callable[[Kernel], bool] = lambda _: True) -> str:
    """Return a table with a line for each name, the longest time first."""
    rows: dict[str, Cost] = {}
    for kernel, cost in costs.items():
        if wanted(kernel):
            rows[name(kernel)] = rows.get(name(kernel), Cost()) + cost
    ordered = sorted(rows.items(), key=lambda row: -row[1].seconds)
    whole = sum(rows.values(), Cost())
    rest = sum((cost for _, cost in ordered[ROWS:]), Cost())
    shown = [*ordered[:ROWS], *([(f'{len(ordered) - ROWS} others', rest)] if ordered[ROWS:] else []), ('total', whole)]
    lines = [
        [
            title,
            f'{cost.work.calls:.0f}',
            f'{cost.work.flops / 1e12:.2f}' if cost.work.flops else '',
            f'{cost.work.bytes / 1e9:.1f}',
            f'{cost.seconds * 1e3:.2f}',
            f'{cost.seconds / whole.seconds:.1%}' if whole.seconds else '',
        ]
        for title, cost in shown
    ]
    return format_table([['operation', 'calls', 'TFLOP', 'GB', 'ms', 'of time'], *lines])


def _to_dict(cost: Cost) -> dict[str, Any]:
    return {**asdict(cost.work), 'seconds': cost.seconds}
