"""How much memory a training step of an option file needs, and which settings fit a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from gpen.memory.counter import MemoryUse
from gpen.memory.cures import CHECKPOINT, find_checkpointing
from gpen.memory.forecast import Rehearsal, choose_iterations
from gpen.models.initial_weights import complete_discriminator
from gpen.options import Options, parse_options
from gpen.options.blocks import Dataset

GIB = 2**30
SHARE = 0.9
RESERVED = 0.6
LARGEST_BATCH = 1024
ACCUMULATE = 'datasets:train:accumulate'

FILES = ('pretrain_network_g', 'pretrain_network_d', 'pretrain_prior', 'resume_state')
NO_FOLDERS = ('none',)  # no data set has this name, so that no folder of data has to exist


@dataclass(frozen=True)
class Recipe:
    """An option file with ``--force_yml`` settings."""

    file: str
    overrides: tuple[str, ...] = ()

    def read(self, *settings: str) -> Options:
        """Return the options with further settings.

        Raises:
            UserError: see :func:`gpen.options.parse_options`.
        """
        overrides = [*self.overrides, *settings]
        return _simplify(parse_options(self.file, overrides, phases=NO_FOLDERS, check_weights=False).options)


@dataclass(frozen=True)
class BatchSetting:
    """The options that decide how much memory a step of a recipe needs.

    Attributes:
        batch: images in a batch.
        micro_batches: number of micro-batches; less memory, slower, same result.
        checkpoint: whether the networks that support it recompute activations instead of keeping them.
    """

    batch: int
    micro_batches: int
    checkpoint: bool

    @classmethod
    def of(cls, options: Options) -> BatchSetting:
        """Return the setting of an option file."""
        train = _train_set(options)
        return cls(train.batch_size_per_gpu, options.micro_batches, any(find_checkpointing(options).values()))

    def changes(self, options: Options) -> tuple[str, ...]:
        """Return the ``--force_yml`` settings that an option file needs for this."""
        train = _train_set(options)
        lines = []
        if self.batch != train.batch_size_per_gpu:
            lines.append(f'datasets:train:batch_size_per_gpu={self.batch}')
        if self.micro_batches != train.accumulate:
            lines.append(f'{ACCUMULATE}={self.micro_batches}')
        for name, checkpoint in find_checkpointing(options).items():
            if checkpoint != self.checkpoint:
                lines.append(f'{name}:{CHECKPOINT}={str(self.checkpoint).lower()}')
        return tuple(lines)


@dataclass(frozen=True)
class Forecast:
    """The peak of a training step at an option file's own setting.

    Attributes:
        setting: that setting.
        size: width and height of the images.
        without_r1: the step without R1; None if R1 is part of every step in which the generator learns.
        with_r1: the step with R1; None if R1 is off.
    """

    setting: BatchSetting
    size: int
    without_r1: MemoryUse | None
    with_r1: MemoryUse | None

    @property
    def peak(self) -> int:
        """Bytes of the step that needs the most."""
        return max(use.total for use in (self.without_r1, self.with_r1) if use is not None)


@dataclass(frozen=True)
class Proposal:
    """A setting that fits, or the statement that none does.

    Attributes:
        checkpoint: whether it uses ``grad_checkpoint``.
        in_micro_batches: whether it is the file's batch in micro-batches, or the largest batch in one piece.
        setting: the setting; None if none fits.
        peak: bytes of the step that needs the most.
        changes: the ``--force_yml`` settings for it; empty if the option file has them already.
    """

    checkpoint: bool
    in_micro_batches: bool
    setting: BatchSetting | None = None
    peak: int = 0
    changes: tuple[str, ...] = ()


def usable_bytes(gpu_memory: float) -> float:
    """Return what a step may take of a GPU with ``gpu_memory`` GiB.

    A tenth is left for gaps between allocated blocks and the workspaces of convolutions, 0.6 GiB for CUDA itself.
    """
    return (gpu_memory * SHARE - RESERVED) * GIB


def forecast(recipe: Recipe, gpu_memory: float | None = None) -> Forecast:
    """Return what a step needs at the option file's own setting.

    Args:
        recipe: the option file.
        gpu_memory: GiB by which ``accumulate: auto`` chooses; without it, the batch is in one piece.

    Raises:
        UserError: the options are wrong, or the step cannot be forecast.
    """
    options = recipe.read()
    train = _train_set(options)
    if train.accumulate == 'auto' and gpu_memory is not None:
        train.accumulate, _ = choose_micro_batches(options, gpu_memory * GIB)
    setting = BatchSetting.of(options)
    rehearsal = Rehearsal(options)
    without_r1, with_r1 = (
        None if iteration is None else rehearsal.measure(iteration, setting.batch)
        for iteration in choose_iterations(options)
    )
    return Forecast(setting, rehearsal.size, without_r1, with_r1)


def propose(recipe: Recipe, gpu_memory: float) -> Iterator[Proposal]:
    """Yield what fits a GPU of ``gpu_memory`` GiB, without and with ``grad_checkpoint``.

    The proposals are the largest batch in one piece (a power of two) and, if the option file's batch is larger, that
    batch in the fewest micro-batches (a power of two, or one image each).

    Raises:
        UserError: see :func:`forecast`.
    """
    options = recipe.read()
    limit = usable_bytes(gpu_memory)
    wanted = _train_set(options).batch_size_per_gpu
    for checkpoint in (False, True) if find_checkpointing(options) else (False,):
        # The largest batch in one piece; the file's own one if it fits, though it is no power of two.
        whole = BatchSetting(wanted, 1, checkpoint)
        peak_at = _measure_peaks(recipe, whole)
        largest = _find_largest_batch(peak_at, wanted, limit)
        if largest < wanted and peak_at(wanted).total <= limit:
            largest = wanted
        use = peak_at(max(largest, 1))
        yield _to_proposal(BatchSetting(largest, 1, checkpoint), use, options, in_micro_batches=False)

        # The file's batch in micro-batches.
        if largest < wanted and wanted > 1:
            peak_in = partial(_measure_in_micro_batches, recipe, whole)
            count, use = _find_micro_batches(peak_in, wanted, largest, limit)
            setting = BatchSetting(wanted if count else 0, count, checkpoint)
            yield _to_proposal(setting, use, options, in_micro_batches=True)


def _measure_peaks(recipe: Recipe, setting: BatchSetting) -> Callable[[int], MemoryUse]:
    """Return the peak of the step that needs the most as a function of the batch, with all else as in one setting."""
    return cache(Rehearsal(recipe.read(*setting.changes(recipe.read()))).measure_largest)


def _find_largest_batch(peak_at: Callable[[int], MemoryUse], wanted: int, limit: float) -> int:
    """Return the largest power of two that fits; 0 if none does."""
    # Activations grow with the batch, the rest does not: this gives a good guess, which shortens the search.
    start = 2 ** int(math.log2(wanted))
    use = peak_at(start)
    images = (limit - (use.total - use.activations)) / use.activations * start
    batch = min(2 ** int(math.log2(max(images, 1))), LARGEST_BATCH)

    while batch and peak_at(batch).total > limit:
        batch //= 2
    while 0 < batch < LARGEST_BATCH and peak_at(2 * batch).total <= limit:
        batch *= 2
    return batch


def _measure_in_micro_batches(recipe: Recipe, setting: BatchSetting, count: int) -> MemoryUse:
    """Return the peak of the step that needs the most, with the batch of a setting in ``count`` micro-batches."""
    return _measure_peaks(recipe, BatchSetting(setting.batch, count, setting.checkpoint))(setting.batch)


def _find_micro_batches(
    peak_in: Callable[[int], MemoryUse], batch: int, largest: int, limit: float
) -> tuple[int, MemoryUse]:
    """Return the fewest micro-batches that make a batch fit (0 if none do), and the last peak that was measured.

    Args:
        peak_in: the peak of a step by the number of micro-batches.
        batch: images in the batch.
        largest: the largest batch that fits in one piece.
        limit: bytes.
    """
    # An image in a micro-batch needs less than one in a batch, but more than half of it.
    count = max(2, 2 ** (math.ceil(math.log2(batch / max(largest, 1))) - 1))
    while True:
        count = min(count, batch)
        use = peak_in(count)
        if use.total <= limit:
            return count, use
        rest = limit - (use.total - use.activations)
        if count == batch or rest <= 0:
            return 0, use

        # Activations shrink in proportion at best, so fewer micro-batches than this cannot fit.
        count = max(2 * count, 2 ** math.ceil(math.log2(use.activations * count / rest)))


def choose_micro_batches(options: Options, free_bytes: float) -> tuple[int, str]:
    """Return the fewest micro-batches that fit the memory that is free on a device, and a sentence about them.

    Where even one image at a time does not fit by the forecast, that is what is chosen.

    Args:
        options: of a training run; ``accumulate`` is ignored.
        free_bytes: on the device.

    Raises:
        UserError: the step cannot be forecast.
    """
    batch = options.batch_size
    limit = usable_bytes(free_bytes / GIB)
    count, use = 1, _rehearse(options, 1)
    if use.total > limit and batch > 1:
        count, use = _find_micro_batches(partial(_rehearse, options), batch, batch, limit)
    fits = 'fits' if count and use.total <= limit else 'does not fit'
    count = count or batch
    return count, (
        f'accumulate: auto is {count}: by the forecast a step needs {use.total / GIB:.1f} GiB, which {fits} the '
        f'{limit / GIB:.1f} GiB that may be used of {free_bytes / GIB:.1f} GiB free.'
    )


def _rehearse(options: Options, micro_batches: int) -> MemoryUse:
    """Return the peak of the step that needs the most, with the batch in so many micro-batches."""
    train = _train_set(options).model_copy(update={'accumulate': micro_batches})
    changed = {'datasets': options.datasets.model_copy(update={'train': train})}
    return Rehearsal(_simplify(options.model_copy(update=changed))).measure_largest(options.batch_size)


def _simplify(options: Options) -> Options:
    """Return options for a forecast, which needs no weight files, and runs the operations one by one."""
    changed: dict[str, Any] = {
        'path': options.path.model_copy(update=dict.fromkeys(FILES)),
        'train': options.train.model_copy(update={'compile': False}),
    }
    if options.network_d is not None:
        network_d = complete_discriminator(options.network_d.to_dict(), options.path, is_forecast=True)
        changed['network_d'] = type(options.network_d).model_validate(network_d)
    return options.model_copy(update=changed)


def _to_proposal(setting: BatchSetting, use: MemoryUse, options: Options, in_micro_batches: bool) -> Proposal:
    if not setting.batch:
        return Proposal(setting.checkpoint, in_micro_batches)
    changes = setting.changes(options)
    if _train_set(options).accumulate == 'auto':  # which chooses the same number by itself
        changes = tuple(change for change in changes if not change.startswith(ACCUMULATE))
    return Proposal(setting.checkpoint, in_micro_batches, setting, use.total, changes)


def _train_set(options: Options) -> Dataset:
    train = options.datasets.train
    assert train is not None  # the options of a training run are not valid without it
    return train
