"""The page: what is where on it, and what happens when something on it is used."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from gpen.demo.markup import draw_empty, draw_message, draw_result
from gpen.demo.photo import Result
from gpen.demo.service import MIN_FACE, SCALES, About, Choice, RefusedError, Service, format_pixels

_TITLE = 'Face restoration'
_ALL, _CENTER = 'All faces', 'Only the face in the middle'
_NO_FACE = (
    'No face was found in this photograph, so it is shown as it is. Faces should be at least '
    f'{MIN_FACE} pixels wide, and not seen from behind or far from the side.'
)
_PROBLEMS = {
    'too_large': 'This file is larger than {max_size}. Make it smaller, or save it as JPEG, and drop it again.',
    'busy': 'Many photographs are waiting already. Try again in a minute.',
    'lost': 'The upload was interrupted. Drop the photograph again.',
}
_MAX_QUEUE = 32
# System fonts, so that nothing is fetched.
_FONTS = ('ui-sans-serif', 'system-ui', 'sans-serif')
_MONOSPACE = ('ui-monospace', 'Consolas', 'monospace')

Answer = tuple[str, str]  # HTML of the message and of the result


@cache
def read_asset(name: str) -> str:
    """Return the text of a file beside this module."""
    return (Path(__file__).parent / name).read_text(encoding='utf-8')


def build_page(service: Service, about: About) -> gr.Blocks:
    """Return the page; see :func:`page_settings` for its looks."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False) as page:
        gr.HTML(
            f'<h1>{_TITLE}</h1><p>Drop a photograph: every face in it is found, restored and put back.</p>',
            elem_id='heading',
        )
        message = gr.HTML('', elem_id='message', apply_default_css=False)
        with gr.Row(elem_id='columns'):
            with gr.Column(scale=1, min_width=280, elem_id='controls'):
                drop = gr.HTML(
                    html_template=read_asset('drop.html'),
                    js_on_load=read_asset('drop.js'),
                    value='',
                    apply_default_css=False,
                    elem_id='drop',
                    max_bytes=about.max_bytes,
                    limits=f'PNG, JPEG, WebP, TIFF or BMP, up to {about.max_size} '
                    f'and {format_pixels(service.max_pixels)}',
                )
                strength = gr.Slider(0, 100, 100, step=1, label='Strength in %', elem_id='strength')
                faces = gr.Radio([_ALL, _CENTER], value=_ALL, label='Restore', elem_id='faces')
                scale = gr.Radio([(f'{n}x', n) for n in SCALES], value=1, label='Enlarge', elem_id='scale')
            with gr.Column(scale=3, min_width=300, elem_id='results'):
                result = gr.HTML(
                    draw_empty(), js_on_load=read_asset('result.js'), elem_id='result', apply_default_css=False
                )
        gr.HTML(
            f'<p>{html.escape(about.model)}. Photographs stay in the memory of the computer that serves this page, and '
            'are forgotten when this tab is closed or after some minutes.</p>',
            elem_id='about',
        )
        _connect(service, about, drop, strength, faces, scale, [message, result])

        def forget(request: gr.Request) -> None:
            service.store.close(str(request.session_hash))

        page.unload(forget)
    page.queue(max_size=_MAX_QUEUE, api_open=False)
    return page


def page_settings() -> dict[str, Any]:
    """Return the looks of the page, as ``gradio.mount_gradio_app`` takes them."""
    return {
        'theme': gr.themes.Default(primary_hue='indigo', font=_FONTS, font_mono=_MONOSPACE),
        'css': read_asset('page.css'),
        'footer_links': [],
        'show_error': False,
        'allowed_paths': [],
        'enable_monitoring': False,
    }


def _connect(
    service: Service, about: About, drop: Any, strength: Any, faces: Any, scale: Any, outputs: list[Any]
) -> None:
    """Say what happens when something on the page is used."""

    def restore_upload(key: str, faces: str, scale: int, request: gr.Request) -> Answer:
        if key in _PROBLEMS:
            return draw_message(_PROBLEMS[key].format(max_size=about.max_size), 'error'), draw_empty()
        choice = Choice(faces == _CENTER, scale)
        return _answer(lambda: service.restore_upload(key, str(request.session_hash), choice))

    def restore_again(faces: str, scale: int, request: gr.Request) -> Answer:
        choice = Choice(faces == _CENTER, scale)
        return _answer(lambda: service.restore_again(str(request.session_hash), choice))

    network: dict[str, Any] = {
        'outputs': outputs,
        'show_progress_on': outputs[1],
        'concurrency_limit': 1,
        'concurrency_id': 'network',
        'trigger_mode': 'always_last',
        'api_visibility': 'private',
    }
    drop.submit(restore_upload, [drop, faces, scale], **network)
    gr.on([faces.input, scale.input], restore_again, [faces, scale], **network)
    # The browser blends before and after by itself, so every strength is there at once.
    script = "(strength) => { document.body.style.setProperty('--strength', strength / 100) }"
    gr.on([strength.input, strength.change], None, strength, js=script)


def _answer(restore: Callable[[], tuple[str, Result] | None]) -> Answer:
    """Return what the page shows: a message, and a result."""
    try:
        restored = restore()
    except RefusedError as refusal:
        return draw_message(str(refusal), 'error'), draw_empty()
    if restored is None:
        return '', draw_empty()
    key, result = restored
    return '' if result.restoration.faces else draw_message(_NO_FACE, 'note'), draw_result(key, result)
