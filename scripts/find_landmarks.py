"""Find eyes, nose and mouth in faces that are aligned already, and write them as a table.

The table is what datasets.train.landmarks takes, for train.component_opt.  A set that prepare_dataset.py made needs
none: its manifest.csv holds them.
"""

import argparse
import sys
from collections.abc import Sequence

import _path  # noqa: F401
from gpen.commands._arguments import ArgumentParser, add_detector, within
from gpen.commands._run import run_command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--input', required=True, metavar='FOLDER', help='sharp faces: dataroot_gt of the option file')
    parser.add_argument('--output', required=True, metavar='FILE', help='the table, such as datasets/landmarks.csv')
    add_detector(parser)
    parser.add_argument(
        '--min_face',
        type=within(int, 1, 4096),
        default=40,
        metavar='N',
        help='shorter side of the smallest face to look for, pixels (%(default)s)',
    )
    parser.add_argument('--workers', type=within(int, 1, 1024), metavar='N', help='processes (all cores)')
    return parser.parse_args(arguments)


def find_landmarks(args: argparse.Namespace) -> int:
    """Write the table; return the exit status."""
    from gpen.faces.detection import build_detector, choose_detector
    from gpen.preparation.landmark_table import write_landmark_table
    from gpen.preparation.work import DetectorSource
    from gpen.utils.command_line import spell_command, spell_setting
    from gpen.utils.files import expand_user, to_option_path
    from gpen.utils.pool import ALL_CORES

    name, reason = choose_detector(args.detector, args.weights)
    print(reason)
    detector = DetectorSource(build_detector, name, args.weights, args.min_face)
    folder, table = (expand_user(path).absolute() for path in (args.input, args.output))
    write_landmark_table(folder, table, detector, args.workers or ALL_CORES, print)

    # What to type next: the recipe is the user's, with these faces.
    loss = {'type': 'ComponentLoss', 'loss_weight': 0.05, 'style_weight': 20}
    changes = {'datasets:train:landmarks': to_option_path(table), 'train:component_opt': loss}
    settings = [spell_setting(*change) for change in changes.items()]
    command = spell_command('train', '-opt', 'RECIPE.yml', '--auto_resume', '--force_yml', *settings)
    print(
        f'To train with them by a recipe whose datasets.train.dataroot_gt is {to_option_path(folder)}:\n\n  {command}'
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: find_landmarks(args))


if __name__ == '__main__':
    sys.exit(main())
