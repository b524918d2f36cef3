"""Render a paired data set of synthetic portraits: people who do not exist, for the quick start.

OUTPUT/{train,val}/{sharp,blurry}/NNNN.png.  The same seed gives the same pictures, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401
from gpen.commands._arguments import within
from gpen.commands._run import run_command
from gpen.utils.cpu import count_cpus

if TYPE_CHECKING:
    from paired_set import Image

# Counts up whenever the pictures change, so that a folder of older ones is not taken for current.
RENDERER_VERSION = 1
MANIFEST = 'portraits.json'
_SPLIT_IDS = {'train': 0, 'val': 1}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog='make_portraits.py', description=__doc__.partition('\n')[0])
    parser.add_argument('--output', required=True, metavar='FOLDER', help='where the data set goes')
    parser.add_argument('--train', type=within(int, 1, 9999), default=400, metavar='N', help='pairs to train on (400)')
    parser.add_argument('--val', type=within(int, 1, 9999), default=32, metavar='N', help='pairs to validate on (32)')
    parser.add_argument('--size', type=within(int, 16, 1024), default=64, help='side of the pictures in pixels (64)')
    parser.add_argument('--seed', type=int, default=10, help='another seed, other people (10)')
    parser.add_argument(
        '--workers', type=within(int, 0, 256), default=count_cpus(), metavar='N',
        help='processes that render; 0 renders in this one (the number of processors)',
    )  # fmt: skip
    return parser.parse_args(arguments)


def render_pair(seed: int, size: int, task: tuple[str, int]) -> tuple[Image, Image]:
    """Return a portrait and its degraded version (size x size x 3, float32, RGB, [-1, 1]) of ``task``: split, index."""
    from gpen.data.degradations import build_degradation
    from gpen.utils.seeds import derive_generator
    from portraits.render import render_portrait

    split, index = task
    sharp = render_portrait(derive_generator(seed, 'portrait', _SPLIT_IDS[split], index), size)
    degrade = build_degradation({'type': 'simple'})
    return sharp, degrade(sharp, derive_generator(seed, 'degrade', _SPLIT_IDS[split], index))


def render_pairs(
    seed: int, size: int, tasks: Sequence[tuple[str, int]], workers: int
) -> Iterator[tuple[tuple[str, int], tuple[Image, Image]]]:
    """Yield each task with its pair, in order, rendered by ``workers`` processes."""
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

    from gpen.utils.files import resolve_path
    from paired_set import PairedSet

    counts = {'train': args.train, 'val': args.val}
    folder = Path(resolve_path(args.output))
    settings = {'renderer': RENDERER_VERSION, 'seed': args.seed, 'size': args.size, **counts}
    names = {split: [f'{index:04d}' for index in range(count)] for split, count in counts.items()}
    paired = PairedSet(folder, MANIFEST, settings, names)
    if paired.is_complete():
        print(f'{args.train} + {args.val} portraits of {args.size} x {args.size} are already there: {folder}')
        return 0
    tasks = [(split, index) for split, count in counts.items() for index in range(count)]
    pairs = render_pairs(args.seed, args.size, tasks, args.workers)
    for (split, index), (sharp, blurry) in tqdm(pairs, 'portraits', len(tasks), unit='pair', disable=None):
        paired.write(split, f'{index:04d}', sharp, blurry)
    paired.finish()
    for split, count in counts.items():
        print(f'{split}: {count} pairs, mean PSNR of the blurry ones {paired.mean_psnr(split):.2f} dB')
    print(f'Written to {folder}')
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(lambda: make_portraits(args))


if __name__ == '__main__':
    sys.exit(main())
