"""Losses that look through a fixed network: perceptual (VGG) and identity (ArcFace)."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gpen.errors import UserError
from gpen.losses import build_loss, perceptual
from gpen.losses import identity as identity_module
from gpen.losses.identity import crop_face
from gpen.losses.perceptual import PerceptualLoss, VGGFeatures, gram_matrix, list_layers
from gpen.weights import downloads as weights
from gpen.weights.downloads import find_url
from tiny_model import batch_of, build

torch.set_num_threads(1)

VGG = {'type': 'PerceptualLoss', 'layer_weights': {'conv2_1': 1.0}}


def noise(*shape, seed=0):
    """Values in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# --- perceptual


@pytest.fixture(scope='module')
def vgg19(tmp_path_factory):
    """Random weights in torchvision's layout, as a file, and torchvision's own layers with them."""
    vgg = pytest.importorskip('torchvision.models.vgg')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = vgg.make_layers(vgg.cfgs['E'], batch_norm=False)
    path = tmp_path_factory.mktemp('vgg') / 'vgg19-dcbb9e9d.pth'
    state = {f'features.{name}': value for name, value in layers.state_dict().items()}
    torch.save({**state, 'classifier.0.weight': torch.zeros(2, 2)}, path)
    return path, layers


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A project without weights, on a machine without torch hub's cache or network."""
    monkeypatch.setattr(weights, 'project_root', lambda: tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(perceptual, 'find_url', lambda model: f'file:///nowhere/{Path(find_url(model)).name}')
    return tmp_path


def test_vgg_layers_have_the_indices_of_torchvision(vgg19):
    path, layers = vgg19
    assert len(list_layers('vgg19')) == len(layers)
    images = noise(1, 3, 16, 16)
    outputs = VGGFeatures('vgg19', ['relu1_2', 'conv3_1', 'conv5_4'], str(path))(images)
    assert list(outputs) == ['relu1_2', 'conv3_1', 'conv5_4']
    layers = copy.deepcopy(layers)
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    for name, index in (('relu1_2', 3), ('conv3_1', 10), ('conv5_4', 34)):
        assert torch.allclose(outputs[name], layers[: index + 1](images), atol=1e-6)


def test_vgg_ends_at_the_last_layer_that_is_needed(vgg19):
    assert len(VGGFeatures('vgg19', ['conv1_1', 'relu2_1'], str(vgg19[0])).features) == 7


def test_relu_overwrites_its_input_unless_that_is_returned(vgg19):
    features = VGGFeatures('vgg19', ['conv1_2', 'relu2_1'], str(vgg19[0]))
    in_place = {
        name: layer.inplace for name, layer in zip(features.names, features.features, strict=True) if 'relu' in name
    }
    assert in_place == {'relu1_1': True, 'relu1_2': False, 'relu2_1': True}

    # Gradients are those of a network that overwrites nothing.
    images = [noise(1, 3, 8, 8).requires_grad_() for _ in range(2)]
    plain = copy.deepcopy(features)
    for layer in plain.features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    for network, image in zip((features, plain), images, strict=True):
        sum(value.square().sum() for value in network(image).values()).backward()
    assert torch.equal(images[0].grad, images[1].grad)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_the_vgg_runs_in_half_precision_and_distances_in_float32(vgg19, dtype):
    options = {'weights': str(vgg19[0]), 'layer_weights': {'conv1_2': 1.0, 'relu2_1': 1.0}, 'style_weight': 10.0}
    loss = PerceptualLoss(**options)
    seen = set()
    for layer in loss.vgg.features:
        layer.register_forward_hook(lambda *given: seen.add(given[2].dtype))
    restored, gt = noise(2, 3, 32, 32).requires_grad_(), noise(2, 3, 32, 32, seed=1)
    expected = loss(restored, gt)
    assert seen == {torch.float32}
    (expected_gradient,) = torch.autograd.grad(expected, restored)

    seen.clear()
    compared, distance = set(), loss._distance
    loss._distance = lambda one, other: compared.update({one.dtype, other.dtype}) or distance(one, other)
    with torch.autocast('cpu', dtype):
        found = loss(restored, gt)
    assert (seen, compared) == ({dtype}, {torch.float32})
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.01)
    (gradient,) = torch.autograd.grad(found, restored)
    assert gradient.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected_gradient.flatten(), dim=0) > 0.99


@pytest.mark.parametrize('amp', [None, 'bf16'])
def test_amp_reaches_the_networks_of_losses_but_not_what_is_recorded(vgg19, amp):
    model = build(
        network_g={'size': 32},
        network_d={'size': 32},
        train={'amp': amp, 'perceptual_opt': {**VGG, 'weights': str(vgg19[0])}},
    )
    seen = set()
    model.losses['perceptual'].vgg.register_forward_hook(lambda *given: seen.add(given[2]['conv2_1'].dtype))
    torch.manual_seed(0)
    model.train_step(batch_of(1, size=32), 1)
    assert seen == {torch.float32 if amp is None else torch.bfloat16}
    values = model.means.read()
    assert values['G_loss_perceptual'] > 0
    assert torch.tensor(values['G_loss_pixel']).bfloat16().item() != values['G_loss_pixel']


@pytest.mark.parametrize('criterion', ['l1', 'l2', 'fro'])
def test_perceptual_loss_is_the_weighted_distance_of_normalised_features(vgg19, criterion):
    path, layers = vgg19
    restored, gt = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    options = {'weights': str(path), 'criterion': criterion, 'layer_weights': {'conv1_1': 0.5, 'conv1_2': 0.0}}
    loss = PerceptualLoss(**options, perceptual_weight=2.0, style_weight=3.0, loss_weight=0.1)(restored, gt)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    features = [layers[0](((x + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)) for x in (restored, gt)]

    def distance(a, b):
        difference = a - b
        if criterion == 'fro':
            return difference.square().sum().sqrt()
        return difference.abs().mean() if criterion == 'l1' else difference.square().mean()

    grams = [torch.einsum('nchw,ndhw->ncd', x, x) / (64 * 8 * 8) for x in features]
    expected = 0.1 * 0.5 * (2 * distance(*features) + 3 * distance(*grams))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_gram_matrix_is_the_mean_product_of_channels():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # 1 x 2 x 1 x 2
    assert torch.allclose(gram_matrix(features), torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / 4)
    assert gram_matrix(torch.full((1, 2, 64, 64), 200.0, dtype=torch.float16)).isfinite().all()


def test_images_in_0_1_without_input_norm_reach_the_network_unchanged(vgg19):
    path, layers = vgg19
    loss = PerceptualLoss({'conv1_1': 1.0}, weights=str(path), use_input_norm=False, range_norm=False)
    restored, gt = noise(1, 3, 4, 4), noise(1, 3, 4, 4, seed=1)
    assert loss(restored, gt).item() == pytest.approx(
        (layers[0](restored) - layers[0](gt)).abs().mean().item(), rel=1e-5
    )


def test_gradients_reach_the_restored_image_only(vgg19):
    loss = PerceptualLoss(weights=str(vgg19[0]))
    restored, gt = noise(1, 3, 16, 16).requires_grad_(), noise(1, 3, 16, 16, seed=1).requires_grad_()
    loss(restored, gt).backward()
    assert restored.grad.abs().sum() > 0
    assert gt.grad is None
    assert loss(gt, gt).item() == 0


def test_vgg_is_never_trained_nor_saved(vgg19):
    loss = PerceptualLoss({'conv2_2': 1.0}, weights=str(vgg19[0])).to(torch.float64)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert loss.vgg.features[0].weight.dtype == torch.float64
    loss.load_state_dict({})


def test_building_the_vgg_draws_no_random_numbers(vgg19):
    before = torch.get_rng_state()
    PerceptualLoss(weights=str(vgg19[0]))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_too_small_for_the_poolings_are_an_error(vgg19):
    loss = PerceptualLoss(weights=str(vgg19[0]))
    with pytest.raises(UserError, match='conv5_4, which needs at least 16 x 16'):
        loss(noise(1, 3, 8, 16), noise(1, 3, 8, 16))


def test_unknown_layer_names_the_nearest(vgg19):
    with pytest.raises(UserError, match=r"no layer 'conv5_5'\. Did you mean 'conv5_"):
        PerceptualLoss({'conv5_5': 1.0}, weights=str(vgg19[0]))


@pytest.mark.parametrize(
    'name', ['vgg11-8a719046.pth', 'vgg13-19584684.pth', 'vgg16-397923af.pth', 'vgg19-dcbb9e9d.pth']
)
def test_missing_vgg_file_says_which_file_to_put_where(no_weights, name):
    with pytest.raises(UserError) as caught:
        PerceptualLoss(vgg_type=name.partition('-')[0])
    message = str(caught.value)
    assert str(no_weights / 'weights' / name) in message
    assert f'file:///nowhere/{name}' in message
    assert "the option 'weights' of PerceptualLoss" in message


def test_vgg_file_is_found_where_the_error_said(no_weights, vgg19):
    (no_weights / 'weights').mkdir()
    (no_weights / 'weights' / 'vgg19-dcbb9e9d.pth').symlink_to(vgg19[0])
    assert PerceptualLoss({'conv1_1': 1.0}).vgg is not None


@pytest.mark.usefixtures('no_weights')
def test_perceptual_loss_with_weight_0_needs_no_file():
    image = noise(1, 3, 4, 4)
    for options in ({'perceptual_weight': 0.0}, {'loss_weight': 0.0}, {'layer_weights': {'conv5_4': 0.0}}):
        loss = PerceptualLoss(**options)
        assert loss.vgg is None
        assert loss(image, -image).item() == 0


def test_file_of_another_network_is_named(tmp_path):
    path = tmp_path / 'wrong.pth'
    torch.save({'features.0.weight': torch.zeros(1, 3, 3, 3), 'features.0.bias': torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"wrong\.pth does not hold .*'0\.weight' is \(1, 3, 3, 3\)"):
        PerceptualLoss({'conv1_1': 1.0}, weights=str(path))
    torch.save({'conv.weight': torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"wrong\.pth does not hold .*no '0\.weight'"):
        PerceptualLoss({'conv1_1': 1.0}, weights=str(path))


# --- identity


@pytest.fixture(scope='module')
def identity(tmp_path_factory):
    """The identity loss with random weights in the layout of facexlib's file."""
    arch = pytest.importorskip('facexlib.recognition.arcface_arch')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = arch.Backbone(num_layers=50, drop_ratio=0.6, mode='ir_se').state_dict()
    path = tmp_path_factory.mktemp('arcface') / 'recognition_arcface_ir_se50.pth'
    torch.save(state, path)
    return build_loss({'type': 'IdentityLoss', 'loss_weight': 2.0, 'weights': str(path)})


def test_identity_loss_is_one_minus_the_cosine_of_embeddings(identity):
    restored, gt = noise(2, 3, 64, 64).requires_grad_(), noise(2, 3, 64, 64, seed=1).requires_grad_()
    loss = identity(restored, gt)
    with torch.no_grad():
        a, b = (identity.network(crop_face(x)) for x in (restored, gt))
    assert a.shape == (2, 512)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert loss.item() == pytest.approx(2 * (1 - cosine).mean().item(), abs=1e-5)
    loss.backward()
    assert restored.grad.abs().sum() > 0
    assert gt.grad is None


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_arcface_runs_in_half_precision_and_the_cosine_in_float32(identity, dtype, monkeypatch):
    body = identity.network.body
    first_of_each_stage = torch.nn.Sequential(*(body[index] for index in (0, 3, 7, 21)))  # float16 is slow on a CPU
    monkeypatch.setitem(identity.network._modules, 'body', first_of_each_stage)
    restored, gt = noise(1, 3, 64, 64).requires_grad_(), noise(1, 3, 64, 64, seed=1)
    expected = identity(restored, gt)
    seen = set()
    hook = identity.network.input_layer[0].register_forward_hook(lambda *given: seen.add(given[2].dtype))
    compared, cosine = set(), torch.nn.functional.cosine_similarity
    monkeypatch.setattr(
        torch.nn.functional,
        'cosine_similarity',
        lambda one, other: compared.update({one.dtype, other.dtype}) or cosine(one, other),
    )
    with torch.autocast('cpu', dtype):
        found = identity(restored, gt)
    hook.remove()
    assert (seen, compared) == ({dtype}, {torch.float32})
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), abs=0.02)
    found.backward()
    assert restored.grad.isfinite().all()
    assert restored.grad.abs().sum() > 0


def test_the_same_face_costs_nothing_even_in_training_mode(identity):
    face = noise(1, 3, 32, 32)
    identity.train()
    assert identity(face, face).item() == pytest.approx(0, abs=1e-5)
    assert not any(module.training for module in identity.modules())


def test_channels_last_images_are_taken_too(identity):
    faces = noise(2, 3, 160, 160).to(memory_format=torch.channels_last)
    assert identity(faces, faces).item() == pytest.approx(0, abs=1e-5)


def test_arcface_is_never_trained_nor_saved(identity):
    assert list(identity.parameters()) == []
    assert identity.state_dict() == {}


@pytest.mark.parametrize('size', [64, 256, 512])
def test_face_is_cut_out_in_proportion(size):
    ramp = torch.linspace(0, 256, size + 1)[:-1] + 128 / size  # pixel centres on a scale of 256
    images = torch.stack([ramp.view(-1, 1).expand(size, size), ramp.expand(size, size)]).unsqueeze(0)
    face = crop_face(images)[0]
    assert face.shape == (2, 112, 112)
    assert face.mean((1, 2)).tolist() == pytest.approx([(35 + 223) / 2, (32 + 220) / 2], abs=1.5)
    assert face[0].min() == pytest.approx(35, abs=3)
    assert face[1].max() == pytest.approx(220, abs=3)


def test_missing_arcface_file_says_which_file_to_put_where(no_weights, monkeypatch):
    pytest.importorskip('facexlib')
    monkeypatch.setattr(identity_module, 'URL', f'file:///nowhere/{identity_module.FILENAME}')
    with pytest.raises(UserError) as caught:
        build_loss({'type': 'IdentityLoss'})
    assert str(no_weights / 'weights' / 'recognition_arcface_ir_se50.pth') in str(caught.value)


def test_missing_facexlib_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, 'facexlib.recognition.arcface_arch', None)
    with pytest.raises(UserError, match='IdentityLoss needs facexlib'):
        build_loss({'type': 'IdentityLoss'})


@pytest.mark.usefixtures('no_weights')
def test_the_error_about_missing_weights_says_how_to_train_without_the_loss(monkeypatch):
    monkeypatch.setattr(identity_module, 'URL', 'file:///nowhere/recognition_arcface_ir_se50.pth')
    pytest.importorskip('facexlib')
    with pytest.raises(UserError, match=r'Put the file at .* without this loss: --force_yml train:identity_opt=~'):
        build(train={'identity_opt': {'type': 'IdentityLoss'}})
    with pytest.raises(UserError, match=r'train without this loss: --force_yml train:losses:style=~'):
        build(train={'losses': {'style': {'type': 'PerceptualLoss'}}})
