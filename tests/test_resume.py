"""A run that was killed, stopped or damaged, and continued, ends bit for bit like one that was never interrupted."""

import os
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

import processes
from command_line import succeed
from comparing import assert_same, assert_same_run, read_records, read_tensorboard
from conftest import degraded_options, tiny_options, write_options, write_pairs


def run_killed(place: str, count: int, *arguments: object) -> str:
    """Start the training command; it is killed when it passes ``place`` for the ``count``-th time."""
    status, printed = processes.run(Path(arguments[1]).with_name('log'), *arguments, kill_at=(place, count))
    assert status == -signal.SIGKILL, f'not killed at {place} {count}: {printed}'
    return printed


def train(option_file: Path, *arguments: str) -> str:
    """Train to the end in this process; return what was printed."""
    return succeed(option_file, flags=arguments)


@pytest.fixture(scope='module')
def unbroken(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp('unbroken')
    train(write_options(folder / 'tiny.yml', tiny_options(tiny_data, folder)))
    return folder / 'experiments' / 'tiny'


def test_an_unbroken_run_ends_with_its_files_and_records(unbroken: Path) -> None:
    models = sorted(path.name for path in (unbroken / 'models').iterdir())
    assert models == [
        *('net_d_12.pth', 'net_d_16.pth', 'net_d_latest.pth', 'net_g_12.pth', 'net_g_16.pth'),
        *('net_g_best.pth', 'net_g_best_psnr.pth', 'net_g_best_ssim.pth', 'net_g_latest.pth'),
    ]
    content = torch.load(unbroken / 'models' / 'net_g_latest.pth', weights_only=True)
    assert list(content) == ['params', 'params_ema']
    train_tags = {
        *('G_loss_pixel', 'G_loss_adv', 'D_loss_real', 'D_loss_fake', 'D_acc_real', 'D_acc_fake', 'D_r1'),
        *('lr_g', 'lr_d', 'grad_norm_g', 'grad_norm_d', 'grad_below_eps_g', 'grad_below_eps_d'),
    }
    records = read_records(unbroken)
    assert [record['iter'] for record in records if record['phase'] == 'train'] == [3, 6, 9, 12, 15]
    assert [record['iter'] for record in records if record['phase'] == 'val'] == [4, 8, 12, 16]
    assert [(record['iter'], record['name']) for record in records if record['phase'] == 'event'] == [
        (1, 'gradient_shares')
    ]
    assert set(records[1]) == {'iter', 'epoch', 'phase'} | train_tags
    tags = {tag for tag, _, _ in read_tensorboard(unbroken)}
    val_tags = {'val/psnr', 'val/ssim', 'val/variety', 'val/ema_gain', 'val/sharpness', 'val/input_restored_sharp'}
    assert tags == train_tags | val_tags | {'options/text_summary', 'custom_scalars__config__'}


# What happens in a run: 16 steps, 4 epochs of 4; per epoch a validation of 2 batches, then 3 files of a checkpoint
# (net_g, net_d, state), links (net_g latest, net_d latest, the best ones) and the removal of old ones.  Each kill is
# followed by a process that resumes, renews the links, and is killed in its turn.
KILLS = {
    'in steps, validations and records': [
        ('step', 3),  # before any checkpoint
        ('step', 7),
        ('restore', 2),
        ('save', 1),
        ('step', 10),
        ('trim', 1),
    ],
    'in checkpoints': [
        ('half_written', 4),  # the generator, for the second time
        ('half_written', 2),  # the discriminator
        ('half_written', 3),  # the state
        ('prune', 1),
        ('link', 2),  # while the links are renewed
        ('link', 6),  # after the state
        ('link', 8),
    ],
    'several times in one epoch': [('step', 6), ('step', 3), ('step', 1), ('step', 5)],
}


def test_killed_run_on_degraded_faces_continues_bit_for_bit(tiny_data: Path, tmp_path: Path) -> None:
    ends = []
    for name in ('whole', 'broken'):
        options = degraded_options(tiny_data, tmp_path / name, {'type': 'gfpgan', 'blur_sigma': [0.1, 2]})
        options['datasets']['train'] |= {'augment': {'type': 'color_jitter'}, 'num_worker_per_gpu': 1}
        path = write_options(tmp_path / f'{name}.yml', options)
        if name == 'broken':
            run_killed('step', 7, '-opt', path, '--auto_resume')
        train(path, '--auto_resume')
        ends.append(tmp_path / name / 'experiments' / 'tiny')
    assert_same_run(ends[1], ends[0])


@pytest.mark.parametrize('kills', KILLS.values(), ids=KILLS.keys())
def test_killed_run_continues_bit_for_bit(kills: list[tuple[str, int]], option_file: Path, unbroken: Path) -> None:
    for place, count in kills:
        run_killed(place, count, '-opt', option_file, '--auto_resume')
    train(option_file, '--auto_resume')
    assert_same_run(option_file.parent / 'experiments' / 'tiny', unbroken)


def test_killed_run_with_worker_processes_continues_bit_for_bit(option_file: Path, unbroken: Path) -> None:
    arguments = ('--auto_resume', '--force_yml', 'datasets:train:num_worker_per_gpu=2')
    run_killed('step', 7, '-opt', option_file, *arguments)
    train(option_file, *arguments)
    assert_same_run(option_file.parent / 'experiments' / 'tiny', unbroken)


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_the_run_continues_bit_for_bit(
    number: int, status: int, tiny_data: Path, tmp_path: Path, unbroken: Path
) -> None:
    option_file = write_options(tmp_path / 'tiny.yml', tiny_options(tiny_data, tmp_path))
    folder = tmp_path / 'experiments' / 'tiny'
    command = processes.start(tmp_path / 'log', '-opt', option_file, '--auto_resume')
    metrics = folder / 'metrics.jsonl'
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.005)
    os.kill(command.process.pid, number)
    ended_with, printed = command.wait()
    assert ended_with == status, printed
    assert 'Traceback' not in printed
    assert 'Continue with the same command and --auto_resume' in printed
    train(option_file, '--auto_resume')
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize('validation', [2, 4])
def test_signals_during_validations_leave_none_out(
    validation: int, option_file: Path, unbroken: Path, tmp_path: Path
) -> None:
    stopped = (f'validation {validation}', signal.SIGTERM)
    for _ in range(2):  # the second one comes while the validation that the first one cut off is made up for
        status, printed = processes.run(tmp_path / 'log', '-opt', option_file, '--auto_resume', signal_at=stopped)
        assert status == 143, printed
        stopped = ('validation 1', signal.SIGTERM)
    train(option_file, '--auto_resume')
    assert_same_run(option_file.parent / 'experiments' / 'tiny', unbroken)


def test_auto_resume_prefers_the_newest_state_to_resume_state(option_file: Path, unbroken: Path) -> None:
    folder = option_file.parent / 'experiments' / 'tiny'
    run_killed('step', 7, '-opt', option_file, '--auto_resume')
    given = folder.parent / 'given' / 'training_states' / '4.state'
    shutil.copytree(folder, folder.parent / 'given')
    printed = train(option_file, '--auto_resume', '--force_yml', f'path:resume_state={given}')
    assert f'Continuing from {folder / "training_states" / "4.state"}' in printed
    assert read_records(folder) == read_records(unbroken)


def test_a_state_from_elsewhere_starts_a_run_with_its_weights(option_file: Path) -> None:
    train(option_file, '--force_yml', 'train:total_epochs=2')
    folder = option_file.parent / 'experiments' / 'tiny'
    given = f'path:resume_state={folder / "training_states" / "8.state"}'
    train(option_file, '--force_yml', 'train:total_epochs=2', 'name=other', given)
    for name in ('net_g_latest.pth', 'net_g_best.pth', 'net_d_latest.pth'):
        weights = [torch.load(root / 'models' / name, weights_only=True) for root in (folder, folder.parent / 'other')]
        assert_same(*weights, name)


def test_changed_optimizer_options_hold_and_are_said(option_file: Path) -> None:
    train(option_file, '--force_yml', 'train:total_epochs=1')
    change = 'train:optim_g:betas=[0.5, 0.9]'
    printed = train(option_file, '--auto_resume', '--force_yml', 'train:total_epochs=2', change)
    assert 'Changed since then: train.optim_g.betas: [0.9, 0.99] -> [0.5, 0.9]' in printed
    folder = option_file.parent / 'experiments' / 'tiny'
    state = torch.load(folder / 'training_states' / '8.state', weights_only=True)
    assert state['model']['optimizer_g']['param_groups'][0]['betas'] == (0.5, 0.9)


def test_a_default_that_is_written_out_is_no_change(option_file: Path) -> None:
    train(option_file, '--force_yml', 'train:total_epochs=1')
    options = ('train:total_epochs=2', 'network_g:isconcat=true')
    printed = train(option_file, '--auto_resume', '--force_yml', *options)
    assert 'isconcat' not in printed


def test_early_stopping_on_another_metric_starts_anew(option_file: Path) -> None:
    train(option_file, '--force_yml', 'train:total_epochs=1')
    options = ('train:total_epochs=2', 'train:early_stopping:metric=ssim')
    printed = train(option_file, '--auto_resume', '--force_yml', *options)
    assert 'Early stopping starts anew: it follows ssim now.' in printed
    assert 'Best ssim: 0.' in printed


def test_going_back_makes_the_best_file_that_of_the_course_followed(option_file: Path) -> None:
    train(option_file)
    folder = option_file.parent / 'experiments' / 'tiny'
    best = folder / 'models' / 'net_g_best.pth'
    assert best.samefile(folder / 'models' / 'net_g_16.pth')
    options = (f'path:resume_state={folder / "training_states" / "12.state"}', 'train:total_iter=12')
    printed = train(option_file, '--force_yml', *options, 'train:total_epochs=~')
    assert 'Moved to superseded/' in printed
    assert best.samefile(folder / 'models' / 'net_g_12.pth')


def largest_record(path: Path) -> bytes:
    """Return the largest part of a checkpoint file; around the parts there are bytes that mean nothing."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(max(archive.infolist(), key=lambda item: item.file_size))


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(option_file: Path, unbroken: Path) -> None:
    folder = option_file.parent / 'experiments' / 'tiny'
    state, model = folder / 'training_states' / '8.state', folder / 'models' / 'net_g_8.pth'

    def cut_off() -> None:
        state.write_bytes(state.read_bytes()[:-200])

    def flip_a_bit() -> None:
        content = bytearray(model.read_bytes())
        content[content.index(largest_record(model)) + 9] ^= 1
        model.unlink()
        model.write_bytes(content)

    run_killed('step', 11, '-opt', option_file, '--auto_resume')
    damages = ((cut_off, state), (flip_a_bit, model), (model.unlink, model), (lambda: state.write_bytes(b''), state))
    for damage, path in damages:  # each time, the checkpoint is made anew before the run is killed
        damage()
        printed = run_killed('step', 7, '-opt', option_file, '--auto_resume')
        assert f'Passed over: {path}' in printed
        assert '4.state, after iteration 4' in printed
        shutil.rmtree(folder / 'superseded', ignore_errors=True)
    train(option_file, '--auto_resume')
    assert_same_run(folder, unbroken)


def test_a_longer_run_continues_a_finished_one(option_file: Path, unbroken: Path) -> None:
    short = ['--force_yml', 'train:total_epochs=2']
    train(option_file, *short)
    printed = train(option_file, '--auto_resume')
    assert 'Changed since then: train.total_epochs: 2 -> 4' in printed
    folder = option_file.parent / 'experiments' / 'tiny'
    assert read_records(folder) == read_records(unbroken)


def test_a_finished_run_has_nothing_to_do(option_file: Path) -> None:
    train(option_file)
    folder = option_file.parent / 'experiments' / 'tiny'
    before = read_records(folder)
    assert 'Finished: all 16 iterations are done.' in train(option_file, '--auto_resume')
    assert read_records(folder) == before


def test_options_that_make_the_state_unusable_are_an_error_that_names_them(option_file: Path) -> None:
    train(option_file, '--force_yml', 'train:total_epochs=1')
    arguments = ('-opt', option_file, '--auto_resume', '--force_yml', 'network_g:style_dim=16')
    status, printed = processes.run(option_file.with_name('log'), *arguments)
    assert status == 2
    assert 'network_g.style_dim: 8 -> 16' in printed
    assert 'Traceback' not in printed


def test_without_auto_resume_an_earlier_run_is_moved_aside_not_overwritten(option_file: Path) -> None:
    train(option_file, '--force_yml', 'train:total_epochs=1')
    folder = option_file.parent / 'experiments' / 'tiny'
    before = (folder / 'metrics.jsonl').read_bytes()
    assert 'was there already: it is now' in train(option_file, '--force_yml', 'train:total_epochs=1')
    (moved,) = folder.parent.glob('tiny_archived_*')
    assert (moved / 'metrics.jsonl').read_bytes() == before
    assert (moved / 'models' / 'net_g_latest.pth').is_file()


def test_an_explicit_state_goes_back_and_keeps_what_came_after(option_file: Path, unbroken: Path) -> None:
    train(option_file)
    folder = option_file.parent / 'experiments' / 'tiny'
    state = folder / 'training_states' / '12.state'
    assert 'Moved to superseded/' in train(option_file, '--force_yml', f'path:resume_state={state}')
    assert (folder / 'superseded' / '16.state').is_file()
    assert read_records(folder) == read_records(unbroken)


def test_a_second_run_on_the_same_folder_is_refused(option_file: Path) -> None:
    from gpen.runs.experiment import lock_experiment

    with lock_experiment(option_file.parent / 'experiments' / 'tiny'):
        status, printed = processes.run(option_file.with_name('log'), '-opt', option_file, '--auto_resume')
    assert status == 2
    assert 'Another run is using' in printed


def test_images_that_were_replaced_since_then_are_said(tmp_path: Path) -> None:
    data = tmp_path / 'data'
    for phase, count in (('train', 5), ('val', 2)):
        write_pairs(data / phase, count)
    options = tiny_options(data, tmp_path)
    options['train'] |= {'warmup_epochs': 0, 'scheduler': None}
    option_file = write_options(tmp_path / 'tiny.yml', options)
    changed = {'train': (data / 'train' / 'blurry' / '003.png', 5), 'val': (data / 'val' / 'sharp' / '001.png', 2)}

    def resume(epochs: int) -> dict[str, list[str]]:
        """Return what is said of the images of each phase."""
        printed = train(option_file, '--auto_resume', '--force_yml', f'train:total_epochs={epochs}')
        lines = [line.partition('Changed since then: datasets.')[2] for line in printed.splitlines()]
        return {phase: [line for line in lines if line.startswith(f'{phase}: ')] for phase in changed}

    resume(1)
    assert resume(2) == {'train': [], 'val': []}

    # Other content at the same time, the same content at another time, another name
    def replace(path: Path) -> None:
        status = path.stat()
        path.write_bytes(path.with_name('000.png').read_bytes())
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def touch(path: Path) -> None:
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    for epochs, change in ((3, replace), (4, touch)):
        for path, _ in changed.values():
            change(path)
        said = resume(epochs)
        for phase, (path, count) in changed.items():
            (line,) = said[phase]
            assert f': 1 of {count} images have another size in bytes or time of change' in line
            assert line.endswith(f': {path.stem}')

    for path, _ in changed.values():
        for folder in (path.parents[1] / 'sharp', path.parents[1] / 'blurry'):
            (folder / path.name).rename(folder / f'new_{path.name}')
    assert resume(5) == {phase: [f'{phase}: the names of the images are others than then'] for phase in changed}
