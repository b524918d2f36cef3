"""Curves as inline SVG, without a library: for light and dark pages, and for eyes that see colours differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpen.reporting.page import escape
from gpen.reporting.points import choose_ticks, clean, format_number, is_noisy, smooth, thin

MAX_POINTS = 500  # of a curve
DOT_DISTANCE = 8  # with at least so many units between the points of a curve, on average, each point gets a dot
MAX_STRIPS = 60  # places that show their numbers when the pointer is on them

# In units of the drawing, which fills the width of its container.
WIDTH, PLOT_HEIGHT = 420, 170
TOP, BOTTOM, RIGHT = 48, 34, 20
LINE = 16  # height of a line of text
CHARACTER = 6.1  # width of a character, about

# The colours of Okabe and Ito (2008) that stand out from white; page.css has lighter ones for dark windows.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#b0609a', '#a87900', '#555555')
DASHES = ('', '7 3', '2 3')  # beyond the colours


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: in the legend.
        x: where the values are; any order.
        y: the values; None and values that are not finite are gaps.
        colour: number of the colour, so that a run keeps its own in all drawings; its place in the list by default.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: int | None = None


@dataclass(frozen=True)
class _Axis:
    """An axis; it maps values between ``low`` and ``high`` to units between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool

    def place(self, values: np.ndarray) -> np.ndarray:
        low, high = self.low, self.high
        if self.is_log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the place and the label of each tick."""
        values = choose_ticks(self.low, self.high, self.is_log)
        return list(zip(self.place(np.array(values)).tolist(), map(format_number, values), strict=True))


@dataclass(frozen=True)
class _Curve:
    """A curve that is ready to be drawn."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str


def draw_curves(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    log_x: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Draw curves over each other.

    A noisy curve is drawn faintly with a smoothed line above it.  A long one is thinned, but keeps its extremes.  Where
    the pointer is, the browser shows the numbers.

    Args:
        series: the curves.
        title: the heading of the drawing.
        x_label: what ``x`` is.
        y_label: what ``y`` is; empty if the title says it.
        log_y: logarithmic; values that are not positive are gaps.
        log_x: logarithmic; points that are not positive are left out.
        marks: place and name of each vertical line.

    Returns:
        An ``<svg>`` element, 420 units wide; its colours are the variables ``--series-0`` to ``--series-5`` of a page.
    """
    curves = [_prepare(one, number, log_x, log_y) for number, one in enumerate(series)]
    visible = [curve for curve in curves if np.isfinite(curve.y).any()]
    legend, height = _draw_legend(curves, title)
    names = ', '.join(curve.name for curve in curves)

    parts = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {height}" role="img" font-size="11" fill="none" '
        f'aria-label="{escape(f"{title}: {names}")}" xmlns="http://www.w3.org/2000/svg">',
        _text(0, 14, _cut(title, WIDTH / 7.5), 'font-size="13" font-weight="600"'),
        _text(0, 30, _cut(y_label, WIDTH / CHARACTER), 'opacity="0.7"'),
    ]
    if visible:
        x_axis, y_axis = _make_axes(visible, log_x, log_y)
        parts += [_draw_grid(x_axis, y_axis, x_label), _draw_marks(marks, x_axis)]
        parts += [_draw_curve(curve, x_axis, y_axis) for curve in visible]
        parts += _draw_strips(visible, x_axis, x_label)
    else:
        parts.append(_text(WIDTH / 2, TOP + PLOT_HEIGHT / 2, 'no numbers yet', 'text-anchor="middle" opacity="0.7"'))
    return ''.join([*parts, legend, '</svg>'])


def _prepare(series: Series, number: int, log_x: bool, log_y: bool) -> _Curve:
    x, y = clean(series.x, series.y)
    if log_x:
        x, y = x[x > 0], y[x > 0]
    if log_y:
        y = np.where(y > 0, y, math.nan)
    rest, colour = divmod(number if series.colour is None else series.colour, len(COLOURS))
    dash = DASHES[rest % len(DASHES)]
    style = f'stroke:var(--series-{colour},{COLOURS[colour]})' + (f';stroke-dasharray:{dash}' if dash else '')
    return _Curve(series.name, x, y, style)


def _make_axes(curves: Sequence[_Curve], log_x: bool, log_y: bool) -> tuple[_Axis, _Axis]:
    x, y = (np.concatenate([getattr(curve, name)[np.isfinite(curve.y)] for curve in curves]) for name in 'xy')
    y_axis = _Axis(*_widen(y, log_y), TOP + PLOT_HEIGHT, TOP, log_y)
    left = 8 + CHARACTER * max((len(words) for _, words in y_axis.ticks()), default=0)
    low, high = (float(x.min()), float(x.max())) if np.ptp(x) else _widen(x, log_x)
    return _Axis(low, high, left, WIDTH - RIGHT, log_x), y_axis


def _widen(values: np.ndarray, log: bool) -> tuple[float, float]:
    """Return the range of values with some room around it."""
    low, high = float(values.min()), float(values.max())
    if log:
        room = max((high / low) ** 0.04, 1.05)
        return low / room, high * room
    room = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _draw_grid(x_axis: _Axis, y_axis: _Axis, x_label: str) -> str:
    left, right, bottom = x_axis.start, x_axis.end, TOP + PLOT_HEIGHT
    lines = [f'M{left:.1f} {y:.1f}H{right}' for y, _ in y_axis.ticks()]
    lines += [f'M{x:.1f} {bottom}v4' for x, _ in x_axis.ticks()]
    words = [_text(left - 5, y + 4, text, 'text-anchor="end"') for y, text in y_axis.ticks()]
    words += [_text(x, bottom + 16, text, 'text-anchor="middle"') for x, text in x_axis.ticks()]
    words.append(_text(right, bottom + 31, x_label, 'text-anchor="end" opacity="0.7"'))
    return (
        f'<path d="{"".join(lines)}" stroke="currentColor" stroke-opacity="0.15"/>'
        f'<path d="M{left:.1f} {bottom}H{right}" stroke="currentColor" stroke-opacity="0.5"/>{"".join(words)}'
    )


def _draw_marks(marks: Sequence[tuple[float, str]], x_axis: _Axis) -> str:
    """Return the marks inside the drawing; the words of one that overlap those before are left to the pointer."""
    drawn, end = [], -math.inf
    for x, words in sorted(mark for mark in marks if x_axis.low <= mark[0] <= x_axis.high):
        place, shown = float(x_axis.place(np.array(x))), _cut(words, 24)
        width = CHARACTER * len(shown)
        start = min(place - 4, WIDTH - width)
        text = _text(start, TOP - 4, shown, 'opacity="0.8"') if start > end else ''
        end = start + width + 4 if text else end
        line = f'<path d="M{place:.1f} {TOP}v{PLOT_HEIGHT}" stroke="currentColor" stroke-opacity="0.5"'
        drawn.append(f'<g>{line} stroke-dasharray="3 3"/>{text}<title>{escape(words)}</title></g>')
    return ''.join(drawn)


def _draw_curve(curve: _Curve, x_axis: _Axis, y_axis: _Axis) -> str:
    across, down = x_axis.place(curve.x), y_axis.place(curve.y)
    line = _join(across, down)
    if is_noisy(down):
        paths = f'<path d="{line}" stroke-opacity="0.3"/><path d="{_join(across, smooth(down))}" stroke-width="2"/>'
    else:
        paths = f'<path d="{line}" stroke-width="1.8"/>'
        if np.ptp(across) >= DOT_DISTANCE * (len(across) - 1):
            dots = ''.join(f'M{x:.1f} {y:.1f}h0' for x, y in zip(across, down, strict=True) if math.isfinite(y))
            paths += f'<path d="{dots}" stroke-width="4.5" stroke-dasharray="none"/>'
    return f'<g style="{curve.style}" stroke-linecap="round" stroke-linejoin="round">{paths}</g>'


def _join(across: np.ndarray, down: np.ndarray) -> str:
    """Return the data of a path; a point between gaps is a line without length, which a round end makes visible."""
    kept = thin(down, MAX_POINTS)
    places = np.stack([across[kept], down[kept]], axis=1)
    pieces = []
    for piece in np.split(places, np.flatnonzero(np.isnan(places[:, 1]))):  # all but the first begin with a gap
        points = [f'{x:.1f} {y:.1f}' for x, y in piece.tolist() if not math.isnan(y)]
        if points:
            pieces.append(f'M{"L".join(points)}{"h0" if len(points) == 1 else ""}')
    return ''.join(pieces)


def _draw_strips(curves: Sequence[_Curve], x_axis: _Axis, x_label: str) -> list[str]:
    """Return invisible strips over the drawing, each with the numbers of all curves there as its title."""
    xs = np.unique(np.concatenate([curve.x for curve in curves]))
    xs = xs[(xs >= x_axis.low) & (xs <= x_axis.high)]
    xs = xs[np.unique(np.linspace(0, len(xs) - 1, min(len(xs), MAX_STRIPS)).round().astype(int))]
    places = x_axis.place(xs)
    edges = np.concatenate([[x_axis.start], (places[1:] + places[:-1]) / 2, [x_axis.end]])

    strips = []
    for x, (start, end) in zip(xs, pairwise(edges.tolist()), strict=True):
        lines = [f'{x_label} {format_number(float(x), 6)}']
        for curve in curves:
            nearest = int(np.argmin(np.abs(curve.x - x)))
            if start - 1 <= x_axis.place(curve.x[nearest]) <= end + 1:
                lines.append(f'{curve.name}: {format_number(float(curve.y[nearest]), 5)}')
        strips.append(
            f'<rect class="strip" x="{start:.1f}" y="{TOP}" width="{max(end - start, 0.1):.1f}" height="{PLOT_HEIGHT}" '
            f'fill="currentColor" fill-opacity="0"><title>{escape(chr(10).join(lines))}</title></rect>'
        )
    return strips


def _draw_legend(curves: Sequence[_Curve], title: str) -> tuple[str, float]:
    """Return the legend below the drawing, and the height of both; a curve that the title names needs none."""
    if len(curves) == 1 and curves[0].name in ('', title):
        return '', TOP + PLOT_HEIGHT + BOTTOM + 2
    parts: list[str] = []
    x, y = 0.0, TOP + PLOT_HEIGHT + BOTTOM + 14

    for curve in curves:
        words = _cut(curve.name, 44)
        width = 32 + CHARACTER * len(words)
        if x and x + width > WIDTH:  # the next line
            x, y = 0.0, y + LINE
        line = f'<path d="M{x:.1f} {y - 4}h18" style="{curve.style}" stroke-width="3"/>'
        parts.append(f'<g>{line}{_text(x + 23, y, words)}<title>{escape(curve.name)}</title></g>')
        x += width + 8
    return ''.join(parts), y + 6


def _text(x: float, y: float, words: str, attributes: str = '') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" {attributes}>{escape(words)}</text>' if words else ''


def _cut(words: str, length: float) -> str:
    return words if len(words) <= length else f'{words[: int(length) - 1]}…'
