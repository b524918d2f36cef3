"""The step that paints parts of the image over."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import cv2
import numpy as np

from gpen.data.degradations.draws import draw_between
from gpen.options.types import ShareRange
from gpen.registry import DEGRADATION_REGISTRY

_Draw = Callable[[np.ndarray, float], object]
"""Paints a mark, or this share of its length, with 1 on an H x W array of 0."""

_HALVINGS = 6  # of the last mark, until the painted share is met


@DEGRADATION_REGISTRY.register
def mask(
    image: np.ndarray,
    generator: np.random.Generator,
    shape: Literal['strokes', 'rectangles', 'mixed'] = 'strokes',
    share: ShareRange = (0.02, 0.25),
    stroke_width: ShareRange = (0.012, 0.08),
    rectangle_side: ShareRange = (0.1, 0.4),
) -> np.ndarray:
    """Paint brush strokes or rectangles over the image in white: GPEN's inpainting task.

    Strokes zigzag over the image as in Yu et al. 2019, "Free-Form Image Inpainting with Gated Convolution", with GPEN's
    widths of 12 to 80 pixels at 1024; the shares are those that GPEN's one to three strokes cover, 5 % to 95 % of the
    time.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the marks.
        shape: what to paint; ``mixed``: one or the other for each mark.
        share: how much of the image is painted over in the end; 1 is all of it.
        stroke_width: of a stroke, as a share of the image's shorter side.
        rectangle_side: height and width of a rectangle, as shares of the image's.
    """
    height, width = image.shape[:2]
    wanted = min(1.0, draw_between(generator, share)) * height * width

    # One mark after the other, until enough is painted; the last one is shortened.
    canvas = np.zeros((height, width), np.uint8)
    for mark in _draw_marks(generator, height, width, shape, stroke_width, rectangle_side):
        before = canvas.copy()
        mark(canvas, 1.0)
        if cv2.countNonZero(canvas) >= wanted:
            break

    result = image.copy()
    result[_shorten(mark, before, wanted)] = 1
    return result


def _shorten(mark: _Draw, before: np.ndarray, wanted: float) -> np.ndarray:
    """Return the canvas with as much of the mark as comes nearest to the number of pixels wanted."""
    canvases = [before]
    part, step = 1.0, 0.5

    # Halve the interval; the whole mark comes first, and the best of all that was tried is taken.
    for _ in range(_HALVINGS + 1):
        canvas = before.copy()
        mark(canvas, part)
        canvases.append(canvas)
        part += -step if cv2.countNonZero(canvas) > wanted else step
        part, step = min(part, 1.0), step / 2
    return min(canvases, key=lambda canvas: abs(cv2.countNonZero(canvas) - wanted)) > 0


def _draw_marks(
    generator: np.random.Generator,
    height: int,
    width: int,
    shape: str,
    stroke_width: ShareRange,
    rectangle_side: ShareRange,
) -> Iterator[_Draw]:
    """Yield random marks without end: a rectangle, or the next line of a stroke."""
    while True:
        if shape == 'rectangles' or (shape == 'mixed' and generator.random() < 0.5):
            yield _draw_rectangle(generator, height, width, rectangle_side)
        else:
            yield from _draw_stroke(generator, height, width, stroke_width)


def _draw_rectangle(generator: np.random.Generator, height: int, width: int, side: ShareRange) -> _Draw:
    rows, columns = (max(1, round(length * draw_between(generator, side))) for length in (height, width))
    # Partly outside, so that the edges of the image are covered as often as its middle.
    top, left = int(generator.integers(1 - rows, height)), int(generator.integers(1 - columns, width))

    def paint(canvas: np.ndarray, part: float) -> None:
        corner = left + max(1, round(columns * part)) - 1, top + rows - 1
        cv2.rectangle(canvas, (left, top), corner, 1, cv2.FILLED)

    return paint


def _draw_stroke(generator: np.random.Generator, height: int, width: int, stroke_width: ShareRange) -> Iterator[_Draw]:
    """Yield the lines of a stroke, which zigzags over the image to the left or to the right."""
    diagonal = math.hypot(height, width)
    thickness = max(1, round(min(height, width) * draw_between(generator, stroke_width)))
    low, high = (0.4 * math.pi + sign * generator.uniform(0, 2 * math.pi / 15) for sign in (-1, 1))
    onward = generator.choice([-1, 1])
    x, y = generator.uniform(0, width), generator.uniform(0, height)

    for n in range(int(generator.integers(8, 28))):
        angle = generator.uniform(low, high) * (1 if n % 2 else -1)
        length = min(max(generator.normal(diagonal / 8, diagonal / 16), 0), diagonal / 4)
        new_x = x + onward * length * math.cos(angle)
        new_y = min(max(y + length * math.sin(angle), 0), height - 1)

        yield partial(_paint_line, x, y, new_x, new_y, thickness)
        if not 0 <= new_x < width:
            return
        x, y = new_x, new_y


def _paint_line(x: float, y: float, to_x: float, to_y: float, thickness: int, canvas: np.ndarray, part: float) -> None:
    """Paint a line with round ends, which grows from its first end."""
    start = round(x), round(y)
    end = round(x + part * (to_x - x)), round(y + part * (to_y - y))
    cv2.line(canvas, start, end, 1, thickness)
    for point in (start, end):
        cv2.circle(canvas, point, thickness // 2, 1, cv2.FILLED)
