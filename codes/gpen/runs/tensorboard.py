"""TensorBoard's event files: written record by record, merged and repaired when a run goes on."""

import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from gpen.options import Options
from gpen.runs.experiment import set_aside
from gpen.utils.files import atomic_path, explain_writing

TENSORBOARD_FOLDER = 'tb_logger'

Layout = dict[str, dict[str, list[str]]]
"""Sections of charts, each of which shows the tags that regular expressions match."""

_PATTERN = 'events.out.tfevents.*'
_numbers = count()


def build_layout(options: Options, metrics: Iterable[str]) -> Layout:
    """Return the layout of the page Custom Scalars; elsewhere TensorBoard makes a section of each tag without a slash.

    Args:
        options: of the run, which tell the losses that there are.
        metrics: the names of the validation metrics.
    """
    train = options.train
    checks = ('variety', 'sharpness', 'ema_gain')  # see gpen.health.measures
    losses = [*options.generator_losses, *(['adv'] if options.network_d is not None else [])]
    if train.feature_matching_opt is not None and train.feature_matching_opt.is_on:
        losses.append('feature_matching')

    generator = {name: [f'^G_loss_{re.escape(name)}$'] for name in losses}
    if train.component_opt is not None:
        generator['component'] = ['^G_loss_component_']
    return {
        'Validation': {
            **{name: [f'^val/{re.escape(name)}$'] for name in metrics if name not in checks},
            'for the health checks': [f'^val/({"|".join(checks)})$'],
        },
        'Generator': generator,
        'Discriminator': {
            'losses': ['^D_loss_'],
            'judged rightly, augmented (shares)': ['^D_acc_', '^D_augment_p$'],
            'R1 penalty, path lengths': ['^D_r1$', '^G_path_'],
        },
        'Optimization': {
            'learning rates': ['^lr_'],
            'gradient norms': ['^grad_norm_'],
            'gradients below eps (shares)': ['^grad_below_eps_'],
        },
    }


class EventWriter:
    """Appends records to a new event file.

    TensorBoard's own writer has a thread, which ends in a traceback where the disk is full.  This one writes at once.

    Args:
        folder: of the event files.
        layout: of the page Custom Scalars; written where there is no other file that may have it.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        name = f'events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}'
        self.path = folder / name
        with explain_writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            is_due = bool(layout) and not any(folder.glob(_PATTERN))
            self._stream = self.path.open('wb', buffering=0)
        self._write(Event(file_version='brain.Event:2'))
        if is_due:
            self._add_layout(layout)

    def add(self, summary: Any, iteration: int) -> None:
        """Append what one of the functions of ``torch.utils.tensorboard.summary`` returned."""
        from tensorboard.compat.proto.event_pb2 import Event

        self._write(Event(summary=summary, step=iteration))

    def _add_layout(self, layout: Layout) -> None:
        from torch.utils.tensorboard import summary

        charts = {
            title: {chart: ['Multiline', tags] for chart, tags in those.items()} for title, those in layout.items()
        }
        self.add(summary.custom_scalars(charts), 0)

    def is_in_place(self) -> bool:
        """Whether the file is still where it was made."""
        return is_same_file(self._stream, self.path)

    def flush(self) -> None:
        """Write everything to disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        append_whole(self._stream, self.path, _frame(event.SerializeToString()))


def is_same_file(stream: Any, path: Path) -> bool:
    """Return whether an open file is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def append_whole(stream: Any, path: Path, data: bytes) -> None:
    """Append bytes to an unbuffered file, all or none.

    Raises:
        UserError: the disk is full, for instance.
    """
    before = os.fstat(stream.fileno()).st_size
    try:
        with explain_writing(path, 'what was recorded before is whole'):
            left = memoryview(data)
            while left:
                left = left[stream.write(left) :]
    except BaseException:
        stream.truncate(before)
        raise


def trim_tensorboard(folder: Path, last_iteration: int, validation_is_due: bool = False) -> list[Path]:
    """Merge the event files of earlier runs into one that ends with ``last_iteration``, each record once.

    Where the validation of that iteration is due, its records are removed.  Damaged records are left out; copies of the
    files that hold them are kept, and their paths returned.
    """
    for leftover in folder.glob('.*.tmp'):  # of a merge that was cut off; TensorBoard would read it
        leftover.unlink()
    files = sorted(folder.glob(_PATTERN))
    if not files:
        return []

    seen: set[tuple[str, int]] = set()
    damaged: list[Path] = []
    target = folder / f'{files[0].name.removesuffix(".merged")}.merged'
    with atomic_path(target) as temporary, temporary.open('wb') as stream:
        for path in files:
            end = 0  # of the whole records; what follows the last one was being written when the run ended
            for start, event, record in _find_records(path.read_bytes()):
                if start > end and path not in damaged:
                    damaged.append(path)
                end = start + len(record)
                keys = {(value.tag, event.step) for value in event.summary.value} or {('', event.step)}
                is_due = validation_is_due and any(tag.startswith('val/') for tag, _ in keys)
                if event.step <= last_iteration - is_due and not keys <= seen:
                    seen |= keys
                    stream.write(record)
        aside = [set_aside(folder.parent, path.name, path.read_bytes()) for path in damaged]

    for path in files:
        if path != target:
            path.unlink()
    return aside


def _frame(data: bytes) -> bytes:
    """Return a record as it stands in an event file: length, its checksum, data, their checksum."""
    length = struct.pack('<Q', len(data))
    return length + _checksum(length) + data + _checksum(data)


def _find_records(data: bytes) -> Iterator[tuple[int, Any, bytes]]:
    """Yield place, event and bytes of each whole record of an event file; damaged stretches are passed over."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    place = 0
    while place + 16 <= len(data):
        length = data[place : place + 8]
        if data[place + 8 : place + 12] == _checksum(length):
            end = place + 12 + int.from_bytes(length, 'little')
            record = data[place + 12 : end]
            if data[end : end + 4] == _checksum(record):
                with suppress(DecodeError):
                    yield place, Event.FromString(record), data[place : end + 4]
                    place = end + 4
                    continue
        place += 1


def _checksum(data: bytes) -> bytes:
    from tensorboard.summary.writer.record_writer import masked_crc32c

    return struct.pack('<I', masked_crc32c(data))
