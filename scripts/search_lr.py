"""Find learning rates for a recipe with short trials of its training.

Each trial is the training of the option file with the same data and seed.  The rates of --rates come first, then steps
of 20 % around the best.  A trial whose loss rises fast or is not finite is stopped at once (too high); one whose loss
falls slowly could be higher; the rest is ranked by validation PSNR.  Writes report.html, report.png and search.json to
experiments/NAME_lr_search.  Stopped and started again, it goes on where it was.

--range_test does a single run with a rising rate instead (Smith 2017): faster, and less reliable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import _path  # noqa: F401
from gpen.commands._arguments import within
from gpen.commands._run import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from gpen.tuning.display import Display
    from gpen.tuning.search import Machines


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog='search_lr.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rate, ratio = within(float, 1e-9, 1e9), within(float, 1e-3, 1e3)
    parser.add_argument(
        '-opt', '--opt', required=True, metavar='FILE', help='option file, such as options/train/gpen_512.yml'
    )
    parser.add_argument(
        '--rates',
        type=rate,
        nargs='+',
        metavar='RATE',
        help='of the generator, to begin with (1e-3 5e-4 1e-4 5e-5); with --range_test the lowest and the highest '
        '(1e-6 1e-1)',
    )
    parser.add_argument(
        '--ratio',
        type=ratio,
        nargs='+',
        metavar='RATIO',
        help="the discriminator's rate divided by the generator's (4); several, such as 2 4, are all tried",
    )
    parser.add_argument(
        '--iterations',
        type=within(int, 10, 10_000_000),
        metavar='N',
        help='of a trial (two epochs, from 200 to 2,000)',
    )
    parser.add_argument(
        '--devices',
        nargs='+',
        default=[],
        metavar='DEVICE',
        help='a trial runs on each at a time: numbers of GPUs, or cpu (all GPUs; the CPU where there are none)',
    )
    parser.add_argument('--ray', metavar='ADDRESS', help='run the trials on a Ray cluster; local starts one here')
    parser.add_argument('--range_test', action='store_true', help='a single run with a rising rate instead')
    parser.add_argument(
        '--force_yml',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY:KEY=VALUE',
        help='change options, for instance --force_yml datasets:train:batch_size_per_gpu=4',
    )
    args = parser.parse_args(arguments)
    if args.ray and args.devices:
        parser.error('--devices chooses among those of this machine: leave it out with --ray')
    if args.range_test and args.rates and (len(args.rates) != 2 or args.rates[0] >= args.rates[1]):
        parser.error('--range_test takes two --rates, the lower one first, such as --rates 1e-6 1e-1')
    if args.range_test and args.ratio and len(args.ratio) > 1:
        parser.error('--range_test takes one --ratio')
    return args


def search(args: argparse.Namespace) -> int:
    """Do the search, print what it found; return the exit status."""
    from gpen.tuning.search import ENDING, RATES, run_search
    from gpen.tuning.setting import prepare

    setting = prepare(args.opt, args.force_yml, args.iterations, ENDING)
    machines, display = open_places(args)
    display.say(f'Trials of {setting.iterations} iterations, in {setting.folder}')
    found = run_search(setting, machines, display, args.rates or RATES, args.ratio)
    if found.judgements:
        from gpen.tuning.report import describe_result, write_search

        files = write_search(setting, found)
        print(f'\n{describe_result(setting, found)[0]}')
        print_end(describe_result(setting, found)[1], files)
    if found.exit_status:
        print('Stopped. Continue with the same command.')
        return found.exit_status
    return 0 if found.ranking else 1


def test_range(args: argparse.Namespace) -> int:
    """Do the range test, print what it found; return the exit status."""
    from gpen.tuning.range_test import ENDING, RANGE, run_range_test
    from gpen.tuning.rates import round_rate
    from gpen.tuning.search import RATIO
    from gpen.tuning.setting import prepare

    setting = prepare(args.opt, args.force_yml, args.iterations, ENDING)
    machines, display = open_places(args)
    limits = tuple(args.rates) if args.rates else RANGE
    ratio = args.ratio[0] if args.ratio else None
    job, finding, status = run_range_test(setting, machines, display, limits, ratio)
    if finding is None:
        print('Stopped. Continue with the same command.')
        return status
    from gpen.tuning.report import write_range_test
    from gpen.tuning.setting import recommend

    rate, rate_d = finding.recommended, None
    if rate is not None and setting.has_discriminator:
        rate_d = round_rate(rate * (ratio or RATIO))
    files = write_range_test(setting, job, finding, rate_d)
    print(f'\n{finding.reason}')
    print_end(recommend(setting.options, rate, rate_d) if rate is not None else None, files)
    return 0 if rate is not None else 1


def open_places(args: argparse.Namespace) -> tuple[Machines, Display]:
    """Return where trials run, and what shows them."""
    from gpen.tuning.display import Display
    from gpen.tuning.search import Machines

    return Machines(tuple(args.devices), args.ray), Display(sys.stdout)


def print_end(lines: str | None, files: list[Path]) -> None:
    """Print the lines of YAML and where the report is."""
    if lines is not None:
        print(f'In the recipe:\n\n{lines}\n')
    print(f'Written: {", ".join(str(file) for file in files)}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: test_range(args) if args.range_test else search(args))


if __name__ == '__main__':
    sys.exit(main())
