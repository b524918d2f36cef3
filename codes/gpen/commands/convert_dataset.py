"""Copy images from one kind of storage to another, as they are encoded, and show the option lines for the result.

Kinds: disk (a folder of image files), lmdb (BasicSR's layout), parquet (a folder of Parquet files) and arrow (a folder
as save_to_disk of Hugging Face's datasets writes it).  Any kind can be read and written.  An --input that holds
{train,val}/{sharp,blurry} is converted folder by folder.  The --output is written whole or not at all.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gpen.commands._arguments import ArgumentParser, within
from gpen.commands._run import run_command
from gpen.errors import UserError
from gpen.utils.files import expand_user
from gpen.utils.text import count_things

Kind = Literal['lmdb', 'parquet', 'arrow', 'disk']

SUFFIXES: dict[Kind, str] = {'lmdb': '.lmdb', 'parquet': '.parquet', 'arrow': '.arrow', 'disk': ''}
SIDES = {'sharp': 'dataroot_gt', 'blurry': 'dataroot_lq'}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    parser.add_argument('--input', required=True, metavar='FOLDER', help='images of any kind, or a whole data set')
    parser.add_argument(
        '--output', required=True, metavar='NAME', help='where the result goes: NAME.lmdb, NAME.parquet, NAME.arrow'
    )
    parser.add_argument('--to', choices=tuple(SUFFIXES), help="kind of the result (told by --output's suffix)")
    parser.add_argument(
        '--shard_size', type=within(int, 1, 100_000), default=256, metavar='MB', help='size of a file (256 MB)'
    )
    parser.add_argument(
        '--io_backend',
        metavar='YAML',
        help='how to read --input, such as "{type: datasets, image_column: photo}" (found out)',
    )
    return parser.parse_args(arguments)


def convert(args: argparse.Namespace) -> int:
    """Write the result; return the exit status."""
    from gpen.data.storage.writing import new_folder

    kind = choose_kind(args.output, args.to)
    target = expand_user(args.output).absolute()
    backend = read_backend(args.io_backend)
    sides = find_sides(expand_user(args.input)) if backend is None else {}

    # One folder, file or URL.
    if not sides:
        count = convert_one(args.input, target, kind, args.shard_size, backend)
        print(f'{count_things(count, "image")}: {target}')
        print_options({'': {'sharp': target}}, kind)
        return 0

    # A whole data set.
    counts = {}
    written: dict[str, dict[str, Path]] = {}
    with new_folder(target) as folder:
        for (split, side), source in sides.items():
            name = f'{split}/{side}{SUFFIXES[kind]}'
            counts[name] = convert_one(str(source), folder / name, kind, args.shard_size, None)
            written.setdefault(split, {})[side] = target / name
    for name, count in counts.items():
        print(f'{count_things(count, "image")}: {target / name}')
    print_options(written, kind)
    return 0


def choose_kind(output: str, kind: Kind | None) -> Kind:
    """Return the kind of the result.

    Raises:
        UserError: neither --to nor the suffix of --output gives the kind, or they contradict each other.
    """
    suffix = Path(output).suffix
    told = next((name for name, known in SUFFIXES.items() if known and suffix == known), None)
    chosen = kind or told
    if chosen is None:
        raise UserError(f'--output {output} does not tell the kind. End it in .lmdb, .parquet or .arrow, or give --to.')
    if told is not None and kind not in (None, told):
        raise UserError(f'--output {output} is the name of another kind than --to {kind}. Change one of them.')
    return chosen


def read_backend(text: str | None) -> dict[str, Any] | None:
    """Return the option ``io_backend`` given on the command line.

    Raises:
        UserError: the text is no YAML mapping.
    """
    import yaml

    try:
        backend = None if text is None else yaml.safe_load(text)
    except yaml.YAMLError:
        backend = text
    if backend is not None and not isinstance(backend, dict):
        raise UserError(
            f'--io_backend {text!r} is no block of options. Write it as "{{type: datasets, split: train}}".'
        )
    return backend


def find_sides(source: Path) -> dict[tuple[str, str], Path]:
    """Return the folders of a whole data set by (split, side); none where ``source`` is something else."""
    return {
        (split, side): source / split / f'{side}{suffix}'
        for split in ('train', 'val')
        for side in SIDES
        for suffix in SUFFIXES.values()
        if (source / split / f'{side}{suffix}').is_dir()
    }


def convert_one(source: str, target: Path, kind: Kind, shard_size: int, backend: dict[str, Any] | None) -> int:
    """Copy the images of one storage; return their number."""
    from tqdm import tqdm

    from gpen.data.storage import find_backend, open_storage, writing
    from gpen.options.io_backend import is_url

    place = source if is_url(source) else expand_user(source).absolute()
    if backend is None:
        backend = find_backend(place) if isinstance(place, Path) else {'type': 'datasets', 'streaming': True}
    images = open_storage(place, backend)

    def track(keys: list[str]) -> Any:
        return tqdm(keys, desc=target.name, unit='image', disable=None)

    if kind == 'lmdb':
        return writing.write_lmdb(images, target, track)
    if kind == 'disk':
        return writing.write_files(images, target, track)
    return writing.write_tables(images, target, kind, shard_size, track)


def print_options(written: dict[str, dict[str, Path]], kind: str) -> None:
    """Print the lines of an option file that use the result: those of each split, or of one folder."""
    import yaml

    from gpen.utils.files import to_option_path

    backend = {'type': kind if kind in ('disk', 'lmdb') else 'datasets'}
    blocks: dict[str, Any] = {}
    for split, sides in written.items():
        roots = {SIDES[side]: to_option_path(path) for side, path in sides.items()}
        kind_of_set = {'type': 'PairedImageDataset'} if len(roots) == len(SIDES) else {}
        blocks[split] = kind_of_set | roots | {'io_backend': dict(backend)}
    lines = blocks.get('', {'datasets': blocks})
    print('\nIn the option file, or in one that begins with _base_: RECIPE.yml:\n')
    print(yaml.safe_dump(lines, default_flow_style=None, sort_keys=False, allow_unicode=True, width=10_000), end='')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: convert(args))
