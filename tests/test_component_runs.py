"""Runs with facial component losses: exact resuming, several processes, options, other commands."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import processes
from comparing import assert_same_run, read_records
from conftest import tiny_options, write_options
from gpen.commands import export
from gpen.errors import UserError
from gpen.memory.plan import Recipe, forecast
from gpen.options import parse_options
from gpen.restoration.loading import load_restorer
from landmark_files import write_landmarks
from test_components import COMPONENTS, NAMES, build_with_components, networks_of
from tiny_model import CPU, prior_options


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of landmarks for the tiny data set."""
    names = [f'{n:03d}' for n in range(7)]
    return write_landmarks(tmp_path_factory.mktemp('landmarks') / 'landmarks.csv', names)


def options_of(tiny_data: Path, landmarks: Path, root: Path, **train: Any) -> dict[str, Any]:
    options = tiny_options(tiny_data, root)
    options['datasets']['train']['landmarks'] = str(landmarks)
    options['train'] |= {'component_opt': COMPONENTS, **train}
    return options


def write(tiny_data: Path, landmarks: Path, root: Path, **train: Any) -> Path:
    root.mkdir(exist_ok=True)
    return write_options(root / 'tiny.yml', options_of(tiny_data, landmarks, root, **train))


def run(option_file: Path, *arguments: object, **settings: Any) -> tuple[int, str]:
    return processes.run(option_file.with_name('log'), '-opt', option_file, *arguments, **settings)


HELPERS: dict[str, Any] = {
    'feature_matching_opt': {'type': 'FeatureMatchingLoss', 'loss_weight': 0.02, 'norm': 'l2_sum'},
    'augment_opt': {'ada_target': 0.1, 'ada_images': 40},
    **{'path_reg_weight': 2.0, 'net_g_reg_every': 2, 'use_grad_norm': True, 'grad_norm_clip': 0.01},
    **{'ema_decay': None, 'ema_halflife_images': 20, 'ema_scheduler': {'share': 0.5}},
}


def test_a_killed_run_with_all_other_helpers_continues_bit_for_bit(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    whole, broken = (write(tiny_data, data, tmp_path / name, **HELPERS) for name in ('whole', 'broken'))
    status, printed = run(whole)
    assert status == 0, printed
    assert 'component_opt: ComponentDiscriminators, ' in printed

    for place in (('step', 7), ('half_written', 3), ('link', 3)):
        assert run(broken, '--auto_resume', kill_at=place)[0] == -signal.SIGKILL
    status, printed = run(broken, '--auto_resume')
    assert status == 0, printed
    folder = whole.parent / 'experiments' / 'tiny'
    assert_same_run(broken.parent / 'experiments' / 'tiny', folder)

    models = {path.name for path in (folder / 'models').iterdir()}
    assert {name for name in models if 'components' in name} == {
        *('net_d_components_12.pth', 'net_d_components_16.pth', 'net_d_components_latest.pth')
    }
    record = next(record for record in read_records(folder) if record['phase'] == 'train')
    assert {f'D_loss_component_{name}' for name in NAMES} <= set(record)


def test_two_processes_do_what_one_does_with_the_whole_batch(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    folders = []
    for name, size in (('alone', 4), ('together', 2)):
        option_file = write(tiny_data, data, tmp_path / name, total_epochs=2)
        arguments = ('-opt', option_file, '--force_yml', f'datasets:train:batch_size_per_gpu={size}')
        if name == 'alone':
            assert processes.run(tmp_path / 'log', *arguments)[0] == 0
        else:
            results = processes.run_together(tmp_path / name, *arguments)
            assert [status for status, _ in results] == [0, 0], results
        folders.append(tmp_path / name / 'experiments' / 'tiny' / 'models')
    for file in ('net_g_latest.pth', 'net_d_components_latest.pth'):
        one, other = (torch.load(folder / file, weights_only=True)['params'] for folder in folders)
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-5, msg=f'{file} {key}')


def test_a_checkpoint_without_components_is_refused_in_a_sentence(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    option_file = write(tiny_data, data, tmp_path, component_opt=None)
    assert run(option_file, '--force_yml', 'train:total_epochs=1')[0] == 0
    write(tiny_data, data, tmp_path)
    status, printed = run(option_file, '--auto_resume')
    assert status == 2
    assert 'does not fit this run' in printed
    assert 'component_opt' in printed
    assert 'Traceback' not in printed


# ---- options


def errors_of(tmp_path: Path, options: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_options(write_options(tmp_path / 'options.yml', options))
    return str(caught.value)


def test_what_component_losses_need_is_said(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    options = options_of(tiny_data, data, tmp_path)
    assert not parse_options(write_options(tmp_path / 'good.yml', options)).warnings

    del options['datasets']['train']['landmarks']
    assert 'train.component_opt: needs datasets.train.landmarks: manifest.csv of' in errors_of(tmp_path, options)

    options = options_of(tiny_data, data, tmp_path, gan_opt=None)
    del options['network_d']
    assert 'train.component_opt: needs gan_opt' in errors_of(tmp_path, options)

    options = options_of(tiny_data, tmp_path / 'none.csv', tmp_path)
    assert f'datasets.train.landmarks: there is no file {tmp_path / "none.csv"}' in errors_of(tmp_path, options)


def test_a_wrong_loss_or_argument_is_said(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    for block, message in (
        ({'type': 'L1Loss'}, 'L1Loss does not judge facial components; use ComponentLoss here'),
        ({'type': 'ComponentLoss', 'style_wieght': 1}, 'style_weight'),
        ({'type': 'ComponentLoss', 'channels': 0}, 'channels'),
        ({'type': 'ComponentLoss', 'style_weight': -1}, 'style_weight'),
    ):
        assert message in errors_of(tmp_path, options_of(tiny_data, data, tmp_path, component_opt=block))
    options = options_of(tiny_data, data, tmp_path, losses={'component_mouth': {'type': 'L1Loss'}})
    assert 'train.losses.component_mouth: has the name of a built-in loss' in errors_of(tmp_path, options)
    options = options_of(tiny_data, data, tmp_path, pixel_opt=COMPONENTS)
    assert 'ComponentLoss judges facial components; it belongs to train.component_opt' in errors_of(tmp_path, options)


def test_a_prior_has_no_components(tiny_data: Path, tmp_path: Path) -> None:
    options = prior_options(tiny_data, tmp_path, component_opt=COMPONENTS)
    message = 'train.component_opt: compares a restored face with its sharp one, but GPENPriorModel restores none'
    assert message in errors_of(tmp_path, options)


def test_landmarks_without_effect_are_said(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    options = options_of(tiny_data, data, tmp_path, component_opt={**COMPONENTS, 'loss_weight': 0})
    warnings = parse_options(write_options(tmp_path / 'options.yml', options)).warnings
    assert any('datasets.train.landmarks: has no effect without train.component_opt' in one for one in warnings)

    options = options_of(tiny_data, data, tmp_path)
    options['datasets']['val']['landmarks'] = str(data)
    assert 'datasets.val.landmarks: has no effect' in errors_of(tmp_path, options)


# ---- other commands


def test_a_dry_run_trains_a_step_with_components(tiny_data: Path, data: Path, tmp_path: Path) -> None:
    status, printed = run(write(tiny_data, data, tmp_path), '--dry_run')
    assert status == 0, printed
    assert 'G_loss_component_mouth' in printed
    assert not (tmp_path / 'experiments').exists()


def test_memory_is_forecast_with_components(tmp_path: Path) -> None:
    uses = {}
    for name, train in (('plain', {}), ('components', {'component_opt': {**COMPONENTS, 'channels': 64}})):
        options = options_of(tmp_path / 'nowhere', tmp_path / 'none.csv', tmp_path, component_opt=None)
        options['train'] |= train
        found = forecast(Recipe(str(write_options(tmp_path / f'{name}.yml', options)))).with_r1
        assert found is not None
        uses[name] = found
    model = build_with_components(component_opt={**COMPONENTS, 'channels': 64})
    count = sum(weight.numel() for weight in networks_of(model))
    assert uses['components'].weights - uses['plain'].weights >= 4 * count
    assert uses['components'].optimizer - uses['plain'].optimizer >= 8 * count


def test_the_networks_of_a_run_with_components_are_scored_and_exported_as_others(
    tiny_data: Path, data: Path, tmp_path: Path
) -> None:
    option_file = write(tiny_data, data, tmp_path, total_epochs=1)
    assert run(option_file)[0] == 0
    weights = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    status, printed = run(option_file, command='test')
    assert status == 0, printed
    assert export.export(export.parse_arguments(['--model', str(weights), '--format', 'safetensors'])) == 0
    assert load_restorer(weights.with_suffix('.safetensors'), CPU).size == 16
