"""The square that FFHQ cuts out of a photograph, from the landmarks of a face.

Coordinates are pixels of the photograph, x before y; the centre of the top left pixel is (0, 0).

Source: Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks", appendix C, and
the data set's published description.
"""

import numpy as np

from gpen.errors import UserError

_EYES_TO_SIDE = 2.0  # half the side of the square, in distances between the eyes
_MOUTH_TO_SIDE = 1.8  # half the side of the square, in distances from the eyes to the mouth
_DOWN_TO_CENTRE = 0.1  # the centre lies below the eyes by this share of the way to the mouth


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Return the corners of the square that FFHQ cuts out: top left, bottom left, bottom right, top right (4 x 2).

    They are where the outer edges of the aligned image's outermost pixels lie.

    Args:
        landmarks: 5 x 2 (eyes, nose, corners of the mouth, left before right as seen) or 68 x 2 (iBUG's order).

    Raises:
        UserError: another number of landmarks, or all in one place.
    """
    eye_left, eye_right, mouth_left, mouth_right = _find_anchors(np.asarray(landmarks, np.float64))
    eyes = (eye_left + eye_right) / 2
    across = eye_right - eye_left
    down = (mouth_left + mouth_right) / 2 - eyes

    # Half the square's horizontal side: its direction is along the eyes and perpendicular to the way to the mouth.
    x = across + np.array([down[1], -down[0]])
    length = np.hypot(*x)
    if length < 1e-6:
        raise UserError('These landmarks lie in one place, so no face can be aligned by them.')
    x *= max(np.hypot(*across) * _EYES_TO_SIDE, np.hypot(*down) * _MOUTH_TO_SIDE) / length

    y = np.array([-x[1], x[0]])
    centre = eyes + down * _DOWN_TO_CENTRE
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _find_anchors(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the centres of both eyes and both corners of the mouth."""
    if landmarks.shape == (5, 2):
        return landmarks[0], landmarks[1], landmarks[3], landmarks[4]
    if landmarks.shape == (68, 2):
        return landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0), landmarks[48], landmarks[54]
    raise UserError(f'Alignment takes 5 or 68 landmarks (x, y), not an array of shape {landmarks.shape}.')


def matrix_to_face(quad: np.ndarray, size: int) -> np.ndarray:
    """Return the 2 x 3 matrix that takes the square's corners to the outer corners of a size x size image."""
    corners = np.array([[-0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    return np.linalg.solve(np.hstack([quad[:3], np.ones((3, 1))]), corners).T
