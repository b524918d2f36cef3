"""How many images per second one core decodes and degrades, compared with BasicSR's functions.

The benchmark measures processor time with one thread, so that other programs disturb it little.  Both sides take turns,
draw by draw.  Draws differ in cost (a face that is downscaled by eight has 64 times fewer pixels to add noise to), so
there are many, with fixed seeds that differ between repeats.  The result is the median of the repeats' means.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.machine import describe_machine, format_machine, processor_clock
from benchmarks.plain_degradations import Plain, find_plain
from benchmarks.tables import Cost, Row, format_speeds, format_steps, write_json
from gpen.data.degradations import build_degradation
from gpen.data.image_io import read_image, resize, to_uint8
from gpen.data.storage import open_storage
from gpen.errors import UserError
from gpen.utils.seeds import derive_generator, derive_seed

DECODING = 'decoding'
RECIPES: dict[str, dict[str, Any]] = {
    'gfpgan': {'type': 'gfpgan'},
    'gfpgan (no colours)': {'type': 'gfpgan', 'color_jitter_prob': 0, 'color_jitter_pt_prob': 0, 'gray_prob': 0},
    'gpen': {'type': 'gpen'},
    'gpen (paper)': {'type': 'gpen', 'version': 'paper'},
    'realesrgan': {'type': 'realesrgan'},
    'bsrgan': {'type': 'bsrgan'},
    'simple': {'type': 'simple'},
    'grayscale': {'type': 'grayscale'},
    'mask': {'type': 'mask'},
}
STEPS: dict[str, dict[str, Any]] = {
    '41 x 41 blur': {'type': 'blur', 'kernel_list': ['iso', 'aniso'], 'kernel_size': 41, 'sigma': [0.1, 10]},
    'noise': {'type': 'gaussian_noise', 'sigma': [10, 10]},
    'JPEG': {'type': 'jpeg', 'quality': [80, 80]},
    'a quarter and back': {'type': 'downsample', 'factor': [4, 4]},
}
# Steps, and the factor by which their images are smaller than STEP_SIZE; the recipes add noise to small images.
STEP_SHRINKS = ((DECODING, 1), ('41 x 41 blur', 1), ('noise', 1), ('noise', 4), ('JPEG', 1), ('a quarter and back', 1))
STEP_SIZE = 512  # pixels
_PORTRAITS, _PORTRAIT_SIZE = 4, 512  # rendering one of this size takes two seconds, a larger one far longer

Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Side:
    """One side of the comparison, ours or BasicSR's, each with its own kind of image."""

    decode: Callable[[bytes], np.ndarray]
    recipes: dict[str, Degrade]
    steps: dict[str, Degrade]

    @classmethod
    def ours(cls, recipes: Sequence[str]) -> Side:
        """Return our side."""
        return cls(
            read_image,
            {name: build_degradation(RECIPES[name]) for name in recipes},
            {DECODING: _keep, **{name: build_degradation(options) for name, options in STEPS.items()}},
        )

    @classmethod
    def plain(cls, plain: Plain) -> Side:
        """Return BasicSR's side, whose random numbers come from the global generators."""

        def ignore_generator(function: Callable[[np.ndarray], np.ndarray]) -> Degrade:
            return lambda image, _generator: function(image)

        return cls(
            plain.decode,
            {name: ignore_generator(recipe) for name, recipe in plain.recipes.items()},
            {DECODING: _keep, **{name: ignore_generator(step) for name, step in plain.steps.items()}},
        )


def _keep(image: np.ndarray, _generator: np.random.Generator) -> np.ndarray:
    return image


@dataclass
class Stopwatch:
    """Times both sides in turns, and advances the progress bar."""

    draws: int
    repeats: int
    seed: int
    progress: tqdm
    clock: Callable[[], float] = field(default_factory=processor_clock)

    def time(self, sides: dict[str, Side], kind: str, name: str, faces: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Time the recipe or step ``name`` on the sides that have it; ``kind`` is ``recipes`` or ``steps``.

        Returns:
            Seconds by side, repeats x draws x 2: decoding, and degrading.
        """
        able = [side for side in sides if name in getattr(sides[side], kind)]
        times = {side: np.zeros((self.repeats * self.draws, 2)) for side in able}
        for draw in range(-1, self.repeats * self.draws):
            for side in able[:: 1 if draw % 2 else -1]:
                degrade = getattr(sides[side], kind)[name]
                seconds = self._time_once(sides[side], degrade, faces[draw % len(faces)], draw)
                if draw >= 0:  # draw -1 is a warm-up
                    times[side][draw] = seconds
            self.progress.update(draw >= 0)
        return {side: seconds.reshape(self.repeats, self.draws, 2) for side, seconds in times.items()}

    def _time_once(self, side: Side, degrade: Degrade, face: bytes, draw: int) -> tuple[float, float]:
        # The same random numbers in all runs: ours come from a generator, BasicSR's from the global states.
        generator = derive_generator(self.seed, 'benchmark', draw)
        global_seed = derive_seed(self.seed, 'benchmark', draw) % 2**32
        random.seed(global_seed)
        np.random.seed(global_seed)

        start = self.clock()
        image = side.decode(face)
        decoded = self.clock()
        degrade(image, generator)
        return decoded - start, self.clock() - decoded


def measure_data(args: argparse.Namespace) -> int:
    """Measure, print the tables, and write the JSON file; return the exit status."""
    # One thread; what to measure.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns that BasicSR hands it float images
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sizes = sorted(set(args.sizes or ((256, 512) if args.quick else (256, 512, 1024))))
    draws = args.draws or 40
    repeats = args.repeats or (1 if args.quick else 3)
    recipes = _choose_recipes(args.recipes)
    step_size = STEP_SIZE if STEP_SIZE in sizes else sizes[-1]
    step_sizes = [(name, step_size // shrink) for name, shrink in STEP_SHRINKS]

    # Images and sides.
    faces = load_faces(args.input, args.images, {*sizes, *(size for _, size in step_sizes)}, args.seed)
    sides = {'ours': Side.ours(recipes)}
    plain = find_plain()
    if plain is not None:
        sides['plain'] = Side.plain(plain)

    # Measurements.
    clocks = time.perf_counter(), time.process_time()
    total = (len(sizes) * len(recipes) + len(step_sizes)) * draws * repeats
    with tqdm(total=total, desc='draws', disable=None) as progress:
        stopwatch = Stopwatch(draws, repeats, args.seed, progress)
        speeds = [row for size in sizes for row in measure_recipes(stopwatch, sides, recipes, size, faces[size])]
        steps = [measure_step(stopwatch, sides, name, size, faces[size]) for name, size in step_sizes]
    wall, processor = time.perf_counter() - clocks[0], time.process_time() - clocks[1]

    # Results.
    machine = describe_machine(('numpy', 'opencv-python', 'opencv-python-headless', 'basicsr'))
    settings = {'input': args.input, 'images': len(faces[sizes[0]]), 'draws': draws, 'repeats': repeats}
    settings |= {'seed': args.seed, 'wall_seconds': wall, 'processor_seconds': processor}
    print(_describe(machine, settings, plain is not None))
    print(f'\n{format_speeds(speeds)}\n\n{format_steps(steps)}')
    tables = {'recipes': [row.to_dict() for row in speeds], 'steps': [row.to_dict() for row in steps]}
    write_json(args.json, {'machine': machine, 'settings': settings, **tables})
    return 0


def measure_recipes(
    stopwatch: Stopwatch, sides: dict[str, Side], recipes: Sequence[str], size: int, faces: Sequence[bytes]
) -> list[Row]:
    """Return the rows of one size: decoding, then each recipe, with decoding and without."""
    decoding: dict[str, list[np.ndarray]] = {side: [] for side in sides}
    rows = []
    for name in recipes:
        times = stopwatch.time(sides, 'recipes', name, faces)
        for side, seconds in times.items():
            decoding[side].append(seconds[..., 0])
        whole = {side: seconds.sum(axis=-1) for side, seconds in times.items()}
        degrading = {side: seconds[..., 1] for side, seconds in times.items()}
        rows += [_make_row(f'{name} + {DECODING}', size, whole), _make_row(name, size, degrading)]

    # Each recipe decoded the same images, so all of its draws count for decoding.
    together = {side: np.concatenate(seconds, axis=1) for side, seconds in decoding.items() if seconds}
    return [_make_row(DECODING, size, together), *rows]


def measure_step(stopwatch: Stopwatch, sides: dict[str, Side], name: str, size: int, faces: Sequence[bytes]) -> Row:
    """Return the row of a single step, of which decoding is one."""
    times = stopwatch.time(sides, 'steps', name, faces)
    return _make_row(name, size, {side: seconds[..., int(name != DECODING)] for side, seconds in times.items()})


def _make_row(name: str, size: int, times: dict[str, np.ndarray]) -> Row:
    return Row(name, size, Cost.of(times['ours']), Cost.of(times['plain']) if 'plain' in times else None)


def load_faces(folder: str | None, count: int, sizes: set[int], seed: int) -> dict[int, list[bytes]]:
    """Return PNG files by size: ``count`` images spread over a folder, or some rendered portraits.

    Raises:
        UserError: the folder is not there, holds no images, or one of them is damaged.
    """
    images = _render_portraits(min(count, _PORTRAITS), max(sizes), seed) if folder is None else _read(folder, count)
    return {size: [_encode(resize(image, size)) for image in images] for size in sizes}


def _read(folder: str, count: int) -> list[np.ndarray]:
    storage = open_storage(Path(folder).expanduser())
    keys = storage.keys()
    if not keys:
        raise UserError(f'There are no images in {folder}. Give --input a folder with some.')
    count = min(count, len(keys))
    chosen = [keys[index * len(keys) // count] for index in range(count)]
    return [read_image(storage.read(key), storage.describe(key)) for key in chosen]


def _render_portraits(count: int, size: int, seed: int) -> list[np.ndarray]:
    from gpen.portraits.render import render_portrait

    numbers = tqdm(range(count), 'portraits', disable=None)
    return [render_portrait(derive_generator(seed, 'portrait', n), min(size, _PORTRAIT_SIZE)) for n in numbers]


def _encode(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR))[1].tobytes()


def _choose_recipes(names: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(names or ()) - set(RECIPES))
    if unknown:
        raise UserError(f'--recipes: there is no {", ".join(unknown)}. Choose among {", ".join(RECIPES)}.')
    return [name for name in RECIPES if names is None or name in names]


def _describe(machine: dict[str, Any], settings: dict[str, Any], has_plain: bool) -> str:
    """Return a description of machine and method; wall time beside processor time shows how busy the machine was."""
    source = settings['input'] or 'rendered portraits'
    method = (
        f'One thread, processor time, {settings["repeats"]} x {settings["draws"]} draws, {settings["images"]} images '
        f'from {source}, as PNG files in memory; the wall clock ran {settings["wall_seconds"]:.0f} s, '
        f'{settings["wall_seconds"] / settings["processor_seconds"]:.2f} times as long.'
    )

    plain = 'plain: left out, because basicsr is not installed (pip install basicsr==1.4.2).'
    if has_plain:
        plain = "plain: the same recipe built from BasicSR's functions. ±: standard error, as the draws differ."
    return '\n'.join([format_machine(machine), method, plain])
