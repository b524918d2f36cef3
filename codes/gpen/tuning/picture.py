"""The report as a picture, drawn with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from gpen.reporting.curves import COLOURS, Series
from gpen.reporting.points import choose_ticks, clean, format_number
from gpen.tuning.panels import Panel

SCALE = 2  # pixels for each unit
PANEL = 560, 340  # units
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 50, 40
LINE = 17
COLUMNS = 2
MARGIN = 20
WHITE, BLACK, GREY, PALE = (255, 255, 255), (28, 32, 36), (110, 115, 120), (222, 225, 228)
Colour = tuple[int, int, int]


def draw_picture(title: str, lines: Sequence[str], panels: Sequence[Panel]) -> np.ndarray:
    """Return a picture, H x W x 3, uint8, RGB: title, lines of text, and the panels in two columns."""
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    heights = [max(_height_of(panel) for panel in row) for row in rows]
    width = COLUMNS * PANEL[0] + 2 * MARGIN
    wrapped = [part for line in lines for part in _wrap(line, width - 2 * MARGIN)]
    top = MARGIN + 34 + LINE * len(wrapped) + 12
    canvas = np.full(((top + sum(heights) + MARGIN) * SCALE, width * SCALE, 3), WHITE, np.uint8)
    _write(canvas, title, MARGIN, MARGIN + 18, BLACK, 0.62)
    for number, line in enumerate(wrapped):
        _write(canvas, line, MARGIN, MARGIN + 44 + LINE * number, BLACK)
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            _draw_panel(canvas, panel, MARGIN + column * PANEL[0], top)
        top += height
    return canvas


def _height_of(panel: Panel) -> int:
    return PANEL[1] + LINE * math.ceil(len(panel.series) / 3) + 12


def _draw_panel(canvas: np.ndarray, panel: Panel, left: int, top: int) -> None:
    box = left + LEFT, top + TOP, left + PANEL[0] - RIGHT, top + PANEL[1] - BOTTOM
    _write(canvas, panel.title, left, top + 16, BLACK, 0.5)
    _write(canvas, panel.y_label, left, top + 36, GREY)
    cleaned = [clean(one.x, one.y) for one in panel.series]
    xs, ys = (np.concatenate(values) for values in zip(*cleaned, strict=True))
    known = np.isfinite(ys) & ((ys > 0) | (not panel.log_y))
    if not known.any():
        return
    x_axis = _axis(xs[known], panel.log_x, box[0], box[2])
    y_axis = _axis(ys[known], panel.log_y, box[3], box[1])
    _draw_grid(canvas, panel, box, x_axis, y_axis)
    for number, (one, (x, y)) in enumerate(zip(panel.series, cleaned, strict=True)):
        kept = np.isfinite(y) & ((y > 0) | (not panel.log_y))
        places = np.stack([_place(x[kept], x_axis), _place(y[kept], y_axis)], axis=1)
        points = np.round(places * SCALE).astype(np.int32)
        colour = _colour_of(one, number)
        cv2.polylines(canvas, [points], False, colour, SCALE, cv2.LINE_AA)
        if len(points) <= 30:
            for point in points.tolist():
                cv2.circle(canvas, point, 3 * SCALE, colour, cv2.FILLED, cv2.LINE_AA)
    _draw_legend(canvas, panel, left, top + PANEL[1] + 4)


Axis = tuple[float, float, float, float, bool]  # lowest and highest value, their places, whether logarithmic


def _axis(values: np.ndarray, is_log: bool, start: float, end: float) -> Axis:
    low, high = float(values.min()), float(values.max())
    if is_log:
        room = max((high / low) ** 0.04, 1.05)
        return low / room, high * room, start, end, True
    extra = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    return low - extra, high + extra, start, end, False


def _place(values: np.ndarray, axis: Axis) -> np.ndarray:
    low, high, start, end, is_log = axis
    if is_log:
        low, high, values = math.log(low), math.log(high), np.log(values)
    return start + (values - low) / (high - low) * (end - start)


def _draw_grid(canvas: np.ndarray, panel: Panel, box: tuple[int, int, int, int], x_axis: Axis, y_axis: Axis) -> None:
    left, top, right, bottom = box
    for axis, is_x in ((x_axis, True), (y_axis, False)):
        for tick in choose_ticks(axis[0], axis[1], axis[4]):
            place = float(_place(np.array([tick]), axis)[0])
            text = format_number(tick)
            if is_x:
                _line(canvas, (place, bottom), (place, bottom + 4), GREY)
                _write(canvas, text, place - _width_of(text) / 2, bottom + 18, GREY)
            else:
                _line(canvas, (left, place), (right, place), PALE)
                _write(canvas, text, left - 6 - _width_of(text), place + 4, GREY)
    _write(canvas, panel.x_label, right - _width_of(panel.x_label), bottom + 34, GREY)
    for rate, words in panel.marks:
        place = float(_place(np.array([rate]), x_axis)[0])
        if left <= place <= right:
            _line(canvas, (place, top), (place, bottom), BLACK)
            _write(canvas, words, min(place + 4, right - _width_of(words)), top - 4, BLACK)


def _draw_legend(canvas: np.ndarray, panel: Panel, left: int, top: int) -> None:
    column = (PANEL[0] - RIGHT) // 3
    for number, one in enumerate(panel.series):
        x, y = left + column * (number % 3), top + LINE * (number // 3) + 8
        cv2.line(canvas, (x * SCALE, y * SCALE), ((x + 18) * SCALE, y * SCALE), _colour_of(one, number), 3 * SCALE)
        _write(canvas, one.name, x + 23, y + 4, BLACK)


def _colour_of(one: Series, number: int) -> Colour:
    """Return the page's colour; beyond the first ones, again and again a lighter one."""
    place = number if one.colour is None else one.colour
    code = COLOURS[place % len(COLOURS)].lstrip('#')
    share = 0.75 ** (place // len(COLOURS))
    red, green, blue = (round(255 - (255 - int(code[n : n + 2], 16)) * share) for n in (0, 2, 4))
    return red, green, blue


def _line(canvas: np.ndarray, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
    first, last = ((round(x * SCALE), round(y * SCALE)) for x, y in (start, end))
    cv2.line(canvas, first, last, colour, SCALE // 2, cv2.LINE_AA)


def _write(canvas: np.ndarray, text: str, x: float, y: float, colour: Colour, size: float = 0.4) -> None:
    plain = ''.join(character if ' ' <= character <= '~' else '?' for character in text)
    place = round(x * SCALE), round(y * SCALE)
    thickness = SCALE if size > 0.45 else 1
    cv2.putText(canvas, plain, place, cv2.FONT_HERSHEY_SIMPLEX, size * SCALE, colour, thickness, cv2.LINE_AA)


def _width_of(text: str, size: float = 0.4) -> float:
    return float(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size * SCALE, 1)[0][0]) / SCALE


def _wrap(line: str, width: float) -> list[str]:
    """Break a line where it would be wider than ``width``; what follows stands further in."""
    parts, indent = [''], len(line) - len(line.lstrip())
    for word in line.split():
        longer = f'{parts[-1]} {word}' if parts[-1].strip() else f'{parts[-1]}{" " * indent}{word}'
        if _width_of(longer) <= width or not parts[-1].strip():
            parts[-1] = longer
        else:
            parts.append(' ' * (indent + 4) + word)
    return parts
