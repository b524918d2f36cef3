"""Sample pictures as HTML: what the generator made of the same faces, from left to right through time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpen.errors import UserError
from gpen.reporting.page import embed_image, escape
from gpen.reporting.pictures import Sample

_WIDTH = 256  # of a column, in pixels; a page with six of them stays below a megabyte or two
_SMALL = 128  # narrower pictures are enlarged by whole pixels


def draw_samples(samples: Sequence[Sample]) -> str:
    """Return the pictures side by side; nothing where there are none.

    Sheets with columns give one input and one sharp column, and a restored one for each.
    """
    from gpen.data.image_io import read_image, to_uint8

    sheets: list[tuple[Sample, np.ndarray]] = []
    for sample in samples:
        try:
            sheets.append((sample, to_uint8(read_image(sample.data, f'the picture of iteration {sample.iteration}'))))
        except UserError:  # cut off while it was written; the others are shown
            continue
    if not sheets:
        return ''
    if not all(sample.has_columns and sheet.shape[1] % 3 == 0 for sample, sheet in sheets):
        return _hold([(f'iteration {sample.iteration:,}', sheet) for sample, sheet in sheets], 3 * _WIDTH)
    columns = [(f'iteration {sample.iteration:,}', np.split(sheet, 3, axis=1)[1]) for sample, sheet in sheets]
    before, _, sharp = np.split(sheets[-1][1], 3, axis=1)
    return _hold([('input', before), *columns, ('sharp', sharp)], _WIDTH, 'through-time')


def _hold(pictures: Sequence[tuple[str, np.ndarray]], width: int, kind: str = '') -> str:
    figures = []
    for words, picture in pictures:
        look = ' class="pixels"' if picture.shape[1] < _SMALL else ''
        image = f'<img src="{embed_image(np.ascontiguousarray(picture), width)}" alt="{escape(words)}"{look}>'
        figures.append(f'<figure><figcaption>{escape(words)}</figcaption>{image}</figure>')
    return f'<div class="pictures {kind}">{"".join(figures)}</div>'
