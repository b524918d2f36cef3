"""Optimizers by name, and one step of an optimizer.

Each optimizer takes the parameters first; its further arguments are options.  They are fused, so that a step can be
skipped without the host.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from inspect import unwrap
from typing import Any

import torch

from gpen.distributed import ranks
from gpen.distributed.gradients import Gradients
from gpen.models.parameter_groups import NAME, freeze, group_parameters, name_parameters
from gpen.models.precision import LossScale
from gpen.options.blocks import Optimizer
from gpen.options.types import Betas, NonNegativeFloat, PositiveFloat, Probability
from gpen.registry import OPTIMIZER_REGISTRY

Parameters = Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]]


def _without_compiler(kind: type[torch.optim.Optimizer]) -> Any:
    """Return a class of optimizers whose methods do not import torch's compiler.

    torch marks these methods for ``torch.compile``.  When one is first called, that mark imports ``torch._dynamo``,
    which takes nearly as long as torch itself.  Only networks are compiled here, so the methods need no mark.
    """
    marked = ('add_param_group', 'zero_grad', 'state_dict', 'load_state_dict')
    methods = {name: unwrap(getattr(kind, name)) for name in marked}
    return type(kind.__name__, (kind,), {**methods, 'step': torch.no_grad()(unwrap(kind.step))})


_Adam, _AdamW, _SGD = map(_without_compiler, (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD))


@OPTIMIZER_REGISTRY.register
def Adam(  # noqa: N802
    params: Parameters,
    lr: PositiveFloat = 1e-4,
    betas: Betas | None = None,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); ``betas`` default to (0.9, 0.99)."""
    return _Adam(params, lr, _to_floats(betas), eps, weight_decay, fused=True)


@OPTIMIZER_REGISTRY.register
def AdamW(  # noqa: N802
    params: Parameters,
    lr: PositiveFloat = 1e-4,
    betas: Betas | None = None,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); ``betas`` default to (0.9, 0.99)."""
    return _AdamW(params, lr, _to_floats(betas), eps, weight_decay, fused=True)


def _to_floats(betas: Betas | None) -> tuple[float, float]:
    first, second = betas or (0.9, 0.99)
    return float(first), float(second)


@OPTIMIZER_REGISTRY.register
def SGD(  # noqa: N802
    params: Parameters,
    lr: PositiveFloat = 1e-2,
    momentum: Probability = 0.0,
    weight_decay: NonNegativeFloat = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent."""
    return _SGD(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)


def build_optimizer(
    network: torch.nn.Module, options: Optimizer, frozen: list[str], letter: str
) -> torch.optim.Optimizer:
    """Freeze parameters of a network, and give the others to the optimizer of the options, in their groups.

    Args:
        network: ``requires_grad`` of its parameters is changed.
        options: ``train.optim_LETTER``.
        frozen: patterns of the names of parameters that do not learn.
        letter: ``g`` or ``d``.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    freeze(network, frozen, f'train.freeze_{letter}')
    groups = group_parameters(network, options.param_groups, f'train.optim_{letter}.param_groups')
    return OPTIMIZER_REGISTRY.build(options.to_dict(), groups)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state, but keep the options that the optimizer was built with (betas, weight decay, ...).

    The learning rate is the schedule's, set before each step.  Parameters find their state by name, so that groups and
    frozen parameters may differ from those of the saved run; one that was frozen there starts without a state.
    """
    options = [
        {name: value for name, value in group.items() if name not in {'params', 'lr'}}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(_regroup(state, optimizer.state_dict()))
    for group, values in zip(optimizer.param_groups, options, strict=True):
        group.update(values)


def _regroup(state: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state in the groups of ``ours``; one of earlier versions, which has no names, as it is."""
    before, now = name_parameters(state['param_groups']), name_parameters(ours['param_groups'])
    if before is None or now is None or before == now:
        return state
    numbers = {name: number for number, name in before.items()}
    values = {number: state['state'].get(numbers.get(name, -1)) for number, name in now.items()}
    return {
        'state': {number: value for number, value in values.items() if value is not None},
        'param_groups': ours['param_groups'],
    }


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float], letter: str) -> None:
    """Set the learning rate of each parameter group: ``rates[letter]``, or ``rates[LETTER_NAME]`` for one with a name.

    Args:
        optimizer: what to change.
        rates: by key; a group whose key is missing has that of the letter.
        letter: ``g`` or ``d``.
    """
    for group in optimizer.param_groups:
        group['lr'] = rates.get(f'{letter}_{group.get(NAME)}', rates[letter])


@dataclass(frozen=True)
class Stepped:
    """What :func:`optimize` did; all on the device.

    Attributes:
        norm: of the gradients of the loss before clipping.  Where nothing is clipped, those of the penalty are in it.
        is_finite: a bool scalar: loss, penalty and gradients were finite, so the optimizer stepped.
        below_eps: share of the gradient's entries that Adam's ``eps`` outweighs, 0 to 1; None unless it was asked for.
    """

    norm: torch.Tensor
    is_finite: torch.Tensor
    below_eps: torch.Tensor | None


def optimize(
    loss: torch.Tensor,
    gradients: Gradients,
    optimizer: torch.optim.Optimizer,
    scale: LossScale,
    max_norm: float | None = None,
    penalty: torch.Tensor | None = None,
    counts_small: bool = False,
) -> Stepped:
    """Compute the gradients of a loss and step the optimizer, unless the loss or a gradient is not finite.

    With several ranks, loss and gradients are all-reduced to their means before anything is decided, so that all ranks
    decide the same.

    A lazy penalty, such as R1, is large in the few steps that have it.  Clipped together with the loss, it would be cut
    down to an ordinary step, and its weight would mean nothing.  So the norm of the loss alone decides by which factor
    the gradients of both are scaled, and their ratio stays what the weight says.

    Args:
        loss: a scalar.
        gradients: of the network that the optimizer trains.
        optimizer: of the network's parameters.
        scale: the loss scale of the network.
        max_norm: gradients are clipped to this norm; None: they are not.
        penalty: a lazy regularisation to add, with its weight, a scalar; it may share the graph of ``loss``.
        counts_small: also return :attr:`Stepped.below_eps`.
    """
    # Backward pass, and means over all ranks
    optimizer.zero_grad(set_to_none=True)
    is_apart = penalty is not None and max_norm is not None
    total = loss if penalty is None else loss + penalty
    with gradients.averaged():
        scale.up(loss if is_apart else total).backward(retain_graph=is_apart)
    found = gradients.found()
    scale.down(found)
    mean_total = total.detach().clone()
    ranks.all_reduce_mean([mean_total])

    # Clipping; the penalty follows the loss.
    norm = _norm_of(found)
    is_finite = torch.isfinite(mean_total) & torch.isfinite(norm)
    if penalty is not None and is_apart:
        with gradients.averaged():
            penalty.backward()
        found = gradients.found()
        is_finite &= torch.isfinite(_norm_of(found))
    if max_norm is not None:
        torch._foreach_mul_(found, (max_norm / (norm + 1e-6)).clamp(max=1.0))

    # The step
    below_eps = _count_small(found, optimizer) if counts_small else None
    step_if(optimizer, is_finite)
    scale.update(is_finite)
    return Stepped(norm, is_finite, below_eps)


def _norm_of(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def _count_small(gradients: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """Return the share of entries below ``eps``, which hold Adam back; None for an optimizer that has none."""
    eps = optimizer.defaults.get('eps')
    if eps is None:
        return None
    small = torch.stack([(gradient.abs() < eps).sum() for gradient in gradients]).sum()
    return small / sum(gradient.numel() for gradient in gradients)


def step_if(optimizer: torch.optim.Optimizer, is_finite: torch.Tensor) -> None:
    """Step the optimizer if ``is_finite`` (a bool scalar on the device) is true; else leave everything as it is.

    A fused optimizer decides on the device, so that the host does not wait for it.
    """
    if not optimizer.defaults.get('fused'):
        if is_finite:
            optimizer.step()
        return

    # The hook that gradient scalers use.
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = torch.logical_not(is_finite).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
