"""Health of real trainings: what is said, where it is recorded, and that an interruption changes nothing."""

import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import processes
from command_line import succeed
from comparing import assert_same_run, read_records, read_tensorboard
from conftest import tiny_options, write_options


def write_faces(folder: Path, count: int, seed: int) -> None:
    """Write pairs whose sharp images have a grain that no generator can guess, so that the discriminator has a task."""
    random = np.random.default_rng(seed)
    for kind in ('sharp', 'blurry'):
        (folder / kind).mkdir(parents=True)
    for n in range(count):
        smooth = cv2.resize(random.integers(60, 200, (4, 4, 3), dtype=np.uint8), (16, 16))
        grain = 30 * np.sign(random.standard_normal((16, 16, 1)))
        sharp = (smooth + grain).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / 'sharp' / f'{n:03d}.png'), sharp)
        cv2.imwrite(str(folder / 'blurry' / f'{n:03d}.png'), cv2.GaussianBlur(sharp, (5, 5), 1.5))


@pytest.fixture(scope='module')
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('faces')
    write_faces(folder / 'train', 32, seed=1)
    write_faces(folder / 'val', 8, seed=2)
    write_faces(folder / 'one', 1, seed=1)
    return folder


def adam(rate: float) -> dict[str, Any]:
    return {'type': 'Adam', 'lr': rate, 'betas': [0.9, 0.99]}


def run_options(faces: Path, root: Path, **train: Any) -> dict[str, Any]:
    """Options of a run of 96 iterations with a record each that does well, but for ``train``."""
    options = tiny_options(faces, root)
    options['datasets']['train']['batch_size_per_gpu'] = 4
    for name in ('total_epochs', 'warmup_epochs', 'scheduler'):
        options['train'].pop(name)
    options['train'] |= {
        **{'total_iter': 96, 'optim_g': adam(0.02), 'optim_d': adam(0.01), 'r1_reg_weight': 1, 'net_d_reg_every': 8},
        **{'gan_opt': {'type': 'GANLoss', 'loss_weight': 0.005}, 'ema_decay': 0.8, 'ema_scheduler': {'total_iter': 40}},
        **train,
    }
    options['val']['val_freq'] = 8
    options['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 16}
    return options


def one_image(faces: Path, options: dict[str, Any]) -> None:
    """Make the training set one image, and let a generator learn it by heart."""
    options['datasets']['train'] |= {f'dataroot_{key}': str(faces / 'one' / kind) for key, kind in ROOTS.items()}
    options['datasets']['train']['use_hflip'] = False
    options['network_g']['narrow'] = 0.06
    options['train'] |= {'gan_opt': None, 'optim_g': adam(0.01)}


ROOTS = {'gt': 'sharp', 'lq': 'blurry'}
RUNS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    'healthy': ({}, {}),
    'rates far too high': (
        {'optim_g': adam(2.0), 'optim_d': adam(1.0), 'total_iter': 40},
        {
            'generator_losses_rising': 'lower train.optim_g.lr from 2 to 0.4',
            'discriminator_losses_rising': 'lower train.optim_d.lr from 1 to 0.2',
        },
    ),
    'a discriminator that hardly learns': (
        {'optim_d': adam(1e-12), 'total_iter': 40},
        {'discriminator_too_weak': 'Raise train.optim_d.lr from 1e-12 to 0.005'},
    ),
    'one image': (
        {'total_iter': 64},
        {'collapse': 'Look whether the folders of datasets.train hold many different faces'},
    ),
}


@pytest.mark.parametrize(('train', 'expected'), RUNS.values(), ids=RUNS.keys())
def test_real_runs_hear_what_is_wrong_with_them(
    train: dict[str, Any], expected: dict[str, str], faces: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = run_options(faces, tmp_path, **train)
    if 'one image' in request.node.name:
        one_image(faces, options)
    printed = succeed(write_options(tmp_path / 'run.yml', options))
    folder = tmp_path / 'experiments' / 'tiny'
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    records = [line for line in lines if line['phase'] == 'health']
    assert {record['name'] for record in records} >= set(expected)
    assert bool(records) == bool(expected) == ('Health' in printed)
    log = (folder / 'train.log').read_text()
    texts = {(tag, step) for tag, step, _ in read_tensorboard(folder) if tag.startswith('health/')}
    assert texts == {(f'health/{record["name"]}/text_summary', record['iter']) for record in records}
    for record in records:
        assert expected.get(record['name'], '') in record['sentence']
        said = f'Health, iter {record["iter"]}: {record["sentence"]}'
        assert said in printed
        assert f'WARNING {said}' in log


def test_a_killed_run_that_is_continued_has_the_findings_of_an_unbroken_one(faces: Path, tmp_path: Path) -> None:
    folders = []
    for name, places in {'whole': [], 'broken': [('step', 23), ('step', 5), ('restore', 2)]}.items():
        options = run_options(faces, tmp_path / name, optim_d=adam(1e-12), total_iter=40)
        path = write_options(tmp_path / f'{name}.yml', options)
        for place in places:
            status, _ = processes.run(tmp_path / 'log', '-opt', path, '--auto_resume', kill_at=place)
            assert status == -signal.SIGKILL
        succeed(path, flags=('--auto_resume',))
        folders.append(tmp_path / name / 'experiments' / 'tiny')
    assert [record['iter'] for record in read_records(folders[0]) if record['phase'] == 'health'] == [14, 24, 34]
    assert_same_run(folders[1], folders[0])


def test_health_can_be_switched_off(faces: Path, tmp_path: Path) -> None:
    options = run_options(faces, tmp_path, optim_d=adam(1e-12), total_iter=24)
    options['logger']['health'] = False
    assert 'Health' not in succeed(write_options(tmp_path / 'run.yml', options))
    records = read_records(tmp_path / 'experiments' / 'tiny')
    assert {record['phase'] for record in records} == {'train', 'val', 'event'}
    assert not any(
        'val/variety' in record or 'val/ema_gain' in record or 'val/sharpness' in record for record in records
    )
