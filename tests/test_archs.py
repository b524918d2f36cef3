"""The networks: agreement with the published ones, layouts, and what they refuse."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpen.archs import build_network
from gpen.archs.gpen import GPEN
from gpen.archs.layers import EqualLinear
from gpen.errors import UserError
from gpen.registry import ARCH_REGISTRY
from gpen.registry.published import MODELS

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / 'shared' / 'reference'
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f'the reference numbers are not in {REFERENCE}')

TINY = {'type': 'GPEN', 'size': 16, 'style_dim': 8, 'n_mlp': 2, 'narrow': 1 / 64}
TINY_D = {'type': 'GPENDiscriminator', 'size': 16, 'narrow': 1 / 64}


@cache
def read_arrays(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the arrays of a reference file."""
    with np.load(REFERENCE / name) as file:
        config = json.loads(str(file['config']))
        return config, {key: torch.from_numpy(file[key]) for key in file.files if key != 'config'}


def select(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def assert_output(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def assert_gradients(actual: dict[str, Tensor | None], expected: dict[str, Tensor]) -> None:
    assert expected
    for key, theirs in expected.items():
        ours = actual[key]
        ours = torch.zeros_like(theirs) if ours is None else ours
        largest = theirs.abs().max()
        difference = (ours - theirs).abs().max()
        assert difference <= 1e-4 * largest, f'{key}: differs by {difference:.2e}, largest entry {largest:.2e}'


def build_reference_networks() -> tuple[torch.nn.Module, torch.nn.Module, dict[str, Tensor]]:
    config, arrays = read_arrays('gpen_parity_32.npz')
    shared = {key: config[key] for key in ('size', 'channel_multiplier', 'narrow')}
    generator = build_network(
        {'type': 'GPEN', 'style_dim': config['style_dim'], 'n_mlp': config['n_mlp'], **shared},
    )
    discriminator = build_network({'type': 'GPENDiscriminator', **shared})
    generator.load_state_dict(select(arrays, 'g/'), strict=True)
    discriminator.load_state_dict(select(arrays, 'd/'), strict=True)
    return generator, discriminator, arrays


@needs_reference
def test_generator_and_its_gradients_agree_with_the_published_network() -> None:
    generator, discriminator, arrays = build_reference_networks()
    lq = arrays['in/lq'].clone().requires_grad_()
    image, latents = generator(lq, return_latents=True)
    logits = discriminator(image)
    loss = (image - arrays['in/gt']).abs().mean() + 0.1 * F.softplus(-logits).mean()
    loss.backward()
    assert_output(image, arrays['out/image'])
    assert_output(latents, arrays['out/latent'])
    assert_output(logits, arrays['out/d_fake'])
    assert_output(loss, arrays['out/g_loss'])
    assert_gradients({'lq': lq.grad}, select(arrays, 'grad/'))
    gradients = {name: parameter.grad for name, parameter in generator.named_parameters()}
    expected = select(arrays, 'grad_g/')
    assert_gradients(gradients, expected)
    assert set(gradients) == set(expected)


@needs_reference
def test_r1_and_its_gradients_agree_with_the_published_network() -> None:
    _, discriminator, arrays = build_reference_networks()
    real = arrays['in/gt'].clone().requires_grad_()
    logits = discriminator(real)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    r1 = gradient.square().sum(dim=(1, 2, 3)).mean()
    r1.backward()
    assert_output(logits, arrays['out/d_real'])
    torch.testing.assert_close(r1, arrays['out/r1'], rtol=1e-4, atol=0)
    gradients = {name: parameter.grad for name, parameter in discriminator.named_parameters()}
    assert_gradients(gradients, select(arrays, 'grad_d_r1/'))


@needs_reference
def test_every_reference_array_is_compared() -> None:
    _, arrays = read_arrays('gpen_parity_32.npz')
    prefixes = {key.split('/')[0] for key in arrays}
    assert prefixes == {'g', 'd', 'in', 'out', 'grad', 'grad_g', 'grad_d_r1'}
    outputs = set(select(arrays, 'out/'))
    assert outputs == {'image', 'latent', 'd_fake', 'd_real', 'g_loss', 'r1'}


@needs_reference
def test_input_smaller_than_output_agrees_with_the_published_network() -> None:
    config, arrays = read_arrays('gpen_sr_parity_16_to_32.npz')
    config = {**config, 'size': config['out_size']}
    del config['out_size']
    generator = build_network({'type': 'GPEN', **config})
    generator.load_state_dict(select(arrays, 'g/'), strict=True)
    with torch.no_grad():
        assert_output(generator(arrays['in/lq']), arrays['out/image'])


@needs_reference
@pytest.mark.parametrize('name', ['GPEN-BFR-256', 'GPEN-BFR-512', 'GPEN-BFR-1024', 'GPEN-BFR-2048'])
def test_state_dicts_have_the_published_keys_shapes_and_order(name: str) -> None:
    layout = json.loads((REFERENCE / 'checkpoint_layout.json').read_text())[name]
    options = {key: layout[key] for key in ('size', 'channel_multiplier', 'narrow')}
    with torch.device('meta'):
        networks = {
            'generator': build_network({'type': 'GPEN', **options}),
            'discriminator': build_network({'type': 'GPENDiscriminator', **options}),
        }
    for kind, network in networks.items():
        state = network.state_dict()
        assert {key: list(value.shape) for key, value in state.items()} == layout[kind]
        assert list(state) == list(layout[kind])
        published = {key: torch.empty(shape, device='meta') for key, shape in layout[kind].items()}
        network.load_state_dict(published, strict=True)
        assert sum(value.numel() for value in network.parameters()) == layout[f'{kind}_params']


@pytest.mark.parametrize('name', MODELS)
def test_the_listed_size_of_a_published_model_is_that_of_its_network(name: str) -> None:
    size = int(name.removesuffix('-D').rpartition('-')[2])
    width = {'channel_multiplier': 1, 'narrow': 0.5} if size == 256 else {'channel_multiplier': 2, 'narrow': 1}
    with torch.device('meta'):
        network = build_network({'type': 'GPENDiscriminator' if name.endswith('-D') else 'GPEN', 'size': size, **width})
    assert (MODELS[name].pixels, MODELS[name].parameters) == (size, sum(v.numel() for v in network.parameters()))


@needs_reference
def test_filters_at_the_start_are_those_of_the_published_files() -> None:
    generator, discriminator, arrays = build_reference_networks()
    for prefix, network in (('g/', generator), ('d/', discriminator)):
        fresh = type(network)(32, narrow=1 / 32)
        for key, value in select(arrays, prefix).items():
            if key.endswith('kernel'):
                torch.testing.assert_close(fresh.state_dict()[key], value)


@pytest.mark.parametrize('lr_mul', [1.0, 0.01])
def test_a_linear_layer_starts_with_outputs_of_the_size_of_its_inputs_times_its_rate(lr_mul: float) -> None:
    torch.manual_seed(0)
    layer = EqualLinear(64, 256, bias_init=2.0, lr_mul=lr_mul)
    assert float(layer.weight.detach().std()) * lr_mul == pytest.approx(1, rel=0.02)
    x = torch.randn(500, 64)
    assert float((layer(x) - 2 * lr_mul).detach().std()) == pytest.approx(1, rel=0.05)


def test_new_network_starts_with_a_sensible_image_and_no_encoder_features() -> None:
    torch.manual_seed(0)
    network = build_network(TINY)
    image = network(torch.rand(4, 3, 16, 16) * 2 - 1)
    assert image.shape == (4, 3, 16, 16)
    assert 0.05 < image.std() < 20
    injections = [value for key, value in network.state_dict().items() if key.endswith('noise.weight')]
    assert len(injections) == 5
    assert not any(value.any() for value in injections)
    biases = [value for key, value in network.state_dict().items() if key.endswith('modulation.bias')]
    assert all(torch.equal(value, torch.ones_like(value)) for value in biases)


@pytest.mark.parametrize(
    ('narrow', 'multiplier', 'expected'),
    [(0.5, 1, [256, 128, 64]), (1.0, 2, [512, 512, 256]), (0.3, 2, [153, 153, 76]), (0.004, 2, [2, 2, 1])],
)
def test_narrow_and_channel_multiplier_set_the_channel_counts(
    narrow: float, multiplier: int, expected: list[int]
) -> None:
    with torch.device('meta'):
        network = build_network({'type': 'GPEN', 'size': 128, 'channel_multiplier': multiplier, 'narrow': narrow})
    state = network.state_dict()
    assert [state[f'generator.convs.{index}.conv.weight'].shape[1] for index in (4, 6, 8)] == expected
    assert [state[f'ecd{index}.0.{index and 1}.weight'].shape[0] for index in (2, 1, 0)] == expected


def test_adding_features_makes_the_decoder_a_plain_stylegan2() -> None:
    network = build_network({**TINY, 'isconcat': False})
    state = network.state_dict()
    assert state['generator.conv1.activate.bias'].shape == (8,)
    assert state['generator.convs.1.conv.weight'].shape == (1, 8, 8, 3, 3)
    lq = torch.randn(2, 3, 16, 16)
    without = network(lq)
    with torch.no_grad():
        network.generator.convs[0].noise.weight.fill_(0.5)
    assert network(lq).shape == without.shape
    assert not torch.equal(network(lq), without)


def test_latents_have_one_row_per_layer_and_steer_the_image() -> None:
    network = build_network(TINY)
    image, latents = network(torch.randn(2, 3, 16, 16), return_latents=True)
    assert latents.shape == (2, 6, 8)
    (gradient,) = torch.autograd.grad(image.square().sum(), latents)
    assert all(gradient[:, row].any() for row in range(6))


def test_path_length_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(1)
    network = build_network({**TINY, 'size': 8, 'narrow': 1 / 128}).double()
    lq = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    noise = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    weight = network.generator.convs[0].conv.weight

    def measure_path_length() -> Tensor:
        image, latents = network(lq, return_latents=True)
        (gradient,) = torch.autograd.grad((image * noise).sum(), latents, create_graph=True)
        return gradient.square().sum()

    (analytic,) = torch.autograd.grad(measure_path_length(), weight)
    step = 1e-5 * torch.randn_like(weight)
    with torch.no_grad():
        weight.add_(step)
    above = measure_path_length()
    with torch.no_grad():
        weight.sub_(2 * step)
    slope = (above - measure_path_length()) / 2
    torch.testing.assert_close((analytic * step).sum(), slope, rtol=1e-5, atol=1e-12)


def test_levels_above_the_input_draw_noise_from_the_global_generator() -> None:
    torch.manual_seed(0)
    network = build_network({**TINY, 'in_size': 8})
    assert not hasattr(network, 'ecd2')
    lq = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for index in (0, 1, 2, 3):
            network.generator.convs[index].noise.weight.fill_(1)

    def restore(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return network(lq)

    assert restore(1).shape == (2, 3, 16, 16)
    assert torch.equal(restore(1), restore(1))
    assert not torch.equal(restore(1), restore(2))
    with torch.no_grad():
        for index in (2, 3):
            network.generator.convs[index].noise.weight.zero_()
    assert torch.equal(restore(1), restore(2))


def test_network_without_noise_levels_leaves_the_random_state_alone() -> None:
    network = build_network(TINY)
    before = torch.get_rng_state()
    network(torch.zeros(1, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), before)


def test_discriminator_returns_the_feature_of_each_block() -> None:
    network = build_network(TINY_D)
    images = torch.randn(3, 3, 16, 16)
    logits, features = network(images, return_features=True)
    assert logits.shape == (3, 1)
    assert torch.equal(logits, network(images))
    assert [tuple(feature.shape) for feature in features] == [(3, 8, 8, 8), (3, 8, 4, 4)]


def test_discriminator_sees_the_deviation_of_the_whole_batch() -> None:
    network = build_network(TINY_D)
    images = torch.randn(6, 3, 16, 16)
    changed = images.clone()
    changed[5] += 3
    with torch.no_grad():
        network.final_conv[0].weight[:, -1].fill_(1)  # let the deviation count
        assert not torch.allclose(network(images)[0], network(changed)[0])


def test_discriminator_takes_a_batch_of_one() -> None:
    image = torch.randn(1, 3, 16, 16, requires_grad=True)
    build_network(TINY_D)(image).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'size': 100}, ['size', 'power of two', '100']),
        ({'size': 4}, ['size', '8 to 4096']),
        ({'size': 16, 'in_size': 32}, ['in_size 32', 'size 16']),
        ({'size': 16, 'in_size': 12}, ['in_size', '12']),
        ({'size': 16, 'narrow': 0}, ['narrow', 'above 0']),
        ({'size': 16, 'channel_multiplier': 0}, ['channel_multiplier', 'above 0']),
        ({'size': 2048, 'narrow': 0.01}, ['narrow 0.01', '2048 x 2048']),
        ({'size': 16, 'style_dim': 0}, ['style_dim']),
        ({'size': 16, 'sise': 3}, ["'sise'", 'GPEN', 'channel_multiplier']),
        ({}, ["'size'", 'GPEN']),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_network({'type': 'GPEN', **options})
    assert [word for word in words if word not in str(caught.value)] == []


def test_unknown_or_missing_network_type_is_refused() -> None:
    with pytest.raises(UserError, match='Did you mean'):
        build_network({'type': 'GPENDiscriminatr', 'size': 16})
    with pytest.raises(UserError, match='type'):
        build_network({'size': 16})


@pytest.mark.parametrize('shape', [(1, 3, 8, 8), (1, 1, 16, 16), (3, 16, 16), (1, 3, 16, 8)])
@pytest.mark.parametrize('options', [TINY, TINY_D], ids=['generator', 'discriminator'])
def test_images_of_another_size_are_refused_with_both_sizes(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError) as caught:
        build_network(options)(torch.zeros(shape))
    assert 'N x 3 x 16 x 16' in str(caught.value)
    assert ' x '.join(map(str, shape)) in str(caught.value)


def test_options_of_the_networks_are_known_without_importing_them() -> None:
    definition = ARCH_REGISTRY.find('GPEN')
    assert definition is not None
    assert [parameter.name for parameter in definition.parameters] == [
        'size', 'style_dim', 'n_mlp', 'channel_multiplier', 'narrow', 'isconcat', 'in_size', 'grad_checkpoint',
    ]  # fmt: skip
    assert [parameter.default for parameter in definition.parameters] == [None, 512, 8, 2, 1.0, True, None, False]
    assert ARCH_REGISTRY.find('GPENDiscriminator') is not None


def test_networks_agree_about_the_defaults_of_the_options_that_they_share() -> None:
    defaults: dict[str, set[Any]] = {}
    for name in ('GPEN', 'GPENPrior', 'GPENDiscriminator'):
        definition = ARCH_REGISTRY.find(name)
        assert definition is not None
        for parameter in definition.parameters:
            if name == 'GPENDiscriminator' and parameter.default is None:  # the width may come from a file
                continue
            defaults.setdefault(parameter.name, set()).add((parameter.annotation, parameter.default))
    assert len(defaults) > 5
    assert all(len(values) == 1 for values in defaults.values()), defaults


def test_importing_the_package_does_not_import_torch() -> None:
    code = 'import sys, gpen.archs; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT / 'codes', check=False).returncode == 0


@pytest.mark.parametrize('isconcat', [True, False])
def test_fixed_noise_makes_a_result_independent_of_the_batch_and_is_no_weight(isconcat: bool) -> None:
    network = GPEN(size=32, in_size=8, style_dim=8, n_mlp=1, narrow=0.02, isconcat=isconcat).eval()
    for name, parameter in network.named_parameters():
        if name.endswith('noise.weight'):
            parameter.data.fill_(0.5)
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    keys = set(network.state_dict())
    assert not torch.equal(network(images[1:2]), network(images[1:2]))
    network.fix_noise(seed=4)
    together = network(images)
    assert torch.allclose(network(images[1:2]), together[1:2], atol=1e-5)
    network.fix_noise(seed=5)
    assert not torch.allclose(network(images), together, atol=1e-3)
    assert set(network.state_dict()) == keys


@pytest.mark.parametrize('isconcat', [True, False])
def test_folding_what_depends_on_the_weights_alone_changes_no_bit(isconcat: bool) -> None:
    network = GPEN(32, style_dim=8, n_mlp=2, narrow=0.05, isconcat=isconcat).eval().requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    faces = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = network(faces)
    keys = list(network.state_dict())
    weight = network.generator.conv1.conv.weight.clone()
    network.fold_scales()
    assert torch.equal(network(faces), expected)
    assert not torch.equal(network.generator.conv1.conv.weight, weight)
    assert list(network.state_dict()) == keys


def test_a_discriminator_of_no_width_is_refused() -> None:
    with pytest.raises(UserError, match='should be above 0, not 2 and 0'):
        build_network({'type': 'GPENDiscriminator', 'size': 16, 'narrow': 0})
