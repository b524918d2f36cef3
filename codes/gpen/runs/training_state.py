"""The format of a checkpoint: what the model files and the training state of a run hold.  No other module knows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpen import __version__
from gpen.distributed.ranks import is_main
from gpen.errors import UserError
from gpen.models.adversarial import AdversarialModel
from gpen.options.schema import Options

Networks = dict[str, dict[str, Any]]
"""Contents of the model files by stem: ``net_g`` with ``params`` and ``params_ema``, ``net_d`` with ``params``, and
``net_d_components`` with ``params`` where facial components have discriminators."""

KEYS = frozenset({'options', 'data', 'model', 'early_stopping', 'validation_is_due'})
"""Keys of a training state that a run needs to continue."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: of its training state.
        iteration: the iteration that had just been done.
        networks: contents of the model files; empty ones once a model has taken them over.
        state: the rest, as :func:`pack_state` gave it; without ``model`` from then on.
    """

    path: Path
    iteration: int
    networks: Networks
    state: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the run that wrote it."""
        return self.state['options']

    @property
    def data(self) -> dict[str, int]:
        """What an epoch consisted of: ``pairs`` in the training set, ``processes`` that trained together."""
        return {'processes': 1, **self.state['data']}

    @property
    def images(self) -> dict[str, dict[str, Any]]:
        """What :meth:`gpen.data.stamps.Stamps.pack` returned of each data set that scans its files, by phase."""
        return self.state.get('images') or {}

    @property
    def validation_is_due(self) -> bool:
        """Whether the validation of this iteration was cut off."""
        return bool(self.state['validation_is_due'])

    @property
    def early_stopping(self) -> dict[str, Any]:
        """The state of early stopping; empty without validation."""
        return self.state.get('early_stopping') or {}

    def check(self) -> None:
        """Raise UserError where a run cannot continue from it."""
        if not set(self.state) >= KEYS:
            version = self.state.get('version', 'another version')
            raise UserError(f'{self.path} was written by {version} of this program. Start anew without --auto_resume.')


def pack_networks(model: AdversarialModel) -> Networks:
    """Return the contents of the model files, on the CPU, so that files made on a GPU load anywhere."""
    networks: Networks = {'net_g': {'params': _to_cpu(model.net_g), 'params_ema': _to_cpu(model.net_g_ema)}}
    if model.net_d is not None:
        networks['net_d'] = {'params': _to_cpu(model.net_d)}
    if model.net_d_components is not None:
        networks['net_d_components'] = {'params': _to_cpu(model.net_d_components)}
    return networks


def pack_state(
    model: AdversarialModel,
    options: Options,
    early_stopping: dict[str, Any] | None,
    *,
    epoch: int,
    pairs: int,
    processes: int,
    validation_is_due: bool,
    images: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the training state beside the networks, on the CPU like those.

    Args:
        model: its optimizers, running means and counters are taken.
        options: of the run.
        early_stopping: its state; None without validation.
        epoch: that the iteration just done belongs to.
        pairs: in the training set.
        processes: that train together.
        validation_is_due: a validation of this iteration was cut off.
        images: see :attr:`Checkpoint.images`.
    """
    return {
        'version': __version__,
        'epoch': epoch,
        'options': options.model_dump(mode='json'),
        'data': {'pairs': pairs, 'processes': processes},
        'model': _tree_to_cpu(model.state_dict()),
        'early_stopping': early_stopping,
        'validation_is_due': validation_is_due,
        'images': images,
    }


def load_networks(model: AdversarialModel, networks: Networks) -> None:
    """Load what :func:`pack_networks` returned."""
    model.net_g.load_state_dict(networks['net_g']['params'])
    model.net_g_ema.load_state_dict(networks['net_g']['params_ema'])
    if model.net_d is not None:
        model.net_d.load_state_dict(networks['net_d']['params'])
    if model.net_d_components is not None:
        if 'net_d_components' not in networks:
            raise ValueError('it has no net_d_components, which train.component_opt trains')
        model.net_d_components.load_state_dict(networks['net_d_components']['params'])


def load_model(model: AdversarialModel, checkpoint: Checkpoint) -> None:
    """Put a model into the state of a checkpoint, which gives its tensors up: they would stay as long as the run.

    Raises:
        UserError: the checkpoint holds other networks or optimizers.
    """
    try:
        load_networks(model, checkpoint.networks)
        model.load_state_dict(checkpoint.state['model'])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f'{checkpoint.path} does not fit this run: {error}. Start anew without --auto_resume.'
        ) from error
    for network in checkpoint.networks.values():
        network.clear()
    del checkpoint.state['model']


def check_finite(model: AdversarialModel) -> None:
    """Raise UserError where weights, or what an optimizer keeps of them, are not finite: no step can mend that.

    All ranks find the same, and rank 0 says it.
    """
    networks = {
        'generator': model.net_g,
        'EMA generator': model.net_g_ema,
        'discriminator': model.net_d,
        'discriminators of components': model.net_d_components,
    }
    tensors = {name: list(network.state_dict().values()) for name, network in networks.items() if network is not None}
    for name, optimizer in (('generator', model.optimizer_g), ('discriminator', model.optimizer_d)):
        if optimizer is not None:
            tensors[f'optimizer of the {name}'] = [
                value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)
            ]

    # One answer from the device for each of them.
    spoilt = [name for name, values in tensors.items() if values and _is_any_spoilt(values)]
    if spoilt:
        raise UserError(
            f'Values of the {" and of the ".join(spoilt)} are not finite any more, so this iteration is not saved, and '
            'training ends. Lower train.optim_g.lr and train.optim_d.lr, or set train.grad_norm_clip.',
            is_logged=not is_main(),
        )


def _is_any_spoilt(values: list[Tensor]) -> bool:
    return bool(torch.stack([torch.isfinite(value).logical_not().any().to(values[0].device) for value in values]).any())


def _tree_to_cpu(value: Any) -> Any:
    """Return nested dicts and lists with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _tree_to_cpu(content) for name, content in value.items()}
    return [_tree_to_cpu(content) for content in value] if isinstance(value, list) else value


def _to_cpu(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in network.state_dict().items()}
