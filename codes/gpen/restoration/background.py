"""The background of the faces: kept as it is, or enlarged by interpolation or by a super-resolution network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from gpen.data.image_io import to_array, to_tensor
from gpen.errors import UserError
from gpen.utils.packages import import_package
from gpen.weights.files import load_weights

TILE = 512  # pixels of the input that the network sees at a time, without the overlap
OVERLAP = 16


@dataclass(frozen=True)
class Enlarger:
    """Enlarges photographs.

    Attributes:
        scale: the whole number that height and width are multiplied by; 1 keeps them.
        network: enlarges H x W x 3 in [-1, 1] to any larger size; None: Lanczos interpolation.
    """

    scale: int = 1
    network: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Enlarge a photograph: H x W x 3, float32, RGB, [-1, 1]."""
        height, width = (length * self.scale for length in photo.shape[:2])
        if self.network is not None:
            photo = self.network(photo)
        if photo.shape[:2] == (height, width):
            return photo
        method = cv2.INTER_AREA if photo.shape[0] > height else cv2.INTER_LANCZOS4
        return np.clip(cv2.resize(photo, (width, height), interpolation=method), -1, 1)


def load_enlarger(path: Path, scale: int | None, device: torch.device) -> Enlarger:
    """Load a super-resolution network, such as Real-ESRGAN's; its kind is read off its weights.

    Args:
        path: weights of a network that spandrel knows.
        scale: how much larger results are; None: as the network makes them.
        device: where it runs.

    Raises:
        UserError: spandrel is not installed, or the file holds no such network.
    """
    advice = "--background_model needs the package spandrel: pip install 'spandrel>=0.4'."
    spandrel = import_package('spandrel', advice)

    try:
        model: Any = spandrel.ModelLoader(device).load_from_state_dict(dict(load_weights(path)))
    except (spandrel.UnsupportedModelError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f'{path} holds no super-resolution network that spandrel knows. Choose one, such as RealESRGAN_x2plus.pth.'
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.input_channels != 3:
        raise UserError(f'{path} is no network that enlarges colour images. Choose one, such as RealESRGAN_x2plus.pth.')
    model.eval()

    @torch.inference_mode()
    def run(photo: np.ndarray) -> np.ndarray:
        image = to_tensor((photo + 1) / 2)[None].to(device)
        return to_array(enlarge_tiles(model, image, model.scale)[0]) * 2 - 1

    return Enlarger(scale or model.scale, run)


def enlarge_tiles(network: Callable[[Tensor], Tensor], image: Tensor, scale: int) -> Tensor:
    """Run a network that enlarges by ``scale`` on overlapping tiles of an image (1 x C x H x W), which saves memory."""
    height, width = image.shape[-2:]
    result = torch.empty(1, image.shape[1], height * scale, width * scale)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            above, before = min(top, OVERLAP), min(left, OVERLAP)
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            tile = image[..., top - above : bottom + OVERLAP, left - before : right + OVERLAP]
            enlarged = network(tile)[..., above * scale :, before * scale :].clamp(0, 1).cpu()
            inside = enlarged[..., : (bottom - top) * scale, : (right - left) * scale]
            result[..., top * scale : bottom * scale, left * scale : right * scale] = inside
    return result
