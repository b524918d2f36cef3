"""Scoring models on sets of LQ images, most often with GT images, and the LQ images themselves for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gpen.data.loader import build_dataset, build_val_loader
from gpen.errors import UserError
from gpen.evaluation.models import ModelShelf
from gpen.evaluation.results import ScoredSet, Scores
from gpen.evaluation.sheet import choose_ranks, draw_sheet
from gpen.evaluation.validation import ValidationResult, validate
from gpen.metrics import ImageMetric, build_metrics
from gpen.options.blocks import Dataset
from gpen.options.checks import INPUT_NAME, parameter_names
from gpen.options.schema import ScoringOptions
from gpen.utils.device import explain_out_of_memory
from gpen.utils.text import list_names

if TYPE_CHECKING:
    from gpen.metrics.fid import FrechetDistance

Progress = Callable[[int, str], object]


class Scoring:
    """A scoring run whose models, metrics and data sets are built, so that mistakes show before it starts.

    Args:
        options: of the run.
        models: files of weights by the name of the model; they replace ``options.models``.
        device: where networks run.

    Attributes:
        shelf: the models.
        metrics: by name.
        missing: why each optional metric that is not available is missing, by name.
        total: number of images to score, the input's among them.

    Raises:
        UserError: weights, data or a metric are missing or wrong.
    """

    def __init__(self, options: ScoringOptions, models: Mapping[str, Path], device: torch.device) -> None:
        self.options = options
        self._device = device
        self.shelf = ModelShelf(dict(models), options.network_g, device)
        self.metrics, self.missing = build_metrics(options.val.metrics, device)
        if not self.metrics:
            reasons = ' '.join(str(error) for error in self.missing.values())
            raise UserError(f'None of val.metrics is available. {reasons}')

        self._datasets = {name: self._build_dataset(name, block) for name, block in options.datasets.items()}
        self.total = sum(len(dataset) for dataset in self._datasets.values()) * (1 + len(models))

    def describe(self) -> Scores:
        """Return the scores without those of any data set: the settings and files that the numbers belong to."""
        blocks: dict[str, dict[str, Any]] = {}
        for name, block in self.options.val.metrics.items():
            blocks[name] = {**block.to_dict(), 'optional': block.optional}
            if name in self.metrics:
                blocks[name]['higher_is_better'] = self.metrics[name].higher_is_better

        return Scores(
            name=self.options.name,
            seed=self.options.seed,
            device=str(self._device),
            models=self.shelf.files,
            metrics=blocks,
            missing=self.missing,
            is_single=len(self.shelf.files) == len(self.options.datasets) == 1,
        )

    def find_fid_reference(self) -> FrechetDistance:
        """Return the FID of ``val.metrics`` that compares with a folder or a file.

        Raises:
            UserError: there is none, or it is not available, or there are several.
        """
        from gpen.metrics.fid import FrechetDistance

        blocks = self.options.val.metrics
        missing = [error for name, error in self.missing.items() if 'reference' in blocks[name].arguments]
        if missing:
            raise UserError(f'--save_fid_stats cannot be done: {missing[0]}')

        found = {name: one for name, one in self.metrics.items() if isinstance(one, FrechetDistance) and one.reference}
        if len(found) == 1:
            return next(iter(found.values()))
        given = f'has {list_names(found)}' if found else 'has no calculate_fid with a reference'
        raise UserError(
            f'--save_fid_stats writes the statistics of the reference of FID, and val.metrics {given}. Give one: '
            'val:metrics:fid="{type: calculate_fid, reference: FOLDER}".'
        )

    def run(self, progress: Progress) -> Iterator[ScoredSet]:
        """Score one data set after the other.

        Args:
            progress: called after each batch with its number of images and the set and model.

        Raises:
            UserError: an image cannot be read, a metric does not fit these images, or memory runs out.
        """
        for name, block in self.options.datasets.items():
            advice = f'Lower datasets.{name}.batch_size_per_gpu (now {block.batch_size_per_gpu}).'
            try:
                with explain_out_of_memory(advice):
                    scored = self._score_set(name, block, progress)
            except UserError as error:
                raise UserError(f'datasets.{name}: {error}') from error
            yield scored

    def _score_set(self, name: str, block: Dataset, progress: Progress) -> ScoredSet:
        dataset = self._datasets[name]
        loader = build_val_loader(
            dataset,
            block.batch_size_per_gpu,
            block.num_worker_per_gpu,
            pin_memory=block.pin_memory,
            prefetch_factor=block.prefetch_factor,
        )

        def measure(restore: Callable[[torch.Tensor], torch.Tensor], what: str) -> ValidationResult:
            result = validate(restore, watch(loader, progress, f'{name}: {what}'), self.metrics, self.options.seed)
            assert result is not None  # only training stops a validation
            return result

        # The LQ images themselves, then each model.
        has_gt = getattr(dataset, 'has_gt', True)
        scored = ScoredSet(name, {INPUT_NAME: measure(self._enlarge, INPUT_NAME)}, has_gt=has_gt)
        for model in self.shelf.files:
            scored.results[model] = measure(self.shelf.load(model), model)
            sheet = self._draw(dataset, model, scored)
            if sheet is not None:
                scored.sheets[model] = sheet
        return scored

    def _enlarge(self, lq: torch.Tensor) -> torch.Tensor:
        """Return LQ images at the size of the models' output."""
        size = self.shelf.size
        if size is None or lq.shape[-1] == size:
            return lq
        return torch.nn.functional.interpolate(lq, size=size, mode='bicubic').clamp(-1, 1)

    def _draw(self, dataset: Any, model: str, scored: ScoredSet) -> Any:
        """Return the picture sheet of a model on a set, or None; the few images that it shows are restored again."""
        metric = self._ranking_metric()
        if metric is None:
            return None

        before, after = scored.results[INPUT_NAME].rows, scored.results[model].rows
        values = [row[metric] for row in after]
        chosen = choose_ranks(values, self.metrics[metric].higher_is_better, self.options.val.num_pictures)
        restore = self.shelf.load(model)

        rows = []
        for index, rank in chosen.items():
            sample = dataset[(0, index) if getattr(dataset, 'takes_epoch', False) else index]
            pictures = [sample['lq'], restore(sample['lq'][None])[0], *([sample['gt']] if 'gt' in sample else [])]
            rows.append((rank, pictures, before[index], after[index]))

        title = f'{model} on {scored.name}: from the best to the worst of {len(after)} by {metric.upper()}'
        return draw_sheet(rows, title) if rows else None

    def _ranking_metric(self) -> str | None:
        """Return the metric that images are ranked by: PSNR where it is there, else the first that images have."""
        blocks = self.options.val.metrics
        of_images = [name for name, metric in self.metrics.items() if isinstance(metric, ImageMetric)]
        psnr = [name for name in of_images if blocks[name].type == 'calculate_psnr']
        return next(iter([*psnr, *of_images]), None)

    def _build_dataset(self, name: str, block: Dataset) -> Any:
        """Build a data set at the size of the models."""
        arguments = block.to_dict()
        takes = parameter_names(block)
        for key, value in (('size', self.shelf.size), ('in_size', self.shelf.in_size)):
            if key not in takes or value is None:
                continue
            given = arguments.get(key)
            if given is not None and given != value:
                file = next(iter(self.shelf.files.values()))
                raise UserError(
                    f'datasets.{name}.{key} is {given}, but {file.path} works at {value}. Remove that line, or '
                    'correct network_g or the file.'
                )
            arguments[key] = value

        try:
            dataset = build_dataset(arguments)
        except UserError as error:
            raise UserError(f'datasets.{name}: {error}') from error
        if len(dataset) == 0:
            raise UserError(f'datasets.{name} has no images.')
        if not getattr(dataset, 'has_gt', True):
            comparing = [f'val.metrics.{metric}' for metric in self.metrics if self.metrics[metric].needs_gt]
            if comparing:
                raise UserError(
                    f'datasets.{name} has no sharp images, with which {list_names(comparing)} would compare. Remove '
                    'these metrics, or score such sets by another file.'
                )
        return dataset


def watch(loader: Any, progress: Progress, what: str) -> Iterator[dict[str, Any]]:
    """Yield the batches of a loader, and report each one when it is done with."""
    for batch in loader:
        yield batch
        progress(len(batch['name']), what)
