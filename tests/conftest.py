"""Shared by the tests: a tiny data set, a tiny option file, and how to run the commands."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'
os.environ.setdefault('OMP_NUM_THREADS', '1')  # tiny networks; several processes on few cores
os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT / 'codes'), str(ROOT / 'scripts'), str(ROOT / 'tests')])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the scan cache of the tests out of the user's."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave files to the system, which takes its time to flush them: no test needs them after a power cut."""
    monkeypatch.setattr(os, 'fsync', lambda _: None)


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the modules of a user's project, and where they were found, after each test."""
    monkeypatch.setattr(sys, 'path', [*sys.path])
    yield
    for name in [name for name in sys.modules if name.partition('.')[0] == 'my_project']:
        del sys.modules[name]


def find_tracked(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder that git tracks, so that a user's own are not tested; all where it has none."""
    found = sorted(folder.rglob(pattern))
    command = ['git', '-C', str(folder), 'ls-files', '-z']
    names = subprocess.run(command, capture_output=True, text=True, check=False).stdout if shutil.which('git') else ''
    tracked = {folder / name for name in names.split('\0')}
    return [path for path in found if path in tracked] or found


def write_pairs(folder: Path, count: int, size: int = 16, seed: int = 0) -> None:
    """Write ``count`` pairs of smooth random images to ``folder/{sharp,blurry}``."""
    import cv2

    generator = np.random.default_rng(seed)
    for kind in ('sharp', 'blurry'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for n in range(count):
        sharp = cv2.resize(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8), (size, size))
        cv2.imwrite(str(folder / 'sharp' / f'{n:03d}.png'), sharp)
        cv2.imwrite(str(folder / 'blurry' / f'{n:03d}.png'), cv2.GaussianBlur(sharp, (5, 5), 1.5))


def tiny_options(data: Path, root: Path) -> dict:
    """Return options of a run that takes about a second: 16 x 16, 4 epochs of 4 iterations, adversarial with R1."""
    dataset = {'type': 'PairedImageDataset', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    return {
        'name': 'tiny',
        'num_gpu': 0,
        'manual_seed': 3,
        'datasets': {
            phase: {
                **dataset,
                'dataroot_gt': str(data / phase / 'sharp'),
                'dataroot_lq': str(data / phase / 'blurry'),
                **({'use_hflip': True} if phase == 'train' else {}),
            }
            for phase in ('train', 'val')
        },
        'network_g': {'type': 'GPEN', 'size': 16, 'style_dim': 8, 'n_mlp': 2, 'narrow': 0.008},
        'network_d': {'type': 'GPENDiscriminator', 'size': 16, 'narrow': 0.008},
        'path': {'experiments_root': str(root / 'experiments')},
        'train': {
            'total_epochs': 4,
            'warmup_epochs': 1,
            'base_lr': 1e-4,
            'optim_g': {'type': 'Adam', 'lr': 2e-3, 'betas': [0.9, 0.99]},
            'optim_d': {'type': 'Adam', 'lr': 2e-3, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
            'ema_decay': 0.9,
            'ema_scheduler': {'total_iter': 10},
            'pixel_opt': {'type': 'L1Loss'},
            'gan_opt': {'type': 'GANLoss', 'loss_weight': 0.1},
            'net_d_reg_every': 3,
        },
        'val': {'num_pictures': 1},
        'logger': {'print_freq': 3, 'keep_last': 2},
    }


def degraded_options(data: Path, root: Path, degradation: object) -> dict:
    """Return the same with sharp images alone, degraded on the fly."""
    options = tiny_options(data, root)
    for phase in ('train', 'val'):
        block = options['datasets'][phase]
        block.pop('dataroot_lq')
        block |= {'type': 'DegradedFaceDataset', 'degradation': degradation}
    return options


@pytest.fixture
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run's log is open, as in a new process: what is said goes to the terminal."""
    logger = logging.getLogger('gpen')
    monkeypatch.setattr(logger, 'handlers', [])
    monkeypatch.setattr(logger, 'propagate', True)  # or pytest gives it a handler


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 7 pairs to train on and 3 to validate on."""
    folder = tmp_path_factory.mktemp('data')
    write_pairs(folder / 'train', 7, seed=1)
    write_pairs(folder / 'val', 3, seed=2)
    return folder


@pytest.fixture(scope='session')
def pretend_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a process that runs on the pretend GPU, which the first worker builds for all."""
    from filelock import FileLock

    from pretend_gpu.build import CannotBuildError, build

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    with FileLock(folder / 'pretend_gpu.lock'):
        try:
            return build(folder)
        except CannotBuildError as error:
            pytest.skip(f'no pretend GPU: {error}')


@pytest.fixture
def option_file(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny options as a file; results go below ``tmp_path``."""
    return write_options(tmp_path / 'tiny.yml', tiny_options(tiny_data, tmp_path))


@pytest.fixture(scope='module')
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The option file of a run that is done; its results lie beside it."""
    from command_line import succeed  # it needs what is defined here

    root = tmp_path_factory.mktemp('trained')
    option_file = write_options(root / 'tiny.yml', tiny_options(tiny_data, root))
    succeed(option_file, 'train:total_epochs=2')
    return option_file


def write_options(path: Path, options: dict) -> Path:
    """Write options as YAML."""
    path.write_text(yaml.safe_dump(options, sort_keys=False), encoding='utf-8')
    return path


def run_code(script: str, *arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run ``codes/SCRIPT`` or ``scripts/SCRIPT`` as a user does, with one thread; return what it printed."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, str(ROOT / script), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **settings)  # type: ignore[call-overload,no-any-return]
