"""Films: faces are looked for and followed through the whole film, then restored in every frame.

What is done lies in a folder beside the result, ``NAME.parts``, until the film is whole: the faces of each stretch of
frames, then these frames, restored and encoded.  A second run goes on from there and gives the same film.
"""

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gpen.data.ffhq_square import ffhq_quad
from gpen.data.film import Film, Frame, open_film, read_stretches
from gpen.data.film_writing import join_segments, write_segment
from gpen.data.image_io import to_float, to_uint8
from gpen.faces.face import Face
from gpen.faces.tracking import choose_central, follow
from gpen.restoration.film_faces import Bar, Seen, judge_tracks, look_through
from gpen.restoration.photograph import LARGE, PhotographRestorer, Verdict
from gpen.utils.files import atomic_path, write_json
from gpen.utils.locks import hold_lock

_CHUNK_PIXELS = 40_000_000  # of the frames in memory at a time, enlarged


@dataclass(frozen=True)
class FilmResult:
    """What became of a film.

    Attributes:
        frames: how many it has.
        faces: how many were followed and restored, each from where it appears to where it is gone.
        restored: frames with at least one of them.
        too_small: faces that were smaller than the smallest one to restore.
        fleeting: what was seen in one look alone, and not taken for a face.
        large: the longest side of a face that is far larger than the network, pixels; 0: there is none.
        losses: nouns for what the result does not hold.
        verdicts: when each face that was judged is seen, and the verdict on it.
    """

    frames: int
    faces: int
    restored: int
    too_small: int
    fleeting: int
    large: float
    losses: tuple[str, ...]
    verdicts: tuple[tuple[str, Verdict], ...] = ()


def restore_film(
    restorer: PhotographRestorer,
    source: Path,
    target: Path,
    settings: Mapping[str, object],
    strength: float,
    max_pixels: int,
    bar: Bar,
) -> FilmResult:
    """Restore the faces in a film; one without a face is copied, or only enlarged.

    Args:
        restorer: see :class:`gpen.restoration.photograph.PhotographRestorer`.
        source: the film.
        target: the result; its suffix is that of the film.
        settings: all that the result depends on; what was done with others is done again.
        strength: 0 (as it was) to 1 (as restored).
        max_pixels: larger frames are refused.
        bar: for progress.

    Raises:
        UserError: the film cannot be used, the disk is full, or another run restores the same film.
    """
    film = open_film(source, max_pixels)
    parts = target.with_name(f'{target.name}.parts')
    busy = f'{parts} is in use by another run. Wait until it is done, or choose another --output.'
    with hold_lock(parts / 'lock', busy, lambda error: f'Cannot use {parts}: {error}. Choose another --output.'):
        _begin(parts, {**settings, 'strength': strength, 'film': stamp(source)})

        seen = look_through(film, restorer.detector, parts, bar)
        chosen = _choose_faces(restorer, film, seen, parts, bar)

        # Its frames, or the file itself.
        losses: list[str] = []
        if chosen.faces or restorer.enlarger.scale > 1:
            plain = replace(restorer, keep_grey=restorer.keep_grey and seen.grey, min_quality=0, compare=None)
            with bar(source.name, len(seen.seconds)) as progress:
                segments, damaged = _restore_stretches(_Work(plain, film, chosen.faces, strength), parts, progress)
            losses = join_segments(segments, film, target)
            if damaged:
                losses.append(f'what is damaged in {damaged} of {len(seen.seconds)} frames')
        else:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    shutil.rmtree(parts)
    return replace(chosen.result, losses=tuple(losses))


@dataclass(frozen=True)
class _Chosen:
    """The faces to restore, by their frames, and what the result says of them."""

    faces: dict[int, list[Face]]
    result: FilmResult


def _choose_faces(restorer: PhotographRestorer, film: Film, seen: Seen, parts: Path, bar: Bar) -> _Chosen:
    """Choose whole tracks, so that no face changes between restored and not."""
    tracks, fleeting = follow(seen.looks, seen.seconds)
    kept = [track for track in tracks if track.shorter_side >= restorer.min_face]
    too_small = len(tracks) - len(kept)
    if restorer.only_center:
        kept, too_small = choose_central(kept, film.width, film.height), 0

    # Those that --min_quality and --keep_identity leave out.
    verdicts = []
    if restorer.judges and kept:
        judged = judge_tracks(restorer, film, kept, parts, bar)
        times = [' to '.join(_clock(seen.seconds[number]) for number in (track.first, track.last)) for track in kept]
        verdicts = [(f'face from {time}', verdict) for time, verdict in zip(times, judged, strict=True)]
        kept = [track for track, verdict in zip(kept, judged, strict=True) if not verdict.reason]

    faces: dict[int, list[Face]] = {}
    for track in kept:
        for number, face in track.faces.items():
            faces.setdefault(number, []).append(face)

    largest = max((_side_of(face) for face in itertools.chain.from_iterable(faces.values())), default=0.0)
    large = largest if largest >= LARGE * restorer.restorer.size else 0.0
    counts = len(seen.seconds), len(kept), len(faces), too_small, fleeting
    return _Chosen(faces, FilmResult(*counts, large, (), tuple(verdicts)))


def _clock(seconds: float) -> str:
    """Return a time in a film, such as ``1:02.4``."""
    tenths = round(10 * seconds)
    return f'{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}'


def _side_of(face: Face) -> float:
    """Return the side of the square that the network sees, pixels of the frame."""
    quad = ffhq_quad(face.landmarks)
    return math.dist(quad[0], quad[3])


def _begin(parts: Path, settings: dict[str, object]) -> None:
    """Make the folder for parts; discard those that were made with other settings."""
    path = parts / 'settings.json'
    wanted = json.loads(json.dumps(settings, default=str))
    try:
        same = json.loads(path.read_text(encoding='utf-8')) == wanted
    except (OSError, ValueError):
        same = False
    if not same:
        for old in parts.glob('*.*'):
            old.unlink()
        write_json(path, wanted)


def stamp(path: Path) -> list[object]:
    """Return what tells whether a file is still the same."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class _Work:
    """What is to be done with a film; ``faces`` are those of each frame that has some."""

    restorer: PhotographRestorer
    film: Film
    faces: Mapping[int, Sequence[Face]]
    strength: float


def _restore_stretches(work: _Work, parts: Path, progress: Any) -> tuple[list[Path], int]:
    """Restore and encode what is not there yet; return the files of all stretches, and how many frames are damaged."""
    segments, damaged = [], 0

    def count(frames: Iterator[Frame]) -> Iterator[Frame]:
        nonlocal damaged
        for frame in frames:
            damaged += frame.is_damaged
            yield frame

    for number, frames in read_stretches(work.film):
        path = parts / f'{number:06d}.nut'
        segments.append(path)
        if path.is_file():
            progress.update(sum(1 for _ in count(frames)))
        else:
            write_segment(path, work.film, _restore_frames(work, count(frames), progress))
    return segments, damaged


def _restore_frames(work: _Work, frames: Iterator[Frame], progress: Any) -> Iterator[tuple[Frame, np.ndarray]]:
    """Yield each frame with its restored pixels, H x W x 3 or 4, uint8, RGB."""
    restorer, scale = work.restorer, work.restorer.enlarger.scale
    pixels = work.film.width * work.film.height * scale**2
    count = max(1, min(restorer.batch_size, _CHUNK_PIXELS // pixels))
    while chunk := list(itertools.islice(frames, count)):
        images = [frame.to_array() for frame in chunk]
        faces = [work.faces.get(frame.number, ()) for frame in chunk]

        # Frames that stay as they are need no arithmetic.
        changed = [index for index in range(len(chunk)) if faces[index] or scale > 1]
        photos = [_to_photo(images[index], restorer.keep_grey) for index in changed]
        results = restorer.restore(photos, faces=[faces[index] for index in changed])
        for index, result in zip(changed, results, strict=True):
            images[index] = _with_alpha(to_uint8(result.compose(work.strength)), images[index])

        for frame, image in zip(chunk, images, strict=True):
            yield frame, image
            progress.update(1)


def _to_photo(image: np.ndarray, is_grey: bool) -> np.ndarray:
    """Return the colours of a frame as float32 in [-1, 1]; all channels are equal in a film without colours."""
    colours = image[..., :3]
    if is_grey:  # but for what encoding made of it
        colours = cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return to_float(colours)


def _with_alpha(colours: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return a frame with the transparency of the one that it was made of, if that has any."""
    if before.shape[2] == 3:
        return colours
    alpha = cv2.resize(before[..., 3], colours.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.dstack([colours, alpha])
