"""Whether a face is worth training on: its sharpness, its pose, and how near it is to another face."""

from dataclasses import dataclass

import cv2
import numpy as np

_SIDE = 256  # pixels; faces are judged at this size, or at their own where it is smaller
_INNER = 0.6  # share of the side that is judged: eyes, nose and mouth, not hair or background
_HASH_SIDE = 54  # pixels of the whole face, of which the inner part has 32
_HASH_BITS = 8  # frequencies along each axis

# Eyes, tip of the nose, corners of the mouth of an average adult, mm: right as seen, down, towards the camera.
_MODEL = np.array([[-32, -36, -30], [32, -36, -30], [0, 0, 0], [-25, 31, -20], [25, 31, -20]], np.float64)
_FAR = 30.0  # distance of the camera, in faces: nearly no perspective


@dataclass(frozen=True)
class Pose:
    """How a head is turned, in degrees; 0, 0, 0 is frontal.

    Attributes:
        yaw: about the vertical axis; positive where the nose points to the image's right.
        pitch: positive where the nose points down.
        roll: in the image's plane; positive clockwise as seen.
    """

    yaw: float
    pitch: float
    roll: float


def sharpness(face: np.ndarray) -> float:
    """Return the variance of the Laplacian of an aligned face's inner part, in squared 8-bit steps.

    Studio portraits aligned to 256 pixels have 160 to 550; blurred by a Gaussian with a standard deviation of 1, 2 and
    4 pixels they have about 33, 9 and 3.

    Args:
        face: size x size x 3, float32, RGB, [-1, 1]; it is judged at 256 pixels, or at its own size where that is
            smaller, so compare faces of one size.
    """
    side = min(face.shape[0], _SIDE)
    inner = _cut_inner(_to_gray(face, side))
    return float(cv2.Laplacian(inner, cv2.CV_32F, ksize=1).var())


def estimate_pose(landmarks: np.ndarray) -> Pose:
    """Estimate how a head is turned from five landmarks, by fitting an average head to them.

    Args:
        landmarks: 5 x 2, x before y: eyes, tip of the nose, corners of the mouth, left before right as seen.
    """
    points = np.asarray(landmarks, np.float64)
    spread = float(np.ptp(points, axis=0).max())
    if spread < 1e-6:
        return Pose(0.0, 0.0, 0.0)

    # Landmarks and model at the same size, seen by a camera far away.
    points = (points - points.mean(axis=0)) / spread
    model = (_MODEL - _MODEL.mean(axis=0)) / np.ptp(_MODEL[:, 1])
    model *= np.array([1, 1, -1])  # OpenCV's third axis points away from the camera
    camera = np.array([[_FAR, 0, 0], [0, _FAR, 0], [0, 0, 1]])
    _, rotation, _ = cv2.solvePnP(model, points, camera, np.zeros(4), flags=cv2.SOLVEPNP_SQPNP)
    turn = cv2.Rodrigues(rotation)[0]

    nose = -turn[:, 2]  # where the nose points: right, down, away
    yaw = np.degrees(np.arctan2(nose[0], -nose[2]))
    pitch = np.degrees(np.arcsin(np.clip(nose[1], -1, 1)))
    roll = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
    return Pose(float(yaw), float(pitch), float(roll))


def fingerprint(face: np.ndarray) -> int:
    """Return 64 bits that hardly change where a face is compressed, resized or made brighter (a perceptual hash).

    Each bit says whether one of the lowest spatial frequencies of the inner part is above their median.  Copies differ
    in 0 to 4 bits (JPEG down to quality 40, half or twice the size); faces of different people, aligned, in 26 as a
    rule and seldom in less than 10; those of one person with another expression in 10, in one of twenty cases in 4.

    Args:
        face: size x size x 3, float32, RGB, [-1, 1].
    """
    # Area averages to one size: the same pixels count whatever the size of the face, and no detail aliases.
    inner = _cut_inner(_to_gray(face, _HASH_SIDE))
    values = cv2.dct(inner)[1 : _HASH_BITS + 1, 1 : _HASH_BITS + 1].ravel()  # without brightness or shading
    bits = values > np.median(values)
    return int(''.join('1' if bit else '0' for bit in bits), 2)


def _to_gray(face: np.ndarray, side: int) -> np.ndarray:
    """Return luma, side x side, float32, in 8-bit steps."""
    resized = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) if face.shape[0] != side else face
    return (cv2.cvtColor(np.ascontiguousarray(resized, np.float32), cv2.COLOR_RGB2GRAY) + 1) * 127.5


def _cut_inner(gray: np.ndarray) -> np.ndarray:
    border = round(len(gray) * (1 - _INNER) / 2)
    return gray[border : len(gray) - border, border : len(gray) - border]
