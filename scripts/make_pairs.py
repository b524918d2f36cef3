"""Make a paired data set from aligned, sharp faces: shrink them to one size, degrade a copy, split by person.

Writes OUTPUT/{train,val}/{sharp,blurry}/NAME.png.  No person is in both splits: --group_by is a regular expression that
is searched in the file name; its groups, joined, name the person.  So '^(canada|london)(?:smile)?_(\\d+)' takes
london_001_03.png and londonsmile_001_08.png for one person and canada_001f.png for another.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import _path  # noqa: F401
from gpen.commands._run import run_command
from gpen.errors import UserError

MANIFEST = 'pairs.json'
_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    from paired_set import integer_from

    parser = argparse.ArgumentParser(
        prog='make_pairs.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--input', required=True, metavar='FOLDER', help='aligned, sharp, square faces of any size')
    parser.add_argument('--output', required=True, metavar='FOLDER', help='where the data set goes')
    parser.add_argument('--size', type=integer_from(16, 4096), default=64, help='side of the images in pixels (64)')
    parser.add_argument(
        '--val_share', type=_share, default=0.15, metavar='SHARE', help='share of the people to validate on (0.15)'
    )
    parser.add_argument('--group_by', metavar='REGEX', help='names the person; without it each file is one')
    parser.add_argument('--seed', type=int, default=10, help='decides the split and the degradation (10)')
    return parser.parse_args(arguments)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number') from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not between 0 and 1')
    return value


def find_images(folder: Path) -> list[Path]:
    """Return the image files in ``folder``, by name.

    Raises:
        UserError: no such folder, no images, or two that would get the same name.
    """
    if not folder.is_dir():
        raise UserError(f'--input {folder} is not a folder. Give the folder that holds the faces.')
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.name[0] != '.')
    if not paths:
        raise UserError(f'--input {folder} holds no images ({", ".join(_SUFFIXES)}).')
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise UserError(f'{seen[path.stem].name} and {path.name} in {folder} would get one name. Rename one.')
        seen[path.stem] = path
    return paths


def group_by_person(paths: Sequence[Path], pattern: str | None) -> dict[str, list[Path]]:
    """Return the files of each person; the joined groups of ``pattern`` in the file name say who it is.

    Raises:
        UserError: the pattern is wrong, has no group, or does not fit a file name.
    """
    try:
        regex = re.compile(pattern if pattern is not None else r'^(.*)$')
    except re.error as error:
        raise UserError(f'--group_by {pattern!r} is not a regular expression: {error}.') from error
    if regex.groups == 0:
        raise UserError(f"--group_by {pattern!r} has no group. Put what names the person in parentheses, as '^(\\d+)'.")
    people: dict[str, list[Path]] = {}
    for path in paths:
        match = regex.search(path.name)
        if match is None:
            raise UserError(
                f'--group_by {pattern!r} does not fit the file name {path.name}. Change it or move the file.'
            )
        people.setdefault('_'.join(group or '' for group in match.groups()), []).append(path)
    return people


def split_people(people: dict[str, list[Path]], share: float, seed: int) -> dict[str, list[Path]]:
    """Return the files to train and to validate on; ``share`` of the people, at least one, is in ``val``.

    Raises:
        UserError: there is only one person.
    """
    from gpen.utils.seeds import derive_generator

    if len(people) < 2:
        raise UserError('There is only one person, but training and validation need one each. Check --group_by.')
    order = derive_generator(seed, 'split').permutation(sorted(people))
    count = min(max(1, round(share * len(people))), len(people) - 1)
    chosen = {'val': order[:count], 'train': order[count:]}
    return {split: sorted(path for person in chosen[split] for path in people[person]) for split in ('train', 'val')}


def make_pairs(args: argparse.Namespace) -> int:
    """Write the data set unless it is there; return the exit status."""
    from gpen.utils.files import resolve_path

    source, folder = Path(args.input).expanduser(), Path(resolve_path(args.output))
    people = group_by_person(find_images(source), args.group_by)
    files = split_people(people, args.val_share, args.seed)
    write_pairs(folder, files, args)
    return 0


def write_pairs(folder: Path, files: dict[str, list[Path]], args: argparse.Namespace) -> None:
    """Degrade and write the pairs of both splits, and report."""
    from tqdm import tqdm

    from gpen.data.image_io import read_image, resize
    from gpen.utils.seeds import derive_generator
    from paired_set import PairedSet, degrade

    names = {split: [path.stem for path in paths] for split, paths in files.items()}
    settings = {'seed': args.seed, 'size': args.size, **names}
    paired = PairedSet(folder, MANIFEST, settings, names)
    if paired.is_complete():
        print(f'{len(names["train"])} + {len(names["val"])} pairs are already there: {folder}')
        return
    enlarged = 0
    with tqdm(desc='pairs', total=sum(map(len, names.values())), unit='pair', disable=None) as bar:
        for split_id, split in enumerate(names):
            for index, path in enumerate(files[split]):
                image = read_image(path)
                if image.shape[0] != image.shape[1]:
                    raise UserError(
                        f'{path} is {image.shape[1]} x {image.shape[0]}, not square. Align and crop it first.'
                    )
                enlarged += image.shape[0] < args.size
                sharp = resize(image, args.size)
                paired.write(
                    split, path.stem, sharp, degrade(sharp, derive_generator(args.seed, 'degrade', split_id, index))
                )
                bar.update()
    paired.finish()
    if enlarged:
        print(f'Note: {enlarged} images are smaller than {args.size} and were enlarged; their sharp side is not sharp.')
    for split, entries in names.items():
        print(f'{split}: {len(entries)} pairs, mean PSNR of the blurry ones {paired.mean_psnr(split):.2f} dB')
    print(f'Written to {folder}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: make_pairs(args))


if __name__ == '__main__':
    sys.exit(main())
