"""What training steps report, kept on the device until a logging point reads it."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from gpen.distributed.ranks import all_gather, is_main
from gpen.errors import UserError

LIMIT = 10
"""Steps in a row that are not finite before training ends; and the steps from one look at them to the next."""


class RunningMeans:
    """Means of scalars since the last reading, without synchronising the device.

    Values that are not finite are left out.  The sums are part of the training state, so that a record that spans an
    interruption is the same as without it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add scalars by name."""
        for name, value in values.items():
            number = value.detach().float()
            finite = torch.isfinite(number)
            self._sums[name] = self._sums.get(name, 0.0) + torch.where(finite, number, 0.0)
            self._counts[name] = self._counts.get(name, 0.0) + finite

    def read(self) -> dict[str, float]:
        """Return the means and start anew; one copy from the device."""
        names = list(self._sums)
        if not names:
            return {}
        sums, counts = torch.stack(
            [torch.stack(list(self._sums.values())), torch.stack(list(self._counts.values()))]
        ).cpu()
        self._sums, self._counts = {}, {}
        return {name: float(total / count) for name, total, count in zip(names, sums, counts, strict=True) if count > 0}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        return {'sums': dict(self._sums), 'counts': dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of :meth:`state_dict`."""
        self._sums = {name: value.to(self._device) for name, value in state['sums'].items()}
        self._counts = {name: value.to(self._device) for name, value in state['counts'].items()}


class FiniteGuard:
    """Watches for losses and gradients that are not finite.

    The step itself is skipped on the device; this reports it, with the name of the loss and the files of the batch,
    and ends training after 10 such steps in a row.

    Attributes:
        in_a_row: number of such steps since the last good one.
        last_finite_iteration: the last good step.
        unreported: sentences on the steps before the tenth that the same review found.
    """

    def __init__(self) -> None:
        self.in_a_row = 0
        self.last_finite_iteration = 0
        self.unreported: list[str] = []
        self._pending: list[tuple[int, list[str], torch.Tensor, list[str]]] = []
        self._look: _Look | None = None

    def record(self, iteration: int, values: dict[str, torch.Tensor], files: list[str]) -> None:
        """Remember the losses of a step and the files of its batch."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        self._pending.append((iteration, list(values), stacked, files))

    def needs_review(self) -> bool:
        """Whether a step since the last review was not finite, as far as can be told without making a GPU wait.

        Every 10 steps the device is asked, and 10 steps later it has answered: a bad step is known after 20 at most.
        All ranks get the same answer at the same step.  On a CPU a review costs nothing and is always due.
        """
        if self._pending and not _makes_wait(self._pending[-1][2]):
            return True
        if not self._pending or len(self._pending) % LIMIT:
            return False
        found = self._look is not None and not self._look.was_finite()
        self._look = _Look([values for _, _, values, _ in self._pending[-LIMIT:]])
        return found

    @property
    def gave_up(self) -> bool:
        """Whether 10 steps in a row were not finite."""
        return self.in_a_row >= LIMIT

    def review(self) -> list[str]:
        """Return a sentence for each step since the last review that had a value which is not finite.

        Raises:
            UserError: 10 steps in a row were not finite.
        """
        messages = []
        self._look = None
        for iteration, names, values, files in self._pending:
            wrong = [name for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)]
            self.in_a_row = self.in_a_row + 1 if wrong else 0
            if not wrong:
                self.last_finite_iteration = iteration
            if wrong:
                whole_batch = [file for share in all_gather(files) for file in share]
                messages.append(
                    f'Iteration {iteration}: {", ".join(wrong)} not finite; '
                    f'this step of the {_say_whose(wrong)} was skipped. '
                    f'Files of the batch: {", ".join(whole_batch)}.'
                )
            if self.gave_up:
                self._pending, self.unreported = [], messages[:-1]
                raise UserError(
                    f'{messages[-1]} That is {LIMIT} steps in a row; training stops here, the last good '
                    'checkpoint is kept. Lower train.optim_g.lr and train.optim_d.lr or '
                    'set train.grad_norm_clip, and look at these files.',
                    is_logged=not is_main(),  # all processes have the same numbers: rank 0 says it
                )
        self._pending = []
        return messages


class _Look:
    """A question to the device, whether the values of some steps are finite, that does not wait for the answer."""

    def __init__(self, steps: list[torch.Tensor]) -> None:
        is_finite = torch.stack([torch.isfinite(values).all() for values in steps]).all()
        self._answer = is_finite.to('cpu', non_blocking=True)  # to page-locked memory
        self._is_there = torch.cuda.current_stream().record_event() if is_finite.is_cuda else None

    def was_finite(self) -> bool:
        if self._is_there is not None:
            self._is_there.synchronize()  # no GPU lags behind by so many steps: this returns at once
        return bool(self._answer)


def _makes_wait(values: torch.Tensor) -> bool:
    """Return whether reading values makes the host wait for a device."""
    return values.device.type != 'cpu'


def _say_whose(names: list[str]) -> str:
    """Return the networks that losses and gradient norms belong to."""
    owners = ['discriminator' if name.startswith(('D_', 'grad_norm_d')) else 'generator' for name in names]
    return ' and the '.join(dict.fromkeys(owners))


def describe_gradients(norms: Mapping[str, torch.Tensor]) -> str:
    """Return a sentence with the share of each loss in the sum of the norms of the gradients at the images."""
    numbers = {name: float(norm) for name, norm in norms.items()}
    total = sum(numbers.values()) or math.nan
    shares = ', '.join(f'{name} {number / total:.2%}' for name, number in numbers.items())
    return f'Share of each loss in the gradient at the images, in the first step: {shares}.'
