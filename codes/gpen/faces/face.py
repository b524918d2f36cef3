"""A face in a photograph, and what all detectors of faces have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

DETECTION_SIDE = 1600
"""Photographs of more pixels than a square of this side are made smaller for detection."""


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        box: left, top, right, bottom, pixels.
        landmarks: 5 x 2, float32, x before y, pixels: the eyes, the tip of the nose, the corners of the mouth; of eyes
            and corners the one on the image's left comes first.
        score: the detector's certainty, in [0, 1].
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
    """Finds faces."""

    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an image (H x W x 3, float32, RGB, [-1, 1]), the largest first."""


def shrink_for_detection(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return ``image`` with no more pixels than detection takes, and the factor that takes it back."""
    # By area and not by the longer side: the faces in a panorama would get too small to be found.
    factor = math.sqrt(image.shape[0] * image.shape[1]) / DETECTION_SIDE
    if factor <= 1:
        return image, 1.0
    height, width = (max(1, round(length / factor)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), factor


def to_faces(
    boxes: np.ndarray, landmarks: np.ndarray, scores: np.ndarray, factor: float, min_face: float
) -> list[Face]:
    """Return faces of a photograph, the largest first.

    Args:
        boxes: N x 4, in an image that was made smaller by ``factor``.
        landmarks: N x 5 x 2, in that image.
        scores: N.
        factor: what takes coordinates back to the photograph.
        min_face: faces with a shorter side are left out, pixels of the photograph.
    """
    faces = [
        Face(
            box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            landmarks=points.astype(np.float32),
            score=float(score),
        )
        for box, points, score in zip(_enlarge(boxes, factor), _enlarge(landmarks, factor), scores, strict=True)
    ]
    faces = [face for face in faces if face.shorter_side >= min_face]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _enlarge(positions: np.ndarray, factor: float) -> np.ndarray:
    """Pixel centres are at whole numbers, so the outer edge, at -0.5, is what stays."""
    return (positions + 0.5) * factor - 0.5
