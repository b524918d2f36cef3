"""Write a report of one training run, or of several beside each other, as one HTML file.

Loss, accuracy, learning-rate and validation curves, sample pictures through time, speed, time left or why a run ended,
health findings, options and how they differ between runs.  The file contains everything that it shows.  A report can be
written while the run is going on.
"""

import argparse
from collections.abc import Sequence

from gpen.commands._arguments import ArgumentParser
from gpen.commands._run import run_command
from gpen.utils.files import expand_user


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='the folder of a run, such as experiments/NAME')
    parser.add_argument(
        '--output',
        metavar='FILE',
        help='the HTML file (RUN/report.html; for several runs report.html beside their folders)',
    )
    return parser.parse_args(arguments)


def report(args: argparse.Namespace) -> int:
    """Write the report; return the exit status."""
    from gpen.reporting.run_page import write_report

    output = None if args.output is None else expand_user(args.output)
    target = write_report(args.runs, output)
    print(f'Written: {target} ({target.stat().st_size / 1e6:.1f} MB). Open it in a browser.')
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: report(args))
