"""Identity loss: distance of face recognition embeddings."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from gpen.archs.ops.precision import widen
from gpen.losses.frozen import load_frozen
from gpen.options.types import NonNegativeFloat
from gpen.registry import LOSS_REGISTRY
from gpen.utils.packages import import_package
from gpen.weights.downloads import find_weights
from gpen.weights.files import load_weights

FILENAME = 'recognition_arcface_ir_se50.pth'
URL = f'https://github.com/xinntao/facexlib/releases/download/v0.1.0/{FILENAME}'
WHAT = 'ArcFace weights'
ADVICE = (
    'IdentityLoss needs facexlib, which cannot be imported ({error}). Install it (pip install facexlib) or remove the '
    'loss.'
)
INPUT_SIZE = 112

# The crop of an FFHQ-aligned face that ArcFace's own alignment shows: rows 35 to 223 and columns 32 to 220 of 256.
TOP, BOTTOM, LEFT, RIGHT = 35 / 256, 223 / 256, 32 / 256, 220 / 256


@LOSS_REGISTRY.register
class IdentityLoss(nn.Module):
    """1 - cosine similarity of ArcFace embeddings (Deng et al., 2019), by facexlib's IR-SE50.

    Images must be faces aligned as in FFHQ.  The crop that ArcFace was trained on (rows 35 to 223 and columns 32 to 220
    of 256, in proportion for other sizes, as in pixel2style2pixel by Richardson et al., 2021) is resized to 112 x 112:
    averaged when it is larger, bilinear when it is smaller.  The network is fixed, always in evaluation mode, and no
    part of this module's state dict or parameters.  Under autocast it runs in half precision; the cosine is in float32.

    Args:
        loss_weight: factor on the loss.
        weights: a local copy of ``recognition_arcface_ir_se50.pth``; default: the one in ``weights/`` under the
            project's root, in torch hub's cache, or downloaded.

    Raises:
        UserError: facexlib is missing, or the weight file can neither be found nor downloaded, or does not fit.
    """

    def __init__(self, loss_weight: NonNegativeFloat = 1.0, weights: str | None = None) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        import_package('facexlib.recognition.arcface_arch', ADVICE)
        self.network = load_arcface(find_weights(URL, weights, WHAT, "the option 'weights' of IdentityLoss"))

    def train(self, mode: bool = True) -> IdentityLoss:  # noqa: ARG002
        """Stay in evaluation mode: the network's batch normalisation and dropout must not change."""
        return super().train(False)

    def forward(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss, a scalar in [0, 2] times ``loss_weight``.

        Args:
            restored: N x 3 x H x W in [-1, 1], RGB, FFHQ-aligned.
            gt: the same; no gradient flows into it.
        """
        with torch.no_grad():
            gt_embedding = widen(self.network(crop_face(gt)))  # N x 512, of length 1
        embedding = widen(self.network(crop_face(restored)))
        return self.loss_weight * (1 - F.cosine_similarity(embedding, gt_embedding)).mean()


def crop_face(images: torch.Tensor) -> torch.Tensor:
    """Crop FFHQ-aligned faces as ArcFace expects them: N x 3 x H x W -> N x 3 x 112 x 112."""
    height, width = images.shape[2:]
    top, bottom = round(TOP * height), round(BOTTOM * height)
    left, right = round(LEFT * width), round(RIGHT * width)
    face = images[:, :, top:bottom, left:right]  # N x 3 x 0.734 H x 0.734 W

    size = (INPUT_SIZE, INPUT_SIZE)
    if min(face.shape[2:]) >= INPUT_SIZE:
        face = F.interpolate(face, size=size, mode='area')
    else:
        face = F.interpolate(face, size=size, mode='bilinear', align_corners=False)
    return face.contiguous()  # facexlib's network takes views that channels-last memory does not allow


def load_arcface(path: Path) -> nn.Module:
    """Return facexlib's fixed IR-SE50: N x 3 x 112 x 112 in [-1, 1] (see :func:`crop_face`) -> N x 512, of length 1.

    Raises:
        UserError: the weight file does not fit.
    """
    from facexlib.recognition.arcface_arch import Backbone

    with torch.device('meta'):
        network: nn.Module = Backbone(num_layers=50, drop_ratio=0.6, mode='ir_se')
    load_frozen(network, load_weights(path), path, "facexlib's ArcFace IR-SE50 weights")
    return network
