"""A face in a photograph, the interface of face detectors, and what they share."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

DETECTION_SIDE = 1000
"""Photographs of more pixels than a square of this side are made smaller for detection, as far as small faces allow."""


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: left, top, right, bottom, pixels.
        landmarks: 5 x 2, float32, x before y, pixels: the eyes, the tip of the nose, the corners of the mouth; of eyes
            and corners the one comes first that is on the left where the face is upright.
        score: the detector's confidence, in [0, 1].
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float

    @property
    def shorter_side(self) -> float:
        """The shorter side of the box, pixels."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)

    @property
    def area(self) -> float:
        """Pixels in the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass(frozen=True)
class Found:
    """What a network found in an image: N faces.

    Attributes:
        boxes: N x 4: left, top, right, bottom, pixels.
        landmarks: N x 5 x 2, see :class:`Face`.
        scores: N, in [0, 1].
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray

    @classmethod
    def join(cls, parts: Iterable['Found']) -> 'Found':
        """Return the faces of several (at least one)."""
        boxes, landmarks, scores = zip(*((part.boxes, part.landmarks, part.scores) for part in parts), strict=True)
        return cls(np.concatenate(boxes), np.concatenate(landmarks), np.concatenate(scores))

    def take(self, chosen: Any) -> 'Found':
        """Return some of the faces, by their indices or by a mask."""
        return Found(self.boxes[chosen], self.landmarks[chosen], self.scores[chosen])

    def enlarge(self, factor: float, corner: np.ndarray | float = -0.5) -> 'Found':
        """Return the same faces in an image of which this one is a part, and which is ``factor`` times larger.

        Args:
            factor: pixels of that image for one of this.
            corner: x and y of this one's outer corner in that image; its own lies at -0.5, since pixel centres are
                integers.
        """
        landmarks, corners = (
            (points + 0.5) * factor + corner for points in (self.landmarks, self.boxes.reshape(-1, 2, 2))
        )
        return Found(corners.reshape(-1, 4), landmarks, self.scores)


class Finder(Protocol):
    """What the network of a detector has.

    Attributes:
        name: for options and messages.
        smallest: the shorter side of the smallest face that it is sure to find, pixels.
        threshold: the score of a face; :meth:`find` may return weaker ones, at which a second look is worth while.
        certain: the score from which on an upright face needs no second look; above 1, each face gets one; with 0,
            none does, and landmarks stay as they were found.
    """

    name: str
    smallest: int
    threshold: float
    certain: float

    def find(self, image: np.ndarray, min_face: float) -> Found:
        """Return the faces, of at least about ``min_face`` pixels, in an image as for :meth:`Detector.detect`."""


class Detector(Protocol):
    """What every face detector has."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an image (H x W x 3, float32, RGB, [-1, 1]), the largest first.

        Those a little smaller than the smallest one that was asked for are among them; see :func:`split_by_size`.
        """


def split_by_size(faces: Iterable[Face], min_face: float) -> tuple[list[Face], list[Face]]:
    """Return the faces whose shorter side has ``min_face`` pixels at least, and those that are too small."""
    kept: list[Face] = []
    small: list[Face] = []
    for face in faces:
        (kept if face.shorter_side >= min_face else small).append(face)
    return kept, small


def shrink_for_detection(image: np.ndarray, limit: float, largest: int) -> tuple[np.ndarray, float]:
    """Return ``image``, shrunk to the pixels that detection takes, and by which factor; 1 where nothing was done.

    Args:
        image: H x W x 3.
        limit: the largest factor at which the smallest faces are found yet.
        largest: side of the square whose pixels are not exceeded, whatever small faces need.
    """
    # The area decides and not the longer side, which would make the faces in a panorama too small to be found.
    side = math.sqrt(image.shape[0] * image.shape[1])
    factor = max(min(side / DETECTION_SIDE, limit), side / largest)
    if factor <= 1:
        return image, 1.0
    height, width = (max(1, round(length / factor)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), factor


def to_faces(found: Found, min_face: float) -> list[Face]:
    """Return what was found in a photograph as faces of it, the largest first.

    Args:
        found: positions are pixels of the photograph.
        min_face: faces whose shorter side is shorter are left out, pixels.
    """
    faces = [
        Face((left, top, right, bottom), landmarks, float(score))
        for (left, top, right, bottom), landmarks, score in zip(
            found.boxes.tolist(), found.landmarks.astype(np.float32), found.scores, strict=True
        )
    ]
    return sorted(split_by_size(faces, min_face)[0], key=lambda face: face.area, reverse=True)


def suppress(boxes: np.ndarray, scores: np.ndarray, limit: float, of_smaller: bool = False) -> np.ndarray:
    """Return the indices of the boxes that non-maximum suppression keeps, the strongest first.

    Args:
        boxes: N x 4.
        scores: N; of equal ones the first is stronger.
        limit: the largest overlap with a stronger box, as a share of the union.
        of_smaller: take the overlap as a share of the smaller box, which torchvision's function cannot.
    """
    order = np.argsort(-scores, kind='stable')
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[find_overlaps(boxes[best], boxes[rest], of_smaller) <= limit]
    return np.array(kept, dtype=int)


def find_overlaps(box: np.ndarray, boxes: np.ndarray, of_smaller: bool = False) -> np.ndarray:
    """Return what a box (4) and each of others (N x 4) have in common, as a share of their union or the smaller one."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    area, areas = np.prod(np.maximum(box[2:] - box[:2], 0)), np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    whole = np.minimum(area, areas) if of_smaller else area + areas - common
    shares: np.ndarray = common / np.maximum(whole, 1e-9)
    return shares
