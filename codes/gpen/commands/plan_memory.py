"""Forecast how much GPU memory training takes, without a GPU, and find settings that fit one.

A training step of each option file is rehearsed on tensors that have shapes, but no memory, and the memory that its
operations would allocate is counted. Neither data nor weights have to exist.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpen.commands._arguments import ArgumentParser, add_force_yml, add_option_file, within
from gpen.commands._run import run_command

if TYPE_CHECKING:
    from gpen.memory.counter import MemoryUse
    from gpen.memory.plan import Forecast, Proposal

CATEGORIES = ('weights', 'gradients', 'optimizer', 'activations', 'total')


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_file(parser, 'option files, such as options/train/gpen_512.yml', nargs='+')
    parser.add_argument(
        '--gpu_memory',
        type=within(float, 1, 10_000),
        metavar='GIB',
        help='also say what fits a GPU with so much memory',
    )
    add_force_yml(parser, 'datasets:train:batch_size_per_gpu=4')
    return parser.parse_args(arguments)


def plan(args: argparse.Namespace) -> int:
    """Print the tables; return the exit status."""
    from gpen.memory import plan as memory_plan

    recipes = [memory_plan.Recipe(file, tuple(args.force_yml)) for file in args.opt]
    for recipe in recipes:
        recipe.read()  # reports errors in any of the files before the work starts

    forecasts = {recipe.file: memory_plan.forecast(recipe, args.gpu_memory) for recipe in recipes}
    print('Peak memory of a training step in GiB:\n')
    print_forecasts(forecasts)
    if args.gpu_memory is None:
        return 0

    # What fits the GPU.
    usable = memory_plan.usable_bytes(args.gpu_memory)
    print(
        f'\nWhat fits {args.gpu_memory:g} GiB, of which a step may take {usable / memory_plan.GIB:.1f}: '
        f'{1 - memory_plan.SHARE:.0%} are left for gaps and convolutions, {memory_plan.RESERVED} GiB for CUDA.\n'
    )
    print_row('options', 'grad_checkpoint', 'batch', 'accumulate', 'GiB', '--force_yml')
    print_row('---', '---', '--:', '--:', '--:', '---')
    for recipe in recipes:
        for proposal in memory_plan.propose(recipe, args.gpu_memory):
            print_proposal(recipe.file, proposal)
    print()
    for file, forecast in forecasts.items():
        print(f'{file} {"fits" if forecast.peak <= usable else "does not fit"} as it is.')
    return 0


def print_forecasts(forecasts: dict[str, Forecast]) -> None:
    """Print a table with a line for each kind of step."""
    print_row('options', 'size', 'batch', 'accumulate', 'grad_checkpoint', 'step', *CATEGORIES)
    print_row('---', '--:', '--:', '--:', '---', '---', *['--:'] * len(CATEGORIES))
    for file, forecast in forecasts.items():
        setting = forecast.setting
        start = (file, forecast.size, setting.batch, setting.micro_batches, _yes_or_no(setting.checkpoint))
        for step, use in (('without R1', forecast.without_r1), ('with R1', forecast.with_r1)):
            if use is not None:
                print_row(*start, step, *_in_gib(use))


def print_proposal(file: str, proposal: Proposal) -> None:
    """Print a line of the table of what fits."""
    setting, checkpoint = proposal.setting, _yes_or_no(proposal.checkpoint)
    if setting is None:
        what = 'in micro-batches: none fits' if proposal.in_micro_batches else 'none fits'
        print_row(file, checkpoint, what, '', '', '')
        return
    changes = f'`--force_yml {" ".join(proposal.changes)}`' if proposal.changes else 'as it is'
    print_row(file, checkpoint, setting.batch, setting.micro_batches, _format_gib(proposal.peak), changes)


def print_row(*cells: object) -> None:
    """Print a line of a Markdown table at once, since the next may take a while."""
    print(f'| {" | ".join(str(cell) for cell in cells)} |', flush=True)


def _in_gib(use: MemoryUse) -> list[str]:
    return [_format_gib(getattr(use, name)) for name in CATEGORIES]


def _format_gib(size: int) -> str:
    return f'{size / 2**30:.2f}'


def _yes_or_no(value: bool) -> str:
    return 'yes' if value else 'no'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: plan(args))
