"""Landmarks of a data set's faces from a CSV file, and the boxes of eyes and mouth that follow from them.

Inside this file landmarks are shares of the image: (0, 0) is its top left corner and (1, 1) its bottom right one, so
that they hold at any size.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpen.data.ffhq_square import ffhq_quad, matrix_to_face
from gpen.data.storage.base import key_of
from gpen.errors import UserError
from gpen.utils.files import resolve_path
from gpen.utils.text import list_names

POINTS = ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth')
"""The five landmarks, as columns ``NAME_x`` and ``NAME_y``; left: in the picture."""
COLUMNS = tuple(f'{point}_{axis}' for point in POINTS for axis in 'xy')
COMPONENTS = ('left_eye', 'right_eye', 'mouth')
"""The rows of :meth:`Landmarks.boxes`; left: in the picture, mirrored or not."""

_SIDES = (0.9, 0.9, 1.2)  # of the boxes, in distances between the eyes
_DOWN_TO_ACROSS = 0.9  # of a face seen from the front: its eyes' distance, in distances from the eyes to the mouth


@dataclass(frozen=True)
class View:
    """How a data set shows a stored image: resized to a square, and perhaps mirrored.

    Attributes:
        stored: width and height of the stored image.
        size: width and height that it is resized to.
        is_mirrored: whether left and right are exchanged.
    """

    stored: tuple[int, int]
    size: int
    is_mirrored: bool


class Landmarks:
    """The landmarks of a data set's images.

    The file is a CSV table with a header: ``name``, the path of the image below the data set's root, with or without
    suffix, and ``left_eye_x``, ``left_eye_y``, then the same of ``right_eye``, ``nose``, ``left_mouth`` and
    ``right_mouth``; other columns are ignored.  Coordinates are pixels of the stored image; the centre of its top left
    pixel is (0, 0).  In a ``manifest.csv`` of ``prepare_dataset.py``, which has a column ``source``, they are pixels of
    the photograph that the face was aligned from.

    Args:
        file: the table; a relative path starts at the project's root.
        keys: those of the images, in the order of the data set.

    Raises:
        UserError: the file is missing, is no such table, or has no landmarks for an image.
    """

    def __init__(self, file: str, keys: Sequence[str]) -> None:
        self.path = resolve_path(file)
        rows, self._are_of_photographs = _read_table(self.path)
        points = [_to_points(rows.get(key)) for key in keys]

        missing = [key for key, point in zip(keys, points, strict=True) if point is None]
        if missing:
            raise UserError(
                f'{len(missing)} of {len(keys)} images have no landmarks in {self.path}: {list_names(missing)}. Each '
                'needs a row with its name and ten numbers. Add the rows, or remove the images.'
            )
        self._points = np.asarray(points, np.float64)  # N x 5 x 2

    def boxes(self, index: int, view: View) -> np.ndarray:
        """Return the squares around left eye, right eye and mouth as they are in a view.

        Their sides are 0.9 and 1.2 times the distance of the eyes, or what that would be if the face were seen from the
        front.  Those that would reach beyond the image are moved inside.

        Args:
            index: of the image in the data set.
            view: how it is shown.

        Returns:
            3 x 4, float32: x0, y0, x1, y1 of each, in pixels of the view.  They are edges: the image is from 0 to
            ``view.size``.
        """
        points = self._shares(index, view.stored)
        if view.is_mirrored:
            points = points[[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
        eyes, mouth = points[:2], points[3:].mean(axis=0)
        across = np.hypot(*(eyes[1] - eyes[0]))
        down = np.hypot(*(mouth - eyes.mean(axis=0)))

        centres = np.vstack([eyes, mouth])
        halves = np.minimum(np.array(_SIDES) / 2 * max(across, down * _DOWN_TO_ACROSS), 0.5)[:, None]
        centres = centres.clip(halves, 1 - halves)
        return (np.hstack([centres - halves, centres + halves]) * view.size).astype(np.float32)

    def _shares(self, index: int, stored: tuple[int, int]) -> np.ndarray:
        """Return the landmarks of an image as shares of its width and height, 5 x 2."""
        points = self._points[index]
        if self._are_of_photographs:
            matrix = matrix_to_face(ffhq_quad(points), 1)
            return points @ matrix[:, :2].T + matrix[:, 2] + 0.5
        return (points + 0.5) / stored


def check_stays(augment: Any) -> None:
    """Raise UserError where an ``augment`` option moves faces: landmarks would stay where they were."""
    for step in augment if isinstance(augment, list) else [augment]:
        if not isinstance(step, dict):
            continue
        if step.get('type') == 'affine':
            raise UserError('augment: affine moves the faces, but landmarks do not follow. Remove one of them.')
        for value in step.values():
            check_stays(value)


def _read_table(path: Path) -> tuple[dict[str, dict[str, str]], bool]:
    """Return the rows by key, and whether their coordinates are those of photographs."""
    rows: dict[str, dict[str, str]] = {}
    try:
        with path.open(newline='', encoding='utf-8-sig', errors='surrogateescape') as stream:
            table = csv.DictReader(stream)
            header = table.fieldnames or ()
            absent = [column for column in ('name', *COLUMNS) if column not in header]
            if absent:
                raise UserError(
                    f'{path} is no table of landmarks: it has no column {list_names(absent)}. It needs a header with '
                    f'name, {", ".join(COLUMNS)}.'
                )
            is_manifest = 'source' in header

            for row in table:
                key = row['name'] if is_manifest else key_of(row['name'] or '')
                if key in rows:
                    raise UserError(f'{path} has two rows for {key} (the second in line {table.line_num}). Remove one.')
                rows[key] = row
    except FileNotFoundError as error:
        raise UserError(f'There is no file of landmarks {path}. Put it there, or change landmarks.') from error
    except (OSError, csv.Error) as error:
        raise UserError(f'{path} cannot be read as a table of landmarks: {error}.') from error
    return rows, is_manifest


def _to_points(row: dict[str, str] | None) -> np.ndarray | None:
    """Return the landmarks of a row, 5 x 2, or None where it holds none that make a face."""
    try:
        points = np.array([float(row[column]) for column in COLUMNS]).reshape(5, 2) if row else None
    except (TypeError, ValueError):
        return None
    if points is None or not np.isfinite(points).all() or np.ptp(points, axis=0).max() == 0:
        return None
    return points
