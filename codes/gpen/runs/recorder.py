"""Records of a run: ``metrics.jsonl`` and TensorBoard, the same numbers in both, none twice, none missing."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpen.errors import UserError
from gpen.runs.experiment import set_aside
from gpen.runs.log import LOGGER
from gpen.runs.tensorboard import TENSORBOARD_FOLDER, EventWriter, Layout, append_whole, is_same_file, trim_tensorboard
from gpen.utils.files import explain_writing, write_bytes

if TYPE_CHECKING:
    import torch

    from gpen.runs.wandb_run import WandbRun

METRICS_FILE = 'metrics.jsonl'
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

    A folder that is removed or moved while the run goes on is made anew, with all records.

    Args:
        folder: the experiment folder.
        use_tensorboard: write TensorBoard files.
        resume_iteration: records of later iterations, which an interrupted run left behind, are removed first.
        validation_is_due: the validation of this iteration will be done (again), so its records are removed, too.
        restore_folder: called when the folder was made anew, to write what else belongs into it.
        layout: how TensorBoard groups the curves.
        wandb: a run of wandb that reads the TensorBoard files.
    """

    def __init__(
        self,
        folder: Path,
        use_tensorboard: bool,
        resume_iteration: int = 0,
        validation_is_due: bool = False,
        restore_folder: Callable[[], None] = lambda: None,
        layout: Layout | None = None,
        wandb: WandbRun | None = None,
    ) -> None:
        self.folder = folder
        self._path = folder / METRICS_FILE
        self._restore_folder = restore_folder
        self._layout = layout or {}
        self.wandb = wandb
        self._missing: UserError | None = None  # why a record could not be written
        self._writer: EventWriter | None = None
        damaged = trim_metrics(self._path, resume_iteration, validation_is_due)
        if damaged is not None:
            aside, count = damaged
            lines = f'{count} lines' if count > 1 else 'One line'
            LOGGER.warning('Warning: %s of %s could not be read: moved to %s.', lines, self._path, aside)

        if use_tensorboard:
            for aside in trim_tensorboard(folder / TENSORBOARD_FOLDER, resume_iteration, validation_is_due):
                LOGGER.warning('Warning: A file of TensorBoard has damaged records: left out; a copy is %s.', aside)
            self._writer = EventWriter(folder / TENSORBOARD_FOLDER, self._layout)
        if wandb is not None:
            wandb.watch()
        self._stream = self._path.open('ab+', buffering=0)

    def scalars(
        self, iteration: int, epoch: int, phase: str, values: dict[str, float], **timing: float
    ) -> dict[str, Any]:
        """Record numbers by tag, and return the record; ``timing`` goes to ``metrics.jsonl`` alone."""
        record = {'iter': iteration, 'epoch': epoch, 'phase': phase, **values}
        record |= {name: round(value, 4) for name, value in timing.items()}
        self._append(record)
        if self._writer is not None:
            from torch.utils.tensorboard import summary

            for tag, value in values.items():
                self._add(self._writer, summary.scalar(tag, value), iteration)
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
        self._stay_in_place()
        with self._note_failure():
            append_whole(self._stream, self._path, f'{to_json(record)}\n'.encode())

    def _add(self, writer: EventWriter, summary: Any, iteration: int) -> None:
        with self._note_failure():
            writer.add(summary, iteration)

    @contextmanager
    def _note_failure(self) -> Iterator[None]:
        """Remember that a record could not be written, so that :meth:`flush` does not vouch for it."""
        try:
            yield
        except UserError as error:
            self._missing = error
            raise

    def _stay_in_place(self) -> None:
        """Make the folder anew where it was removed or moved; the open file still has all records."""
        has_metrics = is_same_file(self._stream, self._path)
        if has_metrics and (self._writer is None or self._writer.is_in_place()):
            return

        # The parts of it that are gone
        if not has_metrics:
            self._stream.seek(0)
            write_bytes(self._path, self._stream.read())
            self._stream.close()
            self._stream = self._path.open('ab+', buffering=0)
        if self._writer is not None and not self._writer.is_in_place():
            self._writer.close()
            self._writer = EventWriter(self.folder / TENSORBOARD_FOLDER, self._layout)
        self._restore_folder()

        LOGGER.warning(
            'Warning: %s, or a part of it, was removed or moved while the run went on. It was made anew, with '
            '%s whole; checkpoints and pictures from before may be gone from it.',
            *(self.folder, METRICS_FILE),
        )

    def read(self) -> list[dict[str, Any]]:
        """Return all records in ``metrics.jsonl`` so far."""
        return read_metrics(self._path)

    def text(self, tag: str, text: str, iteration: int) -> None:
        """Record a text, shown as preformatted."""
        if self._writer is not None:
            from torch.utils.tensorboard import summary

            self._add(
                self._writer, summary.text(tag, '\n'.join(f'    {line}' for line in text.splitlines())), iteration
            )

    def picture(self, tag: str, sheet: torch.Tensor, iteration: int) -> None:
        """Record a picture, 3 x H x W, uint8 RGB."""
        if self._writer is not None:
            from torch.utils.tensorboard import summary

            self._add(self._writer, summary.image(tag, sheet, dataformats='CHW'), iteration)

    def flush(self) -> None:
        """Write everything to disk; done before a state is saved, so that none is missing after a power cut.

        Raises:
            UserError: that is not possible, or was not for a record before.
        """
        if self._missing is not None:
            raise self._missing
        self._stay_in_place()
        with explain_writing(self._path, 'what was recorded before is whole'):
            os.fsync(self._stream.fileno())
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._stream.close()
        if self._writer is not None:
            self._writer.close()
        if self.wandb is not None:
            self.wandb.finish()


def trim_metrics(path: Path, last_iteration: int, validation_is_due: bool = False) -> tuple[Path, int] | None:
    """Remove the records after ``last_iteration``, those of its validation where it is due, and damaged lines.

    Returns:
        Where damaged lines were moved to and how many there were; None where there were none.
    """
    if not path.exists():
        return None

    content = path.read_bytes()
    kept, damaged = [], []
    for line, record in parse_lines(content):
        if record is None:
            damaged.append(line + b'\n')
        elif record['iter'] <= last_iteration - (validation_is_due and record['phase'] == 'val'):
            kept.append(line + b'\n')

    # First, so that no line is ever in neither file.
    aside = set_aside(path.parent, path.name, b''.join(damaged)) if damaged else None
    if b''.join(kept) != content:
        write_bytes(path, b''.join(kept))
    return None if aside is None else (aside, len(damaged))


def parse_lines(content: bytes, is_being_written: bool = False) -> Iterator[tuple[bytes, Record | None]]:
    """Yield the lines of ``metrics.jsonl`` and their records, None for a damaged one.

    Args:
        content: of the file.
        is_being_written: a last line without an end is no damage, but not there yet.
    """
    *lines, rest = content.split(b'\n')
    for line in lines:
        if line.strip():
            yield line, _parse_record(line)
    record = _parse_record(rest)
    if record is not None or (rest.strip() and not is_being_written):
        yield rest, record


def _parse_record(line: bytes) -> Record | None:
    """Return the record in a line of ``metrics.jsonl``; None where the line is damaged or half written.

    A record is an object with ``iter``, ``phase`` and values that are null, finite numbers or sentences; those of
    ``train`` and ``val`` are numbers, and an ``event`` has a name and a sentence.
    """
    try:
        record = json.loads(line.decode(), parse_constant=_refuse)
        return record if _is_record(record) else None
    except (ValueError, RecursionError, OverflowError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is no JSON')


def _is_record(record: Any) -> bool:
    """Whether a value of JSON is a record; ValueError or OverflowError where it holds what no text or float can."""
    if not isinstance(record, dict):
        return False
    iteration, phase = record.get('iter'), record.get('phase')
    if type(iteration) is not int or not 0 <= iteration < 1 << 53 or not isinstance(phase, str):
        return False

    # Null, finite numbers, and texts (half a pair of surrogates has no bytes)
    numbers = {name: float(value) for name, value in record.items() if type(value) in (int, float)}
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    empty = {name for name, value in record.items() if value is None}
    ''.join([*record, *texts.values()]).encode()
    if numbers.keys() | texts.keys() | empty != record.keys() or not all(map(math.isfinite, numbers.values())):
        return False

    if phase in ('train', 'val'):
        return texts.keys() == {'phase'}
    return phase not in ('event', 'health') or texts.keys() >= {'name', 'severity', 'sentence'}


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a ``metrics.jsonl``, without damaged lines and a last one that is just being written.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f'There is no {path}. Give the folder of a run, such as experiments/NAME.')
    return [record for _, record in parse_lines(path.read_bytes(), True) if record is not None]
