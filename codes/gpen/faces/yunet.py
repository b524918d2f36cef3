"""YuNet, a small network that finds faces of all sizes, run by OpenCV's own FaceDetectorYN.

Source: Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector", published in OpenCV's model zoo.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gpen.data.image_io import to_uint8
from gpen.errors import UserError
from gpen.faces.face import Found

FILENAME = 'face_detection_yunet_2026may.onnx'
OLDER = 'face_detection_yunet_2023mar.onnx'
URL = f'https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{FILENAME}'
SIZE = 229_738  # bytes
SHA256 = 'ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0'

_THRESHOLD = 0.7  # score of a face; from 0.5 on there are false alarms, and 0.9 misses large faces
_WEAK = 0.3  # score that small faces between two quarter turns have
_OVERLAP = 0.3  # share of the union above which the weaker of two boxes goes
_MOST = 5000  # boxes before that
_STEP = 3  # between two sizes at which a photograph is looked at
_COARSEST = 400  # pixels, longer side: at this size even a face that fills the photograph is found
_MULTIPLE, _LEAST = 32, 64  # pixels; with 32, OpenCV 4 returns faces at infinity


def find_yunet(weights: Path | None = None) -> Path:
    """Return the path of the network: in a folder, in the usual places, or downloaded.

    Raises:
        UserError: it is nowhere, and the download fails.
    """
    from gpen.weights.downloads import Published, find_on_disk, find_weights

    own = [] if weights is None else [weights / FILENAME, weights / OLDER]
    for path in (*own, find_on_disk(URL), find_on_disk(OLDER)):
        if path is not None and path.is_file():
            return path
    return find_weights(URL, None, 'the face detector YuNet', '--weights', Published(SIZE, SHA256))


class YuNet:
    """The network, looked through at several sizes of an image, since it is best at faces of 25 to 300 pixels.

    Args:
        weights: a folder that holds its file; None: the usual places, or a download.

    Raises:
        UserError: the file cannot be had, or it holds something else.
    """

    name = 'yunet'
    smallest = 16
    threshold = _THRESHOLD
    certain = 0.9

    def __init__(self, weights: Path | None = None) -> None:
        self._network = _read_network(find_yunet(weights))

    def find(self, image: np.ndarray, min_face: float) -> Found:  # noqa: ARG002 - it finds all sizes at once
        """Return the faces in an image, see :class:`gpen.faces.face.Finder`; a face may be found at two sizes."""
        pixels = np.ascontiguousarray(to_uint8(image)[..., ::-1])  # BGR
        found, factor = [_look(self._network, pixels)], 1.0
        while max(pixels.shape[:2]) > _COARSEST:
            height, width = (max(1, round(length / _STEP)) for length in pixels.shape[:2])
            pixels, factor = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), factor * _STEP
            found.append(_look(self._network, pixels).enlarge(factor))
        return Found.join(found)


def _read_network(path: Path) -> Any:
    from gpen.weights.downloads import is_git_lfs_pointer

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        network = cv2.FaceDetectorYN.create(str(path), '', (_LEAST, _LEAST), _WEAK, _OVERLAP, _MOST)
        _look(network, np.zeros((_LEAST, _LEAST, 3), np.uint8))
    except cv2.error as error:
        kind = 'a pointer of Git LFS' if is_git_lfs_pointer(path) else 'something else'
        raise UserError(
            f'{path} does not hold the face detector YuNet, but {kind} ({path.stat().st_size} bytes). '
            f'Delete it, so that it is downloaded, or replace it by {URL}.'
        ) from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    return network


def _look(network: Any, pixels: np.ndarray) -> Found:
    """Return the faces in an image (H x W x 3, uint8, BGR)."""
    height, width = pixels.shape[:2]
    down, right = (max(_LEAST, -(-length // _MULTIPLE) * _MULTIPLE) - length for length in (height, width))
    padded = cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_CONSTANT)
    network.setInputSize((padded.shape[1], padded.shape[0]))
    rows = network.detect(padded)[1]

    # N x 15: left, top, width, height, five landmarks, score; counted from the pixels' edges.
    table = np.empty((0, 15)) if rows is None else rows.astype(np.float64)
    table = table[np.isfinite(table).all(axis=1)]
    corner, size = table[:, :2], table[:, 2:4]
    return Found(np.hstack([corner, corner + size]) - 0.5, table[:, 4:14].reshape(-1, 5, 2) - 0.5, table[:, 14])
