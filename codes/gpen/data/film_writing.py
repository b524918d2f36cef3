"""Films that are written in segments, which are joined with the sound of the original."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpen.data.film import EXACT, MUXERS, Film, Frame, import_av, open_container
from gpen.data.gif import write_gif
from gpen.utils.files import atomic_path, explain_writing

# Without B-frames, so that frames are stored in their order, which AVI needs and which makes segments easy to join.
_H264 = {'crf': '16', 'preset': 'medium', 'bf': '0'}
_VP9 = {'crf': '20', 'b': '0', 'deadline': 'good', 'cpu-used': '4', 'row-mt': '1', 'lag-in-frames': '0'}


def write_segment(target: Path, film: Film, frames: Iterable[tuple[Frame, np.ndarray]]) -> None:
    """Encode frames, H x W x 3 or 4 (uint8, RGB), all of one size, into a file that :func:`join_segments` takes.

    The film of GIFs is lossless, others are H.264 of a high quality; WebM gets VP9.

    Raises:
        UserError: the disk is full and the like.
    """
    with atomic_path(target) as temporary, _writing(temporary, 'nut') as output:
        stream = None
        for frame, image in frames:
            if stream is None:
                stream = _add_encoder(output, film, *image.shape[:2])
            picture = _to_frame(image, stream.pix_fmt, film.colorspace)
            picture.pts, picture.time_base, picture.duration = frame.pts, film.time_base, frame.duration
            output.mux(stream.encode(picture))
        if stream is not None:
            output.mux(stream.encode(None))


def join_segments(segments: Sequence[Path], film: Film, target: Path) -> list[str]:
    """Write a film: the frames of the segments, with the sound, subtitles and tags of the film, which are copied.

    Args:
        segments: at least one, in their order, see :func:`write_segment`.
        film: the original.
        target: its suffix is that of the original.

    Returns:
        Nouns for what the result does not hold.

    Raises:
        UserError: the disk is full, or the original is damaged.
    """
    kind = MUXERS[target.suffix.lower()]
    with atomic_path(target) as temporary:
        if kind == 'gif':
            write_gif(temporary, segments, film)
            return list(film.losses)

        options = {'movflags': '+faststart'} if kind in ('mp4', 'mov') else {}
        with open_container(film.path) as original, _writing(temporary, kind, options) as output:
            losses = _join_streams(original, output, film, segments)
    return [*film.losses, *losses]


def _join_streams(original: Any, output: Any, film: Film, segments: Sequence[Path]) -> list[str]:
    """Write the frames of segments and copies of the other streams; return nouns for those that are not copied."""
    output.metadata.update(original.metadata)
    with import_av().open(str(segments[0]), format='nut') as first:
        encoded = output.add_stream_from_template(first.streams.video[0])
    encoded.codec_context.framerate = film.rate  # without it, Matroska states one frame per unit of time
    encoded.time_base = film.time_base  # AVI fills up what lies between with empty frames
    tags = original.streams[film.stream].metadata
    encoded.metadata.update({key: value for key, value in tags.items() if key != 'rotate'})

    # Sound and subtitles.
    streams, losses = {-1: encoded}, []
    for stream in original.streams:
        if stream.type in ('audio', 'subtitle'):
            streams[stream.index] = output.add_stream_from_template(stream)
            streams[stream.index].metadata.update(stream.metadata)
        elif stream.type != 'video':
            losses.append(f'{stream.type} streams')

    for index, packet in heapq.merge(_read_segments(segments), _read_others(original, streams), key=_time_of):
        packet.stream = streams[index]
        output.mux_one(packet)
    return list(dict.fromkeys(losses))


def _read_segments(segments: Sequence[Path]) -> Iterator[tuple[int, Any]]:
    """Yield the packets of segments, as those of the stream -1."""
    for path in segments:
        with import_av().open(str(path), format='nut') as container:
            yield from ((-1, packet) for packet in container.demux(video=0) if packet.dts is not None)


def _read_others(original: Any, streams: dict[int, Any]) -> Iterator[tuple[int, Any]]:
    """Yield the packets of the original's streams that are copied, with the indices of these."""
    chosen = [original.streams[index] for index in streams if index >= 0]
    if chosen:
        for packet in original.demux(chosen):
            if packet.dts is not None:
                yield packet.stream.index, packet


def _time_of(packet: tuple[int, Any]) -> float:
    return float(packet[1].dts * packet[1].time_base)


def _add_encoder(output: Any, film: Film, height: int, width: int) -> Any:
    suffix = film.path.suffix.lower()
    codec, options = {'.gif': ('ffv1', {}), '.webm': ('libvpx-vp9', _VP9)}.get(suffix, ('libx264', _H264))
    stream = output.add_stream(codec, rate=film.rate, options=options)
    stream.height, stream.width = height, width
    # Half the colours' resolution, which every player takes, needs even sides.
    stream.pix_fmt = 'bgra' if suffix == '.gif' else 'yuv420p' if height % 2 == width % 2 == 0 else 'yuv444p'

    context = stream.codec_context
    context.time_base = film.time_base
    with open_container(film.path) as container:
        source = container.streams[film.stream].codec_context
        if suffix != '.gif':
            context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
            context.colorspace, context.color_range = film.colorspace, 1
        ratio = source.sample_aspect_ratio
        if ratio:
            context.sample_aspect_ratio = 1 / ratio if film.turns % 2 else ratio
    return stream


def _to_frame(image: np.ndarray, pix_fmt: str, colorspace: int) -> Any:
    frame = import_av().VideoFrame.from_ndarray(image, format='rgba' if image.shape[2] == 4 else 'rgb24')
    return frame.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=1, interpolation=EXACT)


@contextmanager
def _writing(path: Path, muxer: str, options: dict[str, str] | None = None) -> Iterator[Any]:
    with explain_writing(path), import_av().open(str(path), 'w', format=muxer, options=options or {}) as output:
        yield output
