"""What a page draws: the plotly figures that it holds, and the page without its own scripts."""

import json
from html.parser import HTMLParser
from typing import Any

from plotly.offline import get_plotlyjs

from gpen.reporting.page import FIGURE


class _Figures(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [json.loads(value or '') for name, value in attrs if name == FIGURE]


def read_figures(page: str) -> list[dict[str, Any]]:
    """Return the figures of a page, or of a part of it, in order."""
    parser = _Figures()
    parser.feed(without_plotly(page))
    return parser.found


def without_plotly(page: str) -> str:
    """Return a page without plotly's own code."""
    return page.replace(get_plotlyjs(), '')


def list_marks(figure: dict[str, Any]) -> list[str]:
    """Return the words of the vertical lines of a figure."""
    return [shape['label']['text'] for shape in figure['layout'].get('shapes', [])]


def list_legend(figure: dict[str, Any]) -> list[str]:
    """Return the names in the legend of a figure, if it has one."""
    if not figure['layout']['showlegend']:
        return []
    return [trace['name'] for trace in figure['data'] if trace.get('showlegend', True)]
