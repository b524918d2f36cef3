"""A GPEN takes over the decoder, and the discriminator, of a GAN prior."""

import logging
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpen.archs import build_network
from gpen.archs.ops import make_fir_kernel, reference
from gpen.errors import UserError
from gpen.models import build_model
from gpen.options import Options
from gpen.runs.training_state import pack_networks
from gpen.weights.networks import load_generator
from tiny_model import CPU, PRIOR, batch_of, build, build_prior, equal, faces, prior_options, weights_of


@pytest.fixture(scope='module')
def prior_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator of a prior after two steps, as a run leaves it; its discriminator lies beside it."""
    folder = tmp_path_factory.mktemp('prior')
    model = build_prior()
    for iteration in (1, 2):
        model.train_step(faces(iteration), iteration)
    for stem, content in pack_networks(model).items():
        torch.save(content, folder / f'{stem}_latest.pth')
    return folder / 'net_g_latest.pth'


def test_the_second_stage_starts_from_the_first(
    prior_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = prior_file
    prior = torch.load(file, weights_only=True)
    with caplog.at_level(logging.INFO, logger='gpen'):
        model = build(path={'pretrain_prior': str(file)})
    for network in (model.net_g, model.net_g_ema):
        state = network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in prior['params_ema'].items())
    assert equal(weights_of(build().net_g)[-4:], weights_of(model.net_g)[-4:])  # the encoder is a new one
    assert model.net_d is not None
    discriminator = torch.load(file.with_name('net_d_latest.pth'), weights_only=True)['params']
    assert all(torch.equal(value, discriminator[name]) for name, value in model.net_d.state_dict().items())
    assert f'the decoder starts from {file}' in caplog.text
    assert f'the discriminator starts from {file.with_name("net_d_latest.pth")}' in caplog.text
    model.train_step(batch_of(1), 1)
    # A prior goes on from a prior, too; and the decoder of a GPEN is one.
    options = prior_options(Path('data'), tmp_path)
    options['path']['pretrain_prior'] = str(file)
    assert equal(weights_of(build_model(Options.model_validate(options), CPU).net_g), list(_parameters(prior)))
    torch.save({'params_ema': model.net_g_ema.state_dict()}, tmp_path / 'gpen.pth')
    again = build(path={'pretrain_prior': str(tmp_path / 'gpen.pth')})
    assert equal(weights_of(again.net_g.generator), weights_of(model.net_g_ema.generator))  # type: ignore[arg-type]


def _parameters(prior: dict[str, Any]) -> list[Tensor]:
    network = build_network(PRIOR)
    network.load_state_dict(prior['params_ema'])
    return list(network.parameters())


def test_a_discriminator_that_is_not_there_or_does_not_fit_starts_anew(
    prior_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(prior_file, weights_only=True)
    alone = tmp_path / 'prior.pth'
    torch.save(state, alone)
    fresh = weights_of(build().net_d)
    with caplog.at_level(logging.WARNING, logger='gpen'):
        assert equal(weights_of(build(path={'pretrain_prior': str(alone)}).net_d), fresh)
        torch.save({'g_ema': state['params_ema'], 'd': {'convs.0.0.weight': torch.zeros(9, 3, 1, 1)}}, alone)
        assert equal(weights_of(build(path={'pretrain_prior': str(alone)}).net_d), fresh)
    first, second = (record.getMessage() for record in caplog.records)
    assert 'the discriminator starts anew: there is none in' in first
    assert 'does not fit' in second
    assert 'convs.0.0.weight: file 9 x 3 x 1 x 1' in second


# --- StyleGAN2 in rosinality's layout


def stylegan2_state(size: int, width: int, style_dim: int, n_mlp: int, mlp_scale: float = 1.0) -> dict[str, Tensor]:
    """Random weights of a generator under the names, in the shapes, of rosinality's stylegan2-pytorch."""
    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape)

    def add_conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        add(f'{name}.weight', 1, outputs, inputs, kernel, kernel)
        add(f'{name}.modulation.weight', inputs, style_dim)
        add(f'{name}.modulation.bias', inputs)

    def add_styled(name: str, upsamples: bool) -> None:
        add_conv(f'{name}.conv', width, width, 3)
        if upsamples:
            state[f'{name}.conv.blur.kernel'] = make_fir_kernel(gain=4.0)
        add(f'{name}.noise.weight', 1)
        add(f'{name}.activate.bias', width)

    def add_rgb(name: str, upsamples: bool) -> None:
        add(f'{name}.bias', 1, 3, 1, 1)
        if upsamples:
            state[f'{name}.upsample.kernel'] = make_fir_kernel(gain=4.0)
        add_conv(f'{name}.conv', width, 3, 1)

    for layer in range(1, n_mlp + 1):
        add(f'style.{layer}.weight', style_dim, style_dim)
        state[f'style.{layer}.weight'] /= 0.01 / mlp_scale
        add(f'style.{layer}.bias', style_dim)
    add('input.input', 1, width, 4, 4)
    add_styled('conv1', upsamples=False)
    add_rgb('to_rgb1', upsamples=False)
    levels = int(math.log2(size)) - 2
    for level in range(levels):
        add_styled(f'convs.{2 * level}', upsamples=True)
        add_styled(f'convs.{2 * level + 1}', upsamples=False)
        add_rgb(f'to_rgbs.{level}', upsamples=True)
    for index in range(2 * levels + 1):
        side = 4 * 2 ** ((index + 1) // 2)
        add(f'noises.noise_{index}', 1, 1, side, side)
    return state


def plain_stylegan2(state: dict[str, Tensor], z: Tensor, noises: list[Tensor]) -> Tensor:
    """StyleGAN2's forward pass, as Karras et al. 2020 state it; ``noises`` N x 1 x R x R for each resolution."""
    x = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
    layer = 1
    while f'style.{layer}.weight' in state:
        x = reference.equal_linear(x, state[f'style.{layer}.weight'], state[f'style.{layer}.bias'], 0.01, True)
        layer += 1
    w = x

    def convolve(name: str, x: Tensor, demodulate: bool = True, upsample: bool = False) -> Tensor:
        weight = state[f'{name}.weight'][0]
        weight = weight / math.sqrt(weight[0].numel())
        style = reference.equal_linear(w, state[f'{name}.modulation.weight'], state[f'{name}.modulation.bias'])
        x = reference.modulated_conv2d(x, weight, style, demodulate, upsample)
        return reference.fir_filter(x, state[f'{name}.blur.kernel'], padding=1) if upsample else x

    def styled(name: str, x: Tensor, noise: Tensor, upsample: bool = False) -> Tensor:
        x = convolve(f'{name}.conv', x, upsample=upsample) + state[f'{name}.noise.weight'] * noise
        return reference.fused_leaky_relu(x, state[f'{name}.activate.bias'])

    x = styled('conv1', state['input.input'].repeat(len(z), 1, 1, 1), noises[0])
    image = convolve('to_rgb1.conv', x, demodulate=False) + state['to_rgb1.bias']
    for level, noise in enumerate(noises[1:]):
        x = styled(f'convs.{2 * level}', x, noise, upsample=True)
        x = styled(f'convs.{2 * level + 1}', x, noise)
        skip = reference.fir_upsample(image, state[f'to_rgbs.{level}.upsample.kernel'])
        image = convolve(f'to_rgbs.{level}.conv', x, demodulate=False) + state[f'to_rgbs.{level}.bias'] + skip
    return image


@pytest.fixture
def stylegan2(tmp_path: Path) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint as StyleGAN2's training code writes it: 16 x 16, 4 channels; its g_ema and its d."""
    torch.manual_seed(5)
    generator = stylegan2_state(16, width=4, style_dim=8, n_mlp=2)
    discriminator = {
        name: value if name.endswith('kernel') else torch.randn(value.shape)
        for name, value in build().net_d.state_dict().items()  # type: ignore[union-attr]
    }
    path = tmp_path / 'stylegan2.pt'
    other = {name: torch.zeros_like(value) for name, value in generator.items()}
    content = {'g': other, 'd': discriminator, 'g_ema': generator, 'g_optim': {}, 'd_optim': {}}
    torch.save({**content, 'args': Namespace(size=16), 'ada_aug_p': 0}, path)
    return path, generator, discriminator


def test_a_stylegan2_checkpoint_makes_the_same_faces_in_the_decoder(
    stylegan2: tuple[Path, dict[str, Tensor], dict[str, Tensor]],
) -> None:
    path, state, discriminator = stylegan2
    model = build(network_g={'isconcat': False}, path={'pretrain_prior': str(path)})
    generator: Any = model.net_g.generator
    z = torch.randn(3, 8)
    noises = [torch.randn(3, 1, side, side) for side in (4, 8, 16)]
    image, _ = generator(z, noises)
    expected = plain_stylegan2(state, z, noises)
    assert expected.std() > 0.1
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)
    assert model.net_d is not None
    assert all(torch.equal(value, discriminator[name]) for name, value in model.net_d.state_dict().items())
    model.train_step(batch_of(1), 1)
    assert model.guard.review() == []


@pytest.mark.parametrize(
    ('network', 'words'),
    [
        ({}, r'a prior with isconcat: false, but network_g has isconcat: true\. Change'),
        ({'isconcat': False, 'narrow': 0.016}, r'a prior with narrow: 0\.0078125, but network_g has narrow: 0\.015625'),
        (
            {'isconcat': False, 'style_dim': 16, 'n_mlp': 3},
            r'with style_dim: 8, n_mlp: 2, but .* style_dim: 16, n_mlp: 3',
        ),
    ],
    ids=['concatenated', 'width', 'latents'],
)
def test_a_prior_of_another_kind_says_which_options_differ(
    network: dict[str, Any], words: str, stylegan2: tuple[Path, dict[str, Tensor], dict[str, Tensor]]
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(network_g=network, path={'pretrain_prior': str(stylegan2[0])})
    assert str(stylegan2[0]) in str(caught.value)


def test_a_prior_of_another_size_says_so(tmp_path: Path) -> None:
    path = tmp_path / 'large.pt'
    torch.save({'g_ema': stylegan2_state(32, width=4, style_dim=8, n_mlp=2)}, path)
    with pytest.raises(UserError, match=r'a prior with size: 32, but network_g has size: 16'):
        build(network_g={'isconcat': False}, path={'pretrain_prior': str(path)})


def test_a_file_without_a_prior_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'
    torch.save({'params': {'body.0.weight': torch.zeros(3)}}, path)
    with pytest.raises(UserError, match=r'holds no GAN prior \(body\.0\.weight\)'):
        build(path={'pretrain_prior': str(path)})


def test_a_prior_cannot_restore_and_says_how_to_go_on(prior_file: Path) -> None:
    with pytest.raises(
        UserError, match=r'weights of a GAN prior, .* restores none\. Train a GPEN .*path\.pretrain_prior'
    ):
        load_generator(prior_file)
