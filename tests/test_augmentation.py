"""Differentiable augmentation: what it does to images, to whom, and how its probability adapts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from command_line import fail, succeed
from comparing import assert_same_run
from gpen.distributed import ranks
from gpen.models.augmentation import CHANGES, INTERVAL, Augmentation, cut_out, translate
from gpen.options.train import Augment
from tiny_model import CPU, batch_of, build, build_prior, equal, faces, logged, weights_of


def augmentation(**options: Any) -> Augmentation:
    return Augmentation(Augment.model_validate(options), images_per_iteration=8, device=CPU)


def noise(count: int = 2, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- the changes


@pytest.mark.parametrize('name', CHANGES)
def test_gradients_flow_through_each_change(name: str) -> None:
    torch.manual_seed(0)
    change = augmentation(policy=[name]).draw(2, CPU)
    images = noise(size=8).double().requires_grad_()
    assert torch.autograd.gradcheck(change, (images,))


@pytest.mark.parametrize('name', CHANGES)
def test_a_draw_makes_the_same_changes_to_any_batch_and_another_draw_others(name: str) -> None:
    torch.manual_seed(0)
    options = augmentation(policy=[name])
    change, other = options.draw(8, CPU), options.draw(8, CPU)
    images = noise(8)
    assert torch.equal(change(images), change(images.clone()))
    assert not torch.equal(change(images), other(images))
    assert not torch.equal(change(images), images)


def test_a_shift_is_by_whole_pixels_up_to_an_eighth_and_brings_in_zeros() -> None:
    images = noise(1)
    for number, shift in ((0.0, -2), (0.5, 0), (0.999, 2)):
        drawn = [torch.full((1, 1, 1, 1), number)] * 3
        expected = torch.zeros_like(images)
        target, source = (slice(max(-shift, 0), 16 - max(shift, 0)), slice(max(shift, 0), 16 - max(-shift, 0)))
        expected[:, :, target, target] = images[:, :, source, source]
        assert torch.equal(translate(images, drawn), expected)


def test_a_cutout_takes_a_quarter_of_the_image_or_less_at_its_edge() -> None:
    images = torch.ones(1, 3, 16, 16)
    middle = cut_out(images, [torch.full((1, 1, 1, 1), 0.5)] * 3)
    assert middle.sum() == 3 * (256 - 64)
    assert middle[:, :, 4:12, 4:12].abs().sum() == 0
    corner = cut_out(images, [torch.zeros(1, 1, 1, 1)] * 3)
    assert corner.sum() == 3 * (256 - 16)


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_each_image_is_changed_with_the_probability(probability: float) -> None:
    torch.manual_seed(0)
    images = noise(2000, 8)
    changed = augmentation(policy=['cutout'], probability=probability).draw(2000, CPU)(images)
    share = (changed != images).flatten(1).any(dim=1).float().mean()
    assert float(share) == pytest.approx(probability, abs=0.04)


# --- the adaptive probability


def test_the_probability_rises_while_the_discriminator_is_surer_than_the_target_and_falls_else() -> None:
    adaptive = augmentation(ada_target=0.6, ada_images=80)
    assert float(adaptive.probability) == 0
    step = INTERVAL * 8 / 80  # 8 images an iteration, 80 from 0 to 1
    for iteration in range(1, 2 * INTERVAL + 1):
        adaptive.adapt(torch.tensor(0.85), torch.tensor(0.1), iteration)  # a mean sign of 0.7
    assert float(adaptive.probability) == pytest.approx(2 * step)
    for iteration in range(1, INTERVAL + 1):
        adaptive.adapt(torch.tensor(0.75), torch.tensor(0.1), iteration)
    assert float(adaptive.probability) == pytest.approx(step)
    for iteration in range(1, 20 * INTERVAL + 1):
        adaptive.adapt(torch.tensor(1.0), torch.tensor(0.1), iteration)
    assert float(adaptive.probability) == 1


def test_all_ranks_keep_the_mean_of_all_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training state is that of rank 0, so all ranks must have the same sum, between two changes too."""

    def average(tensors: list[Tensor]) -> None:  # with a rank whose mean sign is -1
        for tensor in tensors:
            tensor.copy_((tensor + torch.tensor([-1.0, 0.1])) / 2)

    monkeypatch.setattr(ranks, 'all_reduce_mean', average)
    adaptive = augmentation(ada_target=0.6, ada_images=80)
    adaptive.adapt(torch.tensor(1.0), torch.tensor(0.1), 1)
    assert float(adaptive.state_dict()['sure']) == pytest.approx(-0.6)  # the mean sign is 0


def test_a_step_that_is_not_finite_counts_neither_way() -> None:
    adaptive = augmentation(ada_target=0.6, ada_images=80)
    adaptive.adapt(torch.tensor(1.0), torch.tensor(0.1), 1)
    for iteration in (2, 3, 4):
        adaptive.adapt(torch.tensor(0.0), torch.tensor(torch.nan), iteration)
    assert float(adaptive.probability) == pytest.approx(INTERVAL * 8 / 80)
    for iteration in (5, 6, 7, 8):
        adaptive.adapt(torch.tensor(0.0), torch.tensor(torch.nan), iteration)
    assert float(adaptive.probability) == pytest.approx(INTERVAL * 8 / 80)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_stays(memory_format: torch.memory_format) -> None:
    images = noise().contiguous(memory_format=memory_format)
    for policy in ([name] for name in CHANGES):
        assert augmentation(policy=policy).draw(2, CPU)(images).stride() == images.stride()


def test_a_fixed_probability_stays_and_is_that_of_the_options_after_a_resume() -> None:
    fixed = augmentation(probability=0.4)
    fixed.adapt(torch.tensor(1.0), torch.tensor(0.1), INTERVAL)
    assert float(fixed.probability) == pytest.approx(0.4)
    other = augmentation(probability=0.7)
    other.load_state_dict(fixed.state_dict())
    assert float(other.probability) == pytest.approx(0.7)


# --- in a step


def test_a_probability_of_0_changes_nothing() -> None:
    never, without = build(train={'augment_opt': {'probability': 0.0}}), build()
    for model in (without, never):
        model.train_step(batch_of(1), 1)
    for ours, theirs in ((never.net_d, without.net_d), (never.net_g, without.net_g)):
        for weight, other in zip(weights_of(ours), weights_of(theirs), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('changes', [{}, {'feature_matching_opt': {'type': 'FeatureMatchingLoss'}}])
def test_the_discriminator_sees_nothing_but_augmented_images(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(train={'augment_opt': {'policy': ['cutout']}, **changes})
    seen: list[Tensor] = []
    judge = model.judge
    monkeypatch.setattr(model, 'judge', lambda images, **arguments: seen.append(images) or judge(images, **arguments))
    model.train_step(batch_of(3), 3)  # with R1, in the same pass
    assert len(seen) == (4 if changes else 3)
    holes = [(images == 0).all(dim=1).flatten(1).sum(dim=1) for images in seen]  # N, pixels
    assert all(bool((hole >= 16).all()) for hole in holes)  # a quarter of a quarter of 16 x 16 at least
    if changes:  # the features of restored and GT images are compared: both have the same hole
        assert torch.equal((seen[2] == 0).all(dim=1), (seen[3] == 0).all(dim=1))


def test_r1_of_a_pass_of_its_own_sees_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(train={'augment_opt': {'policy': ['cutout']}, 'amp': 'bf16'})
    seen: list[Tensor] = []
    own, judge = model._r1_of_own_pass, model.judge
    monkeypatch.setattr(model, '_r1_of_own_pass', lambda gt: seen.append(gt) or own(gt))
    monkeypatch.setattr(model, 'judge', lambda images, **options: seen.append(images) or judge(images, **options))
    model.train_step(batch_of(3), 3)
    assert torch.equal(seen[1], seen[2])


def test_the_generator_learns_through_the_augmentation() -> None:
    only = {'pixel_opt': None, 'optim_g': {'type': 'SGD', 'lr': 1.0}}
    plain, augmented = build(train=only), build(train={**only, 'augment_opt': {'policy': ['translation', 'color']}})
    before = weights_of(plain.net_g)
    for model in (plain, augmented):
        model.set_learning_rates({'g': 1.0, 'd': 1e-9})
        model.train_step(batch_of(1), 1)
    assert not equal(weights_of(augmented.net_g), before)
    assert not equal(weights_of(augmented.net_g), weights_of(plain.net_g))


def test_a_prior_is_trained_with_it_too_and_the_probability_is_recorded() -> None:
    for model, batch in ((build_prior(augment_opt={}), faces(1)), (build(train={'augment_opt': {}}), batch_of(1))):
        model.train_step(batch, 1)
        assert logged(model)['D_augment_p'] == 1
        assert model.guard.review() == []


# --- runs


def test_an_interrupted_run_continues_bit_for_bit(option_file: Path, tmp_path: Path) -> None:
    adaptive = 'train:augment_opt={ada_target: 0.1, ada_images: 40}'
    succeed(option_file, adaptive)
    whole = tmp_path / 'whole'
    (option_file.parent / 'experiments' / 'tiny').rename(whole)
    succeed(option_file, adaptive, 'train:total_epochs=2')
    succeed(option_file, adaptive, flags=('--auto_resume',))
    assert_same_run(option_file.parent / 'experiments' / 'tiny', whole)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('{policy: [colour]}', "train.augment_opt.policy.0: should be 'color', 'translation' or 'cutout'"),
        ('{policy: []}', 'train.augment_opt.policy'),
        ('{probability: 0.5, ada_target: 0.6}', 'give one of probability and ada_target'),
        ('{ada_images: 1000}', 'needs ada_target'),
        ('{probability: 2}', 'train.augment_opt.probability'),
    ],
)
def test_wrong_options_are_refused(option_file: Path, options: str, message: str) -> None:
    assert message in fail(option_file, f'train:augment_opt={options}')


def test_it_needs_a_discriminator(option_file: Path) -> None:
    assert 'train.augment_opt: needs gan_opt' in fail(option_file, 'train:augment_opt={}', 'train:gan_opt=~')
