"""A run as its folder tells it: records, options, the log, and whether it is going on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gpen.errors import UserError
from gpen.reporting.run_log import LOG_FILE, LogFindings, read_log
from gpen.reporting.run_options import fill_defaults, read_options

SPEED = 'seconds_per_iter'
MEASURES = ('val/variety', 'val/ema_gain')  # what validation measures for the health checks, not to be ranked by
RECENT = 20  # records that the time left is reckoned from
# Metrics of which less is better, by what their names or types contain.
_LOWER_IS_BETTER = ('lpips', 'niqe', 'fid', 'kid', 'dists', 'brisque', 'mse', 'mae', 'loss', 'error', 'distance')

Record = dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The best value of a metric, and when it was reached."""

    value: float
    iteration: int


@dataclass
class RunRecords:
    """A run.

    Attributes:
        folder: its folder.
        label: what to call it, unlike the others on the page.
        records: lines of ``metrics.jsonl`` by phase (``train``, ``val``, ``health``), in order.
        options: with dotted keys; empty where they could not be found.
        log: what the log tells.
        is_running: whether a process on this machine holds the folder.
        notes: what could not be read, in sentences.
    """

    folder: Path
    label: str
    records: dict[str, list[Record]]
    options: dict[str, Any] = field(default_factory=dict)
    log: LogFindings = field(default_factory=LogFindings)
    is_running: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def iteration(self) -> int:
        """How many iterations are done, as far as anything tells."""
        last = (record['iter'] for records in self.records.values() for record in records[-1:])
        return max(self.log.iteration, *last, 0)

    @property
    def total(self) -> int | None:
        """How many iterations were asked for."""
        asked = self.options.get('train.total_iter')
        return self.log.total or (asked if isinstance(asked, int) else None)

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median over the run; None without records."""
        return self._speed(self.records.get('train', []))

    @property
    def seconds_left(self) -> float | None:
        """What is left of training at the speed of the last records, without validation; None where unknown."""
        speed = self._speed(self.records.get('train', [])[-RECENT:])
        return None if speed is None or self.total is None else max(self.total - self.iteration, 0) * speed

    @property
    def scores(self) -> list[str]:
        """The metrics of validation, such as ``val/psnr``."""
        return [key for key in self.keys('val') if key not in MEASURES]

    def keys(self, phase: str) -> list[str]:
        """Return the numbers that records of a phase hold, in order of their appearance."""
        names = dict.fromkeys(name for record in self.records.get(phase, []) for name in record)
        known = [name for name in names if name not in ('iter', 'epoch', 'phase')]
        return [name for name in known if any(_is_number(r.get(name)) for r in self.records[phase])]

    def curve(self, phase: str, key: str) -> tuple[list[float], list[float]]:
        """Return iterations and values of a number; not a number where it was not finite."""
        chosen = [record for record in self.records.get(phase, []) if key in record]
        return [float(record['iter']) for record in chosen], [_to_float(record[key]) for record in chosen]

    def best(self, key: str) -> Best | None:
        """Return the best validation of a metric such as ``val/psnr``; None where it has no value."""
        pairs = [(value, int(x)) for x, value in zip(*self.curve('val', key), strict=True) if not math.isnan(value)]
        if not pairs:
            return None
        sign = 1 if self.higher_is_better(key) else -1
        value, iteration = max(pairs, key=lambda pair: (sign * pair[0], -pair[1]))
        return Best(value, iteration)

    def higher_is_better(self, key: str) -> bool:
        """Return the direction of a metric, by its name and type."""
        name = key.removeprefix('val/')
        words = f'{name} {self.options.get(f"val.metrics.{name}.type", "")}'.lower()
        return not any(word in words for word in _LOWER_IS_BETTER)

    @staticmethod
    def _speed(records: Sequence[Record]) -> float | None:
        speeds = [value for value in (_to_float(record.get(SPEED)) for record in records) if value > 0]
        return median(speeds) if speeds else None


def read_runs(folders: Sequence[str]) -> list[RunRecords]:
    """Return the runs in folders, each once.

    Raises:
        UserError: one of them is not there, or is no folder of a run.
    """
    found = list(dict.fromkeys(find_run(folder).resolve() for folder in folders))
    names = [folder.name for folder in found]
    labels = [folder.name if names.count(folder.name) == 1 else str(folder) for folder in found]
    return [read_run(folder, label) for folder, label in zip(found, labels, strict=True)]


def find_run(folder: str) -> Path:
    """Return the folder of a run; a relative path is tried from the working directory, then from the project's root.

    Raises:
        UserError: it is not there, or is no folder of a run.
    """
    from gpen.runs.recorder import METRICS_FILE
    from gpen.utils.files import resolve_path

    places = [Path(folder).expanduser(), resolve_path(folder)]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise UserError(f'There is no folder {places[0]}. {_list_runs(places[1].parent, METRICS_FILE)}')
    if not (place / METRICS_FILE).is_file():
        raise UserError(f'{place} is no folder of a run: it has no {METRICS_FILE}. {_list_runs(place, METRICS_FILE)}')
    return place


def read_run(folder: Path, label: str) -> RunRecords:
    """Return the run in a folder that has a ``metrics.jsonl``; what else is missing is said in the notes."""
    from gpen.runs.changes import flatten
    from gpen.runs.experiment import is_in_use
    from gpen.runs.recorder import METRICS_FILE

    notes: list[str] = []
    records = _read_records(folder / METRICS_FILE, notes)
    options = flatten(fill_defaults(read_options(folder, notes)))
    return RunRecords(folder, label, records, options, read_log(folder / LOG_FILE), is_in_use(folder), notes)


def _list_runs(folder: Path, file: str) -> str:
    runs = sorted(path.parent.name for path in folder.glob(f'*/{file}'))[:8] if folder.is_dir() else []
    return f'Runs in {folder}: {", ".join(runs)}.' if runs else 'Give the folder of a run, such as experiments/NAME.'


def _read_records(path: Path, notes: list[str]) -> dict[str, list[Record]]:
    """Return records by phase; lines that are none are left out, and said unless it is the last one, half written."""
    records: dict[str, list[Record]] = {}
    text = path.read_text(encoding='utf-8', errors='replace')
    whole, _, rest = text.rpartition('\n')
    damaged = 0
    for line in [*whole.splitlines(), rest]:
        record = _parse(line)
        if record is not None:
            records.setdefault(record['phase'], []).append(record)
        elif line.strip() and line is not rest:
            damaged += 1
    if damaged:
        count = f'{damaged} lines' if damaged > 1 else 'One line'
        notes.append(f'{count} of {path.name} could not be read: left out.')
    return records


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get('iter')) is int and isinstance(record.get('phase'), str)
    return record if is_record else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _to_float(value: Any) -> float:
    try:
        return float(value) if _is_number(value) else math.nan
    except OverflowError:
        return math.nan
