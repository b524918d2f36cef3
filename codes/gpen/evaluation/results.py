"""The scores of a run, and the files that keep them."""

import contextlib
import csv
import io
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpen import __version__
from gpen.data.image_io import write_image
from gpen.evaluation.models import ModelFile
from gpen.evaluation.validation import ValidationResult
from gpen.metrics import MetricNotAvailableError
from gpen.options.checks import INPUT_NAME
from gpen.utils.files import write_json, write_text

# That metrics and models may use.
PACKAGES = ('torchmetrics', 'torch-fidelity', 'basicsr', 'facexlib', 'pyiqa', 'onnxruntime')


@dataclass(frozen=True)
class ScoredSet:
    """The scores on one data set.

    Attributes:
        name: of the data set.
        results: scores of the input itself (:data:`INPUT_NAME`; enlarged, bicubic, where the networks enlarge), then
            those of each model, by its name.
        sheets: pictures by the name of the model, H x W x 3, uint8, RGB; empty where none were asked for.
        has_gt: whether there are sharp images.
    """

    name: str
    results: dict[str, ValidationResult]
    sheets: dict[str, np.ndarray] = field(default_factory=dict)
    has_gt: bool = True

    @property
    def images(self) -> int:
        """How many images the set has."""
        return len(self.results[INPUT_NAME].rows)

    @property
    def notes(self) -> list[str]:
        """Sentences on how far the numbers can be trusted, each once."""
        return list(dict.fromkeys(note for result in self.results.values() for note in (*result.faults, *result.notes)))


@dataclass(frozen=True)
class Scores:
    """The scores of a run, and what tells how they came about.

    Attributes:
        name: of the run.
        seed: of the run.
        device: where networks ran.
        models: the files by the name of the model.
        metrics: the options of each metric by name, and ``higher_is_better``.
        missing: why each optional metric that is not available is missing, by name.
        is_single: whether one model is scored on one data set.
        sets: the scores on each data set that is done.
    """

    name: str
    seed: int
    device: str
    models: dict[str, ModelFile]
    metrics: dict[str, dict[str, Any]]
    missing: dict[str, MetricNotAvailableError]
    is_single: bool
    sets: list[ScoredSet] = field(default_factory=list)


def write_results(scores: Scores, folder: Path) -> None:
    """Write ``results.json`` and ``results.csv``: all scores, image by image."""
    write_json(folder / 'results.json', _to_json(scores))
    write_text(folder / 'results.csv', _to_csv(scores))


def write_sheets(scored: ScoredSet, folder: Path, is_single: bool) -> list[Path]:
    """Write the picture sheets of a set; return their paths."""
    paths = []
    single = 'input_restored_sharp' if scored.has_gt else 'input_restored'
    for model, sheet in scored.sheets.items():
        path = folder / f'{single if is_single else f"{scored.name}_{model}"}.png'
        write_image(path, sheet.astype(np.float32) / 127.5 - 1)
        paths.append(path)
    return paths


def _to_json(scores: Scores) -> dict[str, Any]:
    return {
        'name': scores.name,
        'manual_seed': scores.seed,
        'device': scores.device,
        'versions': _list_versions(),
        'models': scores.models,
        'metrics': scores.metrics,
        'not_available': {
            name: {'missing': error.missing, 'reason': str(error)} for name, error in scores.missing.items()
        },
        'sets': {scored.name: _set_to_json(scored) for scored in scores.sets},
    }


def _list_versions() -> dict[str, str]:
    """Return the versions of the installed packages that the numbers depend on."""
    versions = {'gpen': __version__, 'python': platform.python_version(), 'torch': torch.__version__}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _set_to_json(scored: ScoredSet) -> dict[str, Any]:
    return {
        'images': scored.images,
        'means': {name: _finite(result.means) for name, result in scored.results.items()},
        'notes': scored.notes,
        'per_image': [
            {'image': row['name'], **{name: _finite(result.rows[n]) for name, result in scored.results.items()}}
            for n, row in enumerate(scored.results[INPUT_NAME].rows)
        ],
    }


def _finite(row: Mapping[str, Any]) -> dict[str, float | str | None]:
    """Return the metrics of a row as JSON can hold them: null for NaN, ``"inf"`` for the PSNR of equal images."""
    return {
        name: None if math.isnan(value) else value if math.isfinite(value) else str(value)
        for name, value in row.items()
        if name != 'name'
    }


def _to_csv(scores: Scores) -> str:
    """Return a line for each image of each set as input and as restored by each model."""
    stream = io.StringIO()
    metrics = list(scores.sets[0].results[INPUT_NAME].rows[0])[1:] if scores.sets else []  # the name comes first
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow(['set', 'image', 'model', *metrics])
    for scored in scores.sets:
        for model, result in scored.results.items():
            for row in result.rows:
                writer.writerow([scored.name, row['name'], model, *(row[name] for name in metrics)])
    return stream.getvalue()
