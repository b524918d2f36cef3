"""What command lines have in common."""

import argparse
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpen.utils.files import expand_user
from gpen.utils.text import shorten


class ArgumentParser(argparse.ArgumentParser):
    """A parser to which ``--auto-resume`` is ``--auto_resume``, for every option and its abbreviations.

    It refuses an empty argument, as of a variable of the shell that is not set: as a path, it would mean this folder.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; see the base class."""
        given = sys.argv[1:] if args is None else args
        for before, argument in pairwise(['', *given]):
            name, equals, value = argument.partition('=') if argument.startswith('--') else (before, '=', argument)
            if equals and not value.strip():
                self.error(f'argument {name}: it is empty' if name.startswith('-') else 'an argument is empty')
        return super().parse_known_args([self._with_underscores(argument) for argument in given], namespace)

    def _with_underscores(self, argument: str) -> str:
        name, equals, value = argument.partition('=')
        changed = f'--{name[2:].replace("-", "_")}'
        is_option = name.startswith('--') and any(known.startswith(changed) for known in self._option_string_actions)
        return f'{changed}{equals}{value}' if is_option else argument


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


def add_model(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``--model``, which takes a file or the name of a published model, and the options for these names."""
    parser.add_argument('--model', required=True, metavar='FILE', help=f'{help_text}, or a name such as GPEN-BFR-512')
    parser.add_argument(
        '--list_models', action=_ListModels, nargs=0, help='show the names, sizes, terms and addresses, and end'
    )
    add_mirror(parser)


def add_mirror(group: argparse._ActionsContainer) -> None:
    """Add ``--mirror``, which sets the environment variable GPEN_MIRROR."""
    group.add_argument(
        '--mirror',
        action=_SetMirror,
        metavar='URL',
        help='address of a folder with weight files, tried before the published addresses ($GPEN_MIRROR)',
    )


class _ListModels(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from gpen.registry.published import describe_models

        print('\n'.join(describe_models()))
        parser.exit()


class _SetMirror(argparse.Action):
    def __call__(self, _: Any, namespace: argparse.Namespace, value: Any, __: Any = None) -> None:
        setattr(namespace, self.dest, value)
        os.environ['GPEN_MIRROR'] = value


def add_color(group: argparse._ActionsContainer) -> None:
    """Add ``--color``; None where it was not given."""
    group.add_argument(
        '--color', action='store_const', const=True, help='grey photographs may get coloured faces (colourisation)'
    )


def add_detector(group: argparse._ActionsContainer, default: str | None = 'auto') -> None:
    """Add ``--detector`` (without a default, so that it shows whether it was given) and ``--weights``."""
    group.add_argument(
        '--detector',
        choices=('auto', 'yunet', 'retinaface', 'mtcnn'),
        default=default,
        help='auto: RetinaFace where its weights are on the disk, else YuNet (downloaded, 230 kB), else MTCNN (auto)',
    )
    group.add_argument(
        '--weights',
        type=existing_folder,
        metavar='FOLDER',
        help='where weights of detectors and other networks are looked for first',
    )


def existing_folder(text: str) -> Path:
    """Parse the path of a folder that is there, as an argparse type."""
    path = expand_user(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f'there is no folder {shorten(str(path))}')
    return path


def network_size(lowest: int, highest: int) -> Callable[[str], int]:
    """Return an argparse type for the side of images, pixels: the powers of two within limits, as networks have."""
    sizes = [1 << level for level in range(highest.bit_length()) if lowest <= 1 << level <= highest]

    def parse(text: str) -> int:
        size: int = within(int, lowest, highest)(text)
        if size not in sizes:
            raise argparse.ArgumentTypeError(f'{size} is no size of a network: give {", ".join(map(str, sizes))}')
        return size

    return parse


def within(kind: Callable[[str], Any], lowest: float, highest: float) -> Callable[[str], Any]:
    """Return an argparse type for a number (``int`` or ``float``) within limits."""

    def parse(text: str) -> Any:
        noun = 'whole number' if kind is int else 'number'
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{shorten(text)!r} is not a {noun}') from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f'{shorten(text)} is not between {lowest} and {highest:g}')
        return value

    return parse
