"""Records: the same numbers in ``metrics.jsonl`` and TensorBoard, none twice, none missing."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from gpen.data.image_io import read_image, to_uint8
from gpen.errors import UserError
from gpen.runs.recorder import Recorder, read_metrics, trim_metrics, trim_tensorboard
from gpen.runs.sheets import keep_sheet, list_sheets
from gpen.utils.timing import StepTimer


def scalar_event(tag: str, step: int, value: float) -> Event:
    event = Event(step=step, wall_time=1000.0 + step)
    event.summary.value.add(tag=tag, simple_value=value)
    return event


def write_events(path: Path, events: list[Event]) -> Path:
    """Write a TensorBoard file as SummaryWriter does: a version record first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as stream:
        writer = RecordWriter(stream)
        for event in [Event(file_version='brain.Event:2', wall_time=1.0), *events]:
            writer.write(event.SerializeToString())
        writer.flush()
    return path


def read_events(folder: Path) -> list[tuple[str, int, float]]:
    """All scalars of all files that TensorBoard would read, duplicates included."""
    return sorted(
        (value.tag, event.step, value.simple_value)
        for path in sorted(folder.iterdir())
        if 'tfevents' in path.name
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def scalars_up_to(step: int) -> list[tuple[str, int, float]]:
    return sorted((tag, n, float(n)) for tag in ('G_loss_pixel', 'lr_g') for n in range(1, step + 1))


def events_from_to(first: int, last: int) -> list[Event]:
    return [scalar_event(tag, n, float(n)) for n in range(first, last + 1) for tag in ('G_loss_pixel', 'lr_g')]


# --- metrics.jsonl


def write_lines(path: Path, iterations: list[int], rest: str = '') -> Path:
    path.write_text(''.join(json.dumps({'iter': n, 'phase': 'train'}) + '\n' for n in iterations) + rest)
    return path


@pytest.mark.parametrize('rest', ['{"iter": 3, "pha', '{"iter": 3', '{', 'nul\0\0\0', '3\n', '{"epoch": 2}\n'])
def test_a_half_written_last_line_is_set_aside_and_said(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / 'metrics.jsonl', [1, 2], rest)
    Recorder(tmp_path, use_tensorboard=False, resume_iteration=9).close()
    assert [record['iter'] for record in read_metrics(path)] == [1, 2]
    assert path.read_text().endswith('\n')
    assert (tmp_path / 'damaged' / 'metrics.jsonl.1').read_text().rstrip('\n') == rest.rstrip('\n')
    assert f'One line of {path} could not be read: moved to {tmp_path}/damaged/metrics.jsonl.1' in caplog.text


TRAIN = '{"iter": 2, "epoch": 1, "phase": "train", '
DAMAGED = {
    'a bad byte': b'{"iter": 2, "phase": "tr\xffain"}',
    'brackets': b'[' * 100_000,
    'objects': b'{"a":' * 100_000,
    'a long iteration': b'{"iter": ' + b'9' * 5000 + b', "phase": "train"}',
    'a long number': f'{TRAIN}"lr_g": 1{"0" * 4000}}}'.encode(),
    'an infinite number': f'{TRAIN}"lr_g": 1e999}}'.encode(),
    'not a number': f'{TRAIN}"lr_g": NaN}}'.encode(),
    'a negative iteration': b'{"iter": -2, "phase": "train"}',
    'a text for a number': f'{TRAIN}"lr_g": "1"}}'.encode(),
    'a list for a number': f'{TRAIN}"lr_g": [1]}}'.encode(),
    'true for a number': f'{TRAIN}"lr_g": true}}'.encode(),
    'half a surrogate pair': f'{TRAIN[:-2]}, "\\ud800": 1}}'.encode(),
    'an event without a sentence': b'{"iter": 2, "phase": "event", "name": "stop"}',
    'zeros': bytes(100),
    'the end of a line': b'ase": "train"}',
}


@pytest.mark.parametrize('line', DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_lines_are_set_aside_and_said_and_the_others_stay(
    line: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'metrics.jsonl'
    whole = [json.dumps({'iter': n, 'phase': 'train', 'lr_g': None}).encode() for n in (1, 2, 3)]
    path.write_bytes(b'\n'.join([whole[0], line, whole[1], line, whole[2], b'']))
    assert [record['iter'] for record in read_metrics(path)] == [1, 2, 3]

    recorder = Recorder(tmp_path, use_tensorboard=False, resume_iteration=2)
    assert [record['iter'] for record in recorder.read()] == [1, 2]
    recorder.close()
    assert (tmp_path / 'damaged' / 'metrics.jsonl.1').read_bytes() == (line + b'\n') * 2
    assert caplog.text.count(f'2 lines of {path} could not be read: moved to {tmp_path}/damaged/metrics.jsonl.1') == 1

    path.write_bytes(line + b'\n')
    trim_metrics(path, 2)
    assert (tmp_path / 'damaged' / 'metrics.jsonl.2').read_bytes() == line + b'\n'


def test_records_after_the_last_iteration_are_removed_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / 'metrics.jsonl', [1, 4, 4, 6, 8])
    before = path.read_text().splitlines(keepends=True)
    trim_metrics(path, last_iteration=4)
    assert path.read_text() == ''.join(before[:3])
    trim_metrics(path, last_iteration=0)
    assert path.read_text() == ''


def test_a_last_line_without_its_line_break_is_completed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / 'metrics.jsonl', [1], '{"iter": 2, "phase": "train"}')
    trim_metrics(path, last_iteration=2)
    with path.open('a') as stream:
        stream.write('{"iter": 3, "phase": "train"}\n')
    assert [record['iter'] for record in read_metrics(path)] == [1, 2, 3]


def test_nothing_to_trim_leaves_the_file_untouched_and_makes_none(tmp_path: Path) -> None:
    path = write_lines(tmp_path / 'metrics.jsonl', [1, 2])
    inode = path.stat().st_ino
    trim_metrics(path, last_iteration=2)
    assert path.stat().st_ino == inode
    trim_metrics(tmp_path / 'none.jsonl', last_iteration=2)
    assert not (tmp_path / 'none.jsonl').exists()


def test_reading_the_records_of_no_run_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'There is no .*metrics\.jsonl\. Give the folder of a run'):
        read_metrics(tmp_path / 'metrics.jsonl')


def test_the_records_of_a_run_in_progress_are_read_without_the_line_being_written(tmp_path: Path) -> None:
    path = write_lines(tmp_path / 'metrics.jsonl', [1, 2], '{"iter": 3, "pha')
    assert [record['iter'] for record in read_metrics(path)] == [1, 2]


# --- TensorBoard


def test_the_files_of_several_interrupted_runs_become_one_without_duplicates(tmp_path: Path) -> None:
    write_events(tmp_path / 'events.out.tfevents.1000.host.1.0', events_from_to(1, 6))
    write_events(tmp_path / 'events.out.tfevents.2000.host.2.0', events_from_to(5, 9))
    write_events(tmp_path / 'events.out.tfevents.3000.host.3.0', [])
    trim_tensorboard(tmp_path, last_iteration=8)
    assert len(list(tmp_path.iterdir())) == 1
    assert read_events(tmp_path) == scalars_up_to(8)


@pytest.mark.parametrize('cut', [1, 5, 30, 'nothing', 'everything', 'garbage'])
def test_a_file_whose_end_was_lost_gives_what_it_has(tmp_path: Path, cut: int | str) -> None:
    first = write_events(tmp_path / 'events.out.tfevents.1000.host.1.0', events_from_to(1, 6))
    whole = first.read_bytes()
    if isinstance(cut, int):
        first.write_bytes(whole[:-cut])
    elif cut == 'everything':
        first.write_bytes(b'')
    elif cut == 'garbage':
        first.write_bytes(whole + b'\0' * 100)
    write_events(tmp_path / 'events.out.tfevents.2000.host.2.0', events_from_to(5, 8))
    trim_tensorboard(tmp_path, last_iteration=7)
    kept = read_events(tmp_path)
    assert len(kept) == len(set(kept))
    assert set(kept) >= set(scalars_up_to(7)) - (set(scalars_up_to(4)) if cut == 'everything' else set())
    assert max(step for _, step, _ in kept) == 7


@pytest.mark.parametrize('place', [0, 9, 20, 40])
def test_of_a_file_that_is_damaged_in_the_middle_the_rest_is_kept_and_a_copy_set_aside(
    place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_events(tmp_path / 'run' / 'tb_logger' / 'events.out.tfevents.1000.host.1.0', events_from_to(1, 6))
    content = bytearray(path.read_bytes())
    start = content.index(b'G_loss_pixel') - 29  # of the first record that is no version
    content[start + place] ^= 1
    path.write_bytes(content)

    Recorder(tmp_path / 'run', use_tensorboard=True, resume_iteration=6).close()
    assert read_events(path.parent) == [event for event in scalars_up_to(6) if event[:2] != ('G_loss_pixel', 1)]
    (aside,) = (tmp_path / 'run' / 'damaged').iterdir()
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text


def test_a_crash_between_rename_and_removal_leaves_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(tmp_path / 'events.out.tfevents.1000.host.1.0', events_from_to(1, 6))
    write_events(tmp_path / 'events.out.tfevents.2000.host.2.0', events_from_to(5, 9))

    def crash(path: Path, missing_ok: bool = False) -> None:  # noqa: ARG001
        if not path.name.endswith('.tmp'):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'unlink', crash)
        with pytest.raises(KeyboardInterrupt):
            trim_tensorboard(tmp_path, last_iteration=9)
    assert len(list(tmp_path.iterdir())) == 3
    trim_tensorboard(tmp_path, last_iteration=7)
    assert len(list(tmp_path.iterdir())) == 1
    assert read_events(tmp_path) == scalars_up_to(7)


def test_what_a_crash_during_a_merge_left_is_removed(tmp_path: Path) -> None:
    write_events(tmp_path / 'events.out.tfevents.1000.host.1.0', events_from_to(1, 6))
    write_events(tmp_path / '.events.out.tfevents.1000.host.1.0.merged.abc.tmp', events_from_to(1, 3))
    trim_tensorboard(tmp_path, last_iteration=6)
    assert read_events(tmp_path) == scalars_up_to(6)


def test_a_clock_that_was_set_back_duplicates_nothing(tmp_path: Path) -> None:
    write_events(tmp_path / 'events.out.tfevents.2000.host.1.0', events_from_to(1, 4))
    trim_tensorboard(tmp_path, last_iteration=4)
    write_events(tmp_path / 'events.out.tfevents.1000.host.2.0', events_from_to(5, 8))
    trim_tensorboard(tmp_path, last_iteration=6)
    assert len(list(tmp_path.iterdir())) == 1
    assert read_events(tmp_path) == scalars_up_to(6)


def test_without_event_files_nothing_is_made(tmp_path: Path) -> None:
    trim_tensorboard(tmp_path / 'tb_logger', last_iteration=3)
    assert list(tmp_path.iterdir()) == []


# --- both


def test_the_records_of_a_validation_that_will_be_done_again_are_removed(tmp_path: Path) -> None:
    (tmp_path / 'run').mkdir()
    for due in (False, True):
        recorder = Recorder(tmp_path / 'run', use_tensorboard=True, resume_iteration=4, validation_is_due=due)
        recorder.scalars(4, 1, 'val', {'val/psnr': 20.0})
        if not due:
            recorder.scalars(3, 1, 'val', {'val/psnr': 19.0})
            recorder.scalars(4, 1, 'train', {'lr_g': 1.0})
        recorder.close()
    lines, events = records_of(tmp_path / 'run')
    assert sorted((line['iter'], line['phase']) for line in lines) == [(3, 'val'), (4, 'train'), (4, 'val')]
    assert sorted((tag, step) for tag, step, _ in events) == [('lr_g', 4), ('val/psnr', 3), ('val/psnr', 4)]


def record_run(folder: Path, first: int, last: int) -> None:
    recorder = Recorder(folder, use_tensorboard=True, resume_iteration=first - 1)
    if first == 1:
        recorder.text('options', 'name: a\ntrain:\n  lr: 1', 0)
    for iteration in range(first, last + 1):
        values = {'G_loss_pixel': iteration / 7, 'lr_g': 1e-4}
        recorder.scalars(iteration, 1 + iteration // 4, 'train', values, seconds_per_iter=0.123456)
        recorder.picture('val/input_restored_sharp', torch.full((3, 4, 12), iteration, dtype=torch.uint8), iteration)
    recorder.close()


def records_of(folder: Path) -> tuple[list[dict[str, Any]], list[tuple[str, int, Any]]]:
    events = [
        (value.tag, event.step, value.SerializeToString())
        for path in sorted((folder / 'tb_logger').iterdir())
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    return read_metrics(folder / 'metrics.jsonl'), sorted(events)


def test_a_continued_run_has_the_records_of_an_unbroken_one(tmp_path: Path) -> None:
    for folder, spans in {'unbroken': [(1, 8)], 'continued': [(1, 5), (4, 6), (3, 8)]}.items():
        (tmp_path / folder).mkdir()
        for first, last in spans:
            record_run(tmp_path / folder, first, last)
    assert records_of(tmp_path / 'continued') == records_of(tmp_path / 'unbroken')


def test_the_same_numbers_go_to_both_places_times_only_to_the_file(tmp_path: Path) -> None:
    record_run(tmp_path, 1, 2)
    lines, events = records_of(tmp_path)
    assert lines[0] == {
        **{'iter': 1, 'epoch': 1, 'phase': 'train'},
        **{'G_loss_pixel': 1 / 7, 'lr_g': 1e-4, 'seconds_per_iter': 0.1235},
    }
    tags = {(tag, step) for tag, step, _ in events}
    assert {tag for tag, _ in tags} == {'options/text_summary', 'G_loss_pixel', 'lr_g', 'val/input_restored_sharp'}
    assert ('G_loss_pixel', 2) in tags
    assert ('options/text_summary', 0) in tags


def test_the_option_file_stands_in_tensorboard_line_by_line(tmp_path: Path) -> None:
    record_run(tmp_path, 1, 1)
    (path,) = (tmp_path / 'tb_logger').iterdir()
    (text,) = (
        value.tensor.string_val[0].decode()
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == 'options/text_summary'
    )
    assert text == '    name: a\n    train:\n      lr: 1'


def test_without_tensorboard_only_the_file_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, use_tensorboard=False)
    recorder.text('options', 'name: a', 0)
    recorder.picture('val/input_restored_sharp', torch.zeros(3, 4, 4, dtype=torch.uint8), 1)
    recorder.scalars(1, 1, 'val', {'val/psnr': 20.0})
    recorder.flush()
    assert read_metrics(tmp_path / 'metrics.jsonl') == [{'iter': 1, 'epoch': 1, 'phase': 'val', 'val/psnr': 20.0}]
    recorder.close()
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_a_record_is_in_the_file_as_soon_as_it_is_made(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, use_tensorboard=False)
    recorder.scalars(1, 1, 'train', {'lr_g': 1.0})
    assert len(read_metrics(tmp_path / 'metrics.jsonl')) == 1
    recorder.close()


def test_a_picture_file_holds_the_same_pixels(tmp_path: Path) -> None:
    sheet = torch.randint(0, 256, (3, 8, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keep_sheet(tmp_path, sheet, 12, None, keeps_all=False)
    written = to_uint8(read_image(tmp_path / 'visualization' / '12.png'))
    assert torch.equal(torch.from_numpy(written), sheet.permute(1, 2, 0))


@pytest.mark.parametrize(('keeps_all', 'expected'), [(False, [10, 20, 40]), (True, [10, 20, 30, 40])])
def test_the_first_the_best_and_the_latest_sheet_are_kept_or_all(
    tmp_path: Path, keeps_all: bool, expected: list[int]
) -> None:
    sheet = torch.zeros(3, 8, 8, dtype=torch.uint8)
    for iteration, best in ((10, 10), (20, 20), (30, 20), (40, 20)):
        keep_sheet(tmp_path, sheet, iteration, best, keeps_all)
    (tmp_path / 'visualization' / 'mine.png').write_bytes(b'')
    assert list(list_sheets(tmp_path)) == expected


def test_the_step_timer_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, 'perf_counter', lambda: now)
    timer = StepTimer()
    for seconds in (1.0, 3.0):
        now += seconds
        timer.step()
    now += 50.0
    timer.pause()
    now += 2.0
    timer.step()
    assert timer.read() == 2.0
    now += 4.0
    timer.step()
    assert timer.read() == 4.0


def test_numbers_that_are_not_finite_are_null_in_strict_json(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, use_tensorboard=False)
    recorder.scalars(1, 1, 'val', {'val/psnr': float('inf'), 'val/ssim': 1.0})
    recorder.close()
    assert (tmp_path / 'metrics.jsonl').read_text() == (
        '{"iter": 1, "epoch": 1, "phase": "val", "val/psnr": null, "val/ssim": 1.0}\n'
    )


def test_the_records_of_the_last_iteration_stay_unless_its_validation_is_due(tmp_path: Path) -> None:
    for due in (False, True):
        folder = tmp_path / str(due)
        folder.mkdir()
        recorder = Recorder(folder, use_tensorboard=True)
        for iteration in (3, 4, 5):
            recorder.scalars(iteration, 1, 'val', {'val/psnr': 20.0})
        recorder.close()
        trim_tensorboard(folder / 'tb_logger', 4, **({'validation_is_due': True} if due else {}))
        trim_metrics(folder / 'metrics.jsonl', 4, **({'validation_is_due': True} if due else {}))
        lines, events = records_of(folder)
        assert [line['iter'] for line in lines] == [step for _, step, _ in events] == ([3] if due else [3, 4])
