"""Curves as plotly figures; the script of the page draws them (:mod:`gpen.reporting.page`)."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpen.reporting.page import FIGURE, escape

MAX_DOTS = 45  # with at most so many points, each point of a curve gets a dot
MIN_NOISY = 30  # shorter curves are never smoothed
HEIGHT, LEGEND_LINE = 230, 19  # pixels

# Near the colours of Okabe and Ito (2008); all stand out by 3:1 or more from light and dark pages.
COLOURS = ('#1a80c0', '#d55e00', '#009e73', '#b0609a', '#a87900', '#808080')
DASHES = ('solid', 'dash', 'dot')  # beyond the colours

_AXIS = {
    **{'exponentformat': 'e', 'separatethousands': True, 'hoverformat': ',.6~g'},
    **{'zeroline': False, 'automargin': True, 'nticks': 6},
}
_MARK = {
    **{'type': 'line', 'yref': 'paper', 'y0': 0, 'y1': 1, 'line': {'width': 1, 'dash': 'dot'}},
    'label': {'textposition': 'end', 'xanchor': 'right', 'font': {'size': 10}},
}
_LAYOUT = {
    **{'template': {}, 'paper_bgcolor': 'rgba(0,0,0,0)', 'plot_bgcolor': 'rgba(0,0,0,0)'},  # the page has the colours
    **{'margin': dict.fromkeys('lrtb', 10), 'hovermode': 'x unified', 'hoverlabel': {'namelength': -1}},
    'legend': {'orientation': 'h', 'yref': 'container', 'y': 0, 'yanchor': 'bottom'},
}


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: in the legend.
        x: where the values are; any order.
        y: the values; None and values that are not finite are gaps.
        colour: number of the colour, so that a run keeps its own in all charts; its place in the list by default.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: int | None = None


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

    A noisy curve is drawn faintly with a smoothed line above it.  Where the pointer is, the numbers are shown.

    Args:
        series: the curves.
        title: the heading of the chart.
        x_label: what ``x`` is.
        y_label: what ``y`` is; empty if the title says it.
        log_y: logarithmic; values that are not positive are gaps.
        log_x: logarithmic; points that are not positive are left out.
        marks: place and name of each vertical line; those beyond the curves are left out.

    Returns:
        HTML; the figure is JSON in the attribute ``data-figure`` of an element.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    places: list[float] = []
    for number, one in enumerate(series):
        x, y = _clean(one, log_x, log_y)
        places += x[np.isfinite(y)].tolist()
        number = number if one.colour is None else one.colour
        line = {'color': COLOURS[number % len(COLOURS)], 'dash': DASHES[number // len(COLOURS) % len(DASHES)]}
        figure.add_traces(_draw_curve(_to_label(one.name), x, y, line, log_y))

    heading = f'<h3>{escape(title)}</h3>' + (f'<p class="quiet">{escape(y_label)}</p>' if y_label else '')
    if not places:
        return f'{heading}<p class="quiet">no numbers yet</p>'
    for place, words in marks:
        if min(places) <= place <= max(places):
            figure.add_shape(_MARK, x0=place, x1=place, label_text=_to_label(words))

    has_legend = len(series) > 1 or series[0].name not in ('', title)
    figure.update_layout(
        **_LAYOUT,
        height=HEIGHT + LEGEND_LINE * len(series) * has_legend,
        xaxis={
            **{**_AXIS, 'title': x_label, 'showgrid': False},
            **({'type': 'log'} if log_x else {'type': 'linear', 'tickformat': ',~g'}),  # 15,000 instead of 1.5e+4
        },
        yaxis={**_AXIS, 'type': 'log' if log_y else 'linear'},
        showlegend=has_legend,
    )
    return f'{heading}<div {FIGURE}="{escape(figure.to_json())}"></div>'


def is_noisy(y: np.ndarray) -> bool:
    """Whether a curve goes up and down so much that a smoothed line helps to read it."""
    finite = y[np.isfinite(y)]
    if len(finite) < MIN_NOISY:
        return False
    steps = np.diff(finite)
    turns = np.mean(steps[1:] * steps[:-1] < 0)
    return bool(turns > 1 / 3 and np.median(np.abs(steps)) > np.ptp(finite) / 200)


def smooth(y: np.ndarray) -> np.ndarray:
    """Return a moving mean with triangular weights over about a twelfth of the curve; NaNs stay where they are."""
    reach = max(2, len(y) // 25)
    weights = reach + 1 - np.abs(np.arange(-reach, reach + 1))
    known = np.isfinite(y)
    total = np.convolve(np.where(known, y, 0.0), weights)[reach:-reach]
    count = np.convolve(known.astype(np.float64), weights)[reach:-reach]
    return np.where(known, total / np.maximum(count, 1), math.nan)


def arrange(charts: Sequence[str]) -> str:
    """Return charts side by side, as many as fit; nothing without charts."""
    boxes = ''.join(f'<div>{chart}</div>' for chart in charts if chart)
    return f'<div class="charts">{boxes}</div>' if boxes else ''


def _clean(series: Series, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, sorted by ``x``; what an axis cannot show is NaN in ``y``, and dropped in ``x``."""
    x, y = np.array(series.x, np.float64), np.array(series.y, np.float64)  # None becomes NaN
    y[~np.isfinite(y) | (log_y & (y <= 0))] = math.nan
    known = np.isfinite(x) & ~(log_x & (x <= 0))
    order = np.argsort(x[known], kind='stable')
    return x[known][order], y[known][order]


def _draw_curve(name: str, x: np.ndarray, y: np.ndarray, line: dict[str, str], log_y: bool) -> list[dict[str, object]]:
    """Return the traces of a curve: one, or for a noisy curve its points and a smoothed line."""
    trace: dict[str, object] = {'name': name, 'legendgroup': name, 'mode': 'lines', 'x': x.tolist(), 'line': line}
    scaled = np.log(y) if log_y else y
    if is_noisy(scaled):
        smoothed = np.exp(smooth(scaled)) if log_y else smooth(scaled)
        faint = {**trace, 'y': y.tolist(), 'opacity': 0.4, 'showlegend': False}
        return [faint, {**trace, 'y': smoothed.tolist(), 'hoverinfo': 'skip'}]

    # Dots show the points of a short curve, and a point between gaps, which has no line.
    gaps = np.isnan([math.nan, *y, math.nan])
    dots = (gaps[:-2] & gaps[2:]) | (len(y) <= MAX_DOTS)
    if dots.any():
        marker = {'size': np.where(dots, 5, 0).tolist(), 'opacity': 1, 'line': {'width': 0}}
        trace |= {'mode': 'lines+markers', 'marker': marker}
    return [{**trace, 'y': y.tolist()}]


def _to_label(text: str) -> str:
    """Return text for plotly, which reads tags; of a long one the end, which tells folders apart."""
    return html.escape(text if len(text) <= 44 else f'…{text[-43:]}', quote=False)
