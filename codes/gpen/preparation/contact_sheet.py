"""The contact sheet: some pairs of both splits, and some of the faces that were left out and why."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpen.data.cells import GAP, add_caption, draw_heading, to_cell
from gpen.data.image_io import read_image, write_image
from gpen.preparation.pairs import PairTask
from gpen.preparation.selection import Entry
from gpen.preparation.splitting import SPLITS

CONTACT_SHEET = 'contact_sheet.png'
_CELL = 128  # pixels
_COLUMNS = 10  # cells: 5 pairs, or 10 faces
_WIDTH = _COLUMNS * (_CELL + GAP)
_ROWS = {'train': 4, 'val': 3, 'rejected': 2}


def write_contact_sheet(path: Path, entries: Sequence[Entry], pairs: dict[str, PairTask]) -> None:
    """Write the sheet: some pairs of each split, GT beside LQ, then some of the faces that are not kept."""
    strips = []
    for split in SPLITS:
        kept = [entry for entry in entries if entry.split == split]
        shown = _choose(kept, _ROWS[split] * _COLUMNS // 2)
        strips.append(draw_heading(f'{split}: {len(shown)} of {len(kept)} pairs, sharp | blurry', _WIDTH))
        strips += _tile([_draw_pair(pairs[entry.name], entry.name) for entry in shown])

    rejected = [entry for entry in entries if entry.reason is not None and entry.image is not None]
    if rejected:
        rejected.sort(key=lambda entry: (entry.reason or '', entry.name))
        shown = _choose(rejected, _ROWS['rejected'] * _COLUMNS)
        strips.append(draw_heading(f'not kept: {len(shown)} of {len(rejected)} faces', _WIDTH))
        strips += _tile([_draw_rejected(entry) for entry in shown])

    wide = [np.pad(strip, ((0, 0), (GAP, _WIDTH - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    sheet = np.concatenate(wide)  # H x W x 3, uint8
    write_image(path, sheet.astype(np.float32) / 127.5 - 1)


def _choose(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """Return at most ``limit`` entries, spread evenly."""
    count = min(limit, len(entries))
    return [entries[n * len(entries) // count] for n in range(count)]


def _draw_pair(pair: PairTask, name: str) -> np.ndarray:
    images = [to_cell(read_image(path), _CELL) for path in (pair.gt, pair.lq)]
    return add_caption(np.concatenate(images, axis=1), [name], height=1)


def _draw_rejected(entry: Entry) -> np.ndarray:
    assert entry.image is not None
    return add_caption(to_cell(read_image(entry.image), _CELL), [entry.reason or '', entry.name], height=2)


def _tile(cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return rows of cells of one size."""
    per_row = _WIDTH // cells[0].shape[1] if cells else 1
    return [np.concatenate(cells[n : n + per_row], axis=1) for n in range(0, len(cells), per_row)]
