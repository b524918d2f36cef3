"""What a training step of an option file needs, and what fits a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gpen.memory.counter import MemoryUse
from gpen.memory.forecast import Rehearsal, choose_iterations
from gpen.options import Options, parse_options
from gpen.options.components import parameter_names
from gpen.options.schema import Dataset
from gpen.registry import ARCH_REGISTRY

GIB = 2**30
SHARE = 0.9
RESERVED = 0.6
LARGEST_BATCH = 1024

# A forecast needs no files of weights, and runs the operations one by one.
FILES = ('pretrain_network_g', 'pretrain_network_d', 'pretrain_prior', 'resume_state')
ALWAYS = (*(f'path:{name}=~' for name in FILES), 'train:compile=false')
NO_FOLDERS = ('none',)  # no data set has this name, so that no folder of data need be there
CHECKPOINT = 'grad_checkpoint'


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
        return parse_options(self.file, [*self.overrides, *ALWAYS, *settings], phases=NO_FOLDERS).options


@dataclass(frozen=True)
class Setting:
    """What decides how much memory a step of a recipe needs.

    Attributes:
        batch: images in a batch.
        parts: parts that the batch is computed in.
        checkpoint: whether the networks that can do so compute activations again instead of keeping them.
    """

    batch: int
    parts: int
    checkpoint: bool

    @classmethod
    def of(cls, options: Options) -> Setting:
        """Return the setting of an option file."""
        train = _train_set(options)
        return cls(train.batch_size_per_gpu, train.accumulate, any(_checkpoints(options).values()))

    def changes(self, options: Options) -> tuple[str, ...]:
        """Return the ``--force_yml`` settings that an option file needs for this."""
        train = _train_set(options)
        lines = []
        if self.batch != train.batch_size_per_gpu:
            lines.append(f'datasets:train:batch_size_per_gpu={self.batch}')
        if self.parts != train.accumulate:
            lines.append(f'datasets:train:accumulate={self.parts}')
        for name, checkpoint in _checkpoints(options).items():
            if checkpoint != self.checkpoint:
                lines.append(f'{name}:{CHECKPOINT}={str(self.checkpoint).lower()}')
        return tuple(lines)


@dataclass(frozen=True)
class Forecast:
    """The peak of a training step at an option file's own setting.

    Attributes:
        setting: that setting.
        size: width and height of the images.
        without_r1: the step without R1; None where R1 is in every step in which the generator learns.
        with_r1: the step with R1; None where it is off.
    """

    setting: Setting
    size: int
    without_r1: MemoryUse | None
    with_r1: MemoryUse | None

    @property
    def peak(self) -> int:
        """Bytes of the step that needs most."""
        return max(use.total for use in (self.without_r1, self.with_r1) if use is not None)


@dataclass(frozen=True)
class Proposal:
    """A setting that fits, or the statement that none does.

    Attributes:
        checkpoint: whether it is with ``grad_checkpoint``.
        in_parts: whether it is the file's batch in parts, or the largest batch in one piece.
        setting: the setting; None where none fits.
        peak: bytes of the step that needs most.
        changes: the ``--force_yml`` settings for it; none where the option file has them already.
    """

    checkpoint: bool
    in_parts: bool
    setting: Setting | None = None
    peak: int = 0
    changes: tuple[str, ...] = ()


def usable_bytes(gpu_memory: float) -> float:
    """Return what a step may take of a GPU with ``gpu_memory`` GiB.

    A tenth is left for gaps between allocated blocks and the workspaces of convolutions, 0.6 GiB for CUDA itself.
    """
    return (gpu_memory * SHARE - RESERVED) * GIB


def forecast(recipe: Recipe) -> Forecast:
    """Return what a step needs at the option file's own setting.

    Raises:
        UserError: the options are wrong, or the step cannot be forecast.
    """
    options = recipe.read()
    setting = Setting.of(options)
    rehearsal = Rehearsal(options)
    without_r1, with_r1 = (
        None if iteration is None else rehearsal.measure(iteration, setting.batch)
        for iteration in choose_iterations(options)
    )
    return Forecast(setting, rehearsal.size, without_r1, with_r1)


def propose(recipe: Recipe, gpu_memory: float) -> Iterator[Proposal]:
    """Yield what fits a GPU of ``gpu_memory`` GiB, without and with ``grad_checkpoint``.

    Each time that is the largest batch in one piece (a power of two) and, where the option file's batch is larger,
    that batch in the fewest parts (a power of two, or one image each).

    Raises:
        UserError: see :func:`forecast`.
    """
    options = recipe.read()
    limit = usable_bytes(gpu_memory)
    wanted = _train_set(options).batch_size_per_gpu
    for checkpoint in (False, True) if _checkpoints(options) else (False,):
        peaks = _Peaks(recipe, Setting(wanted, 1, checkpoint))
        largest = _find_largest_batch(peaks, wanted, limit)
        if largest < wanted and peaks.at(wanted).total <= limit:
            largest = wanted  # no power of two
        yield _to_proposal(Setting(largest, 1, checkpoint), peaks.at(max(largest, 1)), options, in_parts=False)
        if largest < wanted and wanted > 1:
            parts, use = _find_parts(recipe, Setting(wanted, 1, checkpoint), largest, limit)
            yield _to_proposal(Setting(wanted if parts else 0, parts, checkpoint), use, options, in_parts=True)


class _Peaks:
    """Peaks of the step that needs most, by batch size, all else being as in one setting."""

    def __init__(self, recipe: Recipe, setting: Setting) -> None:
        options = recipe.read(*setting.changes(recipe.read()))
        without_r1, with_r1 = choose_iterations(options)
        self._iteration = with_r1 or without_r1 or 1
        self._rehearsal = Rehearsal(options)
        self._known: dict[int, MemoryUse] = {}

    def at(self, batch: int) -> MemoryUse:
        if batch not in self._known:
            self._known[batch] = self._rehearsal.measure(self._iteration, batch)
        return self._known[batch]


def _find_largest_batch(peaks: _Peaks, wanted: int, limit: float) -> int:
    """Return the largest power of two that fits, 0 if none does."""
    start = 2 ** int(math.log2(wanted))
    use = peaks.at(start)
    # Activations grow with the batch, the rest does not: a good guess, from which the search needs few steps.
    images = (limit - (use.total - use.activations)) / use.activations * start
    batch = min(2 ** int(math.log2(max(images, 1))), LARGEST_BATCH)
    while batch and peaks.at(batch).total > limit:
        batch //= 2
    while 0 < batch < LARGEST_BATCH and peaks.at(2 * batch).total <= limit:
        batch *= 2
    return batch


def _find_parts(recipe: Recipe, setting: Setting, largest: int, limit: float) -> tuple[int, MemoryUse]:
    """Return the fewest parts that a batch fits in, 0 if none do, and the last peak that was looked at.

    Args:
        recipe: what to train.
        setting: the batch, and whether to checkpoint.
        largest: the largest batch that fits in one piece.
        limit: bytes.
    """
    # An image in a part needs less than one in a batch, but more than half of it.
    parts = max(2, 2 ** (math.ceil(math.log2(setting.batch / max(largest, 1))) - 1))
    while True:
        parts = min(parts, setting.batch)
        use = _Peaks(recipe, Setting(setting.batch, parts, setting.checkpoint)).at(setting.batch)
        if use.total <= limit:
            return parts, use
        if parts == setting.batch:
            return 0, use
        rest = limit - (use.total - use.activations)
        if rest <= 0:
            return 0, use
        # Activations shrink with the parts at best.
        parts = max(2 * parts, 2 ** math.ceil(math.log2(use.activations * parts / rest)))


def _to_proposal(setting: Setting, use: MemoryUse, options: Options, in_parts: bool) -> Proposal:
    if not setting.batch:
        return Proposal(setting.checkpoint, in_parts)
    return Proposal(setting.checkpoint, in_parts, setting, use.total, setting.changes(options))


def _train_set(options: Options) -> Dataset:
    train = options.datasets.train
    assert train is not None  # else the options of a training run are not valid
    return train


def _checkpoints(options: Options) -> dict[str, bool]:
    """Return the networks that take ``grad_checkpoint``, by option block, and whether it is on."""
    networks = {'network_g': options.network_g, 'network_d': options.network_d}
    return {
        name: bool(network.arguments.get(CHECKPOINT))
        for name, network in networks.items()
        if network is not None and CHECKPOINT in parameter_names(network, ARCH_REGISTRY)
    }
