"""Score a generator on paired data, with the degraded input beside it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpen.archs import build_network
from gpen.archs.checkpoints import load_network
from gpen.errors import UserError
from gpen.metrics import build_metric
from gpen.options.schema import Options
from gpen.training.parts import build_validation
from gpen.training.validation import ValidationResult, validate, write_sheet
from gpen.utils.files import write_text

SHOWN_WIDTH = 768  # small pictures are enlarged towards this width, by whole pixels


@dataclass(frozen=True)
class Scores:
    """Means over a data set, of the input and of the restored images, and the picture sheet's rows."""

    images: int
    lq: ValidationResult
    restored: ValidationResult


def find_weights(options: Options, model: str | None) -> Path:
    """Return the weights to score: ``model`` if given, else the run's best, else its latest.

    Raises:
        UserError: there are none.
    """
    if model is not None:
        if not Path(model).is_file():
            raise UserError(f'There is no file {model}. Give the weights to score with --model FILE.')
        return Path(model)
    folder = options.experiment_folder / 'models'
    for name in ('net_g_best.pth', 'net_g_latest.pth'):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f'There are no weights in {folder}. Train first, or give a file with --model FILE.')


def score(options: Options, weights: Path, device: torch.device) -> Scores:
    """Score the generator of ``options`` with ``weights`` on ``datasets.val``.

    Raises:
        UserError: no validation set, or weights that do not fit.
    """
    loader = build_validation(options)
    if loader is None:
        raise UserError('datasets.val is missing in the option file: scoring needs pairs.')
    network = build_network(options.network_g.to_dict())
    load_network(network, weights)
    network.to(device).eval().requires_grad_(False)
    metrics = {name: build_metric(metric.to_dict()) for name, metric in options.val.metrics.items()}

    def keep(lq: torch.Tensor) -> torch.Tensor:
        size = options.network_g.arguments.get('size', lq.shape[-1])
        return (
            lq if lq.shape[-1] == size else torch.nn.functional.interpolate(lq, size=size, mode='bicubic').clamp(-1, 1)
        )

    @torch.inference_mode()
    def restore(lq: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = network(lq.to(device))
        return image.clamp(-1, 1)

    before = validate(keep, loader, metrics, options.seed)
    after = validate(restore, loader, metrics, options.seed, options.val.num_pictures)
    assert before is not None
    assert after is not None
    return Scores(len(after.rows), before, after)


def format_table(scores: Scores) -> str:
    """Return the means as a table: a row for the input, the restored images and their difference."""
    names = list(scores.restored.means)
    rows = [
        ('blurry input', scores.lq.means),
        ('restored', scores.restored.means),
        ('difference', {name: scores.restored.means[name] - scores.lq.means[name] for name in names}),
    ]
    title = f'{scores.images} image{"s" if scores.images != 1 else ""}'
    lines = [f'{title:<14}' + ''.join(f'{name.upper():>10}' for name in names)]
    for label, means in rows:
        sign = '+' if label == 'difference' else ''
        lines.append(f'{label:<14}' + ''.join(f'{means[name]:>{sign}10.4f}' for name in names))
    return '\n'.join(lines)


def write_results(scores: Scores, weights: Path, folder: Path) -> Path | None:
    """Write ``results.json``, ``results.csv`` and the picture sheet; return the sheet's path."""
    summary = {
        'weights': str(weights),
        'images': scores.images,
        'input': scores.lq.means,
        'restored': scores.restored.means,
    }
    write_text(folder / 'results.json', json.dumps(summary, indent=2) + '\n')
    write_text(folder / 'results.csv', _to_csv(scores))
    sheet = scores.restored.sheet
    if sheet is None:
        return None
    path = folder / 'input_restored_sharp.png'
    factor = max(1, SHOWN_WIDTH // sheet.shape[-1])
    write_sheet(path, sheet.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2))
    return path


def _to_csv(scores: Scores) -> str:
    names = list(scores.restored.means)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow(['image', *(f'input_{name}' for name in names), *(f'restored_{name}' for name in names)])
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = list(zip(scores.lq.rows, scores.restored.rows, strict=True))
    for lq, restored in rows:
        writer.writerow([lq['name'], *(lq[name] for name in names), *(restored[name] for name in names)])
    return stream.getvalue()
