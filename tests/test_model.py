"""What one training step does, held against the plain scheme it stands for."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import tiny_options
from gpen.errors import UserError
from gpen.models.adversarial import AdversarialModel, Values
from gpen.models.ema import EmaSchedule
from gpen.models.gpen_model import GPENModel
from gpen.options import Options
from gpen.runs.training_state import pack_networks
from tiny_model import CPU, PlainAdam, batch_of, build, equal, logged, weights_of

# --- one step


def plain_step(
    net_g: nn.Module,
    net_d: nn.Module,
    ema: nn.Module,
    optimizers: tuple[PlainAdam, PlainAdam],
    batch: dict[str, Any],
    iteration: int,
) -> None:
    """The published scheme: a generator pass for each of the two networks, R1 through a pass of its own."""
    lq, gt = batch['lq'], batch['gt']
    net_d.zero_grad()
    fake = net_g(lq).detach()
    (F.softplus(net_d(fake)).mean() + F.softplus(-net_d(gt)).mean()).backward()
    if iteration % 3 == 0:
        real = gt.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net_d(real).sum(), real, create_graph=True)
        (10 / 2 * 3 * gradient.pow(2).sum((1, 2, 3)).mean()).backward()
    optimizers[1].step()
    net_g.zero_grad()
    restored = net_g(lq)
    (F.l1_loss(restored, gt) + 0.1 * F.softplus(-net_d(restored)).mean()).backward()
    optimizers[0].step()
    decay = EmaSchedule(0.9, 10).at(iteration)
    for average, weight in zip(ema.parameters(), net_g.parameters(), strict=True):
        average.data = decay * average.data + (1 - decay) * weight.data


def test_one_generator_pass_trains_like_the_published_scheme_with_two() -> None:
    model = build()
    for network in (model.net_g, model.net_d, model.net_g_ema):
        assert network is not None
        network.double()  # so that the comparison is sharp
    net_g, net_d, ema = (copy.deepcopy(network) for network in (model.net_g, model.net_d, model.net_g_ema))
    assert net_d is not None
    optimizers = PlainAdam(net_g, 2e-3, (0.9, 0.99)), PlainAdam(net_d, 2e-3, (0.9, 0.99))
    start = weights_of(net_g)
    for iteration in range(1, 8):  # R1 in iterations 3 and 6
        batch = batch_of(iteration)
        batch |= {'lq': batch['lq'].double(), 'gt': batch['gt'].double()}
        plain_step(net_g, net_d, ema, optimizers, batch, iteration)
        model.train_step(batch, iteration)
    for ours, plain in ((model.net_g, net_g), (model.net_d, net_d), (model.net_g_ema, ema)):
        torch.testing.assert_close(weights_of(ours), weights_of(plain), rtol=0, atol=1e-7)
    assert max(float((a - b).abs().max()) for a, b in zip(start, weights_of(net_g), strict=True)) > 1e-3


def test_the_generator_runs_once_a_step() -> None:
    model = build()
    calls: list[bool] = []
    model.net_g.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    model.train_step(batch_of(1), 1)
    assert calls == [True]


def test_a_step_logs_the_documented_tags_and_r1_when_it_is_due() -> None:
    model = build()
    tags = {'G_loss_pixel', 'G_loss_adv', 'D_loss_real', 'D_loss_fake', 'D_acc_real', 'D_acc_fake'}
    tags |= {'grad_norm_g', 'grad_norm_d'}
    for iteration in (1, 2, 3):
        model.train_step(batch_of(iteration), iteration)
        is_recorded = {'D_r1', 'grad_below_eps_g', 'grad_below_eps_d'}  # R1 and the records are due every 3 iterations
        assert set(logged(model)) == tags | (is_recorded if iteration == 3 else set())


@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_first_step_measures_the_gradient_of_each_loss_at_the_images(accumulate: int) -> None:
    data = tiny_options(Path('data'), Path('results'))['datasets']
    data['train'] |= {'accumulate': accumulate}
    changes = {'net_d_init_iters': 1, 'feature_matching_opt': {'type': 'FeatureMatchingLoss', 'loss_weight': 0.5}}
    model, plain = (build(datasets=data, train=changes) for _ in range(2))
    model.train_step(batch_of(1), 1)
    assert model.gradient_norms == {}  # the generator does not learn yet

    batch = batch_of(2)
    model.train_step(batch, 2)
    assert list(model.gradient_norms) == ['pixel', 'adv', 'feature_matching']
    restored = plain.net_g(batch['lq'])
    (gradient,) = torch.autograd.grad(F.l1_loss(restored, batch['gt']), restored)
    assert float(model.gradient_norms['pixel']) == pytest.approx(float(gradient.norm()), rel=1e-5)

    model.gradient_norms = {}
    model.train_step(batch_of(3), 3)
    assert model.gradient_norms == {}


def test_r1_weight_0_switches_the_penalty_off() -> None:
    model = build(train={'r1_reg_weight': 0})
    model.train_step(batch_of(3), 3)
    assert 'D_r1' not in logged(model)


def test_a_step_depends_on_seed_and_iteration_not_on_the_global_random_state() -> None:
    # A generator whose input is smaller than its output draws noise.
    results = []
    for state in (1, 2):
        model = build(network_g={'in_size': 8})
        torch.manual_seed(state)
        batch = batch_of(5)
        batch['lq'] = batch['lq'][:, :, ::2, ::2]
        model.train_step(batch, 5)
        results.append(weights_of(model.net_g))
    assert equal(*results)


# --- whose turn it is


def turns(model: GPENModel, count: int) -> tuple[list[int], list[int], list[int]]:
    """Return the iterations in which generator, EMA and discriminator changed."""
    changed: tuple[list[int], list[int], list[int]] = [], [], []
    networks = [model.net_g, model.net_g_ema, model.net_d]
    for iteration in range(1, count + 1):
        before = [weights_of(network) for network in networks]
        model.train_step(batch_of(iteration), iteration)
        for n, network in enumerate(networks):
            if not equal(before[n], weights_of(network)):
                changed[n].append(iteration)
    return changed


def test_the_generator_waits_for_its_turn() -> None:
    model = build(train={'net_d_iters': 3, 'net_d_init_iters': 4})
    generator, ema, discriminator = turns(model, 10)
    assert generator == ema == [6, 9]
    assert discriminator == list(range(1, 11))


def test_a_step_without_the_generator_logs_nothing_about_it() -> None:
    model = build(train={'net_d_init_iters': 1})
    model.train_step(batch_of(1), 1)
    assert not any(name.startswith('G_') or name == 'grad_norm_g' for name in logged(model))
    assert model.guard.review() == []


def test_without_a_discriminator_the_generator_learns_in_each_step() -> None:
    model = build(train={'net_d_iters': 3, 'net_d_init_iters': 4, 'gan_opt': None})
    before = weights_of(model.net_g)
    model.train_step(batch_of(1), 1)
    assert not equal(before, weights_of(model.net_g))


# --- losses that are switched off or added


OFF = {
    'absent': {'gan_opt': None},
    'weight 0': {
        'gan_opt': {'type': 'GANLoss', 'loss_weight': 0},
        'perceptual_opt': {'type': 'PerceptualLoss', 'perceptual_weight': 0, 'weights': 'no/such/file.pth'},
        'identity_opt': {'type': 'IdentityLoss', 'loss_weight': 0, 'weights': 'no/such/file.pth'},
        'feature_matching_opt': {'type': 'FeatureMatchingLoss', 'loss_weight': 0},
        'losses': {'char': {'type': 'CharbonnierLoss', 'loss_weight': 0}},
    },
}


@pytest.mark.parametrize('train', OFF.values(), ids=OFF.keys())
def test_a_loss_that_is_off_is_not_built(train: dict[str, Any]) -> None:
    model = build(train=train)
    assert model.net_d is None
    assert model.optimizer_d is None
    assert model.gan is None
    assert model.feature_matching is None
    assert list(model.losses) == ['pixel']
    model.set_learning_rates({'g': 1e-3, 'd': 1e-3})
    model.train_step(batch_of(1), 1)
    assert set(logged(model)) == {'G_loss_pixel', 'grad_norm_g'}
    assert set(pack_networks(model)) == {'net_g'}


def test_without_a_pixel_loss_the_adversarial_loss_trains_alone() -> None:
    model = build(train={'pixel_opt': {'type': 'L1Loss', 'loss_weight': 0}})
    before = weights_of(model.net_g)
    model.train_step(batch_of(1), 1)
    assert 'G_loss_pixel' not in logged(model)
    assert not equal(before, weights_of(model.net_g))


def test_feature_matching_is_logged_and_trains_the_generator_alone() -> None:
    plain, matching = build(), build(train={'feature_matching_opt': {'type': 'FeatureMatchingLoss', 'loss_weight': 5}})
    for model in (plain, matching):
        model.train_step(batch_of(1), 1)
    values = logged(matching)
    assert values['G_loss_feature_matching'] > 0
    assert {name: values[name] for name in ('G_loss_pixel', 'G_loss_adv', 'D_loss_real')} == {
        name: value for name, value in logged(plain).items() if name in ('G_loss_pixel', 'G_loss_adv', 'D_loss_real')
    }
    assert equal(weights_of(matching.net_d), weights_of(plain.net_d))
    assert not equal(weights_of(matching.net_g), weights_of(plain.net_g))


def test_further_losses_are_logged_by_their_names_with_their_weights() -> None:
    losses = {'char': {'type': 'CharbonnierLoss', 'loss_weight': 2.0}, 'squares': {'type': 'MSELoss'}}
    model = build(train={'losses': losses, 'gan_opt': None})
    batch = batch_of(1)
    with torch.no_grad():
        difference = model.net_g(batch['lq']) - batch['gt']
    model.train_step(batch, 1)
    values = logged(model)
    assert values['G_loss_char'] == pytest.approx(2 * float((difference**2 + 1e-12).sqrt().mean()), rel=1e-5)
    assert values['G_loss_squares'] == pytest.approx(float((difference**2).mean()), rel=1e-5)


# --- weights at the start


def test_the_same_seed_gives_the_same_networks() -> None:
    torch.manual_seed(1)
    first = build()
    torch.manual_seed(2)
    second, other = build(), build(manual_seed=4)
    assert equal(weights_of(first.net_g), weights_of(second.net_g))
    assert equal(weights_of(first.net_d), weights_of(second.net_d))
    assert not equal(weights_of(first.net_g), weights_of(other.net_g))
    assert equal(weights_of(first.net_g), weights_of(first.net_g_ema))


def test_the_discriminator_starts_the_same_whatever_the_generator_is() -> None:
    assert equal(weights_of(build().net_d), weights_of(build(network_g={'n_mlp': 3}).net_d))


@pytest.fixture
def published(tmp_path: Path) -> tuple[GPENModel, Path, Path]:
    """A model with other weights, and files with these: generator (EMA differs) and discriminator."""
    model = build(manual_seed=77)
    model.train_step(batch_of(1), 1)
    for stem, content in pack_networks(model).items():
        torch.save(content, tmp_path / f'{stem}.pth')
    return model, tmp_path / 'net_g.pth', tmp_path / 'net_d.pth'


def test_training_starts_from_published_weights(published: tuple[GPENModel, Path, Path]) -> None:
    source, file_g, file_d = published
    model = build(path={'pretrain_network_g': str(file_g), 'pretrain_network_d': str(file_d)})
    assert equal(weights_of(model.net_g), weights_of(source.net_g_ema))
    assert equal(weights_of(model.net_g_ema), weights_of(source.net_g_ema))
    assert equal(weights_of(model.net_d), weights_of(source.net_d))
    assert not equal(weights_of(source.net_g), weights_of(source.net_g_ema))


def test_the_key_of_the_weights_can_be_chosen(published: tuple[GPENModel, Path, Path]) -> None:
    source, file_g, _ = published
    model = build(path={'pretrain_network_g': str(file_g), 'param_key_g': 'params'})
    assert equal(weights_of(model.net_g), weights_of(source.net_g))


def test_a_self_trained_file_of_the_published_script_serves_both_networks(
    published: tuple[GPENModel, Path, Path], tmp_path: Path
) -> None:
    source, _, _ = published
    assert source.net_d is not None
    content = {'g': source.net_g.state_dict(), 'g_ema': source.net_g_ema.state_dict(), 'd': source.net_d.state_dict()}
    torch.save(content, tmp_path / 'self_trained.pth')
    path = str(tmp_path / 'self_trained.pth')
    model = build(path={'pretrain_network_g': path, 'pretrain_network_d': path})
    assert equal(weights_of(model.net_g), weights_of(source.net_g_ema))
    assert equal(weights_of(model.net_d), weights_of(source.net_d))


def test_weights_of_another_network_are_refused_or_taken_where_they_fit(
    published: tuple[GPENModel, Path, Path],
) -> None:
    source, file_g, _ = published
    path = {'pretrain_network_g': str(file_g)}
    with pytest.raises(UserError, match=r'generator\.style\.3'):
        build(network_g={'n_mlp': 3}, path=path)
    model = build(network_g={'n_mlp': 3}, path={**path, 'strict_load_g': False})
    theirs = source.net_g_ema.state_dict()
    ours = model.net_g.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert len(ours) > len(theirs)


# --- a model of one's own


class PlainModel(AdversarialModel):
    """As little as a model has to define."""

    def generate(self, batch: Values) -> Tensor:
        return self.net_g(batch['lq'])  # type: ignore[no-any-return]

    def generator_loss(
        self, fake: Tensor, batch: dict[str, Tensor], iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (fake - batch['gt']).abs().mean() * iteration
        return loss, {'G_loss_own': loss, 'G_loss_detached': loss.detach()}

    def restore(self, lq: Tensor) -> Tensor:
        return self.net_g_ema(lq)  # type: ignore[no-any-return]


def test_a_model_of_one_s_own_is_trained_against_a_discriminator_and_restores_unless_it_says_otherwise() -> None:
    options = Options.model_validate(tiny_options(Path('data'), Path('results')))
    model = PlainModel(options, CPU)
    assert model.restores
    assert model.inputs == ('lq', 'gt')
    before = weights_of(model.net_g), weights_of(model.net_d)
    model.train_step(batch_of(1), 1)
    assert not equal(before[0], weights_of(model.net_g))
    assert not equal(before[1], weights_of(model.net_d))
    assert {'G_loss_own', 'G_loss_detached'} <= set(model.means.read())
    assert list(model.gradient_norms) == ['own']


def test_without_training_data_a_batch_is_one_micro_batch() -> None:
    assert build(datasets={'train': None}).micro_batches == 1
    data = tiny_options(Path('data'), Path('results'))['datasets']['train']
    assert build(datasets={'train': {**data, 'accumulate': 2}}).micro_batches == 2
