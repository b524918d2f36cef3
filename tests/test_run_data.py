"""A run is data: its options, what it is and how it ended, and what happened to it."""

import json
import math
import shutil
import signal
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch

import processes
from command_line import fail, run, succeed
from comparing import assert_same_run, read_records
from conftest import tiny_options, write_options
from gpen import __version__
from gpen.options import parse_options
from gpen.runs.run_file import MetricSummary, RunFile, read_run_file


def folder_of(option_file: Path) -> Path:
    return option_file.parent / 'experiments' / 'tiny'


def run_file_of(option_file: Path) -> RunFile:
    found = read_run_file(folder_of(option_file))
    assert found is not None
    return found


def events_of(option_file: Path) -> list[tuple[int, str]]:
    records = read_records(folder_of(option_file), with_starts=True)
    return [(record['iter'], record['name']) for record in records if record['phase'] == 'event']


# --- options.yml


def test_a_run_keeps_its_options_as_given_and_as_resolved(trained: Path) -> None:
    text = (folder_of(trained) / 'options.yml').read_text()
    assert '#     total_epochs: 2\n' in text  # given on the command line
    assert '#   val:\n#     num_pictures: 1\n' in text
    assert '\n  net_d_iters: 1\n' in text  # a default
    options, resolved = (
        parse_options(trained, ['train:total_epochs=2']),
        parse_options(folder_of(trained) / 'options.yml'),
    )
    assert resolved.options == options.options


# --- run.json


def test_a_finished_run_says_what_it_was(trained: Path) -> None:
    found = run_file_of(trained)
    assert (found.status, found.iteration, found.total_iterations, found.iterations_per_epoch) == ('finished', 8, 8, 4)
    assert found.reason == 'Finished: all 8 iterations are done.'
    assert (found.name, found.version, found.processes, found.resumes) == ('tiny', __version__, 1, 0)
    assert found.torch.startswith('2.')
    assert found.devices == ['CPU, 1 threads']
    assert (found.train_images, found.val_images, found.batch_size) == (7, 3, 2)
    assert found.started <= found.updated
    assert found.ended is not None
    assert found.seconds > 0
    assert events_of(trained) == [(0, 'warning'), (0, 'start'), (1, 'gradient_shares'), (8, 'stop')]


def test_the_best_of_each_metric_is_that_of_the_records(trained: Path) -> None:
    found, records = run_file_of(trained), read_records(folder_of(trained))
    assert found.stopping_metric == 'psnr'
    assert set(found.metrics) == {'psnr', 'ssim'}
    for name, summary in found.metrics.items():
        values = {record[f'val/{name}']: record['iter'] for record in records if record['phase'] == 'val'}
        assert summary.higher_is_better
        assert summary.best == pytest.approx(max(values), rel=1e-12)
        assert summary.best_iteration == values[max(values)]


def test_a_metric_summary_knows_its_direction_and_ignores_what_is_no_number() -> None:
    lower = MetricSummary(higher_is_better=False)
    for iteration, value in enumerate([3.0, math.nan, 1.0, 2.0, 1.0], start=1):
        lower.update(value, iteration)
    assert (lower.best, lower.best_iteration) == (1.0, 3)


def test_of_a_metric_of_which_more_is_better_the_first_of_the_highest_is_the_best() -> None:
    higher = MetricSummary(higher_is_better=True)
    for iteration, value in enumerate([math.nan, 1.0, 3.0, 2.0, 3.0, math.nan], start=1):
        higher.update(value, iteration)
    assert (higher.best, higher.best_iteration) == (3.0, 3)


def test_a_new_run_file_has_the_first_format_and_nothing_done(tmp_path: Path) -> None:
    RunFile(name='new').write(tmp_path)
    content = json.loads((tmp_path / 'run.json').read_text())
    counts = (
        'format',
        'processes',
        'iteration',
        'total_iterations',
        'resumes',
        'seconds',
        'train_images',
        'batch_size',
    )
    assert [content[name] for name in counts] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert (content['status'], content['ended'], content['metrics']) == ('running', None, {})
    assert read_run_file(tmp_path) == RunFile.model_validate(content)
    assert read_run_file(tmp_path / 'none') is None


def test_a_run_that_stopped_early_says_so(option_file: Path) -> None:
    succeed(option_file, 'train:early_stopping:patience=1', 'train:early_stopping:min_delta=1000')
    found = run_file_of(option_file)
    assert (found.status, found.iteration) == ('stopped_early', 8)
    assert found.reason == 'Early stopping: psnr has not improved for 1 validations.'


def test_a_failed_run_says_why(option_file: Path) -> None:
    printed = fail(option_file, 'train:optim_g:lr=1e30', 'train:optim_d:lr=1e30', 'train:total_epochs=9')
    found = run_file_of(option_file)
    assert found.status == 'failed'
    assert 'steps in a row' in found.reason
    assert found.reason in printed
    events = [name for _, name in events_of(option_file)]
    assert events.count('skipped_step') == 9
    assert events[-1] == 'stop'


def test_stops_and_resumes_are_recorded(option_file: Path, tmp_path: Path) -> None:
    status, printed = processes.run(
        tmp_path / 'log', '-opt', option_file, '--auto_resume', signal_at=('validation 2', signal.SIGTERM)
    )
    assert status == 143, printed
    found = run_file_of(option_file)
    assert (found.status, found.iteration) == ('stopped', 8)
    started = found.started
    assert found.reason == 'Stopped by SIGTERM after iteration 8.'

    status, printed = run(option_file, flags=('--auto_resume',))
    assert status == 0, printed
    found = run_file_of(option_file)
    assert (found.status, found.iteration, found.resumes, found.started) == ('finished', 16, 1, started)
    assert events_of(option_file) == [*((0, 'start'), (1, 'gradient_shares'), (8, 'stop'), (8, 'resume'), (16, 'stop'))]


def test_a_killed_run_is_still_called_running(option_file: Path, tmp_path: Path) -> None:
    status, _ = processes.run(tmp_path / 'log', '-opt', option_file, kill_at=('step', 7))
    assert status == -signal.SIGKILL
    found = run_file_of(option_file)
    assert (found.status, found.ended, found.iteration) == ('running', None, 4)


def test_warnings_are_recorded_once(option_file: Path, tiny_data: Path) -> None:
    options = tiny_options(tiny_data, option_file.parent)
    options['network_g']['unused'] = 1
    fail(write_options(option_file, options))
    options = tiny_options(tiny_data, option_file.parent)
    options['train']['warmup_epochs'] = 4
    printed = succeed(write_options(option_file, options))
    records = read_records(folder_of(option_file), with_starts=True)
    warnings = [record['sentence'] for record in records if record.get('name') == 'warning']
    assert warnings == [line for line in printed.splitlines() if line.startswith('Warning: ')]


def test_a_damaged_run_file_is_a_sentence(option_file: Path) -> None:
    succeed(option_file, 'train:total_epochs=1')
    (folder_of(option_file) / 'run.json').write_text('{"format": 1,')
    assert 'run.json is damaged' in fail(option_file, flags=('--auto_resume',))


@pytest.mark.parametrize(('last', 'expected'), [(8, (30.0, 4)), (4, (30.0, 4)), (3, (20.0, 2))])
def test_the_best_is_known_though_its_record_is_damaged(last: int, expected: tuple[float, int]) -> None:
    before = RunFile(metrics={'psnr': MetricSummary(higher_is_better=True, best=30.0, best_iteration=4)})
    found = RunFile(metrics={'psnr': MetricSummary(higher_is_better=True)})
    found.take_over_best(before, [{'iter': 2, 'phase': 'val', 'val/psnr': 20.0}], last)
    assert (found.metrics['psnr'].best, found.metrics['psnr'].best_iteration) == expected


def test_a_run_of_an_earlier_version_continues(option_file: Path, tmp_path: Path) -> None:
    whole = tmp_path / 'whole'
    succeed(option_file)
    shutil.copytree(folder_of(option_file), whole)
    shutil.rmtree(folder_of(option_file))
    succeed(option_file, 'train:total_epochs=2', 'train:scheduler:milestones=[3]')
    for name in ('run.json', 'options.yml'):
        (folder_of(option_file) / name).unlink()
    for metrics in (folder_of(option_file) / 'metrics.jsonl', whole / 'metrics.jsonl'):
        lines = [line for line in metrics.read_text().splitlines() if json.loads(line)['phase'] != 'event']
        metrics.write_text(''.join(f'{line}\n' for line in lines))

    succeed(option_file, flags=('--auto_resume',))
    assert_same_run(folder_of(option_file), whole)
    assert run_file_of(option_file).resumes == 1


# --- from the command to the gradients


def test_six_frames_lead_from_the_command_to_the_gradients(
    option_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpen.commands.train import main

    found: list[list[str]] = []

    def backward(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        frames = [frame for frame in traceback.extract_stack() if '/codes/gpen/' in frame.filename]
        found.append([frame.name for frame in frames])
        real(self, *args, **kwargs)

    real = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, 'backward', backward)
    assert main(['-opt', str(option_file), '--force_yml', 'train:total_epochs=1']) == 0, capsys.readouterr().err
    assert set(map(tuple, found)) == {('main', 'run_training', 'train', 'train_step', 'optimize')}  # after train.py
