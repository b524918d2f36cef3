"""Measure how fast parts of the program are on this machine.

data: decoding and each degradation recipe, compared with BasicSR's functions.
restore: restoring a face with PyTorch and with ONNX Runtime, compared with the published code's formulas.
roofline: what a recipe's training step costs on a GPU at least, counted without one.
startup: the scan of many pairs, and the time from the command to the first step.
step: a training step, compared with the published code's formulas.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import _path  # noqa: F401
from gpen.commands._arguments import ArgumentParser, add_force_yml, add_option_file, network_size, within
from gpen.commands._run import run_command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments; ``run`` among them is the function that does the work."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title='what to measure', dest='command', required=True)
    _add_data(commands.add_parser('data', help='decoding and degradations, images per second per core'))
    _add_restore(commands.add_parser('restore', help='restoring a face, PyTorch and ONNX Runtime'))
    _add_roofline(commands.add_parser('roofline', help="a training step by a GPU's limits, counted without one"))
    _add_startup(commands.add_parser('startup', help='from the command to the first step, and the scan of many pairs'))
    _add_step(commands.add_parser('step', help="a training step, ours and by the published code's formulas"))
    return parser.parse_args(arguments)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Images per second per core for decoding a PNG and for each recipe of degradations.'
    parser.set_defaults(run=_run_data)

    # What to measure.
    parser.add_argument('--input', metavar='FOLDER', help='images to measure with (default: rendered portraits)')
    parser.add_argument('--sizes', type=within(int, 16, 2048), nargs='+', metavar='N', help='sides (256 512 1024)')
    parser.add_argument('--recipes', nargs='+', metavar='NAME', help='only these, such as gfpgan "gpen (paper)" (all)')
    parser.add_argument('--images', type=within(int, 1, 1000), default=20, metavar='N', help='images to use (20)')

    # How long.
    parser.add_argument('--draws', type=within(int, 2, 10000), metavar='N', help='draws of each recipe and size (40)')
    parser.add_argument(
        '--repeats', type=within(int, 1, 100), metavar='N', help='repeats with other draws; the median counts (3)'
    )
    parser.add_argument('--seed', type=within(int, 0, 2**62), default=0, metavar='N', help='seed of all draws (0)')
    parser.add_argument('--quick', action='store_true', help='half a minute: 256 and 512, one repeat')
    _add_json(parser)


def _add_restore(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Seconds per face on the CPU, with PyTorch (fp32 and bf16) and with ONNX Runtime, compared with the published '
        "code's formulas."
    )
    parser.set_defaults(run=_run_restore)

    # The network.
    parser.add_argument('--model', metavar='FILE', help='weights of a generator (default: random ones)')
    parser.add_argument(
        '--size', type=network_size(8, 4096), default=512, metavar='N', help='side of random weights (512)'
    )
    parser.add_argument(
        '--channel_multiplier', type=within(int, 1, 64), metavar='N', help='of random weights (as published)'
    )
    parser.add_argument('--narrow', type=within(float, 0.001, 64), metavar='X', help='of random weights (as published)')

    # How to run it.
    parser.add_argument(
        '--batch_sizes', type=within(int, 1, 64), nargs='+', default=[1, 4], metavar='N', help='faces at a time (1 4)'
    )
    parser.add_argument('--rounds', type=within(int, 1, 100), default=3, metavar='N', help='the median counts (3)')
    parser.add_argument('--threads', type=within(int, 1, 1024), metavar='N', help="threads (PyTorch's choice)")
    _add_json(parser)


def _add_roofline(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Floating-point operations and memory traffic of a recipe's training step, and the time that a GPU needs for "
        'them at least. Neither GPU, data nor weights have to exist.'
    )
    parser.set_defaults(run=_run_roofline)
    add_option_file(parser)
    parser.add_argument('--device', choices=('h100', 'a100', '4090'), default='h100', help='the GPU (h100)')
    parser.add_argument('--amp', choices=('bf16', 'fp16'), help="precision (the file's)")
    parser.add_argument(
        '--compile', action='store_true', help='count the kernels that train.compile fuses; float32 or bf16 (minutes)'
    )
    add_force_yml(parser, 'datasets:train:accumulate=1 train:channels_last=true')
    _add_json(parser)


def _add_startup(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Seconds, processor seconds and memory of the scan of many pairs, the first one and one with its cache, and '
        'seconds from the command to the first step of the quick start beside those of import torch.'
    )
    parser.set_defaults(run=_run_startup)
    parser.add_argument(
        '--pairs', type=within(int, 1, 10_000_000), default=100_000, metavar='N', help='hard links (100000)'
    )
    parser.add_argument('--rounds', type=within(int, 1, 100), default=3, metavar='N', help='the median counts (3)')
    _add_json(parser)


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Seconds, floating-point rate and peak memory of a training step on the CPU, compared with the published '
        "code's formulas. The n-th values of --size, --narrow and --batch make up the n-th setting."
    )
    parser.set_defaults(run=_run_step)

    # The settings.
    parser.add_argument(
        '--size', type=network_size(8, 4096), nargs='+', default=[256], metavar='N', help='side of the images (256)'
    )
    parser.add_argument(
        '--narrow', type=within(float, 0, 8), nargs='+', default=[0.25], metavar='X', help='of both networks (0.25)'
    )
    parser.add_argument(
        '--batch', type=within(int, 1, 64), nargs='+', default=[2], metavar='N', help='images per step (2)'
    )
    parser.add_argument('--full', action='store_true', help='also 512, full width, batch 1 (minutes)')

    # The variants of the step.
    parser.add_argument(
        '--depthwise', action='store_true', help='also the plain step with filters as depthwise convolutions'
    )
    parser.add_argument('--r1', action='store_true', help='also the step with R1, which is every 16th')

    # How to run it.
    parser.add_argument('--rounds', type=within(int, 1, 100), default=3, metavar='N', help='the median counts (3)')
    parser.add_argument('--threads', type=within(int, 1, 1024), metavar='N', help='threads (physical cores)')
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', help='write all numbers there too')


def _run_data(args: argparse.Namespace) -> int:
    for library in ('OMP', 'OPENBLAS', 'MKL'):  # one core; NumPy reads these variables on import
        os.environ[f'{library}_NUM_THREADS'] = '1'
    from benchmarks.data import measure_data

    return measure_data(args)


def _run_restore(args: argparse.Namespace) -> int:
    from benchmarks.restore import measure_restoring

    return measure_restoring(args)


def _run_roofline(args: argparse.Namespace) -> int:
    from benchmarks.roofline import measure_roofline

    return measure_roofline(args)


def _run_startup(args: argparse.Namespace) -> int:
    from benchmarks.startup import measure_startup

    return measure_startup(args)


def _run_step(args: argparse.Namespace) -> int:
    from benchmarks.step import measure_steps

    return measure_steps(args)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: args.run(args))


if __name__ == '__main__':
    sys.exit(main())
