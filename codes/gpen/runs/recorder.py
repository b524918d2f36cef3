"""Records of a run: ``metrics.jsonl`` and TensorBoard, the same numbers in both, none twice, none missing."""

from __future__ import annotations

import json
import math
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpen.errors import UserError
from gpen.utils.files import write_text

if TYPE_CHECKING:
    import torch

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tb_logger'
TEXT_WIDTH = 100  # characters in a line of a sentence in TensorBoard

Record = dict[str, Any]


def to_json(record: dict[str, Any]) -> str:
    """Return strict JSON: numbers that are not finite, which it cannot hold, become null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    return json.dumps(plain, allow_nan=False)


class Recorder:
    """Appends records to ``metrics.jsonl`` and TensorBoard files.

    Args:
        folder: the experiment folder.
        use_tensorboard: write TensorBoard files.
        resume_iteration: records of later iterations, which an interrupted run left behind, are removed first.
        validation_is_due: the validation of this iteration will be done (again), so its records are removed, too.
    """

    def __init__(
        self, folder: Path, use_tensorboard: bool, resume_iteration: int = 0, validation_is_due: bool = False
    ) -> None:
        self.folder = folder
        self._path = folder / METRICS_FILE
        self._writer: Any = None
        trim_metrics(self._path, resume_iteration, validation_is_due)
        if use_tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            trim_tensorboard(folder / TENSORBOARD_FOLDER, resume_iteration, validation_is_due)
            self._writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER))
        self._stream = self._path.open('a', encoding='utf-8')

    def scalars(
        self, iteration: int, epoch: int, phase: str, values: dict[str, float], **timing: float
    ) -> dict[str, Any]:
        """Record numbers by tag, and return the record; ``timing`` goes to ``metrics.jsonl`` alone."""
        record = {'iter': iteration, 'epoch': epoch, 'phase': phase, **values}
        record |= {name: round(value, 4) for name, value in timing.items()}
        self._append(record)
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, iteration)
        return record

    def finding(self, iteration: int, epoch: int, name: str, severity: str, sentence: str) -> None:
        """Record what a health rule says; TensorBoard shows it as the text ``health/NAME``."""
        self.event(iteration, epoch, name, severity, sentence, phase='health')
        self.text(f'health/{name}', textwrap.fill(f'{severity}: {sentence}', TEXT_WIDTH), iteration)

    def event(self, iteration: int, epoch: int, name: str, severity: str, sentence: str, phase: str = 'event') -> None:
        """Record what happened to the run, in ``metrics.jsonl`` alone.

        Args:
            iteration: the last one that was done.
            epoch: of that iteration.
            name: ``start``, ``resume``, ``stop``, ``warning``, ``skipped_step``, ``validation`` or ``superseded``.
            severity: ``info``, ``warning`` or ``error``.
            sentence: what happened.
            phase: of the record.
        """
        about = {'name': name, 'severity': severity, 'sentence': sentence}
        self._append({'iter': iteration, 'epoch': epoch, 'phase': phase, **about})

    def _append(self, record: dict[str, Any]) -> None:
        self._stream.write(to_json(record) + '\n')
        self._stream.flush()

    def read(self) -> list[dict[str, Any]]:
        """Return all records in ``metrics.jsonl`` so far."""
        return read_metrics(self._path)

    def text(self, tag: str, text: str, iteration: int) -> None:
        """Record a text, shown as preformatted."""
        if self._writer is not None:
            self._writer.add_text(tag, '\n'.join(f'    {line}' for line in text.splitlines()), iteration)

    def picture(self, tag: str, sheet: torch.Tensor, iteration: int) -> None:
        """Record a picture, 3 x H x W, uint8 RGB."""
        if self._writer is not None:
            self._writer.add_image(tag, sheet, iteration)

    def flush(self) -> None:
        """Write everything to disk; done before a state is saved, so that none is missing after a power cut."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        if self._writer is not None:
            self._writer.flush()
            for path in (self._path.parent / TENSORBOARD_FOLDER).glob('events.out.tfevents.*'):
                with path.open('rb+') as stream:
                    os.fsync(stream.fileno())

    def close(self) -> None:
        """Flush and close the files."""
        self._stream.close()
        if self._writer is not None:
            self._writer.close()


def trim_metrics(path: Path, last_iteration: int, validation_is_due: bool = False) -> None:
    """Remove the records after ``last_iteration``, those of its validation where it is due, and a half-written line."""
    if not path.exists():
        return

    text = path.read_text(encoding='utf-8')
    kept = []
    for line in text.splitlines():
        record = parse_record(line)
        if record is not None and record['iter'] <= last_iteration - (validation_is_due and record['phase'] == 'val'):
            kept.append(line + '\n')

    if ''.join(kept) != text:
        write_text(path, ''.join(kept))


def trim_tensorboard(folder: Path, last_iteration: int, validation_is_due: bool = False) -> None:
    """Merge the event files of earlier runs into one that ends with ``last_iteration``, each record once.

    Where the validation of that iteration is due, its records are removed.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.summary.writer.record_writer import RecordWriter

    from gpen.utils.files import atomic_path

    for leftover in folder.glob('.*.tmp'):  # of a merge that was cut off; TensorBoard would read it
        leftover.unlink()
    files = sorted(folder.glob('events.out.tfevents.*'))
    if not files:
        return
    seen: set[tuple[str, int]] = set()
    target = folder / f'{files[0].name.removesuffix(".merged")}.merged'
    with atomic_path(target) as temporary, temporary.open('wb') as stream:
        writer = RecordWriter(stream)
        for path in files:
            for event in LegacyEventFileLoader(str(path)).Load():
                keys = {(value.tag, event.step) for value in event.summary.value} or {('', event.step)}
                is_due = validation_is_due and any(tag.startswith('val/') for tag, _ in keys)
                if event.step <= last_iteration - is_due and not keys <= seen:
                    seen |= keys
                    writer.write(event.SerializeToString())
        writer.flush()
    for path in files:
        if path != target:
            path.unlink()


def parse_record(line: str) -> Record | None:
    """Return the record in a line of ``metrics.jsonl``; None where the line is damaged or half written."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get('iter')) is int and isinstance(record.get('phase'), str)
    return record if is_record else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ``metrics.jsonl``, without a last line that is just being written.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f'There is no {path}. Give the folder of a run, such as experiments/NAME.')
    whole_lines = path.read_text(encoding='utf-8').rpartition('\n')[0]
    return [json.loads(line) for line in whole_lines.splitlines()]
