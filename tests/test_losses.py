"""Losses: their values against calculations by hand, their gradients, and their errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpen.errors import UserError
from gpen.losses import build_loss
from gpen.losses.gan import GANLoss
from gpen.losses.r1 import r1_penalty
from gpen.options.components import signature_model
from gpen.registry import LOSS_REGISTRY

torch.set_num_threads(1)


def noise(*shape, seed=0, **kwargs):
    """Values in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **kwargs) * 2 - 1


# --- by name


def test_loss_is_built_by_name_and_options_stay_as_they_are():
    options = {'type': 'L1Loss', 'loss_weight': 2.0}
    assert build_loss(options)(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).item() == 2.0
    assert options == {'type': 'L1Loss', 'loss_weight': 2.0}


def test_unknown_loss_lists_what_exists():
    with pytest.raises(UserError, match=r"Did you mean 'L1Loss'\?.*GANLoss"):
        build_loss({'type': 'L1Los'})


def test_block_without_type_is_an_error():
    with pytest.raises(UserError, match='needs "type: NAME"'):
        build_loss({'loss_weight': 1.0})


def test_every_loss_states_its_arguments_for_the_option_check():
    assert {'L1Loss', 'SmoothL1Loss', 'MSELoss', 'CharbonnierLoss', 'GANLoss', 'PerceptualLoss', 'IdentityLoss',
            'FeatureMatchingLoss'} <= set(LOSS_REGISTRY.definitions)  # fmt: skip
    for definition in LOSS_REGISTRY.definitions.values():
        defaults = signature_model(definition)().model_dump(by_alias=True)
        assert defaults['loss_weight'] == 1.0
        with pytest.raises(ValueError, match='loss_weight'):
            signature_model(definition)(loss_weight=-1.0)


# --- pixel


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'type': 'L1Loss'}, (0.2 + 1.6) / 2),
        ({'type': 'L1Loss', 'reduction': 'sum', 'loss_weight': 3.0}, 3 * (0.2 + 1.6)),
        ({'type': 'MSELoss'}, (0.2**2 + 1.6**2) / 2),
        ({'type': 'SmoothL1Loss'}, (0.2**2 / 2 + 1.6 - 0.5) / 2),
        ({'type': 'SmoothL1Loss', 'beta': 0.1, 'reduction': 'sum'}, 0.2 - 0.05 + 1.6 - 0.05),
        ({'type': 'CharbonnierLoss'}, (0.2 + 1.6) / 2),
        ({'type': 'CharbonnierLoss', 'eps': 0.01}, (math.sqrt(0.05) + math.sqrt(2.57)) / 2),
        ({'type': 'CharbonnierLoss', 'eps': 0.01, 'reduction': 'sum'}, math.sqrt(0.05) + math.sqrt(2.57)),
    ],
)
def test_pixel_loss_is_as_calculated_by_hand(options, expected):
    restored = torch.tensor([0.1, -0.8], requires_grad=True)
    loss = build_loss(options)(restored, torch.tensor([-0.1, 0.8]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert restored.grad[0] > 0 > restored.grad[1]


def test_equal_images_cost_a_charbonnier_loss_a_millionth():
    images = torch.zeros(2, 3, 4, 4)
    assert build_loss({'type': 'CharbonnierLoss'})(images, images).item() == pytest.approx(1e-6)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r'\(2, 3, 4, 4\) but gt is \(1, 3, 4, 4\)'):
        build_loss({'type': 'L1Loss'})(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


# --- adversarial

REAL = torch.tensor([[1.0], [-0.5]])
FAKE = torch.tensor([[0.25], [-2.0]])


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ('gan_type', 'generator', 'on_real', 'on_fake'),
    [
        ('logistic', softplus(-0.25) + softplus(2), softplus(-1) + softplus(0.5), softplus(0.25) + softplus(-2)),
        ('hinge', -0.25 + 2, 0 + 1.5, 1.25 + 0),
        ('least_squares', 0.75**2 + 3**2, 0 + 1.5**2, 0.25**2 + 2**2),
    ],
)
def test_adversarial_loss_is_as_calculated_by_hand(gan_type, generator, on_real, on_fake):
    loss = GANLoss(gan_type, loss_weight=0.1)
    assert loss.generator(FAKE).item() == pytest.approx(0.1 * generator / 2, rel=1e-6)
    real, fake = loss.discriminator(REAL, FAKE)
    assert real.item() == pytest.approx(on_real / 2, rel=1e-6)
    assert fake.item() == pytest.approx(on_fake / 2, rel=1e-6)


@pytest.mark.parametrize('alias', ['wgan_softplus', 'vanilla', 'lsgan'])
def test_names_of_basicsr_mean_the_same(alias):
    ours = GANLoss('least_squares' if alias == 'lsgan' else 'logistic')
    assert torch.equal(GANLoss(alias).generator(FAKE), ours.generator(FAKE))
    assert GANLoss(alias).discriminator(REAL, FAKE) == ours.discriminator(REAL, FAKE)


def test_unknown_gan_type_lists_what_exists():
    with pytest.raises(UserError, match=r"'wgan'.*logistic, hinge"):
        GANLoss('wgan')


@pytest.mark.parametrize('gan_type', ['logistic', 'hinge', 'least_squares'])
def test_generator_wants_higher_logits_and_discriminator_separates(gan_type):
    loss = GANLoss(gan_type)
    real, fake = torch.zeros(3, 1, requires_grad=True), torch.full((3, 1), 0.1, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.generator(fake), fake)
    assert (gradient < 0).all()
    on_real, on_fake = torch.autograd.grad(sum(loss.discriminator(real, fake)), (real, fake))
    assert (on_real < 0).all()
    assert (on_fake > 0).all()


def test_logistic_loss_stays_finite_and_exact_for_large_logits():
    loss = GANLoss()
    assert loss.generator(torch.tensor([-1e4])).item() == 1e4
    assert loss.generator(torch.tensor([1e4])).item() == 0
    assert loss.generator(torch.tensor([-300.0], dtype=torch.float16)).dtype == torch.float32


def test_label_smoothing_is_the_cross_entropy_with_that_label():
    loss = GANLoss('vanilla', real_label_val=0.9, fake_label_val=0.1)
    real, fake = loss.discriminator(REAL, FAKE)
    assert torch.allclose(real, F.binary_cross_entropy_with_logits(REAL, torch.full_like(REAL, 0.9)))
    assert torch.allclose(fake, F.binary_cross_entropy_with_logits(FAKE, torch.full_like(FAKE, 0.1)))
    with pytest.raises(UserError, match='no effect with gan_type hinge'):
        GANLoss('hinge', real_label_val=0.9)


@pytest.mark.parametrize(('gan_type', 'threshold'), [('logistic', 0.0), ('hinge', 0.0), ('lsgan', 0.5)])
def test_accuracy_is_the_share_judged_rightly(gan_type, threshold):
    real = torch.tensor([1.0, 2.0, -1.0, 0.1]) + threshold
    fake = torch.tensor([1.0, -2.0, 0.1, 0.2, -0.1]) + threshold
    shares = GANLoss(gan_type).accuracy(real.requires_grad_(), fake)
    assert [share.item() for share in shares] == pytest.approx([3 / 4, 2 / 5])
    assert not shares[0].requires_grad


# --- R1


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights():
    weight = noise(12, 1).requires_grad_()
    images = noise(4, 3, 2, 2, seed=1).requires_grad_()
    penalty = r1_penalty(images.flatten(1) @ weight, images)
    assert torch.allclose(penalty, weight.square().sum())
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(gradient, 2 * weight)


def test_r1_of_a_quadratic_discriminator_is_as_derived():
    # D(x) = a |x|^2, so dD/dx = 2 a x, the penalty is 4 a^2 mean |x|^2, and its derivative by a is 8 a mean |x|^2.
    a = torch.tensor(0.7, requires_grad=True)
    images = noise(5, 3, 4, 4).requires_grad_()
    squares = images.flatten(1).square().sum(1)
    penalty = r1_penalty(a * squares, images)
    assert penalty.item() == pytest.approx(4 * 0.49 * squares.mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, a)
    assert gradient.item() == pytest.approx(8 * 0.7 * squares.mean().item(), rel=1e-5)


def test_r1_can_be_differentiated_numerically_exactly():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 1)).double()
    images = noise(2, 3, 4, 4, dtype=torch.float64)
    parameters = tuple(value.detach().requires_grad_() for value in network.parameters())
    names = [name for name, _ in network.named_parameters()]

    def penalty(*values):
        leaf = images.clone().requires_grad_()
        logits = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (leaf,))
        return r1_penalty(logits, leaf)

    assert torch.autograd.gradcheck(penalty, parameters)


# --- feature matching


def test_feature_matching_is_the_mean_over_layers_of_mean_differences():
    fake = [torch.zeros(2, 4, 8, 8, requires_grad=True), torch.zeros(2, 8, 4, 4, requires_grad=True)]
    real = [torch.full((2, 4, 8, 8), 1.0, requires_grad=True), torch.full((2, 8, 4, 4), -3.0)]
    loss = build_loss({'type': 'FeatureMatchingLoss', 'loss_weight': 10.0})(fake, real)
    assert loss.item() == pytest.approx(10 * (1 + 3) / 2)
    loss.backward()
    assert fake[0].grad.abs().sum() > 0
    assert real[0].grad is None


def test_feature_matching_as_in_the_paper_is_the_sum_over_layers_of_euclidean_norms():
    fake = [torch.zeros(2, 4, 8, 8, requires_grad=True), torch.zeros(2, 8, 4, 4, requires_grad=True)]
    real = [torch.full((2, 4, 8, 8), 1.0), torch.full((2, 8, 4, 4), -3.0)]
    real[0][1] = 2.0  # the second image of the batch
    loss = build_loss({'type': 'FeatureMatchingLoss', 'loss_weight': 0.02, 'norm': 'l2_sum'})(fake, real)
    assert loss.item() == pytest.approx(0.02 * (16 * (1 + 2) / 2 + math.sqrt(128) * 3))
    loss.backward()
    assert fake[1].grad.abs().sum() > 0
    same = build_loss({'type': 'FeatureMatchingLoss', 'norm': 'l2_sum'})
    same(fake, [layer.detach() for layer in fake]).backward()
    assert all(torch.isfinite(layer.grad).all() for layer in fake)


def test_feature_matching_refuses_lists_that_do_not_match():
    loss = build_loss({'type': 'FeatureMatchingLoss'})
    with pytest.raises(ValueError, match='zip'):
        loss([torch.zeros(1), torch.zeros(1)], [torch.zeros(1)])
    with pytest.raises(ValueError, match='at least one layer'):
        loss([], [])
