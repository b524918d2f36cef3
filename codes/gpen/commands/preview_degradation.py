"""Draw a sheet of what training will see: sharp faces by rows, draws of their degradation by columns.

The draws are those of epochs 1, 2, 3, ... of a training run with this option file, seed, mirroring and augment
included.  The first column is the face as it lies in the data set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpen.commands._arguments import ArgumentParser, add_force_yml, add_option_file, within
from gpen.commands._run import run_command
from gpen.errors import UserError

if TYPE_CHECKING:
    import numpy as np


_CELL = 128  # pixels; smaller images are shown larger, with their pixels as squares


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_file(parser, 'option file with a DegradedFaceDataset')
    parser.add_argument('--phase', choices=('train', 'val'), default='train', help='which data set (train)')
    parser.add_argument('--images', type=within(int, 1, 64), default=4, help='rows: sharp faces (4)')
    parser.add_argument('--draws', type=within(int, 1, 32), default=6, help='columns: draws of each (6)')
    parser.add_argument('--output', metavar='PNG', help='where the sheet goes (experiments/NAME_PHASE_preview.png)')
    add_force_yml(parser, '"datasets:train:degradation={type: realesrgan}"')
    return parser.parse_args(arguments)


def preview(args: argparse.Namespace) -> int:
    """Write the sheet; return the exit status."""
    from gpen.options import parse_options

    options = parse_options(args.opt, args.force_yml, training=False, phases=(args.phase,)).options
    block = getattr(options.datasets, args.phase)
    if block is None:
        raise UserError(f'{args.opt} has no datasets.{args.phase}. Choose another --phase.')
    from gpen.data.image_io import write_image
    from gpen.training.setup import build_data
    from gpen.utils.command_line import spell_command
    from gpen.utils.files import expand_user, resolve_path

    dataset = build_data(args.phase, block)
    if not getattr(dataset, 'takes_epoch', False) or 'lq' not in dataset[0, 0] or block.type == 'PairedImageDataset':
        raise UserError(
            f'datasets.{args.phase} is a {block.type}, which draws nothing: its images are as they lie in the folders. '
            'Give an option file with a DegradedFaceDataset.'
        )
    default = resolve_path(options.path.experiments_root) / f'{options.name}_{args.phase}_preview.png'
    target = expand_user(args.output) if args.output else default
    write_image(target, draw_sheet(dataset, args.images, args.draws))
    print(f'Written: {target} (in each row a sharp face, then {args.draws} draws of its degradation)')
    command = spell_command('train', '-opt', args.opt, '--auto_resume', *_repeat(args.force_yml))
    print(f'To train on them:\n\n  {command}')
    return 0


def _repeat(settings: Sequence[str]) -> list[str]:
    return ['--force_yml', *settings] if settings else []


def draw_sheet(dataset: Any, images: int, draws: int) -> np.ndarray:
    """Return the sheet, H x W x 3 in [-1, 1]: faces spread over the data set, sharp, then one draw per epoch.

    The sharp face of a data set of one's own, which has no ``read_sharp``, is that of the first draw.
    """
    import numpy as np

    from gpen.data.cells import GAP, draw_heading, to_cell
    from gpen.data.image_io import to_array

    # A heading for each column.
    size = dataset[0, 0]['gt'].shape[-1]
    width = max(size, _CELL // size * size)
    titles = ['sharp', *(f'draw {number}' for number in range(1, draws + 1))]
    strips = [np.concatenate([draw_heading(title, width + GAP) for title in titles], axis=1)]

    count = min(images, len(dataset))
    for row in range(count):
        index = row * len(dataset) // count
        samples = [dataset[epoch, index] for epoch in range(draws)]
        sharp = dataset.read_sharp(index)[0] if hasattr(dataset, 'read_sharp') else to_array(samples[0]['gt'])
        pictures = [sharp, *(to_array(sample['lq']) for sample in samples)]
        cells = [np.pad(to_cell(one, width), ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for one in pictures]
        strips.append(np.concatenate(cells, axis=1))
    sheet = np.pad(np.concatenate(strips), ((0, 0), (GAP, 0), (0, 0)), constant_values=255)  # H x W x 3, uint8
    return sheet.astype(np.float32) / 127.5 - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: preview(args))
