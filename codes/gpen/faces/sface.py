"""SFace, a small network that tells people apart, run by OpenCV's own FaceRecognizerSF.

Source: Zhong et al. 2021, "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", published in
OpenCV's model zoo.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gpen.errors import UserError

FILENAME = 'face_recognition_sface_2021dec.onnx'
URL = f'https://github.com/opencv/opencv_zoo/raw/main/models/face_recognition_sface/{FILENAME}'
SIZE = 38_696_353  # bytes
SHA256 = '0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79'

SAME_PERSON = 0.363
"""The cosine of two embeddings from which on OpenCV takes two photographs for the same person's."""

_SIDE = 112  # pixels of the face that the network sees
_LENGTH = 128  # numbers of an embedding


def find_sface(weights: Path | None = None) -> Path:
    """Return the path of the network: in a folder, in the usual places, or downloaded (39 MB) and verified.

    Raises:
        UserError: it is nowhere, and the download fails.
    """
    from gpen.weights.downloads import Published, find_in_folder

    return find_in_folder(URL, weights, 'the face recognition network SFace', Published(SIZE, SHA256))


def find_sface_on_disk(weights: Path | None = None) -> Path | None:
    """Return the path of the network where it is on the disk: in a folder, or in the usual places."""
    from gpen.weights.downloads import find_on_disk

    return find_on_disk(URL, weights)


class SFace:
    """The network, and the alignment that it was trained with.

    Args:
        weights: a folder that holds its file; None: the usual places, or a download.

    Raises:
        UserError: the file cannot be had, or it holds something else.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self._network = _read_network(find_sface(weights))

    def embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return what is a person's own in a face: 128 numbers, float32, of length 1.

        The dot product of two embeddings is the cosine that :data:`SAME_PERSON` speaks of.

        Args:
            image: the photograph, H x W x 3, uint8, RGB.
            landmarks: 5 x 2, see :class:`gpen.faces.face.Face`.
        """
        # A row as OpenCV's detector returns it, of which only the landmarks are used; its pixels begin at their edges.
        row = np.zeros((1, 15), np.float32)
        row[0, 4:14] = np.asarray(landmarks, np.float32).reshape(10) + 0.5
        pixels = np.ascontiguousarray(image[..., ::-1])  # BGR
        embedding = self._network.feature(self._network.alignCrop(pixels, row)).reshape(_LENGTH)
        unit: np.ndarray = embedding / max(float(np.linalg.norm(embedding)), 1e-12)
        return unit


def _read_network(path: Path) -> Any:
    from gpen.weights.downloads import is_git_lfs_pointer

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        network = cv2.FaceRecognizerSF.create(str(path), '')
        network.feature(np.zeros((_SIDE, _SIDE, 3), np.uint8)).reshape(_LENGTH)
    except (cv2.error, ValueError) as error:
        kind = 'a pointer of Git LFS' if is_git_lfs_pointer(path) else 'something else'
        raise UserError(
            f'{path} does not hold the face recognition network SFace, but {kind} ({path.stat().st_size} bytes). '
            f'Delete it, so that it is downloaded, or replace it by {URL}.'
        ) from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    return network
