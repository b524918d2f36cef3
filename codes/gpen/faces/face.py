"""A face in a photograph, the interface of face detectors, and what they share."""

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

DETECTION_SIDE = 1600
"""Photographs with more pixels than a square of this side are made smaller for detection."""


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: left, top, right, bottom, pixels.
        landmarks: 5 x 2, float32, x before y, pixels: the eyes, the tip of the nose, the corners of the mouth; of eyes
            and corners the one on the image's left comes first.
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


class Detector(Protocol):
    """What every face detector has: its name for messages, and a method that finds faces."""

    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an image (H x W x 3, float32, RGB, [-1, 1]), the largest first."""


def shrink_for_detection(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return ``image``, shrunk to the pixels that detection takes, and by which factor; 1 where nothing was done."""
    # The area decides and not the longer side, which would make the faces in a panorama too small to be found.
    factor = math.sqrt(image.shape[0] * image.shape[1]) / DETECTION_SIDE
    if factor <= 1:
        return image, 1.0
    height, width = (max(1, round(length / factor)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), factor


def to_faces(
    boxes: np.ndarray, landmarks: np.ndarray, scores: np.ndarray, factor: float, min_face: float
) -> list[Face]:
    """Return what a network found as faces of the photograph, the largest first.

    Args:
        boxes: N x 4, in an image that was made smaller by ``factor``.
        landmarks: N x 5 x 2, in that image.
        scores: N.
        factor: how many times larger the photograph is.
        min_face: faces whose shorter side is shorter are left out, pixels of the photograph.
    """
    corners = _enlarge(boxes, factor).tolist()
    points = _enlarge(landmarks, factor).astype(np.float32)
    faces = [
        Face((left, top, right, bottom), face_points, float(score))
        for (left, top, right, bottom), face_points, score in zip(corners, points, scores, strict=True)
    ]

    faces = [face for face in faces if face.shorter_side >= min_face]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _enlarge(positions: np.ndarray, factor: float) -> np.ndarray:
    """Scale positions about the outer corner of the image, which lies at -0.5, since pixel centres are integers."""
    return (positions + 0.5) * factor - 0.5
