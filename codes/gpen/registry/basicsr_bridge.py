"""The one module that imports ``basicsr``: its networks, losses, datasets and metrics under our conventions.

It is used only when an option file names something that is not ours, because importing ``basicsr`` takes seconds.

What is adapted:

- Losses: BasicSR's images are in [0, 1], so both batches are mapped there from our [-1, 1]; several results, such as
  (perceptual, style), are added up; an adversarial loss gets our ``generator``, ``discriminator`` and ``accuracy``.
- Metrics: called with two N x 3 x H x W batches in [-1, 1], they give N values.  BasicSR's take one BGR uint8 image.
- Datasets: built from keyword arguments (BasicSR's ``opt``, which needs ``phase`` and ``scale`` for most), their ``lq``
  and ``gt`` are mapped to [-1, 1].  They draw from global random states, so a continued run is not repeated exactly.
- Networks are returned as they are: they must take and give images in [-1, 1].
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from gpen.errors import UserError
from gpen.registry import Parameter

SHIM = 'torchvision.transforms.functional_tensor'
SUFFIX = '_basicsr'  # BasicSR appends it to some names, and its own look-up tries both


def find(registry_name: str, name: str) -> Any | None:
    """Return BasicSR's network, loss, dataset or metric called ``name``, adapted to our conventions.

    Args:
        registry_name: ``ARCH_REGISTRY``, ``LOSS_REGISTRY``, ``DATASET_REGISTRY`` or ``METRIC_REGISTRY``.
        name: with or without BasicSR's suffix ``_basicsr``.

    Returns:
        A callable that is used like one of our own, or None where ``basicsr`` is not installed or has no such name.

    Raises:
        UserError: ``basicsr`` is installed but cannot be imported.
    """
    items = _read_registry(registry_name)
    item = items.get(name, items.get(name + SUFFIX))
    return Adapted(item, registry_name) if item is not None and registry_name in ADAPTERS else item


def names(registry_name: str) -> list[str]:
    """Return the sorted names in a registry of BasicSR, without the suffix; none where it is not installed.

    Raises:
        UserError: ``basicsr`` is installed but cannot be imported.
    """
    return sorted(name.removesuffix(SUFFIX) for name in _read_registry(registry_name))


@dataclass(frozen=True)
class Adapted:
    """A class or function of BasicSR that is called under our conventions."""

    original: Callable[..., Any]
    registry_name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build the loss or dataset, or compute the metric."""
        return ADAPTERS[self.registry_name](self.original, *args, **kwargs)


def parameters_of(item: Any) -> tuple[tuple[Parameter, ...], bool]:
    """Return the arguments of what :func:`find` returned, and whether it takes any others (``**kwargs``).

    The images are left out of a metric's arguments.  A dataset takes one dict of options, so anything goes.
    """
    registry_name = item.registry_name if isinstance(item, Adapted) else None
    if registry_name == 'DATASET_REGISTRY':
        return (), True
    signature = inspect.signature(item.original if isinstance(item, Adapted) else item)
    images = ('img', 'img2') if registry_name == 'METRIC_REGISTRY' else ()
    found = tuple(
        Parameter(
            name=parameter.name,
            annotation=None,
            default=None if parameter.default is parameter.empty else parameter.default,
            required=parameter.default is parameter.empty,
        )
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name not in images
    )
    return found, any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())


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
        real = torch.cat([logits.detach().flatten() for logits in _list_tensors(real_logits)])
        fake = torch.cat([logits.detach().flatten() for logits in _list_tensors(fake_logits)])
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
    """A dataset of BasicSR, whose ``lq`` and ``gt`` are given as C x H x W in [-1, 1].

    Args:
        original: the class; it is built from one dict of options.
        options: these options; changes that the dataset makes in them are not seen outside.
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
        """Return an image in [0, 1], whatever mean and deviation the options made the dataset normalise by."""
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


def _read_registry(registry_name: str) -> dict[str, Any]:
    if importlib.util.find_spec('basicsr') is None:
        return {}
    _import_basicsr()
    registry = getattr(importlib.import_module('basicsr.utils.registry'), registry_name)
    return dict(iter(registry))


def _import_basicsr() -> None:
    try:
        if importlib.util.find_spec(SHIM) is None:
            # BasicSR 1.4.2 imports a module that torchvision 0.17 removed; what it needs of it stands here now.
            sys.modules[SHIM] = importlib.import_module('torchvision.transforms.functional')
        importlib.import_module('basicsr')
    except (ImportError, AttributeError, RuntimeError, ValueError, TypeError, OSError, SyntaxError) as error:
        # Half of it is imported now; without this, the next try would fail for another, misleading reason.
        for name in [name for name in sys.modules if name.split('.')[0] == 'basicsr']:
            del sys.modules[name]
        raise UserError(
            f'basicsr is installed but cannot be imported ({type(error).__name__}: {error}). '
            'Repair it (pip install basicsr==1.4.2), or remove it and use only the names that this project defines.'
        ) from error


def _new_dataset_adapter() -> DatasetAdapter:
    _import_basicsr()
    return DatasetAdapter.__new__(DatasetAdapter)


def _to_bgr(images: torch.Tensor) -> np.ndarray:
    """Convert N x 3 x H x W in [-1, 1], RGB, to N x H x W x 3 in 0 to 255, BGR, 8 bits."""
    values = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()  # N x 3 x H x W
    return np.ascontiguousarray(values.flip(1).permute(0, 2, 3, 1).cpu().numpy())  # N x H x W x 3


def _list_tensors(logits: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a tensor or of nested lists of them."""
    if isinstance(logits, torch.Tensor):
        yield logits
    else:
        for item in logits:
            yield from _list_tensors(item)
