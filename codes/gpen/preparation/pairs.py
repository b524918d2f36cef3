"""Pairs of a GT face and its degraded copy, LQ."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpen.data.degradations import build_pair_degradation
from gpen.data.image_io import read_image, to_tensor, write_image
from gpen.preparation.selection import Entry, stable_number
from gpen.preparation.work import is_whole
from gpen.utils.files import link_or_copy
from gpen.utils.seeds import derive_seed

KINDS = ('sharp', 'blurry')
"""The folders of GT and LQ images."""
EQUAL = 100.0
"""The PSNR of two equal images, dB: a mean stays a number."""


@dataclass(frozen=True)
class PairTask:
    """One pair to write.

    Attributes:
        split: ``train`` or ``val``.
        image: the aligned face.
        gt: where it goes.
        lq: where its degraded copy goes.
        degradation: as in an option file.
        seed: of the copy's generator.
    """

    split: str
    image: Path
    gt: Path
    lq: Path
    degradation: Any
    seed: int


def degradation_seed(seed: int, entry: Entry) -> int:
    """Return the seed of a face's degradation, which depends on no other face.

    The pair is ``build_pair_degradation(options)(face, np.random.Generator(np.random.PCG64(seed)))``.
    """
    return derive_seed(seed, 'degrade', stable_number(entry.key, entry.index))


def list_pairs(folder: Path, entries: Iterable[Entry], degradation: Any, seed: int) -> dict[str, PairTask]:
    """Return the pairs of the faces that are kept, by name, as ``folder/SPLIT/{sharp,blurry}/NAME.png``."""
    tasks = {}
    for entry in entries:
        if entry.split is not None:
            assert entry.image is not None
            gt, lq = (folder / entry.split / kind / f'{entry.name}.png' for kind in KINDS)
            drawn_by = degradation_seed(seed, entry)
            tasks[entry.name] = PairTask(entry.split, entry.image, gt, lq, degradation, drawn_by)
    return tasks


def write_pair(task: PairTask) -> tuple[Path, float]:
    """Write a pair, unless it is there, each image whole or not at all; return the path and PSNR (dB) of the LQ image.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    if not (is_whole(task.gt) and is_whole(task.lq)):
        face = read_image(task.image)  # 8 bits, so that the pair can be made again from the file
        lq, gt = build_pair_degradation(task.degradation)(face, np.random.Generator(np.random.PCG64(task.seed)))
        if gt is face:
            link_or_copy(task.image, task.gt)
        else:
            write_image(task.gt, gt)
        write_image(task.lq, lq)
    return task.lq, measure_psnr(read_image(task.lq), read_image(task.gt))


def measure_psnr(lq: np.ndarray, gt: np.ndarray) -> float:
    """Return the PSNR of two images (H x W x 3, [-1, 1]) in dB, at most :data:`EQUAL`."""
    from gpen.metrics.psnr_ssim import calculate_psnr

    value = calculate_psnr(to_tensor(lq)[None], to_tensor(gt)[None]).item()
    return min(float(value), EQUAL)
