"""Pictures through time, from the sheets that validation wrote to the folder of the run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpen.errors import UserError
from gpen.reporting.page import embed_image, escape
from gpen.runs.sheets import list_sheets

_WIDTH = 256  # of a column, in pixels; a page with six of them stays below a megabyte or two
_SMALL = 128  # narrower pictures are enlarged by whole pixels


def draw_pictures(folder: Path, last_iteration: int, count: int, has_columns: bool) -> str:
    """Return up to ``count`` sheets side by side as HTML, spread over the run; nothing where there are none.

    Args:
        folder: of the run.
        last_iteration: later sheets belong to a course that was given up.
        count: how many sheets at most.
        has_columns: a sheet has the columns LQ, restored, GT.  LQ and GT are shown once then, and the restored column
            of each sheet between them.
    """
    from gpen.data.image_io import read_image, to_uint8

    paths = list_sheets(folder)
    sheets: dict[str, np.ndarray] = {}
    for iteration in choose_through_time([number for number in paths if number <= last_iteration], count):
        try:
            sheets[f'iteration {iteration:,}'] = to_uint8(read_image(paths[iteration]))
        except UserError:  # damaged; the others are shown
            continue

    if not sheets:
        return ''
    if not has_columns or any(sheet.shape[1] % 3 for sheet in sheets.values()):
        return _draw_figures(sheets, 3 * _WIDTH)
    lq, _, gt = np.split(list(sheets.values())[-1], 3, axis=1)
    restored = {words: np.split(sheet, 3, axis=1)[1] for words, sheet in sheets.items()}
    return _draw_figures({'input': lq, **restored, 'sharp': gt}, _WIDTH, 'through-time')


def choose_through_time(iterations: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the iterations with the first and the last, closer at the start, where most happens."""
    ordered = sorted(set(iterations))
    if count >= len(ordered) or count < 2:
        return ordered[-count:] if count else []
    last = len(ordered) - 1
    places = {round(last * (n / (count - 1)) ** 2) for n in range(count)}
    missing = [place for place in range(last) if place not in places]  # where several fell on one place
    places.update(missing[: count - len(places)])
    return [ordered[place] for place in sorted(places)]


def _draw_figures(pictures: dict[str, np.ndarray], width: int, kind: str = '') -> str:
    figures = []
    for words, picture in pictures.items():
        look = ' class="pixels"' if picture.shape[1] < _SMALL else ''
        image = f'<img src="{embed_image(np.ascontiguousarray(picture), width)}" alt="{escape(words)}"{look}>'
        figures.append(f'<figure><figcaption>{escape(words)}</figcaption>{image}</figure>')
    return f'<div class="pictures {kind}">{"".join(figures)}</div>'
