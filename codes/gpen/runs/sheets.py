"""Pictures of validations in ``visualization/ITER.png``: the first, the best and the latest, or all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpen.data.image_io import write_image

if TYPE_CHECKING:
    from torch import Tensor

SHEET_FOLDER = 'visualization'


def keep_sheet(folder: Path, sheet: Tensor, iteration: int, best: int | None, keeps_all: bool) -> None:
    """Write the sheet of a validation; remove those that are neither the first, the best nor the latest.

    Args:
        folder: of the run.
        sheet: 3 x H x W, uint8 RGB.
        iteration: of the validation.
        best: the iteration of the best one so far.
        keeps_all: remove none.
    """
    write_image(
        folder / SHEET_FOLDER / f'{iteration}.png', sheet.permute(1, 2, 0).numpy().astype('float32') / 127.5 - 1
    )
    sheets = list_sheets(folder)
    kept = {min(sheets), best, iteration}
    for number, path in sheets.items():
        if not keeps_all and number not in kept:
            path.unlink(missing_ok=True)


def list_sheets(folder: Path) -> dict[int, Path]:
    """Return the sheets in the folder of a run by iteration, in order."""
    found = {int(path.stem): path for path in (folder / SHEET_FOLDER).glob('*.png') if path.stem.isdecimal()}
    return dict(sorted(found.items()))
