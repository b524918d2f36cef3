"""Facial component losses: gradients within the boxes, and discriminators that learn in the same step."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from conftest import tiny_options
from gpen.losses import build_loss
from gpen.losses.components import ComponentLoss, crop_boxes
from gpen.losses.perceptual import gram_matrix
from gpen.models import build_model
from gpen.models.gpen_model import GPENModel
from gpen.options import Options
from gpen.runs.training_state import load_networks, pack_networks, pack_state
from tiny_model import CPU, batch_of, build, equal, logged, weights_of

COMPONENTS = {'type': 'ComponentLoss', 'channels': 2, 'style_weight': 5}
NAMES = ('left_eye', 'right_eye', 'mouth')
BOXES = torch.tensor([[2.0, 3, 7, 8], [9, 3, 14, 8], [4, 10, 12, 15]])


def batch_with_boxes(iteration: int, count: int = 2) -> dict[str, Any]:
    batch = batch_of(iteration)
    images = {name: torch.cat([batch[name]] * (count // 2)) for name in ('lq', 'gt')}
    return {**batch, **images, 'boxes': (BOXES + 0.25).expand(count, 3, 4).clone()}


def build_with_components(**train: Any) -> GPENModel:
    return build(train={'component_opt': COMPONENTS, **train})


def networks_of(model: GPENModel) -> list[Tensor]:
    return weights_of(model.net_d_components)


def build_component_loss(**arguments: Any) -> ComponentLoss:
    torch.manual_seed(0)
    loss: ComponentLoss = build_loss({**COMPONENTS, **arguments})  # type: ignore[assignment]
    return loss


def images(count: int = 2, size: int = 16) -> tuple[Tensor, Tensor]:
    restored, gt = torch.rand(2, count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return restored, gt


# ---- the losses


@pytest.mark.parametrize('component', NAMES)
def test_the_gradient_is_zero_outside_the_boxes_and_nowhere_zero_inside(component: str) -> None:
    loss, (restored, gt) = build_component_loss(), images()
    boxes = BOXES.expand(2, 3, 4)
    restored.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss.generator(restored, gt, boxes)[component], restored)

    x0, y0, x1, y1 = BOXES[NAMES.index(component)].int().tolist()
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[y0:y1, x0:x1] = True
    reach = torch.zeros_like(inside)
    reach[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = True  # bilinear weights reach half a pixel further
    assert not gradient[:, :, ~reach].any()
    assert gradient[:, :, inside].abs().min() > 0


def test_the_gradient_of_all_losses_together_lies_in_the_boxes() -> None:
    loss, (restored, gt) = build_component_loss(), images()
    restored.requires_grad_(True)
    total = sum(loss.generator(restored, gt, BOXES.expand(2, 3, 4)).values())
    (gradient,) = torch.autograd.grad(total, restored)  # type: ignore[arg-type]
    reach = torch.zeros(16, 16, dtype=torch.bool)
    for x0, y0, x1, y1 in BOXES.int().tolist():
        assert gradient[:, :, y0:y1, x0:x1].abs().min() > 0
        reach[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = True
    assert not gradient[:, :, ~reach].any()


def test_the_style_loss_alone_has_its_gradient_in_the_boxes_and_none_where_images_agree() -> None:
    loss, (restored, gt) = build_component_loss(), images()
    for image, is_zero in ((restored, False), (gt.clone(), True)):
        image.requires_grad_(True)
        style = loss.generator(image, gt, BOXES.expand(2, 3, 4))['style']
        (gradient,) = torch.autograd.grad(style, image)
        assert (float(style.detach()) == 0) == is_zero
        assert gradient.any() != is_zero


@torch.no_grad()
def test_losses_are_the_formulas() -> None:
    loss, (restored, gt) = build_component_loss(loss_weight=0.5), images()
    boxes = BOXES.expand(2, 3, 4)
    found, judged = loss.generator(restored, gt, boxes), loss.discriminator(restored, gt, boxes)
    style = 0.0
    for number, name in enumerate(NAMES):
        network = loss.discriminators[name]
        fake, fine, coarse = network(crop_boxes(restored, boxes[:, number], 16))
        real, real_fine, real_coarse = network(crop_boxes(gt, boxes[:, number], 16))
        assert fake.shape == (2, 1, 4, 4)
        assert (fine.shape, coarse.shape) == ((2, 4, 8, 8), (2, 8, 4, 4))
        assert float(found[name]) == pytest.approx(0.5 * float(F.softplus(-fake).mean()))
        assert float(judged[name]) == pytest.approx(float(F.softplus(-real).mean() + F.softplus(fake).mean()))
        for one, other in ((fine, real_fine), (coarse, real_coarse)):
            style += float((gram_matrix(one) - gram_matrix(other)).abs().mean())
    assert float(found['style']) == pytest.approx(0.5 * 5 * style, rel=1e-5)
    assert list(found) == [*NAMES, 'style']


def test_a_gram_matrix_holds_products_of_channels() -> None:
    features = torch.rand(2, 3, 4, 5)
    gram = gram_matrix(features)
    assert gram.shape == (2, 3, 3)
    assert float(gram[1, 0, 2]) == pytest.approx(float((features[1, 0] * features[1, 2]).sum() / (3 * 4 * 5)))


def test_a_crop_holds_the_pixels_of_its_box() -> None:
    restored, _ = images()
    crop = crop_boxes(restored, torch.tensor([[4.0, 10, 12, 18], [0, 0, 8, 8]]) - torch.tensor([0.0, 2, 0, 2]), 8)
    assert torch.allclose(crop[0], restored[0, :, 8:16, 4:12], atol=1e-6)
    assert torch.allclose(crop_boxes(restored, torch.tensor([[0.0, 0, 16, 16]] * 2), 16), restored, atol=1e-6)


def test_crops_and_their_gradients_are_those_of_torchvisions_roi_align() -> None:
    images = torch.randn(4, 3, 48, 64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    # Smaller than the crop, up to twice and more than twice as large, and all of the image.
    boxes = torch.tensor([[3.2, 4.1, 12.7, 13.6], [0.0, 20.5, 27.5, 48.0], [10.3, 0.0, 58.3, 47.9], [0.0, 0, 64, 48]])
    rois = torch.cat([torch.arange(4.0)[:, None], boxes], dim=1)
    found, expected = crop_boxes(images, boxes, 16), roi_align(images, rois, 16, aligned=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)

    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    gradients = [torch.autograd.grad((crops * weights).sum(), images)[0] for crops in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ('size', 'arguments', 'expected'),
    [
        (512, {}, {80, 120}),
        (256, {}, {40, 60}),
        (128, {}, {20, 32}),
        (64, {}, {16}),
        (64, {'eye_size': 24, 'mouth_size': 8}, {24, 8}),
    ],
)
def test_crops_follow_the_size_of_the_image(
    size: int, arguments: dict[str, int], expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def note(crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.add(crops.shape[-1])
        return crops, crops, crops

    loss = build_component_loss(**arguments)
    for network in loss.discriminators.values():
        monkeypatch.setattr(network, 'forward', note)
    loss.discriminator(*images(2, size), BOXES.expand(2, 3, 4) * size / 16)
    assert seen == expected


# ---- the step


def test_off_nothing_changes() -> None:
    plain = build()
    for off in ({'component_opt': None}, {'component_opt': {**COMPONENTS, 'loss_weight': 0}}):
        model = build(train=off)
        assert model.net_d_components is None
        assert model.inputs == ('lq', 'gt')
        assert model.state_dict().keys() == plain.state_dict().keys()
        assert pack_networks(model).keys() == pack_networks(plain).keys() == {'net_g', 'net_d'}


def test_components_start_alike_and_leave_the_start_of_the_others_as_it_was() -> None:
    plain, model, again = build(), build_with_components(), build_with_components()
    assert equal(networks_of(model), networks_of(again))
    assert equal(weights_of(plain.net_g), weights_of(model.net_g))
    assert equal(weights_of(plain.net_d), weights_of(model.net_d))


def test_the_discriminator_of_the_whole_face_learns_as_before() -> None:
    plain, model = build(), build_with_components()
    plain.train_step(batch_of(1), 1)
    model.train_step(batch_with_boxes(1), 1)
    assert equal(weights_of(plain.net_d), weights_of(model.net_d))
    assert not equal(weights_of(plain.net_g), weights_of(model.net_g))


def test_a_step_trains_each_component_and_records_it() -> None:
    model = build_with_components()
    before = copy.deepcopy(model.net_d_components)
    assert before is not None
    model.train_step(batch_with_boxes(1), 1)
    for (name, old), new in zip(before.named_parameters(), networks_of(model), strict=True):
        assert not torch.equal(old, new), name
    tags = set(logged(model)) - {'grad_below_eps_g', 'grad_below_eps_d'}
    plain = build()
    plain.train_step(batch_of(1), 1)
    assert tags - set(logged(plain)) == {
        *(f'{letter}_loss_component_{name}' for letter in 'DG' for name in NAMES),
        *('G_loss_component_style', 'grad_norm_d_components'),
    }


def test_components_learn_while_the_generator_waits() -> None:
    model = build_with_components(net_d_iters=2)
    generator, components = weights_of(model.net_g), networks_of(model)
    model.train_step(batch_with_boxes(1), 1)
    assert equal(generator, weights_of(model.net_g))
    assert not equal(components, networks_of(model))


def test_components_have_the_optimizer_and_the_rate_of_the_discriminator_but_not_its_clip() -> None:
    sgd = {'type': 'SGD', 'lr': 1.0, 'param_groups': {'late': {'patterns': ['final*'], 'lr': 0.5}}}
    model = build_with_components(optim_d=sgd, use_grad_norm=True, grad_norm_clip=1e-9)
    model.set_learning_rates({'g': 0.1, 'd': 0.25, 'd_late': 0.5})
    assert [group['lr'] for group in model.optimizer_d_components.param_groups] == [0.25]
    before = networks_of(model)
    batch = batch_with_boxes(1)
    with torch.no_grad():
        torch.manual_seed(0)
        fake = model.generate(batch)
    losses = model.component_loss.discriminator(fake, batch['gt'], batch['boxes'])
    gradients = torch.autograd.grad(sum(losses.values()), list(model.net_d_components.parameters()))  # type: ignore
    model.train_components(fake, batch)
    for old, gradient, new in zip(before, gradients, networks_of(model), strict=True):
        torch.testing.assert_close(old - 0.25 * gradient, new)


def test_components_do_not_follow_images_that_are_not_finite() -> None:
    model = build_with_components()
    batch = batch_with_boxes(1)
    batch['gt'][0, 0, 4, 4] = torch.nan
    before = networks_of(model)
    model.train_step(batch, 1)
    assert equal(before, networks_of(model))
    (message,) = model.guard.review()
    assert 'D_loss_component_left_eye' in message
    assert 'this step of the discriminator and the generator was skipped' in message


def train_in(accumulate: int) -> GPENModel:
    options = tiny_options(Path('data'), Path('results'))
    options['datasets']['train'] |= {'batch_size_per_gpu': 4, 'accumulate': accumulate}
    options['train']['component_opt'] = COMPONENTS
    options['train'] |= {name: {'type': 'SGD', 'lr': 0.01} for name in ('optim_g', 'optim_d')}
    model: GPENModel = build_model(Options.model_validate(options), CPU)
    for iteration in (1, 2):
        model.train_step(batch_with_boxes(iteration, 4), iteration)
    return model


@pytest.mark.parametrize('accumulate', [2, 3])
def test_micro_batches_train_as_the_whole_batch(accumulate: int) -> None:
    whole, accumulated = train_in(1), train_in(accumulate)
    for one, other in zip(
        [*weights_of(whole.net_g), *networks_of(whole)],
        [*weights_of(accumulated.net_g), *networks_of(accumulated)],
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('more', [{'amp': 'bf16'}, {'amp': 'fp16'}, {'channels_last': True}])
def test_losses_are_nearly_the_same_in_mixed_precision_and_other_memory_formats(more: dict[str, Any]) -> None:
    values = []
    for train in ({}, more):
        model = build_with_components(**train)
        model.train_step(batch_with_boxes(1), 1)
        values.append(logged(model))
    for name in (name for name in values[0] if 'component_' in name):
        assert values[1][name] == pytest.approx(values[0][name], rel=0.1, abs=0.01), name


# ---- checkpoints


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    model = build_with_components(amp='fp16')
    for iteration in (1, 2):
        model.train_step(batch_with_boxes(iteration), iteration)
    networks = copy.deepcopy(pack_networks(model))
    assert set(networks) == {'net_g', 'net_d', 'net_d_components'}
    kind = {'epoch': 1, 'pairs': 2, 'processes': 1, 'validation_is_due': False}
    state = copy.deepcopy(pack_state(model, model.options, None, **kind))  # type: ignore[arg-type]

    other = build_with_components(amp='fp16', optim_d={'type': 'Adam', 'lr': 2e-3, 'betas': [0.9, 0.99]})
    load_networks(other, networks)
    other.load_state_dict(state['model'])
    for one in (model, other):
        one.set_learning_rates({'g': 1e-3, 'd': 1e-3})
        one.train_step(batch_with_boxes(3), 3)
    assert equal(networks_of(model), networks_of(other))
    assert equal(weights_of(model.net_g), weights_of(other.net_g))
    assert float(model.scale_d_components.scale) == float(other.scale_d_components.scale)
