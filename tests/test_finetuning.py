"""Starting from weights: what stays, what starts anew, and the recipes of other tasks and of few photographs."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from command_line import succeed
from conftest import ROOT, degraded_options, write_options, write_pairs
from gpen.archs import build_network
from gpen.data.loader import build_dataset
from gpen.errors import UserError
from gpen.models.parameter_groups import freeze
from gpen.options import Options, parse_options
from gpen.weights.files import load_weights
from gpen.weights.networks import infer_discriminator_config
from tiny_model import build, equal, weights_of

RECIPES = ROOT / 'options' / 'train'
TINY_D = {'type': 'GPENDiscriminator', 'size': 16, 'narrow': 0.008}


def save_discriminator(folder: Path, **changes: Any) -> tuple[str, dict[str, Tensor]]:
    torch.manual_seed(1)
    state = build_network({**TINY_D, **changes}).state_dict()
    torch.save({'params': state}, folder / 'net_d.pth')
    return str(folder / 'net_d.pth'), state


def parse_recipe(name: str, faces: Path) -> Options:
    """Read a shipped recipe with all folders being ``faces``, and no files of weights."""
    overrides = [f'datasets:{phase}:dataroot_gt={faces}' for phase in ('train', 'val')]
    return parse_options(RECIPES / f'{name}.yml', [*overrides, *(f'path:pretrain_network_{n}=~' for n in 'gd')]).options


@pytest.fixture(scope='module')
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('faces')
    write_pairs(folder, 2, size=64)
    return folder / 'sharp'


def test_a_discriminator_of_another_width_starts_anew_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = weights_of(build().net_d)
    path, _ = save_discriminator(tmp_path, narrow=0.05)
    with caplog.at_level(logging.WARNING, 'gpen'):
        model = build(path={'pretrain_network_d': path, 'strict_load_d': False})
    assert equal(weights_of(model.net_d), fresh)
    (message,) = caplog.messages
    assert 'the discriminator starts anew' in message
    assert path in message


def test_a_discriminator_that_mostly_fits_keeps_what_fits_and_the_rest_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = save_discriminator(tmp_path)
    state['final_linear.1.weight'] = torch.zeros(2, 2)
    torch.save({'params': state}, path)
    with caplog.at_level(logging.WARNING, 'gpen'):
        model = build(path={'pretrain_network_d': path, 'strict_load_d': False})
    assert model.net_d is not None
    loaded = model.net_d.state_dict()
    same = [name for name, value in state.items() if torch.equal(loaded[name], value)]
    assert set(state) - set(same) == {'final_linear.1.weight'}
    assert 'final_linear.1.weight' in caplog.text
    assert 'anew' not in caplog.text


def test_a_discriminator_that_must_fit_and_a_damaged_file_are_errors(tmp_path: Path) -> None:
    path, _ = save_discriminator(tmp_path, narrow=0.05)
    with pytest.raises(UserError, match='do not fit GPENDiscriminator'):
        build(path={'pretrain_network_d': path})
    Path(path).write_bytes(b'no weights')
    with pytest.raises(UserError, match=r'net_d\.pth'):
        build(path={'pretrain_network_d': path, 'strict_load_d': False})


def test_a_generator_of_another_width_never_starts_anew(tmp_path: Path) -> None:
    torch.manual_seed(1)
    wide = {'type': 'GPEN', 'size': 16, 'style_dim': 16, 'n_mlp': 2, 'narrow': 0.05}
    torch.save(build_network(wide).state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(
        UserError,
        match=r'The file fits network_g: \{type: GPEN, .*style_dim: 16.*isconcat: true\}\. Change the options',
    ):
        build(path={'pretrain_network_g': str(tmp_path / 'wide.pth'), 'strict_load_g': False})


def test_fine_tuning_by_the_command_moves_what_is_not_frozen_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'train', 3, seed=7)
    write_pairs(tmp_path / 'val', 2, seed=8)
    options = degraded_options(tmp_path, tmp_path, [{'type': 'grayscale'}])
    options['datasets']['train']['augment'] = [{'type': 'affine'}, {'type': 'color_jitter'}]
    start = trained.parent / 'experiments' / 'tiny' / 'models' / 'net_g_best.pth'
    other, _ = save_discriminator(tmp_path, narrow=0.05)
    options['path'] |= {'pretrain_network_g': str(start), 'pretrain_network_d': other, 'strict_load_d': False}
    options['train'] |= {'total_epochs': 2, 'freeze_g': ['generator.*']}
    printed = succeed(write_options(tmp_path / 'finetune.yml', {**options, 'name': 'tuned'}))
    assert 'the discriminator starts anew' in printed
    models = tmp_path / 'experiments' / 'tuned' / 'models'
    before = load_weights(start)
    for key in ('params', 'params_ema'):
        after = load_weights(models / 'net_g_latest.pth', key)
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert moved
        assert not any(name.startswith('generator.') for name in moved)


@pytest.mark.parametrize('name', ['colorization_64', 'colorization_512'])
def test_colourisation_learns_the_colours_of_grey_faces(name: str, faces: Path) -> None:
    options = parse_recipe(name, faces)
    for block in (options.datasets.train, options.datasets.val):
        assert block is not None
        sample = build_dataset(block.to_dict())[0, 1]
        assert torch.allclose(sample['lq'][0], sample['lq'][2], atol=1e-6)
        assert (sample['gt'][0] - sample['gt'][2]).abs().mean() > 0.05


@pytest.mark.parametrize('name', ['inpainting_64', 'inpainting_512'])
def test_inpainting_learns_what_lies_under_white(name: str, faces: Path) -> None:
    options = parse_recipe(name, faces)
    for block in (options.datasets.train, options.datasets.val):
        assert block is not None
        sample = build_dataset(block.to_dict())[0, 1]
        changed = (sample['lq'] != sample['gt']).any(0)
        assert 0.005 < changed.float().mean() < 0.3
        assert (sample['lq'][:, changed] == 1).all()


@pytest.mark.parametrize(
    ('name', 'in_size', 'size'), [('super_resolution_64', 16, 64), ('super_resolution_512', 64, 512)]
)
def test_small_faces_become_large_ones(name: str, in_size: int, size: int, faces: Path) -> None:
    options = parse_recipe(name, faces)
    assert options.network_g.arguments['in_size'] == in_size
    for block in (options.datasets.train, options.datasets.val):
        assert block is not None
        sample = build_dataset(block.to_dict())[0]
        assert sample['lq'].shape == (3, in_size, in_size)
        assert sample['gt'].shape == (3, size, size)
    if size == 64:
        network = build_network(options.network_g.to_dict())
        assert network(sample['lq'][None]).shape == (1, 3, size, size)


@pytest.mark.parametrize('name', ['finetune', 'finetune_64'])
def test_patterns_of_the_fine_tuning_recipes_belong_to_their_networks(name: str, faces: Path) -> None:
    options = parse_recipe(name, faces)
    with torch.device('meta'):
        generator = build_network(options.network_g.to_dict())
    freeze(generator, options.train.freeze_g, 'train.freeze_g')
    frozen = [key for key, parameter in generator.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert 0 < len(frozen) < len(list(generator.parameters()))
    assert options.path.strict_load_d is False


@pytest.mark.parametrize('name', ['finetune', 'finetune_64'])
def test_no_two_draws_of_a_photograph_are_the_same_in_fine_tuning(name: str, faces: Path) -> None:
    block = parse_recipe(name, faces).datasets.train
    assert block is not None
    dataset = build_dataset(block.to_dict())
    draws = [dataset[epoch, 0] for epoch in range(3)]
    assert torch.equal(dataset[1, 0]['lq'], draws[1]['lq'])
    for kind in ('gt', 'lq'):
        assert not torch.equal(draws[0][kind], draws[1][kind])
        assert not torch.equal(draws[1][kind], draws[2][kind])


# --- the discriminator's width


@pytest.mark.parametrize(('multiplier', 'narrow'), [(2, 0.008), (1, 0.016), (2, 0.02)])
def test_the_width_of_a_discriminator_is_read_off_its_file(tmp_path: Path, multiplier: int, narrow: float) -> None:
    path, state = save_discriminator(tmp_path, channel_multiplier=multiplier, narrow=narrow)
    network = {'channel_multiplier': None, 'narrow': None}
    model = build(network_d=network, path={'pretrain_network_d': path})
    assert model.net_d is not None
    assert all(torch.equal(value, state[name]) for name, value in model.net_d.state_dict().items())


def test_a_discriminator_of_another_width_is_refused_with_the_line_to_write(tmp_path: Path) -> None:
    path, _ = save_discriminator(tmp_path, narrow=0.02)
    line = r'The file fits network_d: \{type: GPENDiscriminator, size: 16, channel_multiplier: 2, narrow: 0\.0\d+\}'
    with pytest.raises(UserError, match=line):
        build(path={'pretrain_network_d': path})
    given = str(re.search(r'network_d: (\{.*?\})', str(error_of(path)))[1])  # type: ignore[index]
    model = build(network_d=yaml.safe_load(given), path={'pretrain_network_d': path})
    assert model.net_d is not None


def error_of(path: str) -> UserError:
    with pytest.raises(UserError) as caught:
        build(path={'pretrain_network_d': path})
    return caught.value


@pytest.mark.parametrize('name', ['GPEN-BFR-256', 'GPEN-BFR-512', 'GPEN-BFR-1024', 'GPEN-BFR-2048'])
def test_the_published_discriminators_are_known_by_their_weights(name: str) -> None:
    layout = ROOT.parent / 'shared' / 'reference' / 'checkpoint_layout.json'
    if not layout.is_file():
        pytest.skip('the layout of the published files is not there')
    published = json.loads(layout.read_text())[name]
    state = {key: torch.empty(shape, device='meta') for key, shape in published['discriminator'].items()}
    found = infer_discriminator_config(state)
    assert found.pop('type') == 'GPENDiscriminator'
    assert found['size'] == published['size']
    with torch.device('meta'):
        network = build_network({'type': 'GPENDiscriminator', **found})
    assert {key: list(value.shape) for key, value in network.state_dict().items() if key in state} == {
        key: list(value.shape) for key, value in state.items()
    }


def test_a_file_of_something_else_says_so(tmp_path: Path) -> None:
    torch.save({'params': {'a.weight': torch.zeros(2)}}, tmp_path / 'other.pth')
    network = {'channel_multiplier': None, 'narrow': None}
    with pytest.raises(UserError, match='do not fit GPENDiscriminator'):
        build(network_d=network, path={'pretrain_network_d': str(tmp_path / 'other.pth')})
