"""Curves as inline SVG, without a library: for light and dark pages, and for eyes that see colours differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpen.reporting.page import escape
from gpen.reporting.points import choose_ticks, clean, format_number, is_noisy, smooth, thin

MAX_POINTS = 500  # of a curve
DOT_DISTANCE = 8  # units between the points of a curve, on average, from which each is shown
MAX_STRIPS = 60  # places that tell their numbers when the pointer is on them

# Units of the drawing, which is as wide as what holds it.
WIDTH, PLOT_HEIGHT = 420, 170
TOP, BOTTOM, RIGHT = 48, 34, 14
LINE = 16  # height of a line of text
CHARACTER = 6.1  # width of one, about

# The colours of Okabe and Ito (2008) that stand out from white; the page has lighter ones for dark.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#b0609a', '#a87900', '#555555')
DASHES = ('', '7 3', '2 3')  # beyond the colours


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: in the legend.
        x: where the values are; any order.
        y: the values; what is not finite, or None, is a gap.
        colour: number of the colour, so that a run keeps its own in all drawings; its place in the list by default.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: int | None = None


@dataclass(frozen=True)
class _Axis:
    """Maps values between ``low`` and ``high`` to units between ``start`` and ``end``."""

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
        """Return the place and the words of each tick."""
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

    Noisy curves are drawn faint with a smoothed line above.  Long ones are thinned, their extremes kept.  With the
    pointer on the drawing, the browser shows the numbers there.

    Args:
        series: the curves.
        title: stands above.
        x_label: what ``x`` is.
        y_label: what ``y`` is; nothing where the title says it.
        log_y: logarithmic; values that are not positive are gaps.
        log_x: logarithmic; points that are not positive are left out.
        marks: vertical lines: where, and what to call them.

    Returns:
        An ``<svg>`` element, 420 units wide; its colours are the variables ``--series-0`` to ``--series-5`` of a page.
    """
    curves = [_prepare(one, number, log_x, log_y) for number, one in enumerate(series)]
    seen = [curve for curve in curves if np.isfinite(curve.y).any()]
    legend, height = _draw_legend(curves, title)
    words = ', '.join(curve.name for curve in curves)
    parts = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {height}" role="img" font-size="11" fill="none" '
        f'aria-label="{escape(f"{title}: {words}")}" xmlns="http://www.w3.org/2000/svg">',
        _text(0, 14, _cut(title, WIDTH / 7.5), 'font-size="13" font-weight="600"'),
        _text(0, 30, _cut(y_label, WIDTH / CHARACTER), 'opacity="0.7"'),
    ]
    if seen:
        x_axis, y_axis = _make_axes(seen, log_x, log_y)
        parts += [_draw_grid(x_axis, y_axis, x_label)]
        parts += [_draw_mark(*mark, x_axis) for mark in _spread(marks, x_axis)]
        parts += [_draw_curve(curve, x_axis, y_axis) for curve in seen]
        parts += _draw_strips(seen, x_axis, x_label)
    else:
        parts.append(_text(WIDTH / 2, TOP + PLOT_HEIGHT / 2, 'no numbers yet', 'text-anchor="middle" opacity="0.7"'))
    return ''.join([*parts, legend, '</svg>'])


def _prepare(series: Series, number: int, log_x: bool, log_y: bool) -> _Curve:
    x, y = clean(series.x, series.y)
    if log_x:
        x, y = x[x > 0], y[x > 0]
    if log_y:
        y = np.where(y > 0, y, math.nan)
    colour = number if series.colour is None else series.colour
    place = colour % len(COLOURS)
    dash = DASHES[colour // len(COLOURS) % len(DASHES)]
    style = f'stroke:var(--series-{place},{COLOURS[place]})' + (f';stroke-dasharray:{dash}' if dash else '')
    return _Curve(series.name, x, y, style)


def _make_axes(curves: Sequence[_Curve], log_x: bool, log_y: bool) -> tuple[_Axis, _Axis]:
    known = [np.isfinite(curve.y) for curve in curves]
    x = np.concatenate([curve.x[finite] for curve, finite in zip(curves, known, strict=True)])
    y = np.concatenate([curve.y[finite] for curve, finite in zip(curves, known, strict=True)])
    y_axis = _Axis(*_widen(y, log_y), TOP + PLOT_HEIGHT, TOP, log_y)
    left = 8 + CHARACTER * max((len(words) for _, words in y_axis.ticks()), default=0)
    low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = _widen(x, log_x)
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
    lines, words = [], []
    for y, text in y_axis.ticks():
        lines.append(f'M{left:.1f} {y:.1f}H{right}')
        words.append(_text(left - 5, y + 4, text, 'text-anchor="end"'))
    last = -math.inf
    for x, text in x_axis.ticks():
        lines.append(f'M{x:.1f} {bottom}v4')
        half = CHARACTER * len(text) / 2
        centre = min(x, WIDTH - half)
        if centre - half > last + 4:
            words.append(_text(centre, bottom + 16, text, 'text-anchor="middle"'))
            last = centre + half
    words.append(_text(right, bottom + 31, x_label, 'text-anchor="end" opacity="0.7"'))
    return (
        f'<path d="{"".join(lines)}" stroke="currentColor" stroke-opacity="0.15"/>'
        f'<path d="M{left:.1f} {bottom}H{right}" stroke="currentColor" stroke-opacity="0.5"/>{"".join(words)}'
    )


def _draw_curve(curve: _Curve, x_axis: _Axis, y_axis: _Axis) -> str:
    scale = np.log if y_axis.is_log else np.asarray
    if not is_noisy(scale(curve.y)):
        ends = x_axis.place(curve.x[[0, -1]])
        has_room = ends[1] - ends[0] >= DOT_DISTANCE * (len(curve.x) - 1)
        dots = _draw_path(curve.x, curve.y, x_axis, y_axis, True) if has_room else ''
        line = _draw_path(curve.x, curve.y, x_axis, y_axis)
        drawn = f'<path d="{line}" stroke-width="1.8"/>'
        return _group(curve, drawn + (f'<path d="{dots}" stroke-width="4.5" stroke-dasharray="none"/>' if dots else ''))
    smoothed = smooth(scale(curve.y))
    line = _draw_path(curve.x, np.exp(smoothed) if y_axis.is_log else smoothed, x_axis, y_axis)
    raw = _draw_path(curve.x, curve.y, x_axis, y_axis)
    return _group(curve, f'<path d="{raw}" stroke-opacity="0.3"/><path d="{line}" stroke-width="2"/>')


def _group(curve: _Curve, paths: str) -> str:
    return f'<g style="{curve.style}" stroke-linecap="round" stroke-linejoin="round">{paths}</g>'


def _draw_path(x: np.ndarray, y: np.ndarray, x_axis: _Axis, y_axis: _Axis, as_dots: bool = False) -> str:
    """Return the data of a path; a point between gaps is a line without length, which a round end makes visible."""
    kept = thin(y, MAX_POINTS)
    places = np.stack([x_axis.place(x[kept]), y_axis.place(y[kept])], axis=1)
    words, is_drawing = [], False
    for number, (across, down) in enumerate(places.tolist()):
        if math.isnan(down):
            is_drawing = False
            continue
        if is_drawing and not as_dots:
            words.append(f'L{across:.1f} {down:.1f}')
            continue
        is_alone = number + 1 == len(places) or math.isnan(places[number + 1, 1])
        words.append(f'M{across:.1f} {down:.1f}' + ('h0' if as_dots or is_alone else ''))
        is_drawing = True
    return ''.join(words)


def _draw_strips(curves: Sequence[_Curve], x_axis: _Axis, x_label: str) -> list[str]:
    """Return invisible strips over the drawing, each with the numbers of all curves there as its title."""
    xs = np.unique(np.concatenate([curve.x for curve in curves]))
    xs = xs[(xs >= x_axis.low) & (xs <= x_axis.high)]
    xs = xs[np.unique(np.linspace(0, len(xs) - 1, min(len(xs), MAX_STRIPS)).round().astype(int))]
    places = x_axis.place(xs)
    edges = np.concatenate([[x_axis.start], (places[1:] + places[:-1]) / 2, [x_axis.end]])
    strips = []
    for number, x in enumerate(xs):
        lines = [f'{x_label} {format_number(float(x), 6)}']
        for curve in curves:
            nearest = int(np.argmin(np.abs(curve.x - x)))
            if edges[number] - 1 <= x_axis.place(curve.x[nearest : nearest + 1])[0] <= edges[number + 1] + 1:
                lines.append(f'{curve.name}: {format_number(float(curve.y[nearest]), 5)}')
        start, end = edges[number], edges[number + 1]
        strips.append(
            f'<rect class="strip" x="{start:.1f}" y="{TOP}" width="{max(end - start, 0.1):.1f}" height="{PLOT_HEIGHT}" '
            f'fill="currentColor" fill-opacity="0"><title>{escape(chr(10).join(lines))}</title></rect>'
        )
    return strips


def _spread(marks: Sequence[tuple[float, str]], x_axis: _Axis) -> list[tuple[float, str, str]]:
    """Return the marks that are in the drawing: place, words, and the words that have room."""
    inside = [mark for mark in marks if x_axis.low <= mark[0] <= x_axis.high]
    places = x_axis.place(np.array([x for x, _ in inside], np.float64)).tolist()
    spread, last = [], -math.inf
    for place, words in sorted(zip(places, (words for _, words in inside), strict=True)):
        shown = _cut(words, 24)
        width = CHARACTER * len(shown)
        start = place - width + 4 if place + width > WIDTH - RIGHT else place - 4
        has_room = start > last
        spread.append((place, words, shown if has_room else ''))
        last = start + width + 4 if has_room else last
    return spread


def _draw_mark(place: float, words: str, shown: str, x_axis: _Axis) -> str:
    is_left = place + CHARACTER * len(shown) > x_axis.end
    anchor = 'text-anchor="end" ' if is_left else ''
    text = _text(place + 4 if is_left else place - 4, TOP - 4, shown, f'{anchor}opacity="0.8"')
    line = f'<path d="M{place:.1f} {TOP}v{PLOT_HEIGHT}" stroke="currentColor" stroke-opacity="0.5"'
    return f'<g>{line} stroke-dasharray="3 3"/>{text}<title>{escape(words)}</title></g>'


def _draw_legend(curves: Sequence[_Curve], title: str) -> tuple[str, float]:
    """Return the legend below the drawing, and the height of both; a curve that the title names needs none."""
    parts: list[str] = []
    x, y = 0.0, TOP + PLOT_HEIGHT + BOTTOM + 14
    if len(curves) == 1 and curves[0].name in ('', title):
        return '', TOP + PLOT_HEIGHT + BOTTOM + 2
    for curve in curves:
        words = _cut(curve.name, 44)
        width = 32 + CHARACTER * len(words)
        if x and x + width > WIDTH:
            x, y = 0.0, y + LINE
        line = f'<path d="M{x:.1f} {y - 4}h18" style="{curve.style}" stroke-width="3"/>'
        parts.append(f'<g>{line}{_text(x + 23, y, words)}<title>{escape(curve.name)}</title></g>')
        x += width + 8
    return ''.join(parts), y + 6


def _text(x: float, y: float, words: str, attributes: str = '') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" {attributes}>{escape(words)}</text>' if words else ''


def _cut(words: str, length: float) -> str:
    return words if len(words) <= length else f'{words[: int(length) - 1]}…'
