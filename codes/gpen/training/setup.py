"""Everything that a training run works with, built from its options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gpen.data.loader import build_dataset, build_train_loader, build_val_loader
from gpen.data.scan import ScannedImages
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.metrics import Metric, build_metrics
from gpen.models import build_model
from gpen.models.adversarial import AdversarialModel
from gpen.options.blocks import Dataset
from gpen.options.schema import Options
from gpen.runs.log import LOGGER
from gpen.training.early_stopping import EarlyStopping
from gpen.training.schedule import LearningRates


@dataclass
class Setup:
    """What a run works with; only the state of what it holds changes while it trains.

    Attributes:
        options: what all the rest was built from.
        device: where the networks live.
        model: networks, losses, optimizers.
        train_set: the training data.
        val_loader: batches of the validation data, in order; None without a validation set.
        metrics: validation metrics by name.
        rates: learning rates by iteration.
        early_stopping: the best validation so far; None without a validation set.
        iterations_per_epoch: training steps in an epoch.
        total_iterations: the last iteration of the run.
    """

    options: Options
    device: torch.device
    model: AdversarialModel
    train_set: Any
    val_loader: Any
    metrics: dict[str, Metric]
    rates: LearningRates
    early_stopping: EarlyStopping | None
    iterations_per_epoch: int
    total_iterations: int

    @property
    def scanned(self) -> dict[str, ScannedImages]:
        """The images of the data sets that scan their files, by phase."""
        sets = {'train': self.train_set, 'val': getattr(self.val_loader, 'dataset', None)}
        return {phase: data.scanned for phase, data in sets.items() if hasattr(data, 'scanned')}

    def pack_stamps(self) -> dict[str, dict[str, Any]]:
        """Return the stamps of these images as a training state holds them."""
        return {phase: images.stamps.pack() for phase, images in self.scanned.items() if images.stamps is not None}

    def explain_changed_images(self, before: dict[str, dict[str, Any]]) -> list[str]:
        """Return a clause for each phase whose images are others than those that :meth:`pack_stamps` described."""
        return [
            f'datasets.{phase}: {clause}'
            for phase, images in self.scanned.items()
            if phase in before and images.stamps is not None
            for clause in images.stamps.explain_changes(before[phase], images.keys)
        ]

    def epoch_of(self, iteration: int) -> int:
        """Return the epoch (counted from 1) that an iteration (counted from 1) belongs to."""
        return (max(iteration, 1) - 1) // self.iterations_per_epoch + 1

    def validates_at(self, iteration: int) -> bool:
        """Whether the EMA generator is validated after ``iteration``: each epoch or each val_freq, and at the end."""
        return self.val_loader is not None and self._is_due(iteration, self.options.val.val_freq)

    def saves_at(self, iteration: int) -> bool:
        """Whether a checkpoint is due after ``iteration``: each epoch or each save_checkpoint_freq, and at the end."""
        return self._is_due(iteration, self.options.logger.save_checkpoint_freq)

    def load_batches(self, start: int, end: int, num_workers: int | None = None) -> Any:
        """Return a loader of this rank's training batches, from the one after iteration ``start`` to that of ``end``.

        ``num_workers`` takes the place of the option.
        """
        options = self.options.datasets.train
        assert options is not None
        return build_train_loader(
            self.train_set,
            batch_size=options.batch_size_per_gpu,
            num_workers=options.num_worker_per_gpu if num_workers is None else num_workers,
            manual_seed=self.options.seed,
            start_iteration=start,
            end_iteration=end,
            pin_memory=options.pin_memory and self.device.type == 'cuda',
            prefetch_factor=options.prefetch_factor,
            rank=ranks.rank(),
            world_size=ranks.world_size(),
        )

    def _is_due(self, iteration: int, interval: int | None) -> bool:
        return iteration == self.total_iterations or iteration % (interval or self.iterations_per_epoch) == 0


@dataclass(frozen=True)
class DataSets:
    """The data sets of a run; ``val`` is None without validation."""

    train: Any
    val: Any


def build_setup(options: Options, device: torch.device, data: DataSets) -> Setup:
    """Build model, schedule, metrics and the loader of validation batches; see :func:`build_data_sets` for the data.

    Raises:
        UserError: weights or metrics that are missing or wrong.
    """
    train_set, train_options = data.train, options.datasets.train
    assert train_options is not None

    # An epoch, and the length of the run
    iterations_per_epoch = math.ceil(len(train_set) / (train_options.batch_size_per_gpu * ranks.world_size()))
    total = options.train.total_iter or (options.train.total_epochs or 0) * iterations_per_epoch

    metrics = build_validation_metrics(options, device)
    model = build_model(options, device)
    rates = LearningRates(options, iterations_per_epoch)
    settled = min(max(rates.warmup, math.ceil(model.ema_schedule.ramp_end)), total // 2)
    return Setup(
        options=options,
        device=device,
        train_set=train_set,
        val_loader=build_validation(options, data.val, ranks.rank(), ranks.world_size()),
        model=model,
        metrics=metrics,
        rates=rates,
        early_stopping=build_early_stopping(options, metrics, settled),
        iterations_per_epoch=iterations_per_epoch,
        total_iterations=total,
    )


def build_data_sets(options: Options) -> DataSets:
    """Build the data sets, whose files are scanned; to be called on all ranks.

    Raises:
        UserError: there is no training set, or files that are missing or damaged.
    """
    if options.datasets.train is None:
        raise UserError('datasets.train is missing: training needs a data set.')
    val = options.datasets.val
    return DataSets(
        _build_on_ranks('train', options.datasets.train), None if val is None else _build_on_ranks('val', val)
    )


def _build_on_ranks(phase: str, options: Dataset) -> Any:
    """Build a data set on all ranks.

    One whose class says ``is_broadcast`` is built on rank 0, which alone scans its files, and the other ranks get a
    copy, which is names.  Any other may hold much more, even one of a subclass, so each rank builds its own.
    """
    built: list[Any] = []

    def build() -> Any:
        built.append(build_data(phase, options))
        return built[0] if vars(type(built[0])).get('is_broadcast') else None

    copy = ranks.on_main(build)
    if copy is not None:
        return copy
    return ranks.one_first(lambda: built[0] if built else build_data(phase, options))


def build_data(phase: str, options: Dataset) -> Any:
    """Build a data set; its errors name the option block that it comes from."""
    try:
        return build_dataset(options.to_dict())
    except UserError as error:
        raise UserError(f'datasets.{phase}: {error}') from error


def build_validation(options: Options, val_set: Any, rank: int, world_size: int) -> Any:
    """Return a loader of the validation batches, in order, or None without a validation set.

    A rank gets every ``world_size``-th batch, from number ``rank`` on.
    """
    val = options.datasets.val
    if val is None:
        return None
    return build_val_loader(
        val_set,
        val.batch_size_per_gpu,
        val.num_worker_per_gpu,
        pin_memory=val.pin_memory,
        prefetch_factor=val.prefetch_factor,
        rank=rank,
        world_size=world_size,
    )


def build_validation_metrics(options: Options, device: torch.device) -> dict[str, Metric]:
    """Return the metrics by name; those that are optional and cannot be had are left out, with a warning.

    Raises:
        UserError: a metric that is not optional, or that early stopping follows, cannot be had.
    """
    if options.datasets.val is None:
        return {}

    metrics, missing = build_metrics(options.val.metrics, device)
    early = options.train.early_stopping.metric
    if early in missing and options.train.early_stopping.enabled:
        raise UserError(
            f'train.early_stopping.metric is {early}, which chooses the best weights, but that metric is not '
            f'available: {missing[early]} Or choose another metric for train.early_stopping.'
        )
    for name, error in missing.items():
        LOGGER.warning('Warning: validation goes without val.metrics.%s, which is optional: %s', name, error)
    return metrics


def build_early_stopping(options: Options, metrics: Mapping[str, Metric], settled: int = 0) -> EarlyStopping | None:
    """Return what follows the chosen metric, or None without validation.

    Args:
        options: checked options.
        metrics: those of validation.
        settled: the iteration from which on the patience counts where the options name none.
    """
    early = options.train.early_stopping
    if options.datasets.val is None or early.metric not in metrics:
        return None
    higher = metrics[early.metric].higher_is_better
    start = settled if early.min_iter is None else early.min_iter
    return EarlyStopping(early.metric, higher, early.patience if early.enabled else None, early.min_delta, start)
