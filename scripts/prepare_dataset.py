"""Make a paired data set from photographs: find and align the faces, choose, degrade a copy, split by person.

Writes OUTPUT/{train,val}/{sharp,blurry}/NAME.png, and beside them manifest.csv (every face that was found),
contact_sheet.png (look at it) and dataset.json (settings and counts).  Stopped and started again, it goes on where it
was.

No photograph has faces in both splits.  Nor has any person, where --split_by names people: a regular expression that is
searched in a photograph's path below --input; its groups, joined, are the person.  So '^(canada|london)(?:smile)?_(\\d+)'
takes london_001_03.png and londonsmile_001_08.png for one person and canada_001f.png for another; '^([^/]+)/' takes each
folder for a person.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import _path  # noqa: F401
from gpen.commands._run import run_command

_ALL_OF_RAY = 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog='prepare_dataset.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--input', required=True, metavar='FOLDER', help='photographs, in sub-folders too')
    parser.add_argument('--output', required=True, metavar='FOLDER', help='where the data set goes')
    parser.add_argument('--size', type=_within(int, 16, 4096), default=512, help='side of the images in pixels (512)')
    parser.add_argument('--max_pixels', type=_within(int, 1, 10**9), default=120_000_000, metavar='N',
                        help='larger photographs are left out (120000000)')  # fmt: skip
    _add_faces(parser.add_argument_group('finding faces'))
    _add_filters(parser.add_argument_group('which faces are kept'))
    _add_pairs(parser.add_argument_group('the pairs'))
    _add_machine(parser.add_argument_group('where the work is done'))
    return parser.parse_args(arguments)


def _add_faces(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--aligned', action='store_true', help='the images are aligned, square faces: detect nothing')
    group.add_argument(
        '--detector', choices=('auto', 'retinaface', 'mtcnn'), default='auto',
        help='auto: RetinaFace, or MTCNN where its weights cannot be had (auto)',
    )  # fmt: skip
    group.add_argument('--weights', metavar='FOLDER', help="where the detector's weights lie or are downloaded to")
    group.add_argument('--faces', choices=('all', 'largest'), default='all', help='of each photograph (all)')
