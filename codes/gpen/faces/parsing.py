"""Which pixels of a face image belong to the person: facexlib's ParseNet, trained on CelebAMask-HQ.

Source: Chen et al. 2021, "Progressive Semantic-Aware Style Transformation for Blind Face Restoration"; the classes are
those of Lee et al. 2020, "MaskGAN" (CelebAMask-HQ).
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from gpen.errors import UserError
from gpen.faces.pasting import feather_mask
from gpen.utils.packages import import_package

FILENAME = 'parsing_parsenet.pth'
URL = f'https://github.com/xinntao/facexlib/releases/download/v0.2.2/{FILENAME}'

_SIZE = 512  # of the images it was trained on
# Skin, nose, glasses, eyes, brows, ears, mouth, lips and hair are 1 to 13, earrings 15.  Left out are the background,
# hats, necklaces, necks and clothes, which a face network restores badly.
_PERSON = (*range(1, 14), 15)
_BLUR = 1 / 32  # standard deviation of the mask's edge, in sides


class FaceParser:
    """Masks of faces, with hair and earrings.

    Args:
        weights: a folder that may hold the weights; otherwise: the usual places, or a download.
        device: where it runs.

    Raises:
        UserError: facexlib or the weights are missing, or the file holds something else.
    """

    def __init__(self, weights: Path | None = None, device: torch.device | str = 'cpu') -> None:
        from gpen.weights.downloads import find_in_folder
        from gpen.weights.files import load_weights
        from gpen.weights.networks import MisfitError, fit_weights

        advice = "--mask parse needs the package facexlib: pip install 'facexlib>=0.3'."
        library = import_package('facexlib.parsing.parsenet', advice)
        network: Any = library.ParseNet(in_size=_SIZE, out_size=_SIZE, parsing_ch=19)
        path = find_in_folder(URL, weights, 'weights of the face parser ParseNet')
        try:
            fit_weights(network, load_weights(path), path)
        except MisfitError as error:
            raise UserError(f'{path} does not hold the weights of ParseNet. Replace it by {URL}.') from error
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device

    @torch.inference_mode()
    def __call__(self, faces: Tensor) -> list[np.ndarray]:
        """Return a mask for each face, S x S, float32, [0, 1], soft and 0 at the edges.

        Args:
            faces: N x 3 x S x S, RGB, [-1, 1].
        """
        size = faces.shape[-1]
        resized = torch.nn.functional.interpolate(faces, size=_SIZE, mode='bilinear', antialias=size > _SIZE)
        labels = self._network(resized.to(self._device))[0].argmax(dim=1).cpu().numpy()  # N x 512 x 512
        return [to_mask(label, size) for label in labels]


def to_mask(labels: np.ndarray, size: int) -> np.ndarray:
    """Return the mask, size x size, float32, [0, 1], of a label map (H x W, CelebAMask-HQ's classes)."""
    kept = np.isin(labels, _PERSON).astype(np.float32)
    mask = cv2.resize(kept, (size, size), interpolation=cv2.INTER_LINEAR)
    mask = cv2.GaussianBlur(mask, (0, 0), max(size * _BLUR, 0.5), borderType=cv2.BORDER_REPLICATE)
    return mask * feather_mask(size)
