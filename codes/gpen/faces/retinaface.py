"""RetinaFace, as facexlib publishes it.

Source: Deng et al. 2020, "RetinaFace: Single-shot Multi-level Face Localisation in the Wild".
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpen.errors import UserError
from gpen.faces.face import Found
from gpen.utils.packages import import_package

FILENAME = 'detection_Resnet50_Final.pth'
URL = f'https://github.com/xinntao/facexlib/releases/download/v0.1.0/{FILENAME}'

_OVERLAP = 0.4  # share of the union above which the weaker of two boxes goes


def find_retinaface(weights: Path | None = None) -> Path:
    """Return the path of RetinaFace's weights: in a folder, in the usual places, or downloaded.

    Raises:
        UserError: facexlib is not installed, or the weights are nowhere and the download fails.
    """
    _import_class()
    from gpen.weights.downloads import find_in_folder

    return find_in_folder(URL, weights, 'weights of the face detector RetinaFace')


def find_retinaface_on_disk(weights: Path | None = None) -> Path | None:
    """Return the path of RetinaFace's weights where facexlib is installed and they are on the disk."""
    from gpen.weights.downloads import find_on_disk

    path = find_on_disk(URL, weights)
    try:
        if path is not None:
            _import_class()
    except UserError:
        return None
    return path


class RetinaFace:
    """facexlib's RetinaFace with a ResNet-50.

    Args:
        weights: a folder that may hold the weights; otherwise: the usual places, or a download.
        device: such as ``cpu`` or ``cuda``.

    Raises:
        UserError: facexlib or the weights are missing, or the file holds something else.
    """

    name = 'retinaface'
    smallest = 24
    threshold = 0.8
    certain = 0.0

    def __init__(self, weights: Path | None = None, device: str = 'cpu') -> None:
        from gpen.weights.files import load_weights
        from gpen.weights.networks import MisfitError, fit_weights

        path = find_retinaface(weights)
        # facexlib's init_detection_model downloads into its own folder and unpickles what it finds there.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # facexlib calls torchvision in an old way
            self._network = _import_class()(network_name='resnet50', device=device)
        try:
            fit_weights(self._network, load_weights(path), path)
        except MisfitError as error:
            message = f'{path} does not hold the weights of RetinaFace with a ResNet-50. Replace it by {URL}.'
            raise UserError(message) from error

    def find(self, image: np.ndarray, min_face: float) -> Found:  # noqa: ARG002 - it finds all sizes at once
        """Return the faces in an image, see :class:`gpen.faces.face.Finder`."""
        import torch

        pixels = np.ascontiguousarray((image[..., ::-1] + 1) * 127.5)  # BGR, [0, 255], as it was trained
        with torch.inference_mode():
            found = np.asarray(self._network.detect_faces(pixels, self.threshold, _OVERLAP), np.float64).reshape(-1, 15)
        return Found(found[:, :4], found[:, 5:].reshape(-1, 5, 2), found[:, 4])


def _import_class() -> Any:
    advice = "RetinaFace needs the package facexlib: pip install 'facexlib>=0.3'."
    return import_package('facexlib.detection.retinaface', advice).RetinaFace
