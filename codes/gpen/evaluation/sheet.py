"""A picture sheet: some restored images from the best to the worst, each beside its LQ image and its GT image."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gpen.data.cells import GAP, add_caption, draw_heading, to_cell, width_of
from gpen.data.image_io import to_array
from gpen.evaluation.table import format_value

CELL = (256, 512)  # images are shown at this width at least, and at most

Row = tuple[str, Sequence[Tensor], dict[str, Any], dict[str, Any]]


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
    """Return a sheet, H x W x 3, uint8, RGB: LQ, restored and GT image side by side for each entry of ``rows``.

    Args:
        rows: the rank of the restored image; LQ, restored and, if there is one, GT image, 3 x H x W in [-1, 1]; name
            and metrics of the LQ image, and of the restored one.
        title: stands above.
    """
    strips = []
    for rank, images, before, after in rows:
        side = images[1].shape[-1]
        width = min(max(side, CELL[0] // side * side), CELL[1])
        captions = [
            ['input', *_list_values(before, width)],
            [f'restored: {rank}', *_list_values(after, width)],
            ['sharp', str(after['name'])],
        ]
        if len(images) < len(captions):  # without a sharp image, the name goes below the input
            captions = [['input', captions[2][1], *captions[0][1:]], captions[1]]
        height = max(len(lines) for lines in captions)
        pictures = [to_cell(to_array(image), width) for image in images]
        cells = [add_caption(picture, lines, height) for picture, lines in zip(pictures, captions, strict=True)]
        strips.append(np.concatenate(cells, axis=1))
    heading = draw_heading(title, strips[0].shape[1])
    return np.pad(np.concatenate([heading, *strips]), ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)


def _list_values(row: dict[str, Any], width: int) -> list[str]:
    """Return the metrics of an image in lines of text that fit into ``width``."""
    lines = ['']
    for name, value in row.items():
        if name == 'name':
            continue

        word = f'{name.upper()} {format_value(value)}'
        longer = f'{lines[-1]}   {word}' if lines[-1] else word
        if width_of(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
