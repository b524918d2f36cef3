"""Pairs of a sharp face and its blurry copy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpen.data.degradations import build_degradation
from gpen.data.image_io import read_image, to_tensor, write_image
from gpen.preparation.selection import Entry, stable_number
from gpen.preparation.work import is_whole
from gpen.utils.files import link_or_copy
from gpen.utils.seeds import derive_seed

KINDS = ('sharp', 'blurry')
EQUAL = 100.0
"""The PSNR of two equal images, dB: a mean stays a number."""


@dataclass(frozen=True)
class PairTask:
    """One pair to write.

    Attributes:
        split: ``train`` or ``val``.
        image: the aligned face.
        sharp: where it goes.
        blurry: where its degraded copy goes.
        degradation: as in an option file.
        seed: of the copy's generator.
    """

    split: str
    image: Path
    sharp: Path
    blurry: Path
    degradation: Any
    seed: int


def degradation_seed(seed: int, entry: Entry) -> int:
    """Return the seed of a face's degradation, which no other face has a part in.

    The blurry image is ``build_degradation(options)(sharp, np.random.Generator(np.random.PCG64(seed)))``.
    """
    return derive_seed(seed, 'degrade', stable_number(entry.key, entry.index))


def list_pairs(folder: Path, entries: Iterable[Entry], degradation: Any, seed: int) -> dict[str, PairTask]:
    """Return the pairs of the faces that are kept, by name, as ``folder/SPLIT/{sharp,blurry}/NAME.png``."""
    tasks = {}
    for entry in entries:
        if entry.split is not None:
            assert entry.image is not None
            sharp, blurry = (folder / entry.split / kind / f'{entry.name}.png' for kind in KINDS)
            drawn_by = degradation_seed(seed, entry)
            tasks[entry.name] = PairTask(entry.split, entry.image, sharp, blurry, degradation, drawn_by)
    return tasks


def write_pair(task: PairTask) -> tuple[Path, float]:
    """Write a pair, unless it is there, each image whole or not at all; return the blurry one's path and PSNR in dB.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    if not is_whole(task.sharp):
        link_or_copy(task.image, task.sharp)
    # The 8 bits that a reader has too, so that the copy can be made again from the file.
    sharp = read_image(task.sharp)
    if not is_whole(task.blurry):
        generator = np.random.Generator(np.random.PCG64(task.seed))
        write_image(task.blurry, build_degradation(task.degradation)(sharp, generator))
    return task.blurry, measure_psnr(read_image(task.blurry), sharp)


def measure_psnr(blurry: np.ndarray, sharp: np.ndarray) -> float:
    """Return the PSNR of two images (H x W x 3, [-1, 1]) in dB, at most :data:`EQUAL`."""
    from gpen.metrics.psnr_ssim import calculate_psnr

    value = calculate_psnr(to_tensor(blurry)[None], to_tensor(sharp)[None]).item()
    return min(float(value), EQUAL)
