"""The contact sheet: some pairs of both splits, and some of the faces that were left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gpen.data.image_io import read_image, resize, to_uint8, write_image
from gpen.preparation.pairs import PairTask
from gpen.preparation.selection import Entry
from gpen.preparation.splitting import SPLITS

CONTACT_SHEET = 'contact_sheet.png'
_CELL = 128  # pixels
_CAPTION = 18
_GAP = 8
_COLUMNS = 10  # cells: 5 pairs, or 10 faces
_ROWS = {'train': 4, 'val': 3, 'rejected': 2}
_LETTERS = 22  # that fit under a cell
_WHITE, _BLACK = 255, (0, 0, 0)


def write_contact_sheet(path: Path, entries: Sequence[Entry], pairs: dict[str, PairTask]) -> None:
    """Write the sheet: some pairs of each split, GT beside LQ, then some of the faces that are not kept."""
    strips = []
    for split in SPLITS:
        kept = [entry for entry in entries if entry.split == split]
        shown = _choose(kept, _ROWS[split] * _COLUMNS // 2)
        strips.append(_write_line(f'{split}: {len(shown)} of {len(kept)} pairs, sharp | blurry', 0.6))
        strips += _tile([_draw_pair(pairs[entry.name], entry.name) for entry in shown])

    rejected = [entry for entry in entries if entry.reason is not None and entry.image is not None]
    if rejected:
        rejected.sort(key=lambda entry: (entry.reason or '', entry.name))
        shown = _choose(rejected, _ROWS['rejected'] * _COLUMNS)
        strips.append(_write_line(f'not kept: {len(shown)} of {len(rejected)} faces', 0.6))
        strips += _tile([_draw_rejected(entry) for entry in shown])

    width = _COLUMNS * (_CELL + _GAP) + _GAP
    sheet = np.concatenate([_fit_width(strip, width) for strip in strips])  # H x width x 3, uint8
    write_image(path, sheet.astype(np.float32) / 127.5 - 1)


def _choose(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """Return at most ``limit`` entries, spread evenly."""
    count = min(limit, len(entries))
    return [entries[n * len(entries) // count] for n in range(count)]


def _draw_pair(pair: PairTask, name: str) -> np.ndarray:
    images = np.concatenate([_draw_face(pair.gt), _draw_face(pair.lq)], axis=1)
    return _add_caption(images, [name])


def _draw_rejected(entry: Entry) -> np.ndarray:
    assert entry.image is not None
    return _add_caption(_draw_face(entry.image), [entry.reason or '', entry.name])


def _draw_face(path: Path) -> np.ndarray:
    """Return a face of _CELL x _CELL x 3, uint8; a smaller one with its pixels as squares."""
    image = read_image(path)
    if len(image) >= _CELL:
        return np.asarray(to_uint8(resize(image, _CELL)))
    return np.asarray(to_uint8(cv2.resize(image, (_CELL, _CELL), interpolation=cv2.INTER_NEAREST)))


def _add_caption(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    height, width = picture.shape[:2]
    framed = np.full((height + _CAPTION * len(lines) + _GAP, width + _GAP, 3), _WHITE, np.uint8)
    framed[:height, :width] = picture
    for number, line in enumerate(lines):
        _write(framed, line[: _LETTERS * width // _CELL], (0, height + _CAPTION * (number + 1) - 5), 0.35)
    return framed


def _tile(cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return rows of cells of one size."""
    if not cells:
        return []
    per_row = max(1, _COLUMNS * (_CELL + _GAP) // cells[0].shape[1])
    return [np.concatenate(cells[n : n + per_row], axis=1) for n in range(0, len(cells), per_row)]


def _write_line(text: str, scale: float) -> np.ndarray:
    line = np.full((32, _COLUMNS * _CELL, 3), _WHITE, np.uint8)
    _write(line, text, (0, 22), scale)
    return line


def _write(picture: np.ndarray, text: str, place: tuple[int, int], scale: float) -> None:
    plain = ''.join(character if ' ' <= character <= '~' else '?' for character in text)  # what OpenCV can draw
    cv2.putText(picture, plain, place, cv2.FONT_HERSHEY_SIMPLEX, scale, _BLACK, 1, cv2.LINE_AA)


def _fit_width(strip: np.ndarray, width: int) -> np.ndarray:
    """Return a strip with white to its left and right."""
    missing = width - _GAP - strip.shape[1]
    return np.pad(strip, ((0, 0), (_GAP, missing), (0, 0)), constant_values=_WHITE)
