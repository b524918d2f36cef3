"""Options that save memory change nothing else: gradient checkpointing, and batches in micro-batches."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny_options
from gpen.archs import build_network
from gpen.archs.recompute import run_in_micro_batches
from gpen.errors import UserError
from gpen.losses.r1 import r1_in_micro_batches, r1_penalty
from gpen.models import build_model
from gpen.models.gpen_model import GPENModel
from gpen.options import Options, parse_options

GENERATOR = {'type': 'GPEN', 'size': 32, 'style_dim': 8, 'n_mlp': 2, 'narrow': 0.02}
DISCRIMINATOR = {'type': 'GPENDiscriminator', 'size': 32, 'narrow': 0.02}
CPU = torch.device('cpu')


def images(count: int = 4, size: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1).to(dtype)


def build_twice(options: dict[str, Any], **changes: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return two networks of equal weights, the second with other options; noise is injected and biases count."""
    torch.manual_seed(0)
    first = build_network(options)
    for name, parameter in first.named_parameters():
        if name.endswith(('bias', 'noise.weight')):
            parameter.data.uniform_(-0.5, 0.5)
    second = build_network({**options, **changes})
    second.load_state_dict(first.state_dict())
    return first, second


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert (value - b[name]).abs().max() <= tolerance * value.abs().max() + 1e-9, name


@pytest.mark.parametrize('changes', [{}, {'in_size': 8}, {'isconcat': False}])
def test_recomputed_activations_give_the_same_gradients_to_the_bit(changes: dict[str, Any]) -> None:
    options = {**GENERATOR, **changes}
    plain, saving = build_twice(options, grad_checkpoint=True)
    lq = images(size=options.get('in_size', 32))
    for network in (plain, saving):
        torch.manual_seed(3)  # of the noise
        network(lq).square().mean().backward()
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradient, gradients(saving)[name]), name


def test_a_discriminator_that_recomputes_has_the_same_r1_penalty_and_gradients() -> None:
    plain, saving = build_twice(DISCRIMINATOR, grad_checkpoint=True)
    penalties = []
    for network in (plain, saving):
        gt = images().requires_grad_()
        penalty = r1_penalty(network(gt), gt)
        penalty.backward()
        penalties.append(penalty.detach())
    assert torch.equal(*penalties)
    close(gradients(plain), gradients(saving))


def test_recomputing_keeps_fewer_activations() -> None:
    kept = []
    for network in build_twice(GENERATOR, grad_checkpoint=True):
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(images())
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize(('micro_batches', 'sizes'), [(1, [4]), (2, [2, 2]), (3, [2, 2]), (4, [1] * 4), (9, [1] * 4)])
def test_micro_batches_are_computed_one_after_the_other(micro_batches: int, sizes: list[int]) -> None:
    seen: list[int] = []
    batch = torch.arange(4.0)[:, None].requires_grad_()

    def double(part: Tensor) -> list[Tensor]:
        seen.append(len(part))
        return [part * 2, part.exp()]

    doubled, exponential = run_in_micro_batches(double, batch, micro_batches)
    assert seen == sizes
    assert torch.equal(doubled, batch * 2)
    (doubled + exponential).sum().backward()
    assert batch.grad is not None
    assert torch.allclose(batch.grad, 2 + batch.exp())


@pytest.mark.parametrize('micro_batches', [2, 3, 4, 9])
def test_a_discriminator_in_micro_batches_judges_the_whole_batch(micro_batches: int) -> None:
    plain, again = (network.double() for network in build_twice(DISCRIMINATOR))  # so that rounding does not matter
    batch = images(dtype=torch.float64)
    whole, features = plain(batch, return_features=True)
    whole.square().mean().backward()
    logits, same_features = again(batch, return_features=True, micro_batches=micro_batches)
    logits.square().mean().backward()
    assert torch.allclose(logits, whole, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(features, same_features, strict=True))
    close(gradients(plain), gradients(again), 1e-9)

    # Batches of their own give other logits, since their standard deviations differ.
    with torch.no_grad():
        alone = torch.cat([plain(chunk) for chunk in batch.chunk(2)])
    assert not torch.allclose(alone, whole, atol=1e-6)


@pytest.mark.parametrize('micro_batches', [2, 4])
def test_r1_in_micro_batches_is_the_penalty_of_the_whole_batch_with_its_gradients(micro_batches: int) -> None:
    plain, again = (network.double() for network in build_twice(DISCRIMINATOR))  # so that rounding does not matter
    batch = images(dtype=torch.float64)
    gt = batch.clone().requires_grad_()
    penalty = r1_penalty(plain(gt), gt)
    (3 * penalty).backward()
    same_penalty = r1_in_micro_batches(again, batch, micro_batches)
    (3 * same_penalty).backward()
    assert same_penalty.item() == pytest.approx(penalty.item(), rel=1e-10)
    expected = {name: g for name, g in gradients(plain).items() if g.abs().max() > 0}
    found = gradients(again)
    close(expected, {name: found[name] for name in expected}, 1e-9)
    assert all(found[name].abs().max() < 1e-12 for name in found.keys() - expected.keys())


def train(accumulate: int, steps: int = 3, **train_options: Any) -> GPENModel:
    options = tiny_options(Path('data'), Path('results'))
    options['datasets']['train'] |= {'batch_size_per_gpu': 4, 'accumulate': accumulate}
    options['train'] |= {'net_d_reg_every': 2, **train_options}
    # Adam's first steps are of the gradients' signs: rounding would turn some that are almost 0.
    options['train'] |= {name: {'type': 'SGD', 'lr': 0.02} for name in ('optim_g', 'optim_d')}
    model: GPENModel = build_model(Options.model_validate(options), CPU)
    for iteration in range(1, steps + 1):
        gt = images(size=16).roll(iteration, dims=-1)
        model.train_step({'lq': gt * 0.5, 'gt': gt, 'gt_path': ['a', 'b', 'c', 'd']}, iteration)
    return model


@pytest.mark.parametrize('accumulate', [2, 4])
@pytest.mark.parametrize('matching', [False, True])
def test_steps_in_micro_batches_train_as_steps_of_the_whole_batch(accumulate: int, matching: bool) -> None:
    more = {'feature_matching_opt': {'type': 'FeatureMatchingLoss'}} if matching else {}
    start = train(1, steps=0, **more)
    whole, accumulated = train(1, **more), train(accumulate, **more)
    for name in ('net_g', 'net_d', 'net_g_ema'):
        before, a, b = (dict(getattr(model, name).named_parameters()) for model in (start, whole, accumulated))
        moved = max((a[key] - before[key]).abs().max() for key in a)
        assert moved > 1e-4
        for key in a:
            assert (a[key] - b[key]).abs().max() < 1e-3 * moved, (name, key)
    ours, theirs = (model.means.state_dict() for model in (whole, accumulated))
    assert str(ours.keys()) == str(theirs.keys())


def test_more_micro_batches_than_images_are_refused(option_file: Path) -> None:
    with pytest.raises(UserError, match='is 3, but a batch has 2 images'):
        parse_options(option_file, ['datasets:train:accumulate=3'])
    assert parse_options(option_file, ['datasets:train:accumulate=2']).options.datasets.train.accumulate == 2


def test_these_options_do_not_change_the_state_dict() -> None:
    plain, saving = build_twice(GENERATOR, grad_checkpoint=True)
    assert list(plain.state_dict()) == list(saving.state_dict())
    assert torch.equal(copy.deepcopy(saving).eval()(images()), plain.eval()(images()))
