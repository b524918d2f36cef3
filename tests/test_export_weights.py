"""Weights exported as safetensors and in the published layout are the checkpoint's, where they are expected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import export
from conftest import SHARED
from exporting import assert_same, files_in, make_network, save
from gpen.archs import build_network
from gpen.archs.gpen import GPEN
from gpen.errors import UserError
from gpen.restoration.export import Format, export_generator, plan_output

FLAT: tuple[Format, ...] = ('safetensors', 'gpen')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp('checkpoint') / 'net_g.pth', make_network())


@pytest.mark.parametrize('kind', FLAT)
@pytest.mark.parametrize(
    'options', [{}, {'size': 32, 'in_size': 16}, {'isconcat': False}], ids=['', 'enlarging', 'adding']
)
def test_weights_in_other_formats_restore_bit_for_bit(tmp_path: Path, kind: Format, options: dict[str, Any]) -> None:
    path = save(tmp_path / 'net.pth', make_network(**options))
    assert_same(export_generator(path, kind), path, 0)


def test_the_published_layout_is_a_flat_state_dict(checkpoint: Path, tmp_path: Path) -> None:
    path = export_generator(checkpoint, 'gpen', tmp_path / 'a.pth')
    state = torch.load(path, weights_only=True)
    network = make_network(seed=1)
    network.load_state_dict(state, strict=True)
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(tensor, make_network().state_dict()[name]) for name, tensor in state.items())


@pytest.mark.skipif(not (SHARED / 'reference').is_dir(), reason='needs ../shared/reference')
@pytest.mark.parametrize('name', ['gpen_parity_32.npz', 'gpen_sr_parity_16_to_32.npz'])
def test_the_published_class_finds_every_key_in_the_published_layout(tmp_path: Path, name: str) -> None:
    arrays = np.load(SHARED / 'reference' / name)
    published = {key[2:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith('g/')}
    config = json.loads(str(arrays['config']))
    options = {key: config[key] for key in ('style_dim', 'n_mlp', 'channel_multiplier', 'narrow')}
    size = {key: config[key] for key in ('in_size',) if key in config}
    network = build_network({'type': 'GPEN', 'size': config.get('size', config.get('out_size')), **size, **options})
    network.load_state_dict(published)
    state = torch.load(export_generator(save(tmp_path / 'net.pth', network), 'gpen'), weights_only=True)
    assert list(state) == list(published)
    assert all(torch.equal(state[key], published[key]) and state[key].dtype == torch.float32 for key in published)


def test_safetensors_have_the_options_as_metadata(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(export_generator(checkpoint, 'safetensors', tmp_path / 'a.safetensors'), 'pt') as content:
        metadata = content.metadata()
        names = set(content.keys())
    assert names == set(make_network().state_dict())
    assert metadata['format'] == 'pt'
    assert metadata['version'].startswith('gpen-trainer ')
    options = json.loads(metadata['network_g'])
    assert options.pop('type') == 'GPEN'
    assert {name: tuple(tensor.shape) for name, tensor in GPEN(**options).state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in make_network().state_dict().items()
    }


@pytest.mark.parametrize(
    'wrap',
    [lambda state: state, lambda state: {'g_ema': state}, lambda state: {f'module.{key}': state[key] for key in state}],
    ids=['published', 'self-trained', 'parallel'],
)
def test_every_kind_of_checkpoint_can_be_exported(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    path = tmp_path / 'net.pth'
    torch.save(wrap(make_network().state_dict()), path)
    middle = export_generator(path, 'safetensors')
    assert_same(export_generator(middle, 'gpen', tmp_path / 'b.pth'), path, 0)


def test_files_lie_beside_the_checkpoint_and_never_replace_it() -> None:
    checkpoint = Path('models/net_g_latest.pth')
    names = {kind: plan_output(checkpoint, kind, None, False).as_posix() for kind in ('onnx', *FLAT)}
    assert names == {
        'onnx': 'models/net_g_latest.onnx',
        'safetensors': 'models/net_g_latest.safetensors',
        'gpen': 'models/net_g_latest_gpen.pth',
    }
    with pytest.raises(UserError, match='is the checkpoint itself'):
        plan_output(checkpoint, 'gpen', Path('models/../models/net_g_latest.pth'), True)
    with pytest.raises(UserError, match='is the checkpoint itself'):
        plan_output(Path('net.safetensors'), 'safetensors', None, True)


def test_a_file_that_is_there_stays_unless_told_otherwise(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'a.pth'
    output.write_bytes(b'precious')
    command = ['--model', str(checkpoint), '--format', 'gpen', '--output', str(output)]
    assert export.main(command) == 2
    message = capsys.readouterr().err
    assert message.startswith(f'Error: {output} is there already.')
    assert '--overwrite' in message
    assert output.read_bytes() == b'precious'
    assert export.main([*command, '--overwrite']) == 0
    assert_same(output, checkpoint, 0)
    assert files_in(tmp_path) == ['a.pth']
