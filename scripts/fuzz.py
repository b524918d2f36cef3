"""Change copies of good files at random and have the program use them: a sentence is right, anything else is a finding.

Copies are numbered, and each is a function of the seed and its number alone.  The tests try a few of each kind; this
tries many.  The exit status is 1 where there are findings.
"""

import argparse
import sys
from collections.abc import Sequence

import _path  # noqa: F401
import fuzzing
from gpen.commands._arguments import ArgumentParser, within
from gpen.commands._run import run_command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=fuzzing.KINDS, help='of file')
    parser.add_argument('--copies', type=within(int, 1, 10**9), default=500, metavar='N', help='how many (500)')
    parser.add_argument('--seed', type=within(int, 0, 2**62), default=0, metavar='S', help='of the changes (0)')
    parser.add_argument('--first', type=within(int, 0, 10**9), default=0, metavar='N', help='number of the first (0)')
    return parser.parse_args(arguments)


def fuzz(args: argparse.Namespace) -> int:
    """Try the copies and print what came of them; return the exit status."""
    from tqdm import tqdm

    numbers = tqdm(range(args.first, args.first + args.copies), unit='copy', disable=None)
    tally = fuzzing.run(args.kind, numbers, args.seed)
    for outcome, count in sorted(tally.outcomes.items()):
        print(f'{count:>7}  {outcome}')
    for finding in tally.findings:
        print(finding, file=sys.stderr)
    return 1 if tally.findings else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: fuzz(args))


if __name__ == '__main__':
    sys.exit(main())
