"""Animated GIFs: one palette for the whole film, so that colours do not change from frame to frame."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gpen.data.film import Film, import_av, read_segments
from gpen.utils.files import explain_writing

_DITHER = 'bayer:bayer_scale=4'  # a pattern that stays where it is; errors that are passed on would flicker


def write_gif(target: Path, segments: Sequence[Path], film: Film) -> None:
    """Write the frames of segments, see ``film_writing.py``; the GIF repeats as the original does.

    Raises:
        UserError: the disk is full and the like.
    """
    av = import_av()
    palette, last = _make_palette(segments)
    final = round(100 * max(0.0, film.seconds - last))  # hundredths of a second
    options = {'loop': _read_loop(film.path), 'final_delay': str(final or -1)}
    with explain_writing(target), av.open(str(target), 'w', format='gif', options=options) as out:
        stream = None
        for frame in _use_palette(segments, palette):
            if stream is None:
                stream = out.add_stream('gif', rate=100)
                stream.height, stream.width, stream.pix_fmt = frame.height, frame.width, 'pal8'
                stream.codec_context.time_base = frame.time_base
            out.mux(stream.encode(frame))
        if stream is not None:
            out.mux(stream.encode(None))


def _read_loop(path: Path) -> str:
    """Return how often a GIF repeats, as FFmpeg counts it: 0 for ever, -1 never."""
    with Image.open(path) as image:
        return str(image.info.get('loop', -1))


def _make_palette(segments: Sequence[Path]) -> tuple[Any, float]:
    """Return the frame of 256 colours that serves all frames best, and the time of the last one in seconds."""
    graph, sources = _build_graph(segments, 'palettegen', '', 1)
    last = 0.0
    for frame in read_segments(segments):
        sources[0].push(frame)
        last = frame.time
    sources[0].push(None)
    return graph.pull(), last


def _use_palette(segments: Sequence[Path], palette: Any) -> Iterator[Any]:
    """Yield the frames in the colours of a palette."""
    graph, sources = _build_graph(segments, 'paletteuse', f'dither={_DITHER}', 2)
    sources[1].push(palette)
    sources[1].push(None)
    for frame in read_segments(segments):
        sources[0].push(frame)
        yield from _pull(graph)
    sources[0].push(None)
    yield from _pull(graph)


def _pull(graph: Any) -> Iterator[Any]:
    av = import_av()
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _build_graph(segments: Sequence[Path], name: str, arguments: str, inputs: int) -> tuple[Any, list[Any]]:
    """Return a graph of one filter and its sources: the frames of the segments and, second, a palette."""
    av = import_av()
    first = next(read_segments(segments))
    graph = av.filter.Graph()
    node = graph.add(name, arguments)
    sizes = [(first.width, first.height), (16, 16)][:inputs]
    sources = [
        graph.add_buffer(width=width, height=height, format='bgra', time_base=first.time_base)
        for width, height in sizes
    ]
    for number, source in enumerate(sources):
        source.link_to(node, 0, number)
    node.link_to(graph.add('buffersink'))
    graph.configure()
    return graph, sources
