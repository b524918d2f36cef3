"""Faces followed through a film: the same face gets one track, whose landmarks move smoothly.

Landmarks are smoothed by the One Euro filter (Casiez et al. 2012, "1 Euro Filter: A Simple Speed-based Low-pass Filter
for Noisy Input in Interactive Systems"), run forwards and then backwards over the track, which takes its lag away: the
cutoff frequency grows with the speed, so that a face that rests does not tremble, and one that moves is not late.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpen.faces.face import Face

_NEAR = 0.6  # sides of a face that it moves at most between two looks
_ALIKE = 0.6  # the smaller of two sides of one face, as a share of the larger one
_PATIENCE = 0.5  # seconds for which a face may not be seen, such as where it turns away
_FLEETING = 2  # looks; what is seen in fewer is no face, but a false alarm

# Of the filter: the cutoff frequency of a face that rests (Hz), how much it grows with speed (Hz per size of the face
# and second), and the cutoff frequency of the speed.
_CUTOFF = 0.4
_BETA = 16.0
_SPEED_CUTOFF = 1.0


@dataclass(frozen=True)
class Look:
    """What a detector saw in a frame.

    Attributes:
        number: of the frame, from 0.
        faces: of the frame.
        is_cut: the scene is another than in the look before, so that no face goes on.
    """

    number: int
    faces: Sequence[Face]
    is_cut: bool = False


@dataclass
class Track:
    """One face, from the frame where it is seen first to the one where it is seen last.

    Attributes:
        faces: by the number of the frame, in their order; :func:`follow` leaves no gap.
    """

    faces: dict[int, Face] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first frame's number."""
        return next(iter(self.faces))

    @property
    def last(self) -> int:
        """The last frame's number."""
        return next(reversed(self.faces))

    @property
    def shorter_side(self) -> float:
        """The median of the shorter sides of its boxes, pixels."""
        return float(np.median([face.shorter_side for face in self.faces.values()]))


def follow(looks: Sequence[Look], seconds: Sequence[float]) -> tuple[list[Track], int]:
    """Return the faces of a film as tracks, and how many things were seen so shortly that they are no faces.

    Between two looks a face is taken to move evenly, even if some looks of up to half a second missed it.

    Args:
        looks: by their frames; not every frame needs one.
        seconds: the time of each frame.
    """
    linked = _link(looks, seconds)
    tracks = [track for track in linked if len(track.faces) >= min(_FLEETING, len(looks))]
    for track in tracks:
        track.faces = _smooth(_fill(track.faces, seconds), seconds)
    return tracks, len(linked) - len(tracks)


def choose_central(tracks: Sequence[Track], width: int, height: int) -> list[Track]:
    """Return parts of tracks, so that of each frame only one face is left.

    It is the one nearest to the middle of the picture, which then is kept until its track ends.

    Args:
        tracks: see :func:`follow`.
        width: of the frames, pixels.
        height: the same.
    """
    middle = np.array([width - 1, height - 1]) / 2
    chosen: dict[int, Track] = {}
    current: Track | None = None
    for number in sorted({number for track in tracks for number in track.faces}):
        if current is None or number not in current.faces:
            there = [track for track in tracks if number in track.faces]
            current = min(there, key=lambda track: math.dist(track.faces[number].landmarks.mean(axis=0), middle))
        part = chosen.setdefault(id(current), Track())
        part.faces[number] = current.faces[number]
    return list(chosen.values())


def smooth_points(points: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the landmarks of a face over time without their noise, and without lag where it moves.

    Args:
        points: T x P x 2, pixels.
        seconds: T, increasing.
    """
    points = np.array(points, np.float64)
    if len(points) == 1:
        return points
    steps = np.diff(seconds)
    spread = float(np.sqrt(((points - points.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean())) or 1.0

    # One speed for all landmarks, in sizes of the face per second, keeps its shape.
    velocity = np.diff(points, axis=0) / (steps[:, None, None] * spread)
    velocity = _filter(velocity, _share(_SPEED_CUTOFF, (steps[:-1] + steps[1:]) / 2))
    speed = np.sqrt((velocity**2).sum(axis=2).mean(axis=1))
    return _filter(points, _share(_CUTOFF + _BETA * speed, steps))


def _filter(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Run a low-pass filter forwards and backwards; in each of T - 1 steps it takes a share of the new value."""
    result = np.array(values)
    for now in range(1, len(result)):
        result[now] = result[now - 1] + shares[now - 1] * (result[now] - result[now - 1])
    for now in range(len(result) - 2, -1, -1):
        result[now] = result[now + 1] + shares[now] * (result[now] - result[now + 1])
    return result


def _share(cutoff: float | np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return how much of a new value a low-pass filter takes: ``cutoff`` in Hz, ``step`` in seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


def _link(looks: Sequence[Look], seconds: Sequence[float]) -> list[Track]:
    """Return which faces belong together, the nearest ones first."""
    tracks: list[Track] = []
    alive: list[Track] = []
    for look in looks:
        earliest = seconds[look.number] - _PATIENCE
        alive = [] if look.is_cut else [track for track in alive if seconds[track.last] >= earliest]
        left = list(look.faces)
        pairs = sorted(_pair(alive, left), key=lambda pair: pair[0])
        taken: set[int] = set()
        for _, track, face in pairs:
            if id(track) not in taken and id(face) not in taken:
                track.faces[look.number] = face
                taken |= {id(track), id(face)}

        new = [Track({look.number: face}) for face in left if id(face) not in taken]
        tracks += new
        alive += new
    return tracks


def _pair(tracks: Sequence[Track], faces: Sequence[Face]) -> Iterator[tuple[float, Track, Face]]:
    """Yield which tracks may go on with which faces, and how far these are from there, in sides."""
    for track in tracks:
        last = track.faces[track.last]
        for face in faces:
            small, large = sorted((max(1e-6, last.shorter_side), max(1e-6, face.shorter_side)))
            distance = math.dist(last.landmarks.mean(axis=0), face.landmarks.mean(axis=0)) / large
            if distance <= _NEAR and small >= _ALIKE * large:
                yield distance, track, face


def _fill(faces: dict[int, Face], seconds: Sequence[float]) -> dict[int, Face]:
    """Return the faces of a track with those of the frames between, where it was not seen."""
    filled: dict[int, Face] = {}
    numbers = list(faces)
    for start, end in itertools.pairwise(numbers):
        filled[start] = before = faces[start]
        after = faces[end]
        for number in range(start + 1, end):
            share = (seconds[number] - seconds[start]) / (seconds[end] - seconds[start])
            box = tuple(a + share * (b - a) for a, b in zip(before.box, after.box, strict=True))
            points = before.landmarks + np.float32(share) * (after.landmarks - before.landmarks)
            filled[number] = Face((box[0], box[1], box[2], box[3]), points, min(before.score, after.score))
    filled[numbers[-1]] = faces[numbers[-1]]
    return filled


def _smooth(faces: dict[int, Face], seconds: Sequence[float]) -> dict[int, Face]:
    points = np.stack([face.landmarks for face in faces.values()]).astype(np.float64)
    smooth = smooth_points(points, np.array([seconds[number] for number in faces])).astype(np.float32)
    return {
        number: Face(face.box, landmarks, face.score)
        for (number, face), landmarks in zip(faces.items(), smooth, strict=True)
    }
