"""``gpen MODE ...``: every command under one name."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from gpen import __version__
from gpen.commands._arguments import ArgumentParser
from gpen.utils.command_line import SCRIPTS
from gpen.utils.text import suggest

MODES = {
    'init': 'write a recipe into this folder, to be edited; without a name: list them',
    'prepare': 'make a data set from photographs',
    'portraits': 'render a data set of people who do not exist, for the quick start',
    'convert': 'copy images to another kind of storage',
    'preview': 'draw what training will see',
    'plan-memory': 'forecast how much GPU memory training takes',
    'search-lr': 'find learning rates for a recipe',
    'train': 'train from an option file',
    'report': 'write a report of training runs',
    'test': 'score trained networks',
    'restore': 'restore the faces in photographs',
    'export': 'write a trained generator for other programs',
    'demo': 'show a trained network on a page in the browser',
}


def build_parser(program: str) -> ArgumentParser:
    """Return the parser of what stands before the mode."""
    width = max(map(len, MODES))
    modes = '\n'.join(f'  {mode:{width}}  {sentence}' for mode, sentence in MODES.items())
    parser = ArgumentParser(
        prog=Path(program).name,
        usage='%(prog)s MODE ...',
        description='Train and use networks that restore faces.',
        epilog=f'modes:\n{modes}\n\n%(prog)s MODE --help shows the options of a mode.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'gpen {__version__}')
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of a mode; return its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    program = 'python -m gpen' if Path(sys.argv[0]).name == '__main__.py' else sys.argv[0]
    parser = build_parser(program)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if words[0].startswith('-'):
        parser.parse_args(words)

    mode, *rest = words
    mode = mode.replace('_', '-')
    if mode not in MODES:
        parser.error(f'there is no mode {words[0]!r}.{suggest(mode, MODES)} {parser.prog} --help lists the modes.')

    # Usage lines, run.json and the commands to type next name what was typed.
    sys.argv = [f'{program} {mode}', *rest]
    command = import_module(f'gpen.commands.{Path(SCRIPTS.get(mode, mode)).stem}')
    status: int = command.main(rest)
    return status
