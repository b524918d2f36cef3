"""Memory is forecast without a GPU, without allocating it, and settings that fit are found."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.profiler import ProfilerActivity, profile, record_function

from conftest import tiny_options, write_options
from gpen.archs import build_network
from gpen.commands import plan_memory
from gpen.memory import forecast as memory_forecast
from gpen.memory import plan as memory_plan
from gpen.memory.cures import advise
from gpen.memory.forecast import Rehearsal, choose_iterations
from gpen.memory.plan import BatchSetting, Recipe
from gpen.models import build_model
from gpen.models.gpen_model import GPENModel
from gpen.options import Options, parse_options
from gpen.weights import downloads as weights

FEATURE_MATCHING = {'type': 'FeatureMatchingLoss'}
NO_GAN = {'gan_opt': None}  # a third of the operations
PERCEPTUAL = {'type': 'PerceptualLoss', 'layer_weights': {'conv1_2': 1.0}}


def write(folder: Path, **changes: Any) -> Recipe:
    """Write the tiny options at 8 x 8, whose data are not there; ``changes`` are blocks to add to, None takes it."""
    options = tiny_options(folder / 'nowhere', folder)
    options['network_g'] |= {'size': 8, 'n_mlp': 1}
    options['network_d'] |= {'size': 8}
    for block, values in changes.items():
        options[block] = None if values is None else {**options[block], **values}
    file = folder / 'tiny.yml'
    file.write_text(yaml.safe_dump(options))
    return Recipe(str(file))


def middle(folder: Path, checkpoint: bool, micro_batches: int) -> Options:
    """Networks whose activations need more than all else at a batch of 4, 4 MB; R1 in each third step."""
    both = {'size': 16, 'narrow': 0.06, 'grad_checkpoint': checkpoint}
    recipe = write(folder, network_g=both, network_d=both, train={'feature_matching_opt': FEATURE_MATCHING})
    return recipe.read('datasets:train:batch_size_per_gpu=4', f'datasets:train:accumulate={micro_batches}')


def measure_real_steps(options: Options) -> dict[int, int]:
    """Return the most bytes that PyTorch's CPU allocator had given out in the third step (with R1) and the fourth."""
    batch, size = options.datasets.train.batch_size_per_gpu, options.network_g.arguments['size']
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build_model(options, torch.device('cpu'))
        images = {name: torch.zeros(batch, 3, size, size) for name in ('lq', 'gt')}
        for iteration in (2, 3, 4):  # the one before brings optimizers and gradients to where they stay
            with record_function(f'step {iteration}'):
                model.train_step({**images, 'gt_path': [''] * batch}, iteration)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    allocations = [event for event in events if event.name() == '[memory]']
    peaks = {}
    for iteration in (3, 4):
        step = next(event for event in events if event.name() == f'step {iteration}')
        total, peaks[iteration] = 0, 0
        for event in allocations:
            total += event.nbytes()
            if step.start_ns() <= event.start_ns() <= step.start_ns() + step.duration_ns():
                peaks[iteration] = max(peaks[iteration], total)
    return peaks


@pytest.mark.parametrize(('checkpoint', 'micro_batches'), [(False, 1), (True, 2)])
def test_forecast_is_within_a_tenth_of_what_real_steps_allocate(
    tmp_path: Path, checkpoint: bool, micro_batches: int
) -> None:
    options = middle(tmp_path, checkpoint, micro_batches)
    rehearsal = Rehearsal(options)
    for iteration, real in measure_real_steps(options).items():
        assert rehearsal.measure(iteration, 4).total == pytest.approx(real, rel=0.1), f'iteration {iteration}'


def test_weights_gradients_and_optimizer_are_exactly_those_of_the_networks(tmp_path: Path) -> None:
    recipe = write(tmp_path, train={'use_grad_norm': True, 'grad_norm_clip': 1.0})
    use = memory_plan.forecast(recipe).with_r1
    model = build_model(recipe.read(), torch.device('cpu'))
    trained = [*model.net_g.parameters(), *model.net_d.parameters()]
    networks = (model.net_g, model.net_d, model.net_g_ema)
    tensors = [value for network in networks for value in (*network.parameters(), *network.buffers())]
    assert use.weights == sum(value.nbytes for value in tensors)
    # Adam keeps two moments and a count for each tensor.
    assert use.optimizer == sum(2 * value.nbytes + 4 for value in trained)
    assert 0 < use.gradients <= sum(value.nbytes for value in trained)
    assert use.total == use.weights + use.gradients + use.optimizer + use.activations


def test_rehearsal_holds_no_real_tensor_and_needs_neither_data_nor_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, 'find_weights', lambda *_, **__: pytest.fail('looked for weights'))
    before = (nn.Module.to, memory_forecast.perceptual.find_weights, memory_forecast.perceptual.load_frozen)
    without = memory_plan.forecast(write(tmp_path)).peak
    path = {'pretrain_network_g': 'nowhere.pth', 'pretrain_network_d': 'nowhere.pth', 'resume_state': 'nowhere.state'}
    recipe = write(tmp_path, train={'perceptual_opt': PERCEPTUAL}, path=path)
    rehearsal = Rehearsal(recipe.read())
    model = rehearsal.model
    assert memory_plan.forecast(recipe).peak > without  # the loss counts
    networks = (model.net_g, model.net_d, model.net_g_ema, model.losses['perceptual'])
    assert all(isinstance(value, FakeTensor) for network in networks for value in network.state_dict().values())
    assert len(list(model.losses['perceptual'].buffers())) > 2
    assert before == (nn.Module.to, memory_forecast.perceptual.find_weights, memory_forecast.perceptual.load_frozen)


def test_identity_loss_counts_without_its_weights(tmp_path: Path) -> None:
    pytest.importorskip('facexlib')
    without = memory_plan.forecast(write(tmp_path, train=NO_GAN))
    with_loss = memory_plan.forecast(write(tmp_path, train={**NO_GAN, 'identity_opt': {'type': 'IdentityLoss'}}))
    assert with_loss.without_r1.weights - without.without_r1.weights > 100 * 2**20  # IR-SE50 has 44 million weights


def test_a_network_for_images_of_any_size_is_forecast_at_that_of_the_data(tmp_path: Path) -> None:
    network = 'network_g={type: torch.nn.Conv2d, in_channels: 3, out_channels: 3, kernel_size: 1}'
    sizes = [f'datasets:{phase}:size=8' for phase in ('train', 'val')]
    recipe = Recipe(write(tmp_path, network_d=None, train=NO_GAN).file, (network, *sizes))
    assert memory_plan.forecast(recipe).size == 8


def test_a_discriminator_whose_width_its_file_tells_is_forecast_at_that_width(tmp_path: Path) -> None:
    recipe, narrow = write(tmp_path), 'network_d:narrow=0.02'
    options = recipe.read(narrow)
    torch.save(build_network(options.network_d.to_dict()).state_dict(), tmp_path / 'net_d.pth')
    anew = ('network_d:narrow=~', 'network_d:channel_multiplier=~')
    named, filed = (
        recipe.read(*anew, f'path:pretrain_network_d={given}').network_d.to_dict()
        for given in ('gpen-bfr-256-d', tmp_path / 'net_d.pth')
    )
    assert (named['channel_multiplier'], named['narrow']) == (1, 0.5)
    assert build_network(filed).state_dict().keys() == build_network(options.network_d.to_dict()).state_dict().keys()
    assert filed['narrow'] < 0.03
    assert recipe.read(*anew, 'path:pretrain_network_d=nowhere.pth').network_d.arguments.get('narrow') is None


def test_switches_lower_the_forecast(tmp_path: Path) -> None:
    plain, checkpoint, micro_batches = (
        Rehearsal(middle(tmp_path, on, count)).measure(3, 4).activations
        for on, count in ((False, 1), (True, 1), (False, 4))
    )
    assert checkpoint < 0.8 * plain
    assert micro_batches < 0.5 * plain


@pytest.mark.parametrize(
    ('train', 'expected'),
    [
        ({'net_d_reg_every': 3}, (1, 3)),
        ({'net_d_reg_every': 16, 'net_d_iters': 2, 'net_d_init_iters': 5}, (6, 16)),
        ({'net_d_reg_every': 4, 'net_d_iters': 3}, (3, 12)),
        ({'net_d_reg_every': 1}, (None, 1)),
        ({'net_d_reg_every': 2, 'net_d_iters': 4}, (None, 4)),
        ({'r1_reg_weight': 0}, (1, None)),
        ({'gan_opt': None}, (1, None)),
    ],
)
def test_iterations_are_such_that_the_generator_learns(
    tmp_path: Path, train: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    assert choose_iterations(write(tmp_path, train=train).read()) == expected


def test_proposals_fit_are_largest_and_their_settings_give_what_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, network_g={'size': 16, 'narrow': 0.1}, network_d={'size': 16}, train=NO_GAN)
    recipe = Recipe(recipe.file, ('datasets:train:batch_size_per_gpu=6',))
    needed = {batch: peak_of(recipe, f'datasets:train:batch_size_per_gpu={batch}') for batch in (2, 4)}
    limit = (needed[2] + needed[4]) / 2
    monkeypatch.setattr(memory_plan, 'usable_bytes', lambda _: limit)
    proposals = list(memory_plan.propose(recipe, 1))
    first, second = proposals[:2]
    assert first.setting == BatchSetting(2, 1, checkpoint=False)
    assert second.setting.batch == 6
    assert second.setting.micro_batches > 1
    assert any(proposal.checkpoint for proposal in proposals)
    assert all(proposal.peak <= limit for proposal in proposals)
    for proposal in (second, proposals[-1]):
        assert peak_of(recipe, *proposal.changes) == pytest.approx(proposal.peak, rel=1e-4)


def peak_of(recipe: Recipe, *settings: str) -> int:
    return memory_plan.forecast(Recipe(recipe.file, (*recipe.overrides, *settings))).peak


def test_batch_that_is_no_power_of_two_stays_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(write(tmp_path, train=NO_GAN).file, ('datasets:train:batch_size_per_gpu=12',))
    monkeypatch.setattr(memory_plan, 'usable_bytes', lambda _: peak_of(recipe) + 1000)
    proposals = list(memory_plan.propose(recipe, 1))
    assert proposals[0].setting == BatchSetting(12, 1, checkpoint=False)
    assert proposals[0].changes == ()


def test_a_tenth_and_more_of_the_gpu_is_left() -> None:
    assert memory_plan.usable_bytes(16) == pytest.approx((16 * 0.9 - 0.6) * 2**30)


def test_script_prints_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path).file
    assert plan_memory.main(['-opt', file, '--gpu_memory', '1', '--force_yml', 'name=other']) == 0
    printed = capsys.readouterr().out
    rows = [line.strip('| ').split(' | ') for line in printed.splitlines() if line.startswith(f'| {file}')]
    assert [row[5] for row in rows[:2]] == ['without R1', 'with R1']
    assert all(float(row[-1]) >= max(map(float, row[6:-1])) for row in rows[:2])
    assert [row[1] for row in rows[2:]] == ['no', 'yes']
    assert rows[2][2] == str(memory_plan.LARGEST_BATCH)
    assert f'--force_yml datasets:train:batch_size_per_gpu={memory_plan.LARGEST_BATCH}' in rows[2][-1]
    assert f'{file} fits as it is.' in printed


def test_script_says_where_nothing_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_plan, 'usable_bytes', lambda _: 1000.0)
    assert plan_memory.main(['-opt', write(tmp_path, train=NO_GAN).file, '--gpu_memory', '1']) == 0
    printed = capsys.readouterr().out
    assert printed.count('| none fits |') == 2
    assert printed.count('| in micro-batches: none fits |') == 2
    assert 'does not fit as it is' in printed


def test_network_without_a_discriminator_has_a_step_without_r1_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, network_d=None, train=NO_GAN)
    assert plan_memory.main(['-opt', recipe.file]) == 0
    printed = capsys.readouterr().out
    assert 'without R1' in printed
    assert 'with R1' not in printed


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'network_d': None}, 'needs a discriminator'),
        ({'datasets': {'train': None}}, 'training needs a data set'),
        ({'network_g': {'size': 17}}, 'size'),
    ],
)
def test_mistakes_in_the_options_end_with_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    assert plan_memory.main(['-opt', write(tmp_path, **change).file]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith('Error: ')
    assert captured.out == ''


def test_missing_option_file_ends_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_memory.main(['-opt', str(tmp_path / 'none.yml')]) == 2
    assert 'none.yml' in capsys.readouterr().err


def test_step_that_needs_values_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = GPENModel.train_step

    def step(self: GPENModel, batch: dict[str, Any], iteration: int) -> None:
        assert len(torch.nonzero(batch['gt']))
        original(self, batch, iteration)

    monkeypatch.setattr(GPENModel, 'train_step', step)
    assert plan_memory.main(['-opt', write(tmp_path).file]) == 2
    assert '--dry_run' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('changes', 'advice'),
    [
        (
            {},
            'Raise datasets.train.accumulate (now 1), set network_g.grad_checkpoint to true, set '
            'network_d.grad_checkpoint to true (slower, same result); or set train.amp to bf16; or lower '
            'datasets.train.batch_size_per_gpu (now 2).',
        ),
        (
            {'datasets:train:accumulate': 2, 'network_g:grad_checkpoint': 'true', 'train:amp': 'bf16'},
            'Set network_d.grad_checkpoint to true (slower, same result); or lower '
            'datasets.train.batch_size_per_gpu (now 2).',
        ),
        (
            {
                **{'datasets:train:batch_size_per_gpu': 1, 'network_g:grad_checkpoint': 'true'},
                **{'network_d:grad_checkpoint': 'true', 'train:amp': 'bf16'},
            },
            'Choose networks for smaller images.',
        ),
    ],
    ids=['all', 'some', 'none'],
)
def test_where_memory_runs_out_the_cures_that_are_left_are_named(
    changes: dict[str, Any], advice: str, tiny_data: Path, tmp_path: Path
) -> None:
    path = write_options(tmp_path / 'tiny.yml', tiny_options(tiny_data, tmp_path))
    options = parse_options(path, [f'{name}={value}' for name, value in changes.items()]).options
    assert advise(options) == f'{advice} python scripts/plan_memory.py -opt FILE says what fits.'
