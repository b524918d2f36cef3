"""The faces of a whole film: looked for in some of its frames, and judged by one frame of each."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gpen.data.film import Film, Frame, read_frames, read_stretches
from gpen.data.image_io import to_float
from gpen.errors import UserError
from gpen.faces.face import Detector, Face
from gpen.faces.tracking import Look, Track
from gpen.restoration.background import Enlarger
from gpen.restoration.photograph import PhotographRestorer, Verdict
from gpen.utils.files import write_json

_LOOKS = 10  # at most, per second; between them faces are interpolated
_THUMBNAIL = 32  # pixels of the side of small frames, by which cuts and colours are told
_CUT = 25.0  # mean difference of two of these from which on the scene is another one, 8-bit steps
_GREY = 6  # largest difference of the channels there in a film without colours

Bar = Callable[[str, int], AbstractContextManager[Any]]
"""Opens a progress bar with a title and a number of frames (0: unknown), which has ``update``."""


@dataclass(frozen=True)
class Seen:
    """What the looks at a film gave.

    Attributes:
        seconds: the time of each frame.
        looks: in their order.
        grey: it is a film without colours.
    """

    seconds: list[float]
    looks: list[Look]
    grey: bool


def look_through(film: Film, detector: Detector, parts: Path, bar: Bar) -> Seen:
    """Look for faces in a film, or read what was found before.

    Args:
        film: the film.
        detector: finds the faces.
        parts: the folder where what was found is kept for a run that goes on.
        bar: for progress.

    Raises:
        UserError: the film is damaged.
    """
    done = parts / 'faces.json'
    if not done.is_file():
        blocks = []
        every = math.ceil(film.rate / _LOOKS)
        thumbnail = None
        with bar(f'{film.path.name}, faces', film.frames) as progress:
            for number, frames in read_stretches(film):
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
    return Seen(content['seconds'], looks, content['grey'])


def _to_face(values: Mapping[str, Any]) -> Face:
    left, top, right, bottom = values['box']
    return Face((left, top, right, bottom), np.array(values['landmarks'], np.float32), values['score'])


def _look_at(
    frames: Iterable[Frame], detector: Detector, every: int, before: np.ndarray | None, progress: Any
) -> dict[str, object]:
    """Look for faces in some frames: in the first and the last one, on both sides of a cut, and between."""
    seconds: list[float] = []
    looks: list[dict[str, object]] = []
    grey = True
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


def _find_typical(track: Track) -> int:
    """Return the number of the frame whose score is the median."""
    numbers = sorted(track.faces, key=lambda number: track.faces[number].score)
    return numbers[len(numbers) // 2]


def judge_tracks(
    restorer: PhotographRestorer, film: Film, tracks: Sequence[Track], parts: Path, bar: Bar
) -> list[Verdict]:
    """Return a verdict on each track, by its frame whose score is the median, or read what was judged before.

    Args:
        restorer: what judges.
        film: the film.
        tracks: its faces.
        parts: see :func:`look_through`.
        bar: for progress.
    """
    done = parts / 'verdicts.json'
    if not done.is_file():
        verdicts: dict[int, Verdict] = {}
        wanted = [_find_typical(track) for track in tracks]
        plain = replace(restorer, enlarger=Enlarger())  # only the face is looked at
        with bar(f'{film.path.name}, identity', max(wanted) + 1) as progress:
            for frame in read_frames(film):
                here = [index for index, number in enumerate(wanted) if number == frame.number]
                if here:
                    photo = to_float(frame.to_array()[..., :3])
                    for index in here:
                        result = plain.restore([photo], faces=[[tracks[index].faces[frame.number]]])[0]
                        verdicts[index] = result.verdicts[0]
                progress.update(1)
                if len(verdicts) == len(tracks):
                    break
        ordered = [verdicts[index] for index in range(len(tracks))]
        write_json(done, [{**asdict(verdict), 'face': _to_plain(verdict.face)} for verdict in ordered])

    content = json.loads(done.read_text(encoding='utf-8'))
    return [Verdict(_to_face(entry['face']), entry['identity'], entry['reason']) for entry in content]
