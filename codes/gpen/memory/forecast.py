"""Rehearses a training step on tensors without memory, and counts the memory that a real step would allocate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from gpen.errors import UserError
from gpen.losses import frozen, identity, lpips, perceptual
from gpen.memory.counter import MemoryUse, StorageCounter
from gpen.models import build_model
from gpen.options.schema import Options

CPU = torch.device('cpu')
FAKE_FAILURES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


class Rehearsal:
    """A model on fake tensors, which have shapes, but no memory and no values.

    Its training steps run the operations of real steps on a CPU, in the state that training soon reaches: optimizers
    have their state, and the gradients of the step before still exist.  Weights that losses would load are not needed.

    Args:
        options: checked options; data and weight files need not exist.
        device: where the tensors seem to live.

    Attributes:
        size: width and height of the restored images.
        model: the model.

    Raises:
        UserError: neither the network nor the training data have a size.
    """

    def __init__(self, options: Options, device: torch.device = CPU) -> None:
        self._options = options
        self._device = device
        train = options.datasets.train  # whose size counts where the network takes images of any
        sizes = {**(train.arguments if train is not None else {}), **options.network_g.arguments}
        size, in_size = sizes.get('size'), sizes.get('in_size')
        if not isinstance(size, int):
            raise UserError('network_g.size and datasets.train.size are missing: the forecast makes up such images.')
        self.size, self._in_size = size, in_size or size
        # Constants that networks make on the meta device, as facexlib's do, are not fake by themselves.
        self._mode = _OneFakeMode(allow_non_fake_inputs=True)
        self._counter = StorageCounter()
        with self._faking():
            self.model = build_model(options, device)
            self._prepare()

    def measure(self, iteration: int, batch_size: int) -> MemoryUse:
        """Return the bytes that are alive at the peak of a training step.

        Raises:
            UserError: a part of the step needs values, which fake tensors do not have.
        """
        self.run(iteration, batch_size)
        return self._counter.peak

    def measure_largest(self, batch_size: int) -> MemoryUse:
        """Return the larger of the peaks without R1 and with it; see :meth:`measure`."""
        iterations = filter(None, choose_iterations(self._options))
        return max((self.measure(iteration, batch_size) for iteration in iterations), key=lambda use: use.total)

    def run(self, iteration: int, batch_size: int, watcher: AbstractContextManager[object] | None = None) -> None:
        """Run a training step; ``watcher`` is entered around it, and can be a mode that sees its operations.

        Raises:
            UserError: see :meth:`measure`.
        """
        with self._faking():
            batch = {
                'lq': torch.empty(batch_size, 3, self._in_size, self._in_size),
                'gt': torch.empty(batch_size, 3, self.size, self.size),
                'boxes': torch.empty(batch_size, 3, 4),
                'gt_path': [f'{number}.png' for number in range(batch_size)],
            }

            self._counter.restart()
            with watcher or nullcontext():
                self.model.train_step(batch, iteration)

    def _prepare(self) -> None:
        """Tell the counter what the tensors are for, and let the optimizers create their state."""
        for network in _find(self.model, nn.Module):
            self._counter.assign([*network.parameters(), *network.buffers()], 'weights')

        # A step with zero gradients creates the state; a hook follows the gradients of later steps.
        for optimizer in _find(self.model, torch.optim.Optimizer):
            for parameter in (one for group in optimizer.param_groups for one in group['params']):
                parameter.grad = torch.zeros_like(parameter)
                parameter.register_post_accumulate_grad_hook(self._assign_gradient)
                self._assign_gradient(parameter)
            optimizer.step()
            state = [value for entry in optimizer.state.values() for value in entry.values()]
            self._counter.assign([value for value in state if isinstance(value, Tensor)], 'optimizer')

    def _assign_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._counter.assign([parameter.grad], 'gradients')

    @contextmanager
    def _faking(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())

            # Copying a module asks for the address of its tensors.
            warnings.filterwarnings('ignore', message='Accessing the data pointer of FakeTensor')

            # Networks are created on their device; moving fake parameters, even to the same device, is an error.
            stack.enter_context(patch.object(nn.Module, 'to', lambda module, *_, **__: module))

            # A rehearsal of one rank exchanges nothing with others.
            stack.enter_context(patch.object(torch.distributed, 'is_initialized', lambda: False))

            # Losses get networks without weights.
            for losses in (perceptual, identity, lpips):
                stack.enter_context(patch.object(losses, 'find_weights', lambda name, *_, **__: Path(name)))
                stack.enter_context(patch.object(losses, 'load_weights', lambda _: {}))
                stack.enter_context(patch.object(losses, 'load_frozen', _load_blank))

            stack.enter_context(self._mode)
            stack.enter_context(self._counter)
            stack.enter_context(self._device)
            try:
                yield
            except FAKE_FAILURES as error:
                raise UserError(
                    f'This step cannot be forecast, since it needs the values of tensors ({error}). '
                    'Try it instead: codes/train.py --dry_run reports its peak memory.'
                ) from error


def choose_iterations(options: Options) -> tuple[int | None, int | None]:
    """Return an iteration without R1 and one with R1, both with a generator step; None where there is no such one."""
    train = options.train
    first = (train.net_d_init_iters // train.net_d_iters + 1) * train.net_d_iters
    adversarial = train.gan_opt is not None and train.gan_opt.is_on
    if not (adversarial and train.r1_reg_weight > 0):
        return first, None

    # The pattern of discriminator, generator and R1 steps repeats after this many iterations.
    last = first + math.lcm(train.net_d_iters, train.net_d_reg_every)
    iterations = range(first, last, train.net_d_iters)
    plain = next((iteration for iteration in iterations if iteration % train.net_d_reg_every), None)
    with_r1 = next(iteration for iteration in iterations if iteration % train.net_d_reg_every == 0)
    return plain, with_r1


class _OneFakeMode(FakeTensorMode):
    def __deepcopy__(self, memo: dict[int, Any]) -> _OneFakeMode:
        """Return the same mode: a copied tensor, such as those of the EMA, belongs to the mode of its original."""
        return self


def _load_blank(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:  # noqa: ARG001
    blank = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}
    frozen.load_frozen(network, blank, path, what)


def _find(model: Any, kind: type) -> list[Any]:
    """Return the model's networks, losses or optimizers: attributes, or values of attributes that are dicts."""
    found = []
    for value in vars(model).values():
        found += [item for item in (value.values() if isinstance(value, dict) else [value]) if isinstance(item, kind)]
    return found
