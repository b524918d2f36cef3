"""The page: what is where on it, and what happens when something on it is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from gpen.data.heif import list_available
from gpen.demo.room import LIFETIME
from gpen.demo.service import SCALES, Choice, Service, format_pixels
from gpen.errors import UserError

_MAX_QUEUE = 32
_TITLE = 'Face restoration'
_ALL, _CENTER = 'All faces', 'Only the face in the middle'
_EMPTY = 'The restored photograph appears here.'
# To what is said about a new photograph, where it is out of sight.  Gradio's scroll_to_output goes to where it was.
_SCROLL = "() => setTimeout(() => document.getElementById('message').scrollIntoView({block: 'nearest'}), 100)"
# System fonts, so that nothing is fetched.
_FONTS = ('ui-sans-serif', 'system-ui', 'sans-serif')
_MONOSPACE = ('ui-monospace', 'Consolas', 'monospace')


@dataclass(frozen=True)
class About:
    """What the page tells about itself.

    Attributes:
        model: name, size and backend of the network, in words.
        max_bytes: the largest file that may be dropped.
        place: where photographs are while they are there, in words.
    """

    model: str
    max_bytes: int
    place: str


def build_page(service: Service, about: About, examples: list[Path]) -> gr.Blocks:
    """Return the page; see :func:`page_settings` for its looks.

    Args:
        service: what restores photographs.
        about: what the page tells about itself.
        examples: photographs to click on.
    """
    kinds = ', '.join(['PNG', 'JPEG', 'WebP', 'TIFF', 'BMP', *list_available()])
    limits = f'{kinds}, up to {about.max_bytes / (1 << 20):.3g} MB and {format_pixels(service.max_pixels)}'
    privacy = (
        f'Photographs stay in {about.place} of the computer that serves this page, and are deleted after '
        f'{LIFETIME // 60} minutes.'
    )
    with gr.Blocks(title=_TITLE, analytics_enabled=False) as page:
        gr.HTML(
            f'<h1>{_TITLE}</h1><p>Drop a photograph: every face in it is found, restored and put back.</p>',
            elem_id='heading',
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.Image(
                    sources=['upload', 'clipboard'], label='Photograph', buttons=[], height=220, elem_id='photo'
                )
                gr.HTML(f'<p>{limits}</p>', elem_classes='quiet')
                gr.Examples([str(path) for path in examples], photo, label='Or click on one of these', elem_id='people')
                strength = gr.Slider(0, 100, 100, step=1, label='Strength in %', elem_id='strength')
                faces = gr.Radio([_ALL, _CENTER], value=_ALL, label='Restore', elem_id='faces')
                scale = gr.Radio([(f'{n}x', n) for n in SCALES], value=1, label='Enlarge', elem_id='scale')
            with gr.Column(scale=3, min_width=300, elem_id='results'):
                full: dict[str, Any] = {'visible': False, 'buttons': ['fullscreen']}
                message = gr.HTML(_draw_message('empty', _EMPTY), elem_id='message')
                picture = gr.ImageSlider(label='Before and after', elem_id='picture', **full)
                download = gr.DownloadButton('Download PNG', visible=False, variant='primary', elem_id='download')
                found = gr.Gallery(label='Faces, before and after', object_fit='contain', elem_id='found', **full)
        gr.HTML(f'<p>{escape(about.model)}. {privacy}</p>', elem_classes='quiet')

        def show(photo: Mapping[str, Any] | None, strength: float, faces: str, scale: int) -> list[Any]:
            if photo is None:
                return _show_message('empty', _EMPTY)
            return show_photograph(service, photo, Choice(faces == _CENTER, scale, strength / 100))

        # Without preprocessing Gradio hands over the file as it was uploaded, unread: its header is checked first.
        settings: dict[str, Any] = {
            'fn': show,
            'inputs': [photo, strength, faces, scale],
            'outputs': [message, picture, download, found],
            'preprocess': False,
            'show_progress_on': message,
            'trigger_mode': 'always_last',
            'concurrency_limit': 1,
            'concurrency_id': 'network',
            'api_visibility': 'private',
        }
        photo.change(**settings).then(js=_SCROLL)
        gr.on([strength.input, faces.input, scale.input], **settings)
    page.queue(max_size=_MAX_QUEUE, api_open=False)
    return page


def page_settings() -> dict[str, Any]:
    """Return the looks of the page, as ``gradio.mount_gradio_app`` takes them."""
    return {
        'theme': gr.themes.Default(primary_hue='indigo', font=_FONTS, font_mono=_MONOSPACE),
        'css_paths': Path(__file__).with_name('page.css'),
        'footer_links': [],
        'show_error': False,
        'enable_monitoring': False,
    }


def show_photograph(service: Service, photo: Mapping[str, Any], choice: Choice) -> list[Any]:
    """Return the new message, picture, download and faces."""
    try:
        result = service.restore(photo, choice)
    except UserError as error:
        return _show_message('error', str(error))

    words = [result.summary, result.note] if result.faces else [result.note]
    message = _draw_message('done' if result.faces else 'note', ' · '.join(filter(None, words)))
    captioned = [(str(path), f'Face {number}') for number, path in enumerate(result.faces, start=1)]
    return [
        message,
        gr.update(visible=True, value=(str(result.before), str(result.after))),
        gr.update(visible=True, value=str(result.download)),
        gr.update(visible=bool(captioned), value=captioned),
    ]


def _show_message(kind: str, text: str) -> list[Any]:
    """Return a message, and nothing in the place of a result."""
    return [_draw_message(kind, text), *[gr.update(visible=False, value=None)] * 3]


def _draw_message(kind: str, text: str) -> str:
    """Return a sentence as HTML; names of files come from strangers and are escaped.

    Args:
        kind: ``empty``, ``error``, ``note`` or ``done``.
        text: the sentence.
    """
    return f'<div class="{kind}" role="status">{escape(text)}</div>'
