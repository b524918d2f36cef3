"""What command lines have in common."""

import argparse
from collections.abc import Callable
from typing import Any


def add_option_file(
    parser: argparse.ArgumentParser,
    help_text: str = 'option file, such as options/train/gpen_512.yml',
    nargs: str | None = None,
) -> None:
    """Add ``-opt``; with ``nargs``, for several files."""
    parser.add_argument('-opt', '--opt', required=True, nargs=nargs, metavar='FILE', help=help_text)


def add_force_yml(
    parser: argparse.ArgumentParser, example: str = 'datasets:train:batch_size_per_gpu=4 name=trial'
) -> None:
    """Add ``--force_yml``, which takes several settings and may be given several times."""
    parser.add_argument(
        '--force_yml',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY:KEY=VALUE',
        help=f'change options, for instance --force_yml {example}',
    )


def within(kind: Callable[[str], Any], lowest: float, highest: float) -> Callable[[str], Any]:
    """Return an argparse type for a number (``int`` or ``float``) within limits."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            noun = 'whole number' if kind is int else 'number'
            raise argparse.ArgumentTypeError(f'{text!r} is not a {noun}') from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f'{text} is not between {lowest} and {highest:g}')
        return value

    return parse
