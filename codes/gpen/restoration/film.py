"""Films: faces are looked for and followed through the whole film, then restored in every frame.

What is done lies in a folder beside the result, ``NAME.parts``, until the film is whole: the faces of each stretch of
frames, then these frames, restored and encoded.  A second run goes on from there and gives the same film.
"""

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gpen.data.ffhq_square import ffhq_quad
from gpen.data.film_io import Film, Frame, join_segments, open_film, read_frames, write_segment
from gpen.data.image_io import to_float, to_uint8
from gpen.errors import UserError
from gpen.faces.face import Detector, Face
from gpen.faces.tracking import Look, choose_central, follow
from gpen.restoration.photograph import LARGE, PhotographRestorer
from gpen.utils.files import atomic_path, write_json
from gpen.utils.locks import hold_lock

_STRETCH = 48  # frames that are looked at, restored and encoded together, and at most lost when a run is stopped
_LOOKS = 10  # per second; between them faces are interpolated
_THUMBNAIL = 32  # pixels of the side of small frames, by which cuts and colours are told
_CUT = 25.0  # mean difference of two of these from which on the scene is another one, 8-bit steps
_GREY = 6  # largest difference of the channels there in a film without colours
_CHUNK_PIXELS = 40_000_000  # of the frames in memory at a time, enlarged

Bar = Callable[[str, int], AbstractContextManager[Any]]
"""Opens a progress bar with a title and a number of frames (0: unknown), which has ``update``."""


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
    """

    frames: int
    faces: int
    restored: int
    too_small: int
    fleeting: int
    large: float
    losses: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """What the looks at a film gave: its frames' times, the looks, and whether it is without colours."""

    seconds: list[float]
    looks: list[Look]
    grey: bool


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
        _begin(parts, {**settings, 'strength': strength, 'film': _stamp(source)})

        # The faces of the whole film, which need no memory worth mentioning.
        seen = _look_through(film, restorer.detector, parts, bar)
        tracks, fleeting = follow(seen.looks, seen.seconds)
        kept = [track for track in tracks if track.shorter_side >= restorer.min_face]
        too_small = len(tracks) - len(kept)
        if restorer.only_center:
            kept, too_small = choose_central(kept, film.width, film.height), 0

        faces: dict[int, list[Face]] = {}
        for track in kept:
            for number, face in track.faces.items():
                faces.setdefault(number, []).append(face)

        # Its frames, or the file itself.
        losses: list[str] = []
        if faces or restorer.enlarger.scale > 1:
            work = _Work(replace(restorer, keep_grey=restorer.keep_grey and seen.grey), film, faces, strength)
            with bar(source.name, len(seen.seconds)) as progress:
                losses = join_segments(_restore_stretches(work, parts, progress), film, target)
        else:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    shutil.rmtree(parts)

    sides = [_side_of(face) for face in itertools.chain.from_iterable(faces.values())]
    largest = max(sides, default=0.0)
    large = largest if largest >= LARGE * restorer.restorer.size else 0.0
    return FilmResult(len(seen.seconds), len(kept), len(faces), too_small, fleeting, large, tuple(losses))


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


def _stamp(path: Path) -> list[object]:
    """Return what tells whether a file is still the same."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _look_through(film: Film, detector: Detector, parts: Path, bar: Bar) -> _Seen:
    """Look for faces in the whole film, or read what was found before."""
    done = parts / 'faces.json'
    if not done.is_file():
        blocks = []
        every = max(1, round(film.rate / _LOOKS))
        thumbnail = None
        with bar(f'{film.path.name}, faces', film.frames) as progress:
            for number, frames in itertools.groupby(read_frames(film), lambda frame: frame.number // _STRETCH):
                path = parts / f'{number:06d}.faces.json'
                if not path.is_file():
                    write_json(path, _look_at(frames, detector, every, thumbnail, progress))
                else:
                    progress.update(sum(1 for _ in frames))
                blocks.append(json.loads(path.read_text(encoding='utf-8')))
                thumbnail = np.array(blocks[-1]['thumbnail'], np.uint8)
        if not blocks:
            raise UserError(f'{film.path} cannot be used: it has no frames.')
        whole = {name: [value for block in blocks for value in block[name]] for name in ('seconds', 'looks')}
        write_json(done, {**whole, 'grey': all(block['grey'] for block in blocks)})

    content = json.loads(done.read_text(encoding='utf-8'))
    looks = [
        Look(look['number'], [_to_face(face) for face in look['faces']], look['is_cut']) for look in content['looks']
    ]
    return _Seen(content['seconds'], looks, content['grey'])


def _to_face(values: Mapping[str, Any]) -> Face:
    left, top, right, bottom = values['box']
    return Face((left, top, right, bottom), np.array(values['landmarks'], np.float32), values['score'])


def _look_at(
    frames: Iterable[Frame], detector: Detector, every: int, before: np.ndarray | None, progress: Any
) -> dict[str, object]:
    """Look for faces in some frames: in the first and the last one, on both sides of a cut, and between."""
    seconds, looks, grey = [], [], True
    image: np.ndarray | None = None
    last = -1  # the frame of the last look

    def look(number: int, is_cut: bool = False) -> None:
        assert image is not None
        faces = detector.detect(to_float(image))
        looks.append({'number': number, 'faces': [_to_plain(face) for face in faces], 'is_cut': is_cut})

    number = -1
    for frame in frames:
        current = frame.to_array()[..., :3]
        thumbnail = cv2.resize(current, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        is_cut = before is not None and float(cv2.absdiff(thumbnail, before).mean()) >= _CUT
        if is_cut and image is not None and last != number:
            look(number)  # the end of the scene before
        image, before, number = current, thumbnail, frame.number
        if is_cut or not seconds or number % every == 0:
            look(number, is_cut)
            last = number
        seconds.append(frame.seconds)
        grey = grey and int(np.ptp(thumbnail, axis=2).max()) <= _GREY
        progress.update(1)
    if last != number:
        look(number)
    return {
        'seconds': seconds,
        'looks': looks,
        'grey': grey,
        'thumbnail': before.tolist() if before is not None else [],
    }


def _to_plain(face: Face) -> dict[str, object]:
    return {**asdict(face), 'landmarks': face.landmarks.tolist()}


@dataclass(frozen=True)
class _Work:
    """What is to be done with a film; ``faces`` are those of each frame that has some."""

    restorer: PhotographRestorer
    film: Film
    faces: Mapping[int, Sequence[Face]]
    strength: float


def _restore_stretches(work: _Work, parts: Path, progress: Any) -> list[Path]:
    """Restore and encode what is not there yet; return the files of all stretches."""
    segments = []
    for number, frames in itertools.groupby(read_frames(work.film), lambda frame: frame.number // _STRETCH):
        path = parts / f'{number:06d}.nut'
        segments.append(path)
        if path.is_file():
            progress.update(sum(1 for _ in frames))
        else:
            write_segment(path, work.film, _restore_frames(work, frames, progress))
    return segments


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
