"""Make a paired data set from photographs: find and align the faces, choose, degrade a copy, split by person.

Writes OUTPUT/{train,val}/{sharp,blurry}/NAME.png, and beside them manifest.csv (every face that was found),
contact_sheet.png (look at it), dataset.json (settings and counts) and recipe.yml (what to train with).  Stopped and
started again, it goes on where it was.

No photograph has faces in both splits.  Nor has any person, where --split_by names people: a regular expression that
is searched in a photograph's path below --input; its groups are the person.  '^(canada|london)(?:smile)?_(\\d+)' takes
london_001_03.png and londonsmile_001_08.png for one person and canada_001f.png for another; '^([^/]+)/' takes each
folder for a person.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from gpen.commands._arguments import ArgumentParser, add_detector, add_mirror, network_size, within
from gpen.commands._run import run_command
from gpen.preparation.settings import PreparationSettings


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--input', required=True, metavar='FOLDER', help='photographs, in sub-folders too')
    parser.add_argument('--output', required=True, metavar='FOLDER', help='where the data set goes')
    parser.add_argument(
        '--size',
        type=network_size(16, 4096),
        default=PreparationSettings.size,
        metavar='N',
        help='side of the images, pixels, a power of two (%(default)s)',
    )
    _add_number(parser, 'max_pixels', int, 1, 10**9, 'photographs of more pixels are left out')
    _add_detection(parser.add_argument_group('finding faces'))
    _add_filters(parser.add_argument_group('which faces are kept'))
    _add_pairs(parser.add_argument_group('pairs and splits'))
    _add_machine(parser.add_argument_group('where the work is done'))
    return parser.parse_args(arguments)


def _add_detection(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--aligned', action='store_true', help='the images are aligned, square faces: detect nothing')
    add_detector(group)
    add_mirror(group)
    group.add_argument('--faces', choices=('all', 'largest'), default='all', help='of each photograph (%(default)s)')


def _add_filters(group: argparse._ArgumentGroup) -> None:
    help_text = 'shorter side of its box in the photograph, pixels; with --aligned, its side (a quarter of --size)'
    group.add_argument('--min_face', type=within(int, 1, 4096), metavar='N', help=help_text)
    help_text = "the detector's certainty (0.8 for YuNet, 0.95 for the others)"
    group.add_argument('--min_score', type=within(float, 0, 1), metavar='N', help=help_text)
    _add_number(group, 'min_sharpness', float, 0, 1e6, 'of the aligned face, as in manifest.csv')
    _add_number(group, 'max_turn', float, 0, 180, 'to a side, up or down, degrees')
    _add_number(group, 'max_padding', float, 0, 1, 'share of it that lies outside of the photograph')
    help_text = 'near duplicates, of which the sharpest is kept, differ in so many bits of 64; -1 keeps all'
    _add_number(group, 'duplicates', int, -1, 16, help_text)


def _add_pairs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--degradation',
        metavar='WHAT',
        help="name, '{type: NAME, ...}', or YAML file with such steps (gpen; simple for a --size below 256)",
    )
    group.add_argument(
        '--val_share',
        type=_share,
        default=PreparationSettings.val_share,
        metavar='SHARE',
        help='share of the people, or photographs, to validate on (%(default)s)',
    )
    group.add_argument('--split_by', metavar='REGEX', help='names the person; without it each photograph is one')
    group.add_argument(
        '--seed',
        type=within(int, 0, 2**62),
        default=PreparationSettings.seed,
        metavar='N',
        help='decides split and degradation (%(default)s)',
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--workers', type=within(int, 1, 1024), metavar='N', help='processes (all cores)')
    group.add_argument(
        '--ray',
        metavar='ADDRESS',
        help="a Ray cluster, whose machines find both folders under the same paths; 'local' starts one here",
    )


def _add_number(
    group: argparse._ActionsContainer, name: str, kind: Callable[[str], Any], lowest: float, highest: float, text: str
) -> None:
    default = getattr(PreparationSettings, name)
    group.add_argument(
        f'--{name}',
        type=within(kind, lowest, highest),
        default=default,
        metavar='N',
        help=f'{text} (%(default)s)',
    )


def _share(text: str) -> float:
    value: float = within(float, 0, 1)(text)
    if value in (0, 1):
        raise argparse.ArgumentTypeError(f'{text} leaves nothing to {"validate" if value == 0 else "train"} on')
    return value


def to_settings(args: argparse.Namespace) -> PreparationSettings:
    """Return what the command line says, its defaults filled in.

    Raises:
        UserError: the degradation is unknown or has wrong arguments.
    """
    from gpen.preparation.degradation import default_degradation, parse_degradation
    from gpen.utils.files import expand_user
    from gpen.utils.pool import ALL_CORES

    own = {name: getattr(args, name) for name in vars(args) if name in PreparationSettings.__dataclass_fields__}
    given = args.degradation
    wanted = default_degradation(args.size) if given is None else parse_degradation(given)
    return PreparationSettings(
        **{
            **own,
            'input': expand_user(args.input),
            'output': expand_user(args.output).absolute(),
            'largest_only': args.faces == 'largest',
            'min_face': args.min_face or max(1, args.size // 4),
            'degradation': wanted,
            'workers': args.workers or ALL_CORES,
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    def body() -> int:
        settings = to_settings(args)
        from gpen.preparation.prepare import prepare

        prepare(settings, print)
        return 0

    return run_command(body)
