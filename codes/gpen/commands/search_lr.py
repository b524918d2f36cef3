"""Find learning rates for a recipe with short trials of its training.

Each trial is the training of the option file with the same data and seed.  The rates of --rates come first, then steps
of 20 % around the best.  A trial whose loss rises fast or is not finite is stopped at once (too high); one whose loss
falls slowly could be higher; the rest is ranked by validation PSNR.  Writes report.html and search.json to
experiments/NAME_lr_search.  Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpen.commands._arguments import ArgumentParser, add_force_yml, add_mirror, add_option_file, within
from gpen.commands._run import run_command
from gpen.utils.command_line import spell_command

if TYPE_CHECKING:
    from gpen.tuning.rates import Trial


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_file(parser)
    parser.add_argument(
        '--rates',
        type=within(float, 1e-9, 1e9),
        nargs='+',
        metavar='RATE',
        help='of the generator, to begin with (1e-2 2e-3 5e-4 1e-4)',
    )
    parser.add_argument(
        '--ratio',
        type=within(float, 1e-3, 1e3),
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
    add_force_yml(parser)
    add_mirror(parser)
    args = parser.parse_args(arguments)
    if args.ray and args.devices:
        parser.error('--devices chooses among those of this machine: leave it out with --ray')
    return args


def search(args: argparse.Namespace) -> int:
    """Do the search, print what it found; return the exit status."""
    from gpen.tuning.display import Display
    from gpen.tuning.search import RATES, run_search
    from gpen.tuning.study import open_study
    from gpen.tuning.trial_pool import TrialPool, choose_devices

    study = open_study(args.opt, args.force_yml, args.iterations)
    environments = [] if args.ray else choose_devices(args.devices, study.options.num_gpu)
    pool = TrialPool(study.folder, environments, args.ray)
    display = Display(sys.stdout)
    display.say(f'Trials of {study.iterations} iterations, in {study.folder}')
    result = run_search(study, pool, display, args.rates or RATES, args.ratio)

    if result.judgements:
        from gpen.tuning.search_page import describe_result, write_search

        files = write_search(study, result)
        words, lines = describe_result(study, result)
        print(f'\n{words}')
        if lines is not None:
            print(f'In the recipe:\n\n{lines}\n')
            print(f'Or beside it:\n\n  {_spell_training(args, result.ranking[0])}\n')
        print(f'Written: {", ".join(str(file) for file in files)}')
    if result.exit_status:
        print('Stopped. Continue with the same command.')
        return result.exit_status
    return 0 if result.ranking else 1


def _spell_training(args: argparse.Namespace, best: Trial) -> str:
    """Return the command that trains at the rates of a trial."""
    from gpen.tuning.rates import format_rate

    rates = {'optim_g': best.rate, 'optim_d': best.rate_d}
    settings = [f'train:{name}:lr={format_rate(rate)}' for name, rate in rates.items() if rate is not None]
    return spell_command('train', '-opt', args.opt, '--auto_resume', '--force_yml', *args.force_yml, *settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: search(args))
