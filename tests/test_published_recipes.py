"""The recipes that train as the published code does: their steps are the published formulas."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import ROOT, find_tracked, write_pairs
from gpen.models import build_model
from gpen.options import Options, parse_options
from gpen.utils.seeds import derive_seed
from tiny_model import CPU, PlainAdam, batch_of

RECIPES = find_tracked(ROOT / 'options' / 'train', 'gpen_*_published.yml')
TINY = (
    *('network_g:size=16', 'network_g:style_dim=8', 'network_g:n_mlp=2', 'network_g:narrow=0.008'),
    *('network_d:size=16', 'network_d:narrow=0.008', 'train:identity_opt=~', 'val:metrics:lpips=~'),
    *('network_g:channel_multiplier=2', 'network_d:channel_multiplier=2'),
    *('datasets:train:batch_size_per_gpu=2', 'datasets:train:accumulate=1', 'num_gpu=0', 'train:num_gpu=0'),
)


@pytest.fixture
def faces(tmp_path: Path) -> list[str]:
    """Overrides that point a recipe to faces."""
    for phase in ('train', 'val'):
        write_pairs(tmp_path / phase, 3)
    return [f'datasets:{phase}:dataroot_gt={tmp_path / phase / "sharp"}' for phase in ('train', 'val')]


def tiny(recipe: Path, faces: list[str]) -> Options:
    return parse_options(recipe, [*faces, *TINY]).options


class PublishedStep:
    """The published training step in plain formulas: softplus losses, lazy R1 and path lengths, Adam, EMA."""

    def __init__(self, net_g: nn.Module, net_d: nn.Module) -> None:
        self.net_g, self.net_d = copy.deepcopy(net_g), copy.deepcopy(net_d)
        self.ema = copy.deepcopy(net_g)
        self.adam_g, self.adam_d = (PlainAdam(network, 2e-3, (0.0, 0.99)) for network in (self.net_g, self.net_d))
        self.mean_length = torch.zeros(())

    def __call__(self, lq: Tensor, gt: Tensor, iteration: int, seed: int) -> None:
        # Discriminator
        self.net_d.zero_grad()
        fake = self.net_g(lq).detach()
        loss = F.softplus(self.net_d(fake)).mean() + F.softplus(-self.net_d(gt)).mean()
        if iteration % 16 == 0:
            real = gt.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net_d(real).sum(), real, create_graph=True)
            loss = loss + 10 / 2 * 16 * gradient.square().sum((1, 2, 3)).mean()
        loss.backward()
        self.adam_d.step()

        # Generator
        self.net_g.zero_grad()
        restored = self.net_g(lq)
        loss = F.smooth_l1_loss(restored, gt) + F.softplus(-self.net_d(restored)).mean()
        if iteration % 4 == 0:
            loss = loss + 2 * 4 * self._path_penalty(lq[: len(lq) // 2], iteration, seed)
        loss.backward()
        self.adam_g.step()

        # EMA: a half-life of 10,000 images, or of a twentieth of the training so far
        half_life = min(10_000 / len(lq), 0.05 * iteration)
        decay = 0.5 ** (1 / half_life)
        for average, weight in zip(self.ema.parameters(), self.net_g.parameters(), strict=True):
            average.data = decay * average.data + (1 - decay) * weight.data

    def _path_penalty(self, lq: Tensor, iteration: int, seed: int) -> Tensor:
        torch.manual_seed(derive_seed(seed, 'step', iteration))
        images, latents = self.net_g(lq, return_latents=True)
        direction = torch.randn_like(images) / 16  # the root of 16 x 16 pixels
        (gradient,) = torch.autograd.grad((images * direction).sum(), latents, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        self.mean_length = self.mean_length + 0.01 * (lengths.detach().mean() - self.mean_length)
        return (lengths - self.mean_length).square().mean()


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_twenty_steps_are_those_of_the_published_formulas(recipe: Path, faces: list[str]) -> None:
    options = tiny(recipe, faces)
    model = build_model(options, CPU)
    assert model.net_d is not None
    for network in (model.net_g, model.net_d, model.net_g_ema):  # in double precision, so that rounding does not grow
        network.double()
    model.mean_path_length = model.mean_path_length.double()
    plain = PublishedStep(model.net_g, model.net_d)

    for iteration in range(1, 21):
        batch = batch_of(iteration)
        batch |= {name: batch[name].double() for name in ('lq', 'gt')}
        model.set_learning_rates({'g': options.train.optim_g.lr, 'd': options.train.optim_d.lr})
        model.train_step(batch, iteration)
        plain(batch['lq'], batch['gt'], iteration, options.seed)

    assert float(model.mean_path_length) == pytest.approx(float(plain.mean_length), rel=1e-5)
    for ours, theirs in ((model.net_g, plain.net_g), (model.net_d, plain.net_d), (model.net_g_ema, plain.ema)):
        for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_the_rates_are_those_of_stylegan2_and_nothing_is_clipped(recipe: Path, faces: list[str]) -> None:
    train = tiny(recipe, faces).train
    for optimizer in (train.optim_g, train.optim_d):
        assert optimizer.arguments == {'lr': 2e-3, 'betas': [0, 0.99]}
    assert (train.total_iter, train.use_grad_norm, train.scheduler) == (800_000, False, None)
    assert (train.r1_reg_weight, train.net_d_reg_every) == (10, 16)
    assert not train.early_stopping.enabled


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_the_best_recipe_beside_differs_by_the_losses_that_its_header_names(recipe: Path, faces: list[str]) -> None:
    best = parse_options(recipe.with_name(recipe.name.replace('published', 'best')), faces)
    published = parse_options(recipe, faces).options
    assert best.warnings == []
    for name in ('datasets', 'network_g', 'network_d', 'val', 'logger'):
        assert getattr(best.options, name) == getattr(published, name), name
    changed = {name for name, value in best.options.train if value != getattr(published.train, name)}
    assert changed == {'pixel_opt', 'gan_opt', 'feature_matching_opt', 'identity_opt', 'path_reg_weight'}
