"""Films, through PyAV: what they say of themselves, and their frames, one by one and upright."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gpen.data.file_check import HEAD_BYTES, MAX_PIXELS, open_file
from gpen.errors import UserError
from gpen.utils.packages import import_package

ADVICE = "Films and animated GIFs need the package PyAV: pip install '.[films]' (or pip install av)."

STRETCH = 48
"""Frames that are encoded together, and at most lost when a run is stopped."""

MUXERS = {
    **{'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska'},
    **{'.webm': 'webm', '.avi': 'avi', '.gif': 'gif'},
}
"""The name of FFmpeg's muxer by the suffix."""

# A file is never probed for other kinds than its first bytes tell: FFmpeg would take a playlist with the name of a film
# for one, and fetch what it lists.
_MP4_BOXES = (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip')
FILM_SUFFIXES = tuple(MUXERS)

EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000  # swscale: bicubic, colours at their full resolution, rounded exactly
_BT709, _BT601, _UNKNOWN = 1, 5, 2
_HD = 720  # pixels of the height, from which on colours that are not named are those of BT.709
_MISSING = 0.5, 0.02  # seconds, and share of the length, that the end of a whole film may lack
_MICROSECONDS = 1_000_000  # in which the length of a container is given


def is_film(path: Path | str) -> bool:
    """Tell by its suffix whether a file is a film or a GIF."""
    return str(path).lower().endswith(FILM_SUFFIXES)


def has_av() -> bool:
    """Tell whether PyAV is installed."""
    return importlib.util.find_spec('av') is not None


def import_av() -> Any:
    """Import PyAV; UserError where it is not installed."""
    return import_package('av', ADVICE)


@dataclass(frozen=True)
class Film:
    """A film that can be decoded.

    Attributes:
        path: the file.
        width: of the upright frames, pixels.
        height: the same.
        turns: quarter turns counterclockwise that make a decoded frame upright, as the file's metadata says.
        rate: frames per second, on average.
        seconds: how long it is; 0: unknown.
        time_base: seconds of one unit of time stamps.
        frames: how many there are, about; 0: unknown.
        colorspace: FFmpeg's number of the matrix between RGB and YCbCr.
        stream: the index of the stream of frames.
        losses: nouns for what a restored film does not hold.
    """

    path: Path
    width: int
    height: int
    turns: int
    rate: Fraction
    seconds: float
    time_base: Fraction
    frames: int
    colorspace: int
    stream: int
    losses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A frame of a film; its pixels are converted when they are asked for.

    Attributes:
        number: from 0.
        pts: its time stamp, in units of the film's time base.
        seconds: the same in seconds.
        duration: in units of the film's time base; 0: unknown.
    """

    number: int
    pts: int
    seconds: float
    duration: int
    film: Film
    raw: Any = field(repr=False)

    @property
    def is_damaged(self) -> bool:
        """Whether the decoder had to guess some of its pixels."""
        return bool(self.raw.is_corrupt)

    def to_array(self) -> np.ndarray:
        """Return the upright pixels: H x W x 3, uint8, RGB; of a GIF H x W x 4, with its transparency."""
        kind = 'rgba' if self.film.path.suffix.lower() == '.gif' else 'rgb24'
        converted = self.raw.reformat(format=kind, src_colorspace=self.film.colorspace, interpolation=EXACT)
        return np.ascontiguousarray(np.rot90(converted.to_ndarray(), self.film.turns))


def open_film(path: Path, max_pixels: int = MAX_PIXELS) -> Film:
    """Return what a film says of itself and its first frame.

    Raises:
        UserError: PyAV is missing, or the film is damaged, of another kind, or of more than ``max_pixels`` pixels.
    """
    with _reading(path), open_container(path) as container:
        stream = _find_stream(container, path)
        first = next(container.decode(stream), None)
        if first is None:
            raise UserError(f'{path} cannot be used: it has no frames.')

        # The picture, upright.
        turns = round(first.rotation / 90) % 4
        width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
        if width * height > max_pixels:
            raise UserError(f'{path} has too many pixels ({width} x {height}; at most {max_pixels:,} in all).')
        named = int(first.colorspace) if first.colorspace != _UNKNOWN else 0
        colorspace = named or (_BT709 if first.height >= _HD else _BT601)

        # How long it is.
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        length = stream.duration * stream.time_base if stream.duration else _length_of(container)
        frames = stream.frames or round(length * rate)
        base = stream.time_base
        losses = tuple(_find_losses(container, stream, first))
        return Film(path, width, height, turns, rate, float(length), base, frames, colorspace, stream.index, losses)


def read_frames(film: Film) -> Iterator[Frame]:
    """Yield the frames of a film; time stamps always increase.

    Raises:
        UserError: the film is damaged, or ends before its time.
    """
    number, last, ends = 0, None, 0.0
    step = max(1, round(1 / (film.rate * film.time_base)))
    with open_container(film.path) as container:
        stream = container.streams[film.stream]
        stream.thread_type = 'AUTO'

        packets = container.demux()
        while True:
            with _reading(film.path, f' after {number} frames'):
                packet = next(packets, None)
                if packet is None:
                    break
                frames = packet.decode() if packet.stream.index == film.stream else []
            ends = max(ends, _end_of(packet, container))

            for raw in frames:
                if (raw.height, raw.width) != (film.height, film.width)[:: -1 if film.turns % 2 else 1]:
                    raise UserError(f'{film.path} cannot be used: its frames are not all of one size.')
                pts = raw.pts if raw.pts is not None else (0 if last is None else last + step)
                pts = pts if last is None else max(pts, last + 1)
                yield Frame(number, pts, float(pts * film.time_base), raw.duration or 0, film, raw)
                number, last = number + 1, pts

        length = _length_of(container)
        if ends < length * (1 - _MISSING[1]) - _MISSING[0]:
            raise UserError(f'{film.path} cannot be used: it is cut off after {ends:.1f} of {length:.1f} seconds.')


def read_stretches(film: Film) -> Iterator[tuple[int, Iterator[Frame]]]:
    """Yield the frames of a film in stretches of :data:`STRETCH`, with the number of each; see :func:`read_frames`."""
    return itertools.groupby(read_frames(film), lambda frame: frame.number // STRETCH)


def read_segments(segments: Sequence[Path]) -> Iterator[Any]:
    """Yield the frames of segments, as PyAV's, in their order."""
    for path in segments:
        with import_av().open(str(path), format='nut') as container:
            yield from container.decode(video=0)


def _find_losses(container: Any, stream: Any, first: Any) -> Iterator[str]:
    """Yield nouns for what an encoded film does not hold of the frames."""
    is_gif = container.format.name == 'gif'
    if max(part.bits for part in first.format.components) > 8:
        yield 'more than 8 bits per channel'
    if len(first.format.components) in (2, 4) and not is_gif:
        yield 'transparency'
    if first.interlaced_frame:
        yield 'interlacing (frames are written whole)'
    if any(other.index != stream.index for other in container.streams.video):
        yield 'further pictures beside the film'
    if container.chapters():
        yield 'chapters'


def _find_stream(container: Any, path: Path) -> Any:
    """Return the stream of frames: not a cover, which some films have beside it."""
    av = import_av()
    streams = [
        stream for stream in container.streams.video if av.stream.Disposition.attached_pic not in stream.disposition
    ]
    if not streams:
        raise UserError(f'{path} cannot be used: it has no pictures, only {_list_kinds(container)}.')
    return streams[0]


def _list_kinds(container: Any) -> str:
    return ' and '.join(sorted({stream.type for stream in container.streams})) or 'nothing'


def open_container(path: Path) -> Any:
    """Open a film with PyAV, as the kind that it is; UserError where it is none."""
    demuxer = _find_demuxer(path)
    with _reading(path):
        return import_av().open(str(path), format=demuxer, metadata_errors='replace')


def _find_demuxer(path: Path) -> str:
    """Return the name of the demuxer for a file, by its first bytes."""
    try:
        with open_file(path) as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error
    if head[4:8] in _MP4_BOXES:
        return 'mov'
    if head.startswith(b'\x1aE\xdf\xa3'):
        return 'matroska'
    if head.startswith(b'RIFF') and head[8:11] == b'AVI':
        return 'avi'
    if head.startswith(b'GIF8'):
        return 'gif'
    what = 'it is empty' if not head else f'it is no film of a kind that is read ({", ".join(FILM_SUFFIXES)})'
    raise UserError(f'{path} cannot be used: {what}.')


@contextmanager
def _reading(path: Path, where: str = '') -> Iterator[None]:
    """Raise a UserError where FFmpeg cannot read a film."""
    av = import_av()
    try:
        yield
    except (av.error.FFmpegError, EOFError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise UserError(f'{path} cannot be used: it is damaged or cut off{where} ({reason}).') from error


def _length_of(container: Any) -> float:
    """Return the length that a film states, seconds; 0: it states none."""
    return max(0, container.duration or 0) / _MICROSECONDS


def _end_of(packet: Any, container: Any) -> float:
    """Return when a packet ends, in seconds from the start of the film."""
    if packet.pts is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base) - (container.start_time or 0) / _MICROSECONDS
