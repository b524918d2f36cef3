"""The GAN prior, trained alone, on sharp faces."""

import copy
import logging
import math
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn

import processes
from comparing import assert_same_run, read_records, read_tensorboard
from conftest import write_options
from gpen.archs import build_network
from gpen.data.loader import build_dataset
from gpen.errors import UserError
from gpen.evaluation.validation import arrange_in_grid, validate
from gpen.losses.path_length import measure_path_lengths, penalize_path_lengths
from gpen.metrics import SetMetric
from gpen.models import build_model
from gpen.models.gpen_model import GPENModel
from gpen.options import Options, parse_options
from gpen.training.setup import build_early_stopping, build_validation_metrics
from tiny_model import CPU, PRIOR, build, build_prior, equal, faces, logged, prior_options, weights_of

# --- the network


@pytest.mark.parametrize('isconcat', [True, False])
def test_a_prior_is_the_decoder_of_a_gpen_key_for_key(isconcat: bool) -> None:
    prior = build_network({**PRIOR, 'isconcat': isconcat}).state_dict()
    gpen = build_network({**PRIOR, 'type': 'GPEN', 'isconcat': isconcat}).state_dict()
    decoder = {name: value.shape for name, value in gpen.items() if name.startswith('generator.')}
    assert {name: value.shape for name, value in prior.items()} == decoder


def test_style_mixing_takes_the_upper_layers_from_the_other_noise() -> None:
    torch.manual_seed(0)
    prior: Any = build_network(PRIOR)
    z, other = torch.randn(2, 3, 8)
    crossover = torch.tensor([1, 4, prior.n_latent])
    _, mixed = prior(z, other, crossover, return_latents=True)
    (_, low), (_, high) = (prior(noise, return_latents=True) for noise in (z, other))
    for sample, layer in enumerate(crossover.tolist()):
        assert torch.equal(mixed[sample, :layer], low[sample, :layer])
        assert torch.equal(mixed[sample, layer:], high[sample, layer:])
    assert not torch.equal(low, high)


def test_noise_of_another_length_is_refused() -> None:
    with pytest.raises(UserError, match='takes noise of N x 8, but got 2 x 9'):
        build_network(PRIOR)(torch.randn(2, 9))


# --- path lengths


def test_the_path_length_of_a_linear_generator_is_that_of_its_matrix() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3 * 2 * 6, 2 * 5)
    latents = torch.randn(4, 2, 5, requires_grad=True)
    images = (latents.flatten(1) @ matrix.t()).reshape(4, 3, 2, 6)
    torch.manual_seed(7)
    lengths = measure_path_lengths(images, latents)
    torch.manual_seed(7)
    direction = torch.randn(4, 3 * 2 * 6) / math.sqrt(12)  # the root of the number of pixels
    gradient = (direction @ matrix).reshape(4, 2, 5)
    torch.testing.assert_close(lengths, gradient.square().sum(2).mean(1).sqrt())


def test_the_penalty_is_the_distance_from_a_slow_mean() -> None:
    lengths = torch.tensor([1.0, 3.0])
    mean, penalty = penalize_path_lengths(lengths, lengths.mean(), torch.tensor(1.0))
    assert float(mean) == pytest.approx(1.01)
    assert float(penalty) == pytest.approx((0.01**2 + 1.99**2) / 2)
    mean, _ = penalize_path_lengths(lengths, torch.tensor(math.nan), torch.tensor(1.0))
    assert float(mean) == 1.0


# --- a step


def test_a_step_logs_its_losses_and_regularises_when_it_is_due() -> None:
    model = build_prior()
    small = ('grad_below_eps_g', 'grad_below_eps_d')  # in the iterations of a record, every 3
    always = {'G_loss_adv', 'D_loss_real', 'D_loss_fake', 'D_acc_real', 'D_acc_fake', 'grad_norm_g', 'grad_norm_d'}
    for iteration, more in ((1, set()), (2, {'G_path_length', 'G_path_penalty'}), (3, {'D_r1', *small})):
        model.train_step(faces(iteration), iteration)
        assert set(logged(model)) == always | more
    assert float(model.mean_path_length) > 0
    assert model.guard.review() == []


def test_without_a_weight_path_lengths_are_not_taken() -> None:
    model = build_prior(path_reg_weight=0)
    model.train_step(faces(2), 2)
    assert not any('path' in name for name in logged(model))
    assert float(model.mean_path_length) == 0


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_styles_are_mixed_from_any_layer_but_the_first_on_in_the_share_that_is_asked_for(share: float) -> None:
    model = build_prior(mixing_prob=share)
    torch.manual_seed(0)
    z, other, crossover = model._draw(400)
    layers = model.net_g.n_latent
    assert z.shape == other.shape == (400, 8)
    is_mixed = crossover < layers
    assert set(crossover[is_mixed].tolist()) == (set(range(1, layers)) if share else set())
    assert float(is_mixed.float().mean()) == pytest.approx(share, abs=0.1 * (0 < share < 1))


def test_path_lengths_are_taken_of_a_share_of_the_batch_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_prior(path_batch_shrink=2)
    counts: list[int] = []
    draw = model._draw
    monkeypatch.setattr(model, '_draw', lambda count: counts.append(count) or draw(count))
    for size in (1, 2, 3):
        model.generator_penalty({'gt': torch.zeros(size, 3, 16, 16)}, 2)
    assert counts == [1, 1, 2]


def test_the_generator_learns_as_the_formulas_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of plain gradient descent moves the weights by the gradient of the loss that is put together here."""
    model = build_prior(mixing_prob=0, optim_g={'type': 'SGD', 'lr': 1.0}, optim_d={'type': 'SGD', 'lr': 1e-9})
    model.set_learning_rates({'g': 1.0, 'd': 1e-9})
    net_g, net_d = copy.deepcopy(model.net_g), model.net_d
    assert net_d is not None
    drawn: list[tuple[Tensor, ...]] = []
    draw = model._draw
    monkeypatch.setattr(model, '_draw', lambda count: drawn.append(draw(count)) or drawn[-1])
    monkeypatch.setattr(torch, 'randn_like', torch.ones_like)  # the noise of layers, and the direction of the image
    model.train_step(faces(2), 2)
    assert [len(z) for z, _, _ in drawn] == [2, 1]  # path lengths are taken of half the batch
    assert all(bool((crossover == net_g.n_latent).all()) for _, _, crossover in drawn)  # nothing is mixed
    adversarial = nn.functional.softplus(-net_d(net_g(drawn[0][0]))).mean()
    image, latents = net_g(drawn[1][0], return_latents=True)
    (gradient,) = torch.autograd.grad(image.sum() / 16, latents, create_graph=True)
    length = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    penalty = (length - 0.01 * length.detach().mean()).square().mean()
    (adversarial + 2 * 2 * penalty).backward()  # weight 2, every 2 iterations
    assert float(model.mean_path_length) == pytest.approx(0.01 * float(length.detach().mean()))
    for (name, parameter), after in zip(net_g.named_parameters(), weights_of(model.net_g), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach() - after, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_step_depends_on_seed_and_iteration_alone() -> None:
    ends = []
    for state in (1, 2):
        model = build_prior()
        torch.manual_seed(state)
        model.train_step(faces(4), 4)
        ends.append(weights_of(model.net_g))
    assert equal(*ends)
    model = build_prior()
    model.train_step(faces(4), 6)  # other noise
    assert not equal(ends[0], weights_of(model.net_g))


def test_the_ema_follows_and_a_frozen_mapping_network_is_no_obstacle() -> None:
    model = build_prior(freeze_g=['generator.style*'])
    before, ema = weights_of(model.net_g), weights_of(model.net_g_ema)
    for iteration in (1, 2):
        model.train_step(faces(iteration), iteration)
    assert model.guard.review() == []
    assert not equal(before, weights_of(model.net_g))
    assert not equal(ema, weights_of(model.net_g_ema))


def test_a_batch_in_parts_gives_the_step_of_the_whole_batch() -> None:
    ends = []
    for parts in (1, 2):
        options = prior_options(Path('data'), Path('results'), optim_g={'type': 'SGD'}, path_reg_weight=0)
        options['datasets']['train']['accumulate'] = parts
        model = build_model(Options.model_validate(options), CPU)
        model.set_learning_rates({'g': 0.1, 'd': 0.1})
        model.train_step(faces(3), 3)
        ends.append(weights_of(model.net_g))
    names = [name for name, _ in model.net_g.named_parameters()]
    for name, one, other in zip(names, *ends, strict=True):
        if not name.endswith('noise.weight'):  # each part draws its own noise for the layers
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_recomputed_activations_give_the_same_step_noise_and_path_lengths_included() -> None:
    ends = []
    for recomputes in (False, True):
        options = prior_options(Path('data'), Path('results'), optim_g={'type': 'SGD'})
        options['network_g']['grad_checkpoint'] = recomputes
        model = build_model(Options.model_validate(options), CPU)
        with torch.no_grad():
            for name, parameter in model.net_g.named_parameters():
                if name.endswith('noise.weight'):
                    parameter.fill_(0.3)
        model.set_learning_rates({'g': 0.1, 'd': 0.1})
        model.train_step(faces(6), 6)
        ends.append(weights_of(model.net_g))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


# --- validation


class Counting(SetMetric):
    higher_is_better = False

    def start(self) -> None:
        self.count = 0

    def update(self, restored: Tensor, target: Tensor) -> None:
        assert restored.shape == target.shape
        self.count += len(restored)

    def compute(self) -> float:
        return float(self.count)


def test_faces_are_clamped_to_their_range_and_no_further() -> None:
    model = build_prior()
    with torch.no_grad():
        for parameter in model.net_g_ema.parameters():
            parameter *= 3
    lq = faces(1)['gt']
    torch.manual_seed(0)
    restored = model.restore(lq)
    torch.manual_seed(0)
    with torch.no_grad():
        raw = model.net_g_ema(torch.randn(len(lq), 8))
    assert raw.min() < -1
    assert raw.max() > 1
    assert (raw.abs() < 1).any()
    assert torch.equal(restored, raw.clamp(-1, 1))


def test_validation_makes_as_many_faces_as_there_are_images_of_the_same_noise_each_time() -> None:
    model = build_prior()
    batches = [{**faces(n), 'name': ['a', 'b']} for n in (1, 2, 3)]
    with torch.no_grad():
        for name, parameter in model.net_g_ema.named_parameters():
            if name.endswith('noise.weight'):
                parameter.fill_(1)  # noise shows, too

    def look(num_pictures: int) -> Any:
        result = validate(model.restore, batches, {'fid': Counting()}, 3, num_pictures, restores=False)
        assert result is not None
        return result

    first, again = look(5), look(5)
    assert first.means == {'fid': 6}
    assert first.sheet.shape == (3, 2 * 16, 3 * 16)  # 5 faces in 2 rows of 3
    assert torch.equal(first.sheet, again.sheet)
    shown = [first.sheet[:, :16, :16], first.sheet[:, :16, 16:32], first.sheet[:, 16:, :16]]
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])  # another batch, other noise
    model.train_step(faces(1), 1)
    assert not torch.equal(look(5).sheet, first.sheet)


def test_a_grid_is_about_square() -> None:
    images = [torch.full((3, 2, 2), n, dtype=torch.uint8) for n in range(1, 6)]
    grid = arrange_in_grid(images)
    assert grid[0, ::2, ::2].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert arrange_in_grid(images[:1]).shape == (3, 2, 2)


def test_without_a_metric_there_is_no_early_stopping(
    tmp_path: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = prior_options(tiny_data, tmp_path)
    parsed = parse_options(write_options(tmp_path / 'prior.yml', options)).options
    assert build_early_stopping(parsed, build_validation_metrics(parsed, CPU)) is None
    # The same where the one metric is optional and its weights are not there.
    options['val']['metrics'] = {'fid': {'type': 'calculate_fid', 'optional': True, 'weights': '/nowhere.pth'}}
    options['train']['early_stopping'] = {'metric': 'fid', 'enabled': False}
    parsed = parse_options(write_options(tmp_path / 'prior.yml', options)).options
    with caplog.at_level(logging.WARNING, logger='gpen'):
        metrics = build_validation_metrics(parsed, CPU)
    assert metrics == {}
    assert 'goes without val.metrics.fid' in caplog.text
    assert build_early_stopping(parsed, metrics) is None


# --- a run


@pytest.fixture(scope='module')
def trained_prior(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder of a prior's run that was never interrupted."""
    root = tmp_path_factory.mktemp('prior')
    path = write_options(root / 'prior.yml', prior_options(tiny_data, root))
    status, printed = processes.run(root / 'log', '-opt', path)
    assert status == 0, printed
    assert '7 faces to train on, 3 to validate on' in printed
    return root / 'experiments' / 'tiny'


def test_a_run_leaves_sample_sheets_and_no_best_file(trained_prior: Path) -> None:
    names = sorted(path.name for path in (trained_prior / 'models').iterdir())
    assert names == [f'net_{letter}_{end}.pth' for letter in 'dg' for end in ('12', '16', 'latest')]
    sheets = sorted((trained_prior / 'visualization').iterdir(), key=lambda path: int(path.stem))
    assert [path.name for path in sheets] == ['4.png', '8.png', '12.png', '16.png']
    assert cv2.imread(str(sheets[0])).shape == (32, 32, 3)
    assert 'val/samples' in {tag for tag, _, _ in read_tensorboard(trained_prior)}
    assert any('G_path_penalty' in record for record in read_records(trained_prior))


def test_a_killed_run_of_a_prior_continues_bit_for_bit(trained_prior: Path, tiny_data: Path, tmp_path: Path) -> None:
    path = write_options(tmp_path / 'prior.yml', prior_options(tiny_data, tmp_path))
    for count in (7, 4):
        processes.run(tmp_path / 'log', '-opt', path, '--auto_resume', kill_at=('step of a prior', count))
    status, printed = processes.run(tmp_path / 'log', '-opt', path, '--auto_resume')
    assert status == 0, printed
    assert_same_run(tmp_path / 'experiments' / 'tiny', trained_prior)


def test_two_processes_train_a_prior_together(tiny_data: Path, tmp_path: Path) -> None:
    options = prior_options(tiny_data, tmp_path)
    options['train']['total_epochs'] = 2
    results = processes.run_together(tmp_path, '-opt', write_options(tmp_path / 'prior.yml', options))
    assert [status for status, _ in results] == [0, 0], results
    folder = tmp_path / 'experiments' / 'tiny'
    assert (folder / 'visualization' / '4.png').is_file()
    state = torch.load(folder / 'training_states' / '4.state', weights_only=True)
    assert float(state['model']['mean_path_length']) > 0
    assert state['data']['processes'] == 2


# --- options


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('train:pixel_opt={type: L1Loss}', 'train.pixel_opt: compares a restored face'),
        ('train:feature_matching_opt={type: FeatureMatchingLoss}', 'feature_matching_opt: compares a restored face'),
        ('val:metrics={psnr: {type: calculate_psnr}}', 'val.metrics.psnr: compares a restored face'),
        ('train:gan_opt=~', 'train.gan_opt: GPENPriorModel learns from the discriminator alone'),
        ('network_g={type: GPEN, size: 16}', 'network_g.type: GPENPriorModel trains a network that starts from noise'),
        ('model_type=GPENModel', 'network_g.type: GPENPrior makes faces out of noise; train it with'),
        ('model_type=GPENModel', 'datasets.train.type: FaceImageDataset has nothing to restore'),
        ('path:pretrain_prior=/nowhere.pth', 'path.pretrain_prior: there is no file /nowhere.pth'),
    ],
)
def test_options_that_do_not_belong_to_a_prior_are_found(
    override: str, words: str, tiny_data: Path, tmp_path: Path
) -> None:
    path = write_options(tmp_path / 'prior.yml', prior_options(tiny_data, tmp_path))
    parse_options(path)
    with pytest.raises(UserError) as caught:
        parse_options(path, [override])
    assert words in str(caught.value)


def test_a_prior_cannot_be_scored(tiny_data: Path, tmp_path: Path) -> None:
    path = write_options(tmp_path / 'prior.yml', prior_options(tiny_data, tmp_path))
    with pytest.raises(UserError, match=r'datasets\.val\.type: FaceImageDataset has nothing to restore'):
        parse_options(path, training=False)


def test_a_prior_and_a_whole_generator_to_start_from_are_one_too_many(option_file: Path, tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    file.write_bytes(b'')
    with pytest.raises(UserError, match='pretrain_prior: is given beside pretrain_network_g'):
        parse_options(option_file, [f'path:pretrain_prior={file}', f'path:pretrain_network_g={file}'])


# --- data


def test_sharp_faces_alone_are_those_of_the_degraded_set(tiny_data: Path) -> None:
    root = str(tiny_data / 'train' / 'sharp')
    shared = {'dataroot_gt': root, 'size': 16, 'use_hflip': True, 'manual_seed': 3, 'augment': {'type': 'color_jitter'}}
    alone = build_dataset({'type': 'FaceImageDataset', **shared})
    pairs = build_dataset({'type': 'DegradedFaceDataset', 'degradation': {'type': 'simple'}, **shared})
    assert len(alone) == len(pairs) == 7
    for position in ((0, 0), (1, 3), (2, 6)):
        sample, pair = alone[position], pairs[position]
        assert set(sample) == {'gt', 'gt_path', 'name'}
        assert torch.equal(sample['gt'], pair['gt'])
        assert (sample['gt_path'], sample['name']) == (pair['gt_path'], pair['name'])
    assert not torch.equal(alone[0, 0]['gt'], alone[1, 0]['gt'])
    assert isinstance(build(), GPENModel)
