"""``run.json``: what a run is, how far it is and how it ended, as data for reports and other programs."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from gpen import __version__
from gpen.errors import UserError
from gpen.utils.files import project_root, write_text

RUN_FILE = 'run.json'

Status = Literal['running', 'finished', 'stopped', 'stopped_early', 'failed']


class MetricSummary(BaseModel):
    """A validation metric: which direction is better, and its best value so far."""

    higher_is_better: bool
    best: float | None = None
    best_iteration: int | None = None

    def update(self, value: float, iteration: int) -> bool:
        """Take in a validation; return whether it is the best so far (a value that is not finite never is)."""
        sign = 1 if self.higher_is_better else -1
        if not math.isfinite(value) or (self.best is not None and sign * value <= sign * self.best):
            return False
        self.best, self.best_iteration = value, iteration
        return True


class RunFile(BaseModel):
    """The content of ``run.json``.

    ``status`` is ``running`` until the run says why it ended; a run that was killed stays so, and whether it still
    runs, its lock tells (:func:`gpen.runs.experiment.is_in_use`).  Times are local, in ISO format.
    """

    format: int = 1
    name: str = ''
    version: str = __version__
    torch: str = ''
    python: str = sys.version.split()[0]
    git_commit: str | None = None
    command: list[str] = Field(default_factory=list)
    devices: list[str] = Field(default_factory=list)
    """One for each process that trains."""
    processes: int = 1
    status: Status = 'running'
    reason: str = ''
    """Why it ended, in a sentence."""
    started: str = ''
    updated: str = ''
    ended: str | None = None
    seconds: float = 0.0
    """Time spent training and validating, over all starts."""
    iteration: int = 0
    total_iterations: int = 0
    iterations_per_epoch: int = 0
    resumes: int = 0
    metrics: dict[str, MetricSummary] = Field(default_factory=dict)
    """The validation metrics by name."""
    stopping_metric: str | None = None
    """The metric that chooses the best weights."""
    train_images: int = 0
    val_images: int = 0
    batch_size: int = 0
    """Of one process."""
    wandb_id: str | None = None
    """Of the run in wandb, which goes on with this one."""

    def write(self, folder: Path) -> None:
        """Write it to the folder of the run, whole or not at all."""
        self.updated = now()
        write_text(folder / RUN_FILE, self.model_dump_json(indent=2) + '\n')

    def take_over_best(self, before: RunFile, records: Sequence[dict[str, Any]], last: int) -> None:
        """Take the best of each metric up to iteration ``last``: from the records, and from the file before them.

        The file knows of a record that is damaged.
        """
        for name, summary in self.metrics.items():
            values = {record['iter']: record.get(f'val/{name}') for record in records if record['phase'] == 'val'}
            known = before.metrics.get(name)
            if known is not None and known.best_iteration is not None and known.best_iteration <= last:
                values.setdefault(known.best_iteration, known.best)
            for iteration, value in sorted(values.items()):
                if value is not None:
                    summary.update(value, iteration)


def read_run_file(folder: Path) -> RunFile | None:
    """Return the run file in the folder of a run; None for runs of versions that wrote none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f'{path} is damaged ({error.errors()[0]["msg"]}). Remove it; the run writes it anew when it continues.'
        ) from error


def now() -> str:
    """Return the local time in ISO format, with seconds and time zone."""
    return datetime.now().astimezone().isoformat(timespec='seconds')


def find_git_commit() -> str | None:
    """Return the commit of the checkout that this program runs from; None where there is none, or no git."""
    if not (project_root() / '.git').exists():
        return None
    try:
        found = subprocess.run(
            ['git', '-C', str(project_root()), 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
