"""Faces that lie in a photograph in any direction: it is looked at in four quarter turns, and the best look wins.

Detectors find turned faces, too, but put eyes and mouth where they would be in an upright one.  Of the four looks at a
face the upright one has the highest score.  Between two quarter turns their scores are nearly equal; where they are, or
where a face is tilted, a second look at this face alone follows, in twelve directions.
"""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from gpen.faces.alignment import cut_square
from gpen.faces.face import Face, Finder, Found, find_overlaps, shrink_for_detection, suppress, to_faces
from gpen.faces.refinement import LandmarkRefiner

_BELOW = 0.7  # faces are looked for from this share of the smallest one on: a detector's boxes vary
_SAME = 0.5  # two boxes that share more of the smaller one are one face
_AROUND = 2.0  # side of the square that a second look sees, in sides of the box
_SEEN, _SURROUNDINGS = 224, 317  # pixels of that square, and of the upright one that it lies in however it is turned
_DIRECTIONS = 12
_BLACK = -1.0
_COARSE, _FINE = 1600, 3000  # sides of the squares whose pixels the looks in four directions and the last one take
_CLEAR = 2.0  # times the doubt (1 - score) of a look that the looks a quarter turn away have at least, if it is upright
_TILT = 20.0  # degrees from a quarter turn, from which on a face is tilted
_CORNERS = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])


class TurnedDetector:
    """A detector of faces that may be turned.

    Args:
        finder: the network.
        min_face: smallest face to look for, pixels of the photograph.
    """

    def __init__(self, finder: Finder, min_face: int) -> None:
        self._finder = finder
        self._refiner = LandmarkRefiner() if finder.certain else None
        self._min_face = min_face

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an image, see :meth:`gpen.faces.face.Detector.detect`."""
        found, turns = self._look_around(image)

        # Of all looks at a face the best one.
        best = suppress(found.boxes, found.scores, _SAME, of_smaller=True)
        if self._refiner is not None and len(best):
            found = Found.join(
                found.take([n])
                if found.scores[n] >= self._finder.certain and is_clear(found, n, turns)
                else self._look_again(image, found.take([n]))
                for n in best
            )
            best = suppress(found.boxes, found.scores, _SAME, of_smaller=True)  # two may be one now
        found = found.take(best)

        found = found.take(found.scores >= self._finder.threshold)
        if self._refiner is not None:
            found = Found(found.boxes, self._refiner.refine(image, found.landmarks), found.scores)
        return to_faces(found, _BELOW * self._min_face)

    def _look_around(self, image: np.ndarray) -> tuple[Found, np.ndarray]:
        """Return all that is found in quarter turns, as it lies in the image, and the turns of each one's look."""
        limit = self._min_face / self._finder.smallest
        small, factor = shrink_for_detection(image, limit, _COARSE)
        looks = {turns: self._find(small, turns, factor) for turns in range(4)}
        found, turns = _join(looks)

        # Small faces of large photographs are looked for where others are, and in the photograph as it lies.
        small, finer = shrink_for_detection(image, limit, _FINE)
        if finer < factor:
            sides = {0, *turns[suppress(found.boxes, found.scores, _SAME, of_smaller=True)].tolist()}
            looks |= {turn: Found.join([looks[turn], self._find(small, turn, finer)]) for turn in sides}
            found, turns = _join(looks)
        return found, turns

    def _find(self, image: np.ndarray, turns: int, factor: float) -> Found:
        """Return the faces that are found where the image is turned, as they lie in one that is larger by a factor."""
        min_face = _BELOW * self._min_face / factor
        found = self._finder.find(np.ascontiguousarray(np.rot90(image, turns)), min_face)
        sizes = (found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1)
        found = found.take(are_faces(found.landmarks) & (sizes >= min_face))
        return turn_back(found, turns, image.shape[0], image.shape[1]).enlarge(factor)

    def _look_again(self, image: np.ndarray, face: Found) -> Found:
        """Return one face as it looks best where its surroundings are turned in all directions."""
        left, top, right, bottom = face.boxes[0]
        middle, half = np.array([left + right, top + bottom]) / 2, _AROUND / 2 * max(right - left, bottom - top)
        reach = math.sqrt(2) * half  # of its corners in any direction
        surroundings = cut_square(image, middle + reach * _CORNERS, _SURROUNDINGS, outside=_BLACK)

        looks = [face]
        for turn in np.arange(_DIRECTIONS) * (360 / _DIRECTIONS):
            matrix = _matrix_from_middle(turn)
            seen = cv2.warpAffine(surroundings, matrix, (_SEEN, _SEEN), borderValue=(_BLACK,) * 3)
            found = _undo(self._finder.find(seen, _BELOW * _SEEN / _AROUND), matrix, turn)
            looks.append(found.enlarge(2 * reach / _SURROUNDINGS, middle - reach))

        # Those of the same face: others may be in its surroundings.
        found = Found.join(looks)
        nose = found.landmarks[:, 2]
        found = found.take(are_faces(found.landmarks) & ((nose >= [left, top]) & (nose <= [right, bottom])).all(axis=1))
        return found.take([found.scores.argmax()]) if len(found.scores) else face


def _matrix_from_middle(turn: float) -> np.ndarray:
    """Return the 2 x 3 matrix that cuts a square, turned by some degrees, out of the middle of the surroundings."""
    matrix = cv2.getRotationMatrix2D(((_SURROUNDINGS - 1) / 2,) * 2, turn, 1)
    return matrix + np.array([0, 0, (_SEEN - _SURROUNDINGS) / 2])


def _undo(found: Found, matrix: np.ndarray, turn: float) -> Found:
    """Return what was found in an image that a matrix turned by some degrees, in the image itself."""
    inverse = cv2.invertAffineTransform(matrix)
    middles, landmarks = (
        points @ inverse[:, :2].T + inverse[:, 2]
        for points in ((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, found.landmarks)
    )

    # A box keeps its width and height, which would grow if it were turned by less than a quarter.
    halves = (found.boxes[:, 2:] - found.boxes[:, :2]) / 2
    if abs(math.sin(math.radians(turn))) > math.sqrt(0.5):
        halves = halves[:, ::-1]
    return Found(np.hstack([middles - halves, middles + halves]), landmarks, found.scores)


def turn_back(found: Found, turns: int, height: int, width: int) -> Found:
    """Return what was found in an image that ``np.rot90`` turned, in the image (``height`` x ``width``) itself."""
    corners, landmarks = found.boxes.reshape(-1, 2, 2), found.landmarks
    for turn in range(turns, 0, -1):
        # A quarter turn takes (x, y) to (y, last - x).
        last = (width, height)[(turn - 1) % 2] - 1
        corners, landmarks = (
            np.stack([last - points[..., 1], points[..., 0]], axis=-1) for points in (corners, landmarks)
        )
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    return Found(boxes, landmarks, found.scores)


def _join(looks: Mapping[int, Found]) -> tuple[Found, np.ndarray]:
    """Return what was found in all looks, and for each face the quarter turns of its look."""
    return Found.join(looks.values()), np.repeat([*looks], [len(look.scores) for look in looks.values()])


def is_clear(found: Found, index: int, turns: np.ndarray) -> bool:
    """Return whether a face needs no second look: it is not tilted, and the looks a quarter turn away are less certain.

    Args:
        found: what was found in all looks, as it lies in the image.
        index: the face's.
        turns: N, the quarter turns of the look that found each.
    """
    same = find_overlaps(found.boxes[index], found.boxes, of_smaller=True) > _SAME
    rival = found.scores[same & ((turns - turns[index]) % 2 == 1)].max(initial=0)
    across = found.landmarks[index, 1] - found.landmarks[index, 0]
    tilt = abs((math.degrees(math.atan2(across[1], across[0])) + 45) % 90 - 45)
    return bool(1 - rival >= _CLEAR * (1 - found.scores[index]) and tilt <= _TILT)


def are_faces(landmarks: np.ndarray) -> np.ndarray:
    """Return which landmarks (N x 5 x 2) can be aligned: not all in one place, and the mouth below the eyes."""
    across = landmarks[:, 1] - landmarks[:, 0]
    down = (landmarks[:, 3] + landmarks[:, 4] - landmarks[:, 0] - landmarks[:, 1]) / 2
    lengths = (across**2 + down**2).sum(axis=1)
    turn = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    return (lengths > 0) & (lengths + 2 * turn > lengths / 4)
