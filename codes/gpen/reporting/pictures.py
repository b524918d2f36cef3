"""Sample pictures of a run through time, from its picture files or from TensorBoard's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpen.errors import UserError

PICTURE_FOLDER = 'visualization'
THREE_COLUMNS = 'val/input_restored_sharp'
OPTIONS_TAG = 'options/text_summary'


@dataclass(frozen=True)
class Sample:
    """A sheet of validation pictures.

    Attributes:
        iteration: when it was made.
        data: the bytes of an image file.
        has_columns: it shows input, restored and sharp image side by side.
    """

    iteration: int
    data: bytes
    has_columns: bool


def choose_through_time(iterations: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the iterations with the first and the last, closer at the start, where most happens."""
    ordered = sorted(set(iterations))
    if count < 2:
        return ordered[-count:] if count else []
    last = len(ordered) - 1
    places = {round(last * (n / (count - 1)) ** 2) for n in range(count)} if ordered else set()
    for place in range(len(ordered)):  # few pictures: those that fell together make room for others
        if len(places) >= min(count, len(ordered)):
            break
        places.add(place)
    return [ordered[place] for place in sorted(places)]


def find_samples(folder: Path, last_iteration: int, count: int, has_columns: bool = True) -> list[Sample]:
    """Return up to ``count`` sheets spread through a run, in order.

    Args:
        folder: of the run.
        last_iteration: later sheets are of a course that was given up.
        count: how many at most.
        has_columns: whether the run's picture files have columns, which they do not tell; TensorBoard's tags do.

    Raises:
        UserError: TensorBoard's files cannot be read, and there are no others.
    """
    files = {int(path.stem): path for path in (folder / PICTURE_FOLDER).glob('*.png') if path.stem.isdecimal()}
    files = {number: path for number, path in files.items() if number <= last_iteration}
    if files:
        return [Sample(n, files[n].read_bytes(), has_columns) for n in choose_through_time(list(files), count)]
    events = _list_event_files(folder)
    tags: dict[str, set[int]] = {}
    for value, step in _read_events(events):
        if value.HasField('image') and value.tag.startswith('val/') and step <= last_iteration:
            tags.setdefault(value.tag, set()).add(step)
    if not tags:
        return []
    tag = THREE_COLUMNS if THREE_COLUMNS in tags else min(tags)
    chosen = choose_through_time(list(tags[tag]), count)
    found = {
        step: bytes(value.image.encoded_image_string)
        for value, step in _read_events(events)
        if value.tag == tag and step in chosen
    }
    return [Sample(step, found[step], tag == THREE_COLUMNS) for step in sorted(found)]


def read_options_text(folder: Path) -> str | None:
    """Return the option file as TensorBoard keeps it; None where it is not there.

    Raises:
        UserError: TensorBoard's files cannot be read.
    """
    for value, _ in _read_events(_list_event_files(folder)):
        if value.tag == OPTIONS_TAG and value.tensor.string_val:
            text = value.tensor.string_val[0].decode('utf-8', 'replace')
            return '\n'.join(line.removeprefix('    ') for line in text.splitlines())
    return None


def _list_event_files(folder: Path) -> list[Path]:
    from gpen.runs.recorder import TENSORBOARD_FOLDER

    return sorted((folder / TENSORBOARD_FOLDER).glob('events.out.tfevents.*'))


def _read_events(files: Sequence[Path]) -> Iterator[tuple[Any, int]]:
    """Yield each value in TensorBoard's files with its iteration."""
    if not files:
        return
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    except ImportError as error:
        raise UserError('TensorBoard is not installed, so its files cannot be read: pip install tensorboard') from error
    for path in files:
        try:
            for event in LegacyEventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    yield value, event.step
        except Exception as error:  # damaged bytes end in almost any exception
            raise UserError(f'{path} is damaged ({type(error).__name__}). Remove it.') from error
