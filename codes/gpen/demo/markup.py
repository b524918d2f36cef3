"""The parts of the page that change, as HTML.  Names of files come from strangers and are escaped."""

from __future__ import annotations

from html import escape
from pathlib import PurePath

from gpen.demo.photo import Result
from gpen.demo.service import shorten


def draw_empty() -> str:
    """Return what stands where a result will be."""
    return '<div class="empty quiet">The restored photograph appears here.</div>'


def draw_message(text: str, kind: str) -> str:
    """Return a sentence that stands out; ``kind`` is ``error`` or ``note``."""
    return f'<div class="message {kind}" role="alert">{escape(text)}</div>'


def draw_result(key: str, result: Result) -> str:
    """Return a result: before and after with a handle between them, a download, and each face."""
    height, width = result.restoration.background.shape[:2]
    count = len(result.restoration.faces)
    stem = escape(shorten(PurePath(result.name).stem or 'photograph'))
    found = f'{count} face{"" if count == 1 else "s"}' if count else 'No face'
    picture = _draw_comparison(key) if count else f'<img src="result/{key}/before.jpg" alt="The photograph as it is">'
    return f"""<div class="picture" style="--width: {width}; --height: {height}">{picture}</div>
<div class="bar">
  <span class="quiet">{found} · {width} × {height} pixels · {result.seconds:.1f} s</span>
  <button class="download" data-address="result/{key}/restored.png" data-name="{stem}_restored.png">
    Download PNG
  </button>
</div>
<div class="problem" role="alert"></div>
{_draw_faces(key, count) if count else ''}"""


def _draw_comparison(key: str) -> str:
    return f"""
  <img src="result/{key}/before.jpg" alt="The photograph as it was">
  <div class="revealed"><img class="after" src="result/{key}/after.jpg" alt="The restored photograph"></div>
  <span class="tag">Before</span><span class="tag">After</span>
  <div class="handle"></div>
  <input type="range" min="0" max="100" step="0.1" value="50" aria-label="Where before ends and after begins">
"""


def _draw_faces(key: str, count: int) -> str:
    return f'<div class="faces">{"".join(_draw_face(key, number) for number in range(count))}</div>'


def _draw_face(key: str, number: int) -> str:
    # The restored face lies on top of the other one, and the strength is how opaque it is.
    before = f'<img loading="lazy" src="result/{key}/face/{number}/before.jpg" alt="Face {number + 1} as it was">'
    after = f'<img loading="lazy" src="result/{key}/face/{number}/after.jpg" alt="Face {number + 1} restored"'
    return f"""
<figure>
  <div class="pair"><div>{before}</div><div>{before}{after} class="after"></div></div>
  <figcaption class="quiet"><span>Face {number + 1} before</span><span>after</span></figcaption>
</figure>"""
