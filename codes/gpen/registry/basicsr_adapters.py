"""What is adapted of BasicSR, so that it is used like our own.

- Losses: BasicSR's images are in [0, 1], so both batches are mapped there from our [-1, 1]; several results, such as
  (perceptual, style), are added up; an adversarial loss gets our ``generator``, ``discriminator`` and ``accuracy``.
- Metrics: called with two N x 3 x H x W batches in [-1, 1], they give N values.  BasicSR's take one BGR uint8 image.
- Data sets: built from keyword arguments (BasicSR's ``opt``, which needs ``phase`` and ``scale`` for most), their
  ``lq`` and ``gt`` are mapped to [-1, 1].  They draw from global random states, so a continued run is not repeated
  exactly.
- Networks are returned as they are: they must take and give images in [-1, 1].
"""

import inspect
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from gpen.registry.basicsr_package import import_basicsr


def adapt(original: Callable[..., Any], registry_name: str) -> Callable[..., Any]:
    """Return an item of a registry of BasicSR as one that is called under our conventions."""
    adapter = ADAPTERS.get(registry_name)
    return partial(adapter, original) if adapter is not None else original


def adapt_loss(original: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    """Build a loss of BasicSR and wrap it according to what its ``forward`` takes."""
    loss = original(**arguments)
    if 'target_is_real' in inspect.signature(loss.forward).parameters:
        return AdversarialLossAdapter(loss)
    return ImageLossAdapter(loss)


class ImageLossAdapter(nn.Module):
    """A loss on images in [0, 1], called with images in [-1, 1], that gives one scalar."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        # A loss on the restored image alone, such as total variation, takes an optional weight in second place.
        parameters = list(inspect.signature(loss.forward).parameters)
        self.takes_target = len(parameters) > 1 and parameters[1] != 'weight'

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of two N x 3 x H x W batches in [-1, 1]."""
        images = (restored, target) if self.takes_target else (restored,)
        result = self.loss(*((image + 1) / 2 for image in images))
        parts = result if isinstance(result, tuple | list) else (result,)
        return sum((part for part in parts if part is not None), start=restored.new_zeros(()))


class AdversarialLossAdapter(nn.Module):
    """An adversarial loss of BasicSR with the methods of :class:`gpen.losses.gan.GANLoss`."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        labels = (getattr(loss, 'real_label_val', 1.0), getattr(loss, 'fake_label_val', 0.0))
        self.threshold = sum(labels) / 2 if getattr(loss, 'gan_type', None) == 'lsgan' else 0.0

    def generator(self, fake_logits: Any) -> torch.Tensor:
        """Return the generator's weighted loss, a scalar, for logits or lists of them."""
        return self.loss(fake_logits, True, is_disc=False)

    def discriminator(self, real_logits: Any, fake_logits: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the discriminator's loss on real and on restored images."""
        return self.loss(real_logits, True, is_disc=True), self.loss(fake_logits, False, is_disc=True)

    def accuracy(self, real_logits: Any, fake_logits: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shares of real and of restored logits judged rightly."""
        real = torch.cat([logits.detach().flatten() for logits in tree_leaves(real_logits)])
        fake = torch.cat([logits.detach().flatten() for logits in tree_leaves(fake_logits)])
        return (real > self.threshold).float().mean(), (fake <= self.threshold).float().mean()


def compute_metric(
    original: Callable[..., Any], restored: torch.Tensor, target: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Return a metric of BasicSR for each image: two batches of N x 3 x H x W in [-1, 1] -> N.

    Metrics whose name ends in ``_pt`` take batches in [0, 1]; the others take one image at a time as they stand in a
    PNG file: H x W x 3, BGR, 8 bits.  Metrics without a second image, such as NIQE, judge the restored one.
    """
    names_of_images = [name for name in ('img', 'img2') if name in inspect.signature(original).parameters]
    batches = dict(zip(names_of_images, (restored, target), strict=False))
    if original.__name__.endswith('_pt'):
        return original(**{name: (batch + 1) / 2 for name, batch in batches.items()}, **options)

    arrays = {name: _to_bgr(batch) for name, batch in batches.items()}
    values = [
        float(original(**{name: array[index] for name, array in arrays.items()}, **options))
        for index in range(len(restored))
    ]
    return torch.tensor(values, device=restored.device)


class DatasetAdapter(Dataset[dict[str, Any]]):
    """A data set of BasicSR, whose ``lq`` and ``gt`` are given as C x H x W in [-1, 1].

    Args:
        original: the class; it is built from one dict of options.
        options: these options; changes that the data set makes in them are not seen outside.
    """

    def __init__(self, original: Callable[[dict[str, Any]], Any], **options: Any) -> None:
        self.mean = options.get('mean')
        self.std = options.get('std')
        self.dataset = original(deepcopy(options))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = dict(self.dataset[index])
        for key in ('lq', 'gt'):
            if key in sample:
                sample[key] = self._undo_normalisation(sample[key]) * 2 - 1
        return sample

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker has to import basicsr our way before it meets a class of basicsr in the state.
        return _new_dataset_adapter, (), self.__dict__

    def _undo_normalisation(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image in [0, 1], whatever mean and deviation the options made the data set normalise by."""
        if self.std is not None:
            image = image * torch.as_tensor(self.std, dtype=image.dtype).view(-1, 1, 1)
        if self.mean is not None:
            image = image + torch.as_tensor(self.mean, dtype=image.dtype).view(-1, 1, 1)
        return image


ADAPTERS: dict[str, Callable[..., Any]] = {
    'LOSS_REGISTRY': adapt_loss,
    'METRIC_REGISTRY': compute_metric,
    'DATASET_REGISTRY': DatasetAdapter,
}


def _new_dataset_adapter() -> DatasetAdapter:
    import_basicsr()
    return DatasetAdapter.__new__(DatasetAdapter)


def _to_bgr(images: torch.Tensor) -> np.ndarray:
    """Convert N x 3 x H x W in [-1, 1], RGB, to N x H x W x 3 in 0 to 255, BGR, 8 bits."""
    values = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()  # N x 3 x H x W
    return np.ascontiguousarray(values.flip(1).permute(0, 2, 3, 1).cpu().numpy())  # N x H x W x 3
