"""Landmarks, looked for again in the face that they make upright: twice as exact as those of a detector.

The last of MTCNN's networks finds landmarks in a square that frames a face.  Its own cascade gives it squares that are
off by some pixels and never turned; here the square is that of the landmarks, so a second look corrects the first.
"""

import numpy as np

from gpen.data.ffhq_square import ffhq_quad, matrix_to_face
from gpen.faces.alignment import cut_square
from gpen.faces.mtcnn import find_networks, read_network, run_network

_SIZE = 48  # pixels, input of the network
_LOOKS = 2
_CERTAIN = 0.9  # score from which on the network is believed
_BLACK = -1.0  # as it was trained
_FAR = 0.1  # share of the square; where it moves landmarks farther, it sees something else
# The square that the network was trained on, in the square of FFHQ: left, top, side.
_LEFT, _TOP, _SIDE = 0.16, 0.214, 0.68


class LandmarkRefiner:
    """Finds landmarks again, in the upright face.

    Raises:
        UserError: MTCNN's networks or ONNX Runtime are not installed.
    """

    def __init__(self) -> None:
        self._network = read_network(find_networks() / 'onet.onnx')

    def refine(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return landmarks (N x 5 x 2) of an image (H x W x 3, float32, RGB, [-1, 1]), more exactly."""
        for _ in range(_LOOKS if len(landmarks) else 0):
            landmarks = self._look(image, landmarks)
        return landmarks

    def _look(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        quads = [_frame(points) for points in landmarks]
        crops = np.stack([cut_square(image, quad, _SIZE, outside=_BLACK) for quad in quads])
        shares, chances = run_network(self._network, crops, ['dense_6', 'softmax_2'])

        # N x 10, five x, then five y, as shares of the square, counted from its edge.
        points = shares.reshape(-1, 2, 5).transpose(0, 2, 1) * _SIZE - 0.5
        matrices = np.stack([matrix_to_face(quad, _SIZE) for quad in quads])  # N x 2 x 3
        linear, shift = matrices[:, :, :2], matrices[:, None, :, 2]
        before = landmarks @ linear.transpose(0, 2, 1) + shift
        after = (points - shift) @ np.linalg.inv(linear).transpose(0, 2, 1)

        moved = np.hypot(*(points - before).transpose(2, 0, 1)).mean(axis=1)
        believed = (chances[:, 1] >= _CERTAIN) & (moved <= _FAR * _SIZE)
        return np.where(believed[:, None, None], after, landmarks)


def _frame(landmarks: np.ndarray) -> np.ndarray:
    """Return the corners of the network's square, in the order of :func:`ffhq_quad`."""
    corner, bottom, _, right = ffhq_quad(landmarks)
    across, down = right - corner, bottom - corner
    start = corner + _LEFT * across + _TOP * down
    return np.stack([start, start + _SIDE * down, start + _SIDE * (across + down), start + _SIDE * across])
