"""A page in one HTML file: it fetches nothing, runs only its own scripts, and fits any window, light or dark."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FIGURE = 'data-figure'  # the attribute that holds a plotly figure as JSON
# Draw each figure into its element.  On a touch screen, dragging scrolls the page instead of zooming.
_DRAW = """
for (const box of document.querySelectorAll('[data-figure]')) {
  const {data, layout} = JSON.parse(box.dataset.figure);
  layout.dragmode = matchMedia('(pointer: coarse)').matches ? false : 'zoom';
  Plotly.newPlot(box, data, layout, {displayModeBar: false, responsive: true});
}
"""
# With this policy, a browser fetches nothing and runs no script but ours, whatever a name or an option contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SMALL = 160 * 160  # pixels; JPEG would blur such pictures for little gain


class Html(str):
    """Text that is HTML already; a table does not escape it."""

    __slots__ = ()


def escape(text: object) -> str:
    """Return text escaped for HTML elements and attributes; what UTF-8 cannot encode becomes ``?``."""
    return html.escape(str(text).encode('utf-8', 'replace').decode('utf-8'))


def render_page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return an HTML document.

    Args:
        title: text.
        sections: heading (text) and body (HTML) of each; those with an empty body are left out.
    """
    shown = [(f's{number}', *section) for number, section in enumerate(sections, 1) if section[1]]
    links = ''.join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in shown if heading)
    bodies = [
        f'<section id="{key}">{f"<h2>{escape(heading)}</h2>" if heading else ""}{body}</section>\n'
        for key, heading, body in shown
    ]
    policy, scripts = _embed_scripts() if any(f' {FIGURE}="' in body for body in bodies) else (_POLICY, '')

    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>
{_read_style()}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{f'<nav>{links}</nav>' if len(shown) > 2 else ''}
{''.join(bodies)}</main>
{scripts}</body>
</html>
"""


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table that scrolls sideways if it does not fit; cells are text, except :class:`Html`.

    Columns of numbers are right-aligned.
    """
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(header))] if rows else []
    heading = ''.join(_draw_cell(cell, 'th', is_right) for cell, is_right in zip(header, right, strict=False))
    body = ''.join(
        f'<tr>{"".join(_draw_cell(cell, "td", is_right) for cell, is_right in zip(row, right, strict=True))}</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>'


def embed_image(picture: np.ndarray | Path | bytes, max_width: int = 1024) -> str:
    """Return a picture as a data URI, for ``src`` of an ``<img>``.

    Args:
        picture: H x W x 3, uint8, RGB; or an image file, or its bytes.
        max_width: wider ones are made smaller, in pixels.

    Raises:
        UserError: the file cannot be read or is no image.
    """
    import cv2
    import numpy as np

    from gpen.data.image_io import encode_image, read_image

    image = picture.astype(np.float32) / 127.5 - 1 if isinstance(picture, np.ndarray) else read_image(picture)
    height, width = image.shape[:2]
    if width > max_width:
        image = cv2.resize(image, (max_width, max(round(height * max_width / width), 1)), interpolation=cv2.INTER_AREA)
    suffix, kind = ('.png', 'png') if height * width <= _SMALL else ('.jpg', 'jpeg')
    return f'data:image/{kind};base64,{base64.b64encode(encode_image(image, suffix)).decode("ascii")}'


def _embed_scripts() -> tuple[str, str]:
    """Return a policy that admits plotly and our script by their hashes, and both scripts."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), _DRAW]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = ' '.join(f"'sha256-{one}'" for one in hashes)
    missing = '<noscript><p class="note">Scripts are off, so the curves are not drawn.</p></noscript>'
    return f'{_POLICY}; script-src {allowed}', missing + ''.join(f'<script>{script}</script>\n' for script in scripts)


@cache
def _read_style() -> str:
    return (Path(__file__).parent / 'page.css').read_text(encoding='utf-8')


def _draw_cell(cell: object, tag: str, is_right: bool) -> str:
    content = cell if isinstance(cell, Html) else escape(cell)
    return f'<{tag}{" class=number" if is_right else ""}>{content}</{tag}>'


def _is_number(cell: object) -> bool:
    text = re.sub('<[^>]*>', '', cell) if isinstance(cell, Html) else str(cell)
    return re.match(r'[-+]?\d', text) is not None or text in ('', '–')
