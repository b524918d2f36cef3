"""``logger.wandb``: the records go to wandb, too, where it is installed; a run that is continued is one run there."""

import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from command_line import fail, run_here, succeed
from gpen.runs.run_file import read_run_file

WANDB = 'logger:wandb={project: faces}'
ONE = ('train:total_epochs=~', 'train:total_iter=1')
TWO = ('train:total_epochs=~', 'train:total_iter=2')


class FakeWandb(types.ModuleType):
    """What training asks of wandb, and what it was asked for."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__('wandb')
        self.calls: list[dict[str, Any]] = []
        self.files: list[list[str]] = []
        self.finished: list[int] = []
        self.watched: list[str] = []

    def init(self, **settings: Any) -> Any:
        self.calls.append(settings)
        tensorboard = Path(settings['dir']) / 'tb_logger'
        self.files.append([path.name for path in tensorboard.glob('*')])
        return types.SimpleNamespace(
            id=settings['id'] or f'new{len(self.calls)}',
            finish=lambda exit_code: self.finished.append(exit_code),
            _tensorboard_callback=lambda folder, **_: self.watched.append(folder),
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


def read_id(folder: Path) -> str | None:
    run_file = read_run_file(folder)
    assert run_file is not None
    return run_file.wandb_id


def test_a_continued_run_goes_on_in_the_same_run_of_wandb(option_file: Path, fake: FakeWandb) -> None:
    folder = option_file.parent / 'experiments' / 'tiny'
    succeed(option_file, WANDB, *ONE, runner=run_here)
    assert read_id(folder) == 'new1'
    succeed(option_file, WANDB, *TWO, flags=('--auto_resume',), runner=run_here)
    assert [(call['project'], call['id'], call['sync_tensorboard']) for call in fake.calls] == [
        ('faces', None, True),
        ('faces', 'new1', True),
    ]
    assert fake.calls[0]['config']['train']['optim_g']['lr'] == 2e-3
    assert read_id(folder) == 'new1'
    assert fake.finished == [0, 0]
    assert fake.watched == [str(folder / 'tb_logger')] * 2
    assert fake.files[0] == [], 'wandb reads only event files that are made after its start'


def test_a_run_from_the_start_is_a_new_one_unless_an_id_is_given(option_file: Path, fake: FakeWandb) -> None:
    succeed(option_file, WANDB, *ONE, runner=run_here)
    given = 'logger:wandb={project: faces, resume_id: mine}'
    succeed(option_file, given, *ONE, runner=run_here)
    assert [call['id'] for call in fake.calls] == [None, 'mine']
    assert read_id(option_file.parent / 'experiments' / 'tiny') == 'mine'


def test_without_the_package_one_sentence_says_so_and_nothing_is_written(
    option_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in (None, types.ModuleType('wandb')):  # or a folder of that name
        monkeypatch.setitem(sys.modules, 'wandb', missing)
        for flags in ((), ('--dry_run',)):
            printed = fail(option_file, WANDB, flags=flags, runner=run_here)
            assert 'logger.wandb needs the package wandb: pip install wandb. Or remove that block.\n' in printed
    assert not (option_file.parent / 'experiments' / 'tiny').exists()


def test_wandb_that_cannot_start_is_said_in_a_sentence(option_file: Path, fake: FakeWandb) -> None:
    def refuse(**_: Any) -> None:
        raise fake.Error('no API key configured')

    fake.init = refuse  # type: ignore[method-assign]
    printed = fail(option_file, WANDB, runner=run_here)
    assert 'wandb cannot start: no API key configured. Log in by wandb login, or keep the records' in printed


def test_wandb_needs_the_files_of_tensorboard_and_is_off_without_a_project(option_file: Path) -> None:
    printed = fail(option_file, WANDB, 'logger:use_tb_logger=false', flags=('--dry_run',), runner=run_here)
    assert 'logger.wandb: needs use_tb_logger: true' in printed
    succeed(
        option_file, 'logger:wandb={project: ~}', 'logger:use_tb_logger=false', flags=('--dry_run',), runner=run_here
    )


def test_wandb_gets_the_records_offline_and_goes_on(option_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('wandb', reason='pip install wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    folder = option_file.parent / 'experiments' / 'tiny'
    succeed(option_file, WANDB, *ONE, 'logger:print_freq=1', runner=run_here)
    (first,) = folder.glob('wandb/offline-run-*/run-*.wandb')
    succeed(option_file, WANDB, *TWO, 'logger:print_freq=1', flags=('--auto_resume',), runner=run_here)
    files = sorted(folder.glob('wandb/offline-run-*/run-*.wandb'), key=lambda path: path.stat().st_mtime)
    assert [file.name for file in files] == [f'run-{read_id(folder)}.wandb'] * 2
    assert files[0] == first
    for file in files:
        end = time.monotonic() + 20  # wandb's own process may write it a little later
        while missing := [tag for tag in (b'G_loss_pixel', b'lr_g', b'val/psnr') if tag not in file.read_bytes()]:
            assert time.monotonic() < end, missing
            time.sleep(0.05)
