"""Render a paired data set of synthetic portraits: people who do not exist, for the quick start.

OUTPUT/{train,val}/{sharp,blurry}/NNNN.png.  The same seed gives the same pictures, whatever the number of workers.  A
JSON file with the settings is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gpen.commands._arguments import ArgumentParser, network_size, within
from gpen.commands._run import run_command
from gpen.errors import UserError
from gpen.utils.command_line import spell, spell_command, spell_setting
from gpen.utils.cpu import count_cpus
from gpen.utils.files import expand_user, resolve_path, suggest_folder, to_option_path

if TYPE_CHECKING:
    import numpy as np

    from gpen.portraits.pair import Task

# Counts up whenever the pictures change, so that a folder of older ones is not taken for current.
RENDERER_VERSION = 1
MANIFEST = 'portraits.json'
KINDS = ('sharp', 'blurry')  # folders of GT and LQ images


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--output', required=True, metavar='FOLDER', help='where the data set goes')
    parser.add_argument('--train', type=within(int, 1, 9999), default=400, metavar='N', help='pairs to train on (400)')
    parser.add_argument('--val', type=within(int, 1, 9999), default=32, metavar='N', help='pairs to validate on (32)')
    parser.add_argument(
        '--size', type=network_size(16, 1024), default=64, metavar='N', help='side of the pictures, pixels (64)'
    )
    parser.add_argument('--seed', type=within(int, 0, 2**62), default=10, help='another seed, other people (10)')
    parser.add_argument(
        '--workers', type=within(int, 0, 256), default=count_cpus(), metavar='N',
        help='processes that render; 0 renders in this one (the number of processors)',
    )  # fmt: skip
    return parser.parse_args(arguments)


def image_path(folder: Path, task: Task, kind: str) -> Path:
    """Return where an image of the data set goes."""
    split, index = task
    return folder / split / kind / f'{index:04d}.png'


def is_complete(folder: Path, tasks: Sequence[Task], settings: dict[str, Any]) -> bool:
    """Return whether exactly this data set is there already.

    Raises:
        UserError: the folder holds something else that must not be mixed with it.
    """
    manifest = folder / MANIFEST
    advice = f'Choose another --output, such as {spell(suggest_folder(folder))}.'
    if manifest.is_file() and _read_manifest(manifest) != settings:
        raise UserError(f'{folder} holds a data set that was made with other settings. {advice}')

    # A killed run leaves temporary files, whose names start with a dot.
    expected = {image_path(folder, task, kind) for task in tasks for kind in KINDS}
    present = {path for split in ('train', 'val') for kind in KINDS for path in (folder / split / kind).glob('[!.]*')}
    others = sorted(present - expected)
    if others:
        raise UserError(f'{folder} holds files that do not belong to this data set, such as {others[0]}. {advice}')
    return manifest.is_file() and expected <= present


def _read_manifest(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def render_pairs(
    seed: int, size: int, tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, tuple[np.ndarray, np.ndarray]]]:
    """Yield each task with its pair, in order, rendered by ``workers`` processes."""
    from gpen.portraits.pair import render_pair

    render = partial(render_pair, seed, size)
    if workers == 0:
        yield from ((task, render(task)) for task in tasks)
        return

    # Spawned processes start the same way on every system, and do not inherit OpenCV's threads.
    pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context('spawn'), _use_one_thread)
    try:
        yield from zip(tasks, pool.map(render, tasks, chunksize=4), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    cv2.setNumThreads(1)


def make_portraits(args: argparse.Namespace) -> int:
    """Render the data set unless it is there; return the exit status."""
    from tqdm import tqdm

    from gpen.data.image_io import write_image
    from gpen.preparation.pairs import measure_psnr
    from gpen.utils.files import write_text

    counts = {'train': args.train, 'val': args.val}
    folder = expand_user(args.output).absolute()
    settings = {'renderer': RENDERER_VERSION, 'seed': args.seed, 'size': args.size, **counts}
    tasks = [(split, index) for split, count in counts.items() for index in range(count)]
    if is_complete(folder, tasks, settings):
        print(f'{args.train} + {args.val} portraits of {args.size} x {args.size} are already there: {folder}')
        print(f'To train on them:\n\n  {_spell_training(folder, args.size)}')
        return 0

    psnr: dict[str, list[float]] = {split: [] for split in counts}
    pairs = render_pairs(args.seed, args.size, tasks, args.workers)
    for task, (gt, lq) in tqdm(pairs, 'portraits', len(tasks), unit='pair', disable=None):
        for kind, image in zip(KINDS, (gt, lq), strict=True):
            write_image(image_path(folder, task, kind), image)
        psnr[task[0]].append(measure_psnr(lq, gt))
    write_text(folder / MANIFEST, json.dumps(settings, indent=2) + '\n')

    for split, values in psnr.items():
        print(f'{split}: {len(values)} pairs, mean PSNR of the blurry ones {fmean(values):.2f} dB')
    print(f'Written to {folder}. To train on them:\n\n  {_spell_training(folder, args.size)}')
    return 0


def _spell_training(folder: Path, size: int) -> str:
    """Return the command that trains on the portraits by the quick start's recipe."""
    from gpen.preparation.recipe import name_run

    words = ['-opt', 'options/train/quickstart.yml', '--auto_resume']
    if (folder, size) == (resolve_path('datasets/quickstart'), 64):  # the recipe's own
        return spell_command('train', *words)

    roots = {
        f'datasets:{split}:{root}': to_option_path(folder / split / kind)
        for split in ('train', 'val')
        for kind, root in zip(KINDS, ('dataroot_gt', 'dataroot_lq'), strict=True)
    }
    changes = {'name': name_run(folder), 'network_g:size': size, 'network_d:size': size, **roots}
    return spell_command('train', *words, '--force_yml', *(spell_setting(*change) for change in changes.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: make_portraits(args))
