"""Damaged ``metrics.jsonl``: the run goes on, no whole record is lost, and no damaged line either."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing import mutate
from gpen.health.history import History
from gpen.reporting.recorded_run import read_run
from gpen.runs.recorder import METRICS_FILE, parse_lines, read_metrics, trim_metrics
from gpen.runs.run_file import MetricSummary
from gpen.tuning.curves import to_curves

_LAST = 9
"""The iteration to go on after; the file holds records of twelve."""

_VALUES = (
    *(b'[' * 100_000, b'{"a":' * 50_000, b'9' * 5000, b'9' * 4000, b'-1', b'1e999', b'NaN', b'-Infinity', b'true'),
    *(b'"\\ud800"', b'"\xff"', b'"text"', b'null', b'[]', b'{}', b'0.5', b'1e-400', b'"\xe2\x80\xa8"', b'', b'"'),
)


def fuzz(generator: np.random.Generator, folder: Path) -> str:
    """Resume from, report on and judge a run whose records are damaged."""
    path = folder / METRICS_FILE
    content = _damage(_write_records(), generator)
    path.write_bytes(content)

    # Whoever reads it while it is so
    read_run(folder, 'run')
    to_curves(read_metrics(path), 'psnr')

    # Resuming
    aside = trim_metrics(path, _LAST)
    before = list(parse_lines(content))
    kept = [line for line, record in before if record is not None and record['iter'] <= _LAST]
    damaged = [line for line, record in before if record is None]
    assert path.read_bytes().split(b'\n')[:-1] == kept
    assert (aside[0].read_bytes().split(b'\n')[:-1] if aside else []) == damaged
    assert trim_metrics(path, _LAST) is None

    # What a run that goes on does with its records
    history = History(None, 12, lambda _: {})  # type: ignore[arg-type]
    summary = MetricSummary(higher_is_better=True)
    for record in read_metrics(path):
        history.add(record)
        if record.get('val/psnr') is not None:
            summary.update(record['val/psnr'], record['iter'])
    assert summary.best is None or np.isfinite(summary.best)
    read_run(folder, 'run')
    return 'damaged lines set aside' if damaged else 'nothing set aside'


def _damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Return the file with random changes of its bytes, or with a value that no program of ours writes."""
    if generator.random() < 0.5:
        return mutate(content, generator)
    lines = content.split(b'\n')
    number = int(generator.integers(0, len(lines) - 1))
    start, colon, _ = lines[number].rpartition(b': ') if generator.random() < 0.5 else lines[number].partition(b': ')
    value = _VALUES[int(generator.integers(0, len(_VALUES)))]
    lines[number] = start + colon + value + (b'}' if generator.random() < 0.9 else b'')
    return b'\n'.join(lines)


@cache
def _write_records() -> bytes:
    records: list[dict[str, Any]] = [
        {'iter': 0, 'epoch': 1, 'phase': 'event', 'name': 'start', 'severity': 'info', 'sentence': 'Training starts.'}
    ]
    for iteration in range(1, 13):
        records.append({'iter': iteration, 'epoch': 1, 'phase': 'train', 'G_loss_pixel': 1 / iteration, 'lr_g': 1e-4})
        if iteration % 4 == 0:
            records.append({'iter': iteration, 'epoch': 1, 'phase': 'val', 'val/psnr': 20.0 + iteration / 7})
    return ''.join(json.dumps(record) + '\n' for record in records).encode()
