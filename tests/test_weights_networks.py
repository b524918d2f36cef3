"""Weights from all kinds of files, and what is said about those that do not fit."""

import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpen.archs import build_network
from gpen.errors import UserError
from gpen.weights.files import DISCRIMINATOR_WRAPPERS, WRAPPERS, load_weights
from gpen.weights.networks import LeftOut, fit_weights, infer_gpen_config

LAYOUTS = Path(__file__).resolve().parents[2] / 'shared' / 'reference' / 'checkpoint_layout.json'
TINY = {'type': 'GPEN', 'size': 16, 'style_dim': 8, 'n_mlp': 2, 'narrow': 1 / 64}
TINY_D = {'type': 'GPENDiscriminator', 'size': 16, 'narrow': 1 / 64}


def fill(value: float) -> dict[str, Tensor]:
    return {'weight': torch.full((3, 2), value), 'bias': torch.full((3,), value)}


def save(folder: Path, content: Any, name: str = 'file.pth') -> Path:
    torch.save(content, folder / name)
    return folder / name


def load_network(network: nn.Module, path: Path, strict: bool = True, prefer: Sequence[str] = WRAPPERS) -> LeftOut:
    return fit_weights(network, load_weights(path, prefer=prefer), path, strict)


def explain(path: Path, **arguments: Any) -> str:
    """Return the one message with which loading fails."""
    with pytest.raises(UserError) as caught:
        load_weights(path, **arguments)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    return message


class RunsCode:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ('echo this must not run > ran.txt',)


@pytest.mark.parametrize(
    'content',
    [
        fill(1),
        {'params_ema': fill(1), 'params': fill(2)},
        {'params': fill(1)},
        {'g_ema': fill(1), 'g': fill(2), 'd': fill(3), 'g_optim': {'param_groups': [{'lr': 1e-4}]}, 'd_optim': {}},
        {'g': fill(1), 'd': fill(3)},
        {'d': fill(1)},
        {'state_dict': fill(1), 'epoch': 3},
        {'model': fill(1), 'iteration': 7},
    ],
    ids=lambda content: '+'.join(content),
)
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, content: dict[str, Any], prefix: str) -> None:
    def add_prefix(item: Any) -> Any:
        if not isinstance(item, dict) or 'weight' not in item:
            return item
        return {prefix + key: value for key, value in item.items()}

    prefixed = add_prefix(content) if 'weight' in content else {key: add_prefix(item) for key, item in content.items()}
    weights = load_weights(save(tmp_path, prefixed))
    assert set(weights) == {'weight', 'bias'}
    assert torch.equal(weights['weight'], fill(1)['weight'])


def test_layer_called_module_keeps_its_name(tmp_path: Path) -> None:
    state = {'module.weight': torch.ones(1), 'other.weight': torch.ones(1)}
    assert set(load_weights(save(tmp_path, state))) == set(state)


def test_param_key_chooses_the_weights(tmp_path: Path) -> None:
    path = save(tmp_path, {'params_ema': fill(1), 'params': fill(2)})
    assert load_weights(path, param_key='params')['bias'][0] == 2


def test_discriminator_of_a_self_trained_file_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, {'g': fill(1), 'd': fill(3), 'g_ema': fill(2), 'g_optim': {}, 'd_optim': {}})
    assert load_weights(path, prefer=DISCRIMINATOR_WRAPPERS)['bias'][0] == 3


def test_unknown_param_key_lists_the_keys_there_are(tmp_path: Path) -> None:
    message = explain(save(tmp_path, {'params': fill(2), 'g': fill(2), 'epoch': 1}), param_key='params_ema')
    assert 'params_ema' in message
    assert 'params, g' in message
    assert 'epoch' not in message
    assert 'leave param_key out' in explain(save(tmp_path, fill(1)), param_key='params_ema')


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'file.safetensors'
    save_file({f'module.{key}': value for key, value in fill(4).items()}, path)
    assert torch.equal(load_weights(path)['bias'], fill(4)['bias'])


def test_weights_come_without_gradients_and_on_the_cpu(tmp_path: Path) -> None:
    weights = load_weights(save(tmp_path, {'params': {'weight': nn.Parameter(torch.ones(2))}}))
    assert not weights['weight'].requires_grad
    assert weights['weight'].device.type == 'cpu'


def test_file_that_needs_code_is_refused_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = explain(save(tmp_path, {'params': fill(1), 'extra': RunsCode()}))
    assert 'system' in message
    assert not (tmp_path / 'ran.txt').exists()
    assert 'Linear' in explain(save(tmp_path, {'params': nn.Linear(2, 2)}))


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert 'no file' in explain(tmp_path / 'nowhere.pth')
    assert 'no file' in explain(tmp_path / 'nowhere.safetensors')
    assert 'Cannot read' in explain(tmp_path)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
@pytest.mark.parametrize('share', [0.02, 0.3, 0.7, 0.95])
def test_truncated_file_is_named(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / ('file.safetensors' if kind == 'safetensors' else 'file.pth')
    if kind == 'safetensors':
        save_file(fill(1), path)
    else:
        torch.save({'params': fill(1)}, path, _use_new_zipfile_serialization=kind == 'zip')
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert 'damaged' in explain(path)


@pytest.mark.parametrize('seed', range(40))
def test_damaged_file_never_ends_in_another_exception(tmp_path: Path, seed: int) -> None:
    path = tmp_path / 'file.pth'
    torch.save({'params': fill(1)}, path, _use_new_zipfile_serialization=seed % 2 == 0)
    content = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for position in torch.randint(len(content), (30,), generator=generator).tolist():
        content[position] = int(torch.randint(256, (1,), generator=generator))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with suppress(UserError):  # anything else fails the test
            assert all(isinstance(value, Tensor) for value in load_weights(path).values())


@pytest.mark.parametrize('content', [[1, 2], {'epoch': 3}, {}, {'params': {}}, torch.zeros(2)])
def test_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    message = explain(save(tmp_path, content))
    assert 'weights' in message


def test_loaded_network_gives_the_saved_networks_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, other = build_network(TINY), build_network(TINY)
    lq = torch.randn(1, 3, 16, 16)
    assert not torch.equal(saved(lq), other(lq))
    left_out = load_network(other, save(tmp_path, {'params_ema': saved.state_dict()}))
    assert not left_out
    assert torch.equal(saved(lq), other(lq))


def test_mismatch_names_file_keys_and_both_shapes(tmp_path: Path) -> None:
    state = build_network(TINY).state_dict()
    del state['final_linear.0.bias']
    state['surplus.weight'] = torch.zeros(1)
    state['ecd0.0.0.weight'] = torch.zeros(4, 3, 1, 1)
    path = save(tmp_path, state)
    network = build_network(TINY)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_network(network, path)
    message = str(caught.value)
    for part in (
        str(path), 'GPEN', '1 missing in the file (final_linear.0.bias)', '1 unknown to the network (surplus.weight)',
        'ecd0.0.0.weight: file 4 x 3 x 1 x 1, network 8 x 3 x 1 x 1', 'strict_load',
    ):  # fmt: skip
        assert part in message
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_mismatch_says_which_network_the_file_is_for(tmp_path: Path) -> None:
    path = save(tmp_path, build_network({**TINY, 'size': 32}).state_dict())
    with pytest.raises(
        UserError, match=r'fits network_g: \{type: GPEN, size: 32, in_size: 32, .*narrow: 0\.015625'
    ) as caught:
        load_network(build_network(TINY), path)
    assert len(str(caught.value)) < 1000


def test_loose_loading_takes_what_fits_and_lists_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = build_network(TINY)
    state = saved.state_dict()
    del state['final_linear.0.bias']
    state['surplus.weight'] = torch.zeros(1)
    state['ecd0.0.0.weight'] = torch.zeros(4, 3, 1, 1)
    network = build_network(TINY)
    left_out = load_network(network, save(tmp_path, state), strict=False)
    assert left_out.missing == ['final_linear.0.bias']
    assert left_out.unexpected == ['surplus.weight']
    assert left_out.mismatched == {'ecd0.0.0.weight': ((4, 3, 1, 1), (8, 3, 1, 1))}
    assert torch.equal(network.state_dict()['ecd1.0.1.weight'], state['ecd1.0.1.weight'])
    assert not torch.equal(network.state_dict()['ecd0.0.0.weight'], saved.state_dict()['ecd0.0.0.weight'])


@pytest.mark.parametrize('strict', [True, False])
def test_weights_of_another_kind_of_network_are_refused(tmp_path: Path, strict: bool) -> None:
    path = save(tmp_path, build_network(TINY_D).state_dict())
    with pytest.raises(UserError, match='this kind of network'):
        load_network(build_network(TINY), path, strict=strict)


def test_discriminator_loads_from_a_self_trained_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, other = build_network(TINY_D), build_network(TINY_D)
    generator = build_network(TINY).state_dict()
    path = save(tmp_path, {'g': generator, 'd': saved.state_dict(), 'g_ema': generator, 'g_optim': {}, 'd_optim': {}})
    load_network(other, path, prefer=DISCRIMINATOR_WRAPPERS)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(saved(images), other(images))


@pytest.mark.skipif(not LAYOUTS.is_file(), reason=f'the published layouts are not in {LAYOUTS.parent}')
@pytest.mark.parametrize('name', ['GPEN-BFR-256', 'GPEN-BFR-512', 'GPEN-BFR-1024', 'GPEN-BFR-2048'])
def test_options_are_read_off_the_published_files(name: str) -> None:
    layout = json.loads(LAYOUTS.read_text())[name]
    state = {key: torch.empty(shape, device='meta') for key, shape in layout['generator'].items()}
    assert infer_gpen_config(state) == {
        'type': 'GPEN',
        'size': layout['size'],
        'in_size': layout['size'],
        'style_dim': 512,
        'n_mlp': 8,
        'channel_multiplier': layout['channel_multiplier'],
        'narrow': layout['narrow'],
        'isconcat': True,
    }


@pytest.mark.parametrize(
    'options',
    [
        {'size': 8, 'style_dim': 3, 'n_mlp': 1, 'narrow': 0.01},
        {'size': 32, 'in_size': 8, 'isconcat': False, 'narrow': 0.1},
        {'size': 128, 'narrow': 0.3, 'channel_multiplier': 1},
        {'size': 128, 'narrow': 0.0313, 'channel_multiplier': 3},
        {'size': 256, 'narrow': 1 / 3, 'channel_multiplier': 4},
        {'size': 512, 'narrow': 0.7, 'channel_multiplier': 7},
    ],
    ids=str,
)
def test_network_built_from_inferred_options_has_the_same_layout(options: dict[str, Any]) -> None:
    with torch.device('meta'):
        state = build_network({'type': 'GPEN', 'style_dim': 16, **options}).state_dict()
        config = infer_gpen_config(state)
        rebuilt = build_network(config).state_dict()
    assert {key: value.shape for key, value in rebuilt.items()} == {key: value.shape for key, value in state.items()}
    for key in ('size', 'isconcat'):
        assert config[key] == options.get(key, True)


def test_options_cannot_be_read_off_a_discriminator() -> None:
    with pytest.raises(UserError, match=r'not the weights of a GPEN generator \(convs\.0\.0\.weight'):
        infer_gpen_config(build_network(TINY_D).state_dict())
