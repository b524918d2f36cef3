"""RetinaFace, as facexlib publishes it.

Source: Deng et al. 2020, "RetinaFace: Single-shot Multi-level Face Localisation in the Wild".
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpen.errors import UserError
from gpen.faces.face import Face, shrink_for_detection, to_faces
from gpen.utils.packages import import_package

FILENAME = 'detection_Resnet50_Final.pth'
URL = f'https://github.com/xinntao/facexlib/releases/download/v0.1.0/{FILENAME}'

_THRESHOLD = 0.8  # score
_OVERLAP = 0.4  # share of the union above which the weaker of two boxes goes


def find_retinaface(weights: Path | None = None) -> Path:
    """Return the path of RetinaFace's weights; without a folder, they are downloaded where they are not on disk.

    Raises:
        UserError: facexlib is not installed, the folder does not hold them, or the download fails.
    """
    _import_class()
    from gpen.weights.downloads import find_weights

    local = None if weights is None else str(weights.absolute() / FILENAME)
    return find_weights(URL, local, 'weights of the face detector RetinaFace', '--weights')


class RetinaFaceDetector:
    """facexlib's RetinaFace with a ResNet-50.

    Args:
        weights: a folder that holds the weights; None: the usual places, or a download.
        min_face: smaller faces, in pixels of the photograph, are left out.
        device: such as ``cpu`` or ``cuda``.

    Raises:
        UserError: facexlib or the weights are missing, or the file holds something else.
    """

    name = 'retinaface'

    def __init__(self, weights: Path | None = None, min_face: int = 40, device: str = 'cpu') -> None:
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
        self._min_face = min_face

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in an image (H x W x 3, float32, RGB, [-1, 1]), the largest first."""
        import torch

        small, factor = shrink_for_detection(image)
        pixels = np.ascontiguousarray((small[..., ::-1] + 1) * 127.5)  # BGR, [0, 255], as it was trained
        with torch.inference_mode():
            found = np.asarray(self._network.detect_faces(pixels, _THRESHOLD, _OVERLAP), np.float64).reshape(-1, 15)
        return to_faces(found[:, :4], found[:, 5:].reshape(-1, 5, 2), found[:, 4], factor, self._min_face)


def _import_class() -> Any:
    advice = "RetinaFace needs the package facexlib: pip install 'facexlib>=0.3'."
    return import_package('facexlib.detection.retinaface', advice).RetinaFace
