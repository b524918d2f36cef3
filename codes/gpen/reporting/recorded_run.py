"""A run as its folder records it: ``run.json``, ``options.yml``, ``metrics.jsonl``, and whether it is going on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gpen.errors import UserError
from gpen.runs.changes import fill_defaults, flatten
from gpen.runs.experiment import is_in_use
from gpen.runs.options_file import OPTIONS_FILE
from gpen.runs.recorder import METRICS_FILE, Record, parse_lines
from gpen.runs.run_file import RunFile, read_run_file
from gpen.utils.files import expand_user, resolve_path

SPEED = 'seconds_per_iter'
MEASURES = (
    'val/variety',
    'val/ema_gain',
    'val/sharpness',
)  # measured for the health rules; runs are not ranked by them
RECENT = 20  # records whose speed predicts the time left
STATES = {  # in words, where the status of the run file is not a word of its own
    'stopped': 'stopped by a signal',
    'stopped_early': 'stopped early',
    'running': 'ended without a word',  # no process holds its folder
}
# Whether higher is better, for runs made before run.json recorded it.
_HIGHER_IS_BETTER = {'psnr': True, 'ssim': True, 'identity': True, 'lpips': False, 'niqe': False, 'fid': False}


class Best(NamedTuple):
    """The best value of a metric, and when it was reached."""

    value: float
    iteration: int


@dataclass
class RecordedRun:
    """What a folder tells about a run; only ``metrics.jsonl`` has to exist.

    Attributes:
        folder: the folder of the run.
        label: how a page calls the run, different from the other runs on it.
        records: lines of ``metrics.jsonl`` by phase (``train``, ``val``, ``health``, ``event``), in order.
        options: with dotted keys; empty where they are not recorded.
        file: the content of ``run.json``; None for runs made before there was one.
        is_running: whether a process on this machine holds the folder.
        notes: sentences on what could not be read.
    """

    folder: Path
    label: str
    records: dict[str, list[Record]]
    options: dict[str, Any] = field(default_factory=dict)
    file: RunFile | None = None
    is_running: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """Whether the run goes on or how it ended, in a few words."""
        if self.is_running:
            return 'running'
        return 'not recorded' if self.file is None else STATES.get(self.file.status, self.file.status)

    @property
    def iteration(self) -> int:
        """How many iterations are done, as far as anything tells."""
        last = (record['iter'] for records in self.records.values() for record in records[-1:])
        return max(self.file.iteration if self.file else 0, *last, 0)

    @property
    def total(self) -> int | None:
        """How many iterations were asked for."""
        asked = self.options.get('train.total_iter')
        return self.file.total_iterations if self.file else asked if isinstance(asked, int) else None

    @property
    def is_unfinished(self) -> bool:
        """Whether iterations are left that the run may still do."""
        has_ended = self.state in ('finished', 'stopped early')
        return not has_ended and self.total is not None and self.iteration < self.total

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median over the run; None without records."""
        return _median_speed(self.records.get('train', []))

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training left at the speed of the last records, without validation; None where unknown."""
        speed = _median_speed(self.records.get('train', [])[-RECENT:])
        return None if speed is None or self.total is None else max(self.total - self.iteration, 0) * speed

    @property
    def resumed_at(self) -> list[int]:
        """The iterations after which the run was resumed."""
        return sorted({record['iter'] for record in self.records.get('event', []) if record.get('name') == 'resume'})

    @property
    def warnings(self) -> list[tuple[int, str]]:
        """Iteration and sentence of each warning and error, those said again left out."""
        first: dict[str, int] = {}
        for record in self.records.get('event', []):
            if record.get('severity') in ('warning', 'error'):
                first.setdefault(str(record.get('sentence')), record['iter'])
        return [(iteration, sentence) for sentence, iteration in first.items()]

    @property
    def scores(self) -> list[str]:
        """The metrics of validation, such as ``val/psnr``; a measure is one where the options ask for it."""
        asked = {f'val/{name}' for name in self.file.metrics} if self.file is not None else set()
        return [key for key in self.keys('val') if key not in MEASURES or key in asked]

    def keys(self, phase: str) -> list[str]:
        """Return the names of the numbers that records of a phase hold, in order of their appearance."""
        records = self.records.get(phase, [])
        names = dict.fromkeys(name for record in records for name, value in record.items() if _is_number(value))
        return [name for name in names if name not in ('iter', 'epoch')]

    def curve(self, phase: str, key: str) -> tuple[list[float], list[float]]:
        """Return iterations and values of a number; NaN where it was not finite."""
        chosen = [record for record in self.records.get(phase, []) if key in record]
        return [float(record['iter']) for record in chosen], [_to_float(record[key]) for record in chosen]

    def higher_is_better(self, key: str) -> bool | None:
        """Return the direction of a metric such as ``val/psnr``; None where it is not recorded."""
        name = key.removeprefix('val/')
        if self.file is not None and name in self.file.metrics:
            return self.file.metrics[name].higher_is_better
        kind = str(self.options.get(f'val.metrics.{name}.type', name))
        return _HIGHER_IS_BETTER.get(kind.removeprefix('calculate_'))

    def best(self, key: str) -> Best | None:
        """Return the best validation of a metric; None where it has no value or its direction is not recorded."""
        pairs = [Best(value, int(x)) for x, value in zip(*self.curve('val', key), strict=True) if math.isfinite(value)]
        higher = self.higher_is_better(key)
        if not pairs or higher is None:
            return None
        return (max if higher else min)(pairs, key=lambda pair: pair.value)  # the first of equal ones


def read_runs(folders: Sequence[str]) -> list[RecordedRun]:
    """Return the runs in folders, each once.

    Raises:
        UserError: a folder is not there, or is not the folder of a run.
    """
    found = list(dict.fromkeys(find_run(folder).resolve() for folder in folders))
    names = [folder.name for folder in found]
    labels = [folder.name if names.count(folder.name) == 1 else str(folder) for folder in found]
    return [read_run(folder, label) for folder, label in zip(found, labels, strict=True)]


def find_run(folder: str) -> Path:
    """Return the folder of a run; a relative path is tried from the working directory, then from the project's root.

    Raises:
        UserError: the folder is not there, or is not the folder of a run.
    """
    places = [expand_user(folder), resolve_path(folder)]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise UserError(f'There is no folder {places[0]}. {_list_runs(places[1].parent)}')
    if not (place / METRICS_FILE).is_file():
        raise UserError(f'{place} is no folder of a run: it has no {METRICS_FILE}. {_list_runs(place)}')
    return place


def read_run(folder: Path, label: str) -> RecordedRun:
    """Return the run in a folder that has a ``metrics.jsonl``; the notes say what else could not be read."""
    notes: list[str] = []
    try:
        file = read_run_file(folder)
    except UserError as error:
        notes.append(str(error))
        file = None
    is_running = is_in_use(folder)
    records = _read_records(folder / METRICS_FILE, is_running, notes)
    options = flatten(fill_defaults(_read_options(folder, notes)))
    return RecordedRun(folder, label, records, options, file, is_running, notes)


def _list_runs(folder: Path) -> str:
    runs = sorted(path.parent.name for path in folder.glob(f'*/{METRICS_FILE}'))[:8] if folder.is_dir() else []
    return f'Runs in {folder}: {", ".join(runs)}.' if runs else 'Give the folder of a run, such as experiments/NAME.'


def _read_records(path: Path, is_running: bool, notes: list[str]) -> dict[str, list[Record]]:
    """Return records by phase; damaged lines are left out and counted, but not one that is just being written."""
    records: dict[str, list[Record]] = {}
    damaged = 0
    for _, record in parse_lines(path.read_bytes(), is_being_written=is_running):
        if record is not None:
            records.setdefault(record['phase'], []).append(record)
        else:
            damaged += 1

    if damaged:
        count = f'{damaged} lines' if damaged > 1 else 'One line'
        notes.append(f'{count} of {path.name} could not be read: left out.')
    return records


def _read_options(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Return the options in ``options.yml``; for a run made before, those in its newest whole training state."""
    import yaml

    from gpen.weights.files import read_file

    states = [path for path in (folder / 'training_states').glob('*.state') if path.stem.isdecimal()]
    for path in [folder / OPTIONS_FILE, *sorted(states, key=lambda path: int(path.stem), reverse=True)]:
        try:
            if path.name != OPTIONS_FILE:
                content = read_file(path, mmap=True)
                options = content.get('options') if isinstance(content, dict) else None
            else:
                options = yaml.safe_load(path.read_text(encoding='utf-8')) if path.is_file() else None
        except (UserError, yaml.YAMLError, UnicodeDecodeError) as error:
            notes.append(str(error) if isinstance(error, UserError) else f'{path.name} could not be read.')
            continue
        if isinstance(options, dict):
            return options
    notes.append(f'The options are not recorded: there is neither {OPTIONS_FILE} nor a training state.')
    return {}


def _median_speed(records: Sequence[Record]) -> float | None:
    speeds = [value for value in (_to_float(record.get(SPEED)) for record in records) if value > 0]
    return median(speeds) if speeds else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _to_float(value: Any) -> float:
    try:
        return float(value) if _is_number(value) else math.nan
    except OverflowError:
        return math.nan
