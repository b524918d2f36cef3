"""Compares what two runs left."""

import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from gpen.runs.run_file import read_run_file
from gpen.runs.sheets import list_sheets

STARTS_AND_STOPS = {'start', 'resume', 'stop', 'superseded', 'warning'}
"""Events that tell how often a run was interrupted."""


def read_records(folder: Path, with_starts: bool = False) -> list[dict[str, Any]]:
    """Return the records without what depends on time and, unless asked for, on interruptions."""
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    if not with_starts:
        records = [one for one in records if one['phase'] != 'event' or one['name'] not in STARTS_AND_STOPS]
    return [{key: value for key, value in record.items() if key != 'seconds_per_iter'} for record in records]


def read_tensorboard(folder: Path) -> list[tuple[str, int, Any]]:
    """Return all records of all event files, as they are: (tag, step, number or picture; nothing for a text)."""
    records = []
    for path in sorted((folder / 'tb_logger').iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                kind = value.WhichOneof('value')
                content = value.image.encoded_image_string if kind == 'image' else value.simple_value
                records.append((value.tag, event.step, content))
    return sorted(records, key=lambda record: record[:2])


def read_sheets(folder: Path) -> dict[int, bytes]:
    return {iteration: path.read_bytes() for iteration, path in list_sheets(folder).items()}


def assert_same(one: Any, other: Any, where: str = '') -> None:
    """Compare nested containers; tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for n, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f'{where}.{n}')
    else:
        assert one == other, where


def assert_same_run(folder: Path, expected: Path) -> None:
    names = sorted(path.relative_to(expected) for path in expected.rglob('*') if path.suffix in {'.pth', '.state'})
    assert sorted(path.relative_to(folder) for path in folder.rglob('*') if path.suffix in {'.pth', '.state'}) == names
    for name in names:
        state, wanted = (torch.load(root / name, weights_only=True) for root in (folder, expected))
        for options in (state.get('options'), wanted.get('options')):
            if options is not None:
                options['path'].pop('experiments_root')
                for block in options['datasets'].values():
                    (block or {}).pop('num_worker_per_gpu', None)
        assert_same(state, wanted, str(name))
    assert read_records(folder) == read_records(expected)
    assert read_tensorboard(folder) == read_tensorboard(expected)
    assert read_sheets(folder) == read_sheets(expected)
    run, wanted_run = read_run_file(folder), read_run_file(expected)
    assert run is not None
    assert wanted_run is not None
    assert (run.metrics, run.iteration, run.status) == (wanted_run.metrics, wanted_run.iteration, wanted_run.status)
