"""Perceptual and style loss on the features of a VGG network."""

import math
from collections.abc import Collection
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from gpen.archs.ops.conv import bias_as_channel
from gpen.archs.ops.precision import full_precision, widen
from gpen.errors import UserError
from gpen.losses.frozen import load_frozen
from gpen.options.types import LayerWeights, NonNegativeFloat
from gpen.registry import LOSS_REGISTRY
from gpen.utils.text import suggest
from gpen.weights.downloads import find_url, find_weights
from gpen.weights.files import load_weights

# Convolutions in each of the five blocks (Simonyan and Zisserman, 2015, table 1).
CONVOLUTIONS = {
    'vgg11': (1, 1, 2, 2, 2),
    'vgg13': (2, 2, 2, 2, 2),
    'vgg16': (2, 2, 3, 3, 3),
    'vgg19': (2, 2, 4, 4, 4),
}

# Mean and standard deviation of ImageNet's RGB images in [0, 1], with which the networks were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def list_layers(vgg_type: str) -> list[str]:
    """Return a VGG's layer names (``conv1_1``, ``relu1_1``, ..., ``pool5``); a name's index is torchvision's."""
    names = []
    for block, count in enumerate(CONVOLUTIONS[vgg_type], start=1):
        for number in range(1, count + 1):
            names += [f'conv{block}_{number}', f'relu{block}_{number}']
        names.append(f'pool{block}')
    return names


class VGGFeatures(nn.Module):
    """The convolutional part of a VGG, up to the last layer that is asked for, with fixed weights.

    Args:
        vgg_type: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        wanted: names of the layers to return.
        weights: a local weight file in torchvision's layout (``features.N.weight``); default: torchvision's own file.

    Raises:
        UserError: there is no such layer, or the weight file can neither be found nor downloaded, or does not fit.
    """

    def __init__(self, vgg_type: str, wanted: Collection[str], weights: str | None = None) -> None:
        from torchvision.models import get_model

        super().__init__()
        available = list_layers(vgg_type)
        for name in wanted:
            if name not in available:
                hint = suggest(name, available)
                raise UserError(f'{vgg_type} has no layer {name!r}.{hint} Available: {", ".join(available)}.')

        # Layers up to the last one that is wanted.
        self.wanted = frozenset(wanted)
        self.names = available[: max(available.index(name) for name in wanted) + 1]
        # Each pooling halves the size and needs at least 2 pixels.
        self.minimum_size = 2 ** sum(name.startswith('pool') for name in self.names)
        with torch.device('meta'):
            self.features = get_model(vgg_type).features[: len(self.names)]
        for before, name, layer in zip(['', *self.names], self.names, self.features, strict=False):
            if name.startswith('relu'):
                layer.inplace = before not in self.wanted  # else it would overwrite what is returned

        # Their weights.
        what = f'ImageNet weights of {vgg_type.upper()}'
        path = find_weights(find_url(vgg_type), weights, what, "the option 'weights' of PerceptualLoss")
        state = {name.removeprefix('features.'): value for name, value in load_weights(path).items()}
        load_frozen(self.features, state, path, f"torchvision's weights of {vgg_type.upper()}")

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the wanted layers' outputs by name, in the order of the network.

        Args:
            images: N x 3 x H x W, normalised as the network expects.

        Raises:
            UserError: the images are smaller than the poolings allow.
        """
        if min(images.shape[2:]) < self.minimum_size:
            raise UserError(
                f'Images of {images.shape[3]} x {images.shape[2]} are too small for the VGG layer {self.names[-1]}, '
                f'which needs at least {self.minimum_size} x {self.minimum_size}. Use earlier layers in layer_weights.'
            )
        outputs = {}
        for name, layer in zip(self.names, self.features, strict=True):
            if name == 'conv1_1':
                images = F.conv2d(*bias_as_channel(images, layer.weight, layer.bias), padding=1)
            else:
                images = layer(images)  # N x C x H / 2 ** poolings x W / 2 ** poolings
            if name in self.wanted:
                outputs[name] = images
        return outputs


@LOSS_REGISTRY.register
class PerceptualLoss(nn.Module):
    """Distance of VGG features, and of their Gram matrices for style (Johnson et al., 2016; Gatys et al., 2016).

    The layers ``conv...`` give features before the activation (Wang et al., "ESRGAN", 2018).  The network is fixed and
    no part of this module's state dict or parameters.  It is not loaded if all weights are 0.  Under autocast the
    network runs in half precision; distances are in float32.

    Args:
        layer_weights: factor of each layer's distance, by name; default: the last convolution (``conv5_4``).
        vgg_type: which VGG.
        weights: a local weight file in torchvision's layout; default: torchvision's, from ``weights/`` under the
            project's root, torch hub's cache, or downloaded.
        use_input_norm: normalise with ImageNet's mean and standard deviation, as the network was trained.
        range_norm: map images from [-1, 1] to [0, 1] first; false for images that are in [0, 1] already.
        perceptual_weight: factor on the features' distance.
        style_weight: factor on the Gram matrices' distance.
        criterion: mean absolute (``l1``) or squared (``l2``) difference, or the Frobenius norm of it (``fro``).
        loss_weight: factor on the sum of both.

    Raises:
        UserError: there is no such layer, or the weight file can neither be found nor downloaded, or does not fit.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        layer_weights: LayerWeights | None = None,
        vgg_type: Literal['vgg11', 'vgg13', 'vgg16', 'vgg19'] = 'vgg19',
        weights: str | None = None,
        use_input_norm: bool = True,
        range_norm: bool = True,
        perceptual_weight: NonNegativeFloat = 1.0,
        style_weight: NonNegativeFloat = 0.0,
        criterion: Literal['l1', 'l2', 'fro'] = 'l1',
        loss_weight: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__()
        if layer_weights is None:
            layer_weights = {f'conv5_{CONVOLUTIONS[vgg_type][-1]}': 1.0}
        self.layer_weights = {name: weight for name, weight in layer_weights.items() if weight > 0}
        self.range_norm = range_norm
        self.perceptual_weight = loss_weight * perceptual_weight
        self.style_weight = loss_weight * style_weight
        self.criterion = criterion

        self.vgg: VGGFeatures | None = None
        if self.layer_weights and (self.perceptual_weight > 0 or self.style_weight > 0):
            self.vgg = VGGFeatures(vgg_type, self.layer_weights, weights)

        mean, std = (MEAN, STD) if use_input_norm else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of perceptual and style loss, a scalar.

        Args:
            restored: N x 3 x H x W in [-1, 1].
            gt: the same; no gradient flows into it.

        Raises:
            UserError: the images are too small for the layers asked for.
        """
        loss = restored.new_zeros(())
        if self.vgg is None:
            return loss

        with torch.no_grad():
            gt_features = self.vgg(self._normalise(gt))
        features = self.vgg(self._normalise(restored))

        with full_precision(restored):
            for name, weight in self.layer_weights.items():
                pair = widen(features[name]), widen(gt_features[name])
                if self.perceptual_weight > 0:
                    loss = loss + self.perceptual_weight * weight * self._distance(*pair)
                if self.style_weight > 0:
                    grams = [gram_matrix(feature) for feature in pair]  # N x C x C each
                    loss = loss + self.style_weight * weight * self._distance(*grams)
        return loss

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        if self.range_norm:
            images = (images + 1) / 2
        return (images - self.mean) / self.std

    def _distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if self.criterion == 'fro':
            return torch.linalg.vector_norm(a - b)
        return F.l1_loss(a, b) if self.criterion == 'l1' else F.mse_loss(a, b)


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """Return the Gram matrices of features, divided by C H W: N x C x H x W -> N x C x C."""
    n, c, h, w = features.shape
    # Scaling comes before the product, which could overflow float16.
    rows = features.reshape(n, c, h * w) / math.sqrt(c * h * w)  # N x C x HW
    return rows @ rows.transpose(1, 2)
