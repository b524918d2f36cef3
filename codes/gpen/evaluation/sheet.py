"""A picture sheet: some restored images from the best to the worst, each between its LQ and its GT image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from gpen.data.image_io import resize, to_array, to_uint8
from gpen.evaluation.table import format_value

CELL = (256, 512)  # images are shown at this width at least, and at most
GAP = 8
LINE = 18  # height of a line of text
SCALE = 0.42
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)

Row = tuple[str, tuple[Tensor, Tensor, Tensor], dict[str, Any], dict[str, Any]]


def choose_ranks(values: Sequence[float], higher_is_better: bool, count: int) -> dict[int, str]:
    """Choose images spread from the best to the worst, the median among them.

    Args:
        values: a metric of each image; NaN where it is not defined.
        higher_is_better: its direction.
        count: how many to choose; one is the median, two are the best and the worst.

    Returns:
        The name of each rank by the image's index, the best first, such as ``best of 32`` or ``7 of 32``.
    """
    defined = [index for index, value in enumerate(values) if not math.isnan(value)]
    order = sorted(defined, key=lambda index: (-values[index] if higher_is_better else values[index], index))

    # The median, and ranks evenly spaced on both sides of it.
    last = len(order) - 1
    median = last // 2
    count = min(count, len(order))
    left = (count - 1) // 2  # ranks better than the median
    right = count - 1 - left
    ranks = [round(n * median / left) for n in range(left)] + [median] * (count > 0)
    ranks += [round(median + n * (last - median) / right) for n in range(1, right + 1)]
    if count == 2:
        ranks = [0, last]

    words = {median: 'median', last: 'worst', 0: 'best'}
    return {order[rank]: f'{words.get(rank, rank + 1)} of {len(order)}' for rank in ranks}


def draw_sheet(rows: Iterable[Row], title: str) -> np.ndarray:
    """Return a sheet, H x W x 3, uint8, RGB: a row of LQ, restored and GT image for each entry of ``rows``.

    Args:
        rows: the rank of the restored image; LQ, restored and GT image, 3 x H x W in [-1, 1]; name and metrics of the
            LQ image, and of the restored one.
        title: stands above.
    """
    strips = []
    for rank, (lq, restored, gt), before, after in rows:
        width = min(max(gt.shape[-1], CELL[0] // gt.shape[-1] * gt.shape[-1]), CELL[1])
        captions = [
            ['input', *_list_values(before, width)],
            [f'restored: {rank}', *_list_values(after, width)],
            ['sharp', str(after['name'])],
        ]
        height = max(map(len, captions))
        pairs = zip((lq, restored, gt), captions, strict=True)
        strips.append(np.concatenate([_draw_cell(image, width, lines, height) for image, lines in pairs], axis=1))

    heading = np.full((LINE + GAP, strips[0].shape[1], 3), WHITE, np.uint8)
    write_text(heading, title, (0, LINE - 4), BLACK)
    return np.pad(np.concatenate([heading, *strips]), ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)


def write_text(picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int] = GREY) -> None:
    """Write a line into a picture, H x W x 3, uint8, in place; what does not fit is cut off.

    Args:
        picture: to write into.
        text: what OpenCV cannot draw becomes ``?``.
        place: x and y of the lower left corner.
        colour: red, green, blue.
    """
    plain = ''.join(character if ' ' <= character <= '~' else '?' for character in text)
    while plain and place[0] + _width_of(plain) > picture.shape[1]:
        plain = plain[:-1]
    cv2.putText(picture, plain, place, cv2.FONT_HERSHEY_SIMPLEX, SCALE, colour, 1, cv2.LINE_AA)


def _draw_cell(image: Tensor, width: int, lines: Sequence[str], height: int) -> np.ndarray:
    """Return an image of ``width`` with lines of text below, and a gap to the right and below."""
    array = to_array(image)
    if len(array) <= width:  # small images keep their visible pixels
        picture = cv2.resize(to_uint8(array), (width, width), interpolation=cv2.INTER_NEAREST)
    else:
        picture = to_uint8(resize(array, width))
    cell = np.full((width + LINE * height + 2 * GAP, width + GAP, 3), WHITE, np.uint8)
    cell[:width, :width] = picture
    for number, line in enumerate(lines):
        place = (0, width + LINE * (number + 1) - 3)
        write_text(cell[:, :width], line, place, GREY if number else BLACK)
    return cell


def _list_values(row: dict[str, Any], width: int) -> list[str]:
    """Return the metrics of an image in lines of text that fit into ``width``."""
    lines = ['']
    for name, value in row.items():
        if name == 'name':
            continue

        word = f'{name.upper()} {format_value(value)}'
        longer = f'{lines[-1]}   {word}' if lines[-1] else word
        if _width_of(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _width_of(text: str) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, SCALE, 1)[0][0])
