"""BasicSR's names under our conventions, and not at all unless one is asked for."""

import importlib.util
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import processes
from gpen.errors import UserError
from gpen.losses import build_loss
from gpen.losses.gan import GANLoss
from gpen.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, basicsr_adapters
from gpen.registry.basicsr import BasicSR
from gpen.registry.definitions import Definition

needs_basicsr = pytest.mark.skipif(importlib.util.find_spec('basicsr') is None, reason='basicsr is not installed')


def find(registry_name, name):
    """BasicSR's item under our conventions."""
    return BasicSR(registry_name).get(name)


def noise(*shape, seed=0):
    """Values in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def original(registry_name, name):
    """BasicSR's own object, imported by the bridge."""
    find(registry_name, name)
    return dict(iter(getattr(importlib.import_module('basicsr.utils.registry'), registry_name)))[name]


@pytest.fixture
def run(tmp_path):
    """Run Python in a process without basicsr and return what it prints."""

    def run(code):
        status, printed = processes.run_python(tmp_path / 'log', code)
        assert status == 0, printed
        return printed.strip()

    return run


# --- when it is imported


def test_our_own_names_do_not_import_basicsr(run):
    code = """
import importlib, pkgutil, sys
import gpen.losses, gpen.utils
for package in (gpen.losses, gpen.utils):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):
        importlib.import_module(module.name)
from gpen.registry import LOSS_REGISTRY
gpen.losses.build_loss({'type': 'L1Loss'})
print('gpen.registry.basicsr_adapters' in sys.modules, 'basicsr' in sys.modules, 'facexlib' in sys.modules)
"""
    assert run(code) == 'False False False'


def test_without_basicsr_there_are_no_names_and_the_error_says_so(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'basicsr' else find_spec(name))
    assert find('LOSS_REGISTRY', 'MultiScaleGANLoss') is None
    assert BasicSR('LOSS_REGISTRY').find('MultiScaleGANLoss') is None
    with pytest.raises(UserError, match=r'no loss named .*Available: .*L1Loss.*basicsr is not installed'):
        LOSS_REGISTRY.get('MultiScaleGANLoss')


@needs_basicsr
def test_unknown_name_is_none_and_the_error_lists_what_exists():
    assert find('LOSS_REGISTRY', 'NoSuchLoss') is None
    with pytest.raises(UserError, match=r'There is no loss named .NoSuchLoss.*Available: .*GANLoss, .*L1Loss'):
        LOSS_REGISTRY.get('NoSuchLoss')


def test_basicsr_that_cannot_be_imported_is_an_error_with_the_reason_each_time(run, tmp_path):
    package = tmp_path / 'basicsr'
    package.mkdir()
    (package / '__init__.py').write_text('import basicsr.half\nimport module_that_is_missing\n')
    registry = 'class LOSS_REGISTRY:\n    register = staticmethod(lambda: lambda item: item)\n\n\n'
    (package / 'half.py').write_text(f'{registry}@LOSS_REGISTRY.register()\nclass AnyLoss: ...\n')
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from gpen.errors import UserError
from gpen.registry.basicsr import BasicSR
for attempt in range(2):
    try:
        BasicSR('LOSS_REGISTRY').find('AnyLoss')
    except UserError as error:
        print(error)
"""
    lines = run(code).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith('basicsr is installed but cannot be imported (ModuleNotFoundError')
        assert 'module_that_is_missing' in line


# --- losses


@needs_basicsr
def test_image_loss_sees_images_in_0_1():
    restored, target = noise(2, 3, 4, 4).requires_grad_(), noise(2, 3, 4, 4, seed=1)
    loss = find('LOSS_REGISTRY', 'MSELoss')(loss_weight=3.0)(restored, target)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(3 * (restored - target).square().mean().item() / 4, rel=1e-5)
    loss.backward()
    assert restored.grad.abs().sum() > 0


@needs_basicsr
def test_loss_on_the_restored_image_alone_is_not_given_the_target_as_weight():
    image = noise(1, 3, 4, 4)
    loss = build_loss({'type': 'WeightedTVLoss', 'loss_weight': 2.0})(image, torch.zeros_like(image))
    rows = (image[:, :, 1:] - image[:, :, :-1]).abs().mean()
    columns = (image[:, :, :, 1:] - image[:, :, :, :-1]).abs().mean()
    assert loss.item() == pytest.approx((rows + columns).item(), rel=1e-5)


def test_several_results_are_added_up_and_none_is_skipped():
    class Loss(torch.nn.Module):
        def forward(self, x, gt):
            return (x - gt).abs().mean(), None, gt.mean()

    loss = basicsr_adapters.adapt_loss(Loss)
    assert loss(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).item() == 0.5 + 1.0


@needs_basicsr
@pytest.mark.parametrize('gan_type', ['vanilla', 'wgan_softplus', 'lsgan', 'hinge'])
def test_our_adversarial_loss_agrees_with_basicsr(gan_type):
    real, fake = noise(4, 1), noise(4, 1, seed=1)
    ours = GANLoss(gan_type, loss_weight=0.3)
    theirs = find('LOSS_REGISTRY', 'GANLoss')(gan_type=gan_type, loss_weight=0.3)
    assert torch.allclose(ours.generator(fake), theirs.generator(fake))
    for a, b in zip(ours.discriminator(real, fake), theirs.discriminator(real, fake), strict=True):
        assert torch.allclose(a, b)
    assert ours.accuracy(real, fake) == theirs.accuracy(real, fake)


@needs_basicsr
def test_adversarial_loss_on_several_scales_has_our_methods():
    loss = build_loss({'type': 'MultiScaleGANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.5})
    real, fake = [[noise(2, 1), noise(2, 1, seed=1)]], [[noise(2, 1, seed=2), torch.full((2, 1), -1.0)]]
    assert torch.allclose(loss.generator(fake), GANLoss(loss_weight=0.5).generator(fake[0][-1]))
    assert torch.allclose(loss.discriminator(real, fake)[0], GANLoss().discriminator(real[0][-1], fake[0][-1])[0])
    share = torch.cat([item.flatten() > 0 for item in real[0]]).float().mean()
    assert loss.accuracy(real, fake)[0] == share


@needs_basicsr
def test_our_pixel_losses_agree_with_basicsr_on_our_images():
    restored, target = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    for name in ('L1Loss', 'MSELoss', 'CharbonnierLoss'):
        theirs = original('LOSS_REGISTRY', name)(loss_weight=2.0)(restored, target)
        assert torch.allclose(build_loss({'type': name, 'loss_weight': 2.0})(restored, target), theirs)


# --- metrics


@needs_basicsr
@pytest.mark.parametrize('name', ['calculate_psnr', 'calculate_ssim'])
def test_metric_of_8_bit_images_gives_a_value_per_image(name):
    restored, target = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)
    values = find('METRIC_REGISTRY', name)(restored, target, crop_border=1, test_y_channel=True)
    assert values.shape == (2,)
    for index in range(2):
        pair = [
            ((x[index].permute(1, 2, 0).numpy()[..., ::-1] + 1) * 127.5).round().astype(np.uint8)
            for x in (restored, target)
        ]
        expected = original('METRIC_REGISTRY', name)(*pair, crop_border=1, test_y_channel=True)
        assert values[index].item() == pytest.approx(expected, rel=1e-5)


@needs_basicsr
def test_metric_of_batches_gets_them_in_0_1():
    restored, target = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)
    values = find('METRIC_REGISTRY', 'calculate_psnr_pt')(restored, target, crop_border=0)
    mse = (restored - target).square().mean((1, 2, 3)) / 4
    assert values.tolist() == pytest.approx((-10 * mse.log10()).tolist(), rel=1e-4)


def test_metric_without_a_second_image_judges_the_restored_one():
    def brightness(img, crop_border, **kwargs):  # noqa: ARG001
        assert img.dtype == np.uint8
        return img[..., 0].mean()  # blue, in BGR order

    restored = torch.stack([torch.tensor([-1.0, 0.0, value]).view(3, 1, 1).expand(3, 4, 4) for value in (1.0, -1.0)])
    values = basicsr_adapters.compute_metric(brightness, restored, torch.zeros_like(restored), crop_border=0)
    assert values.tolist() == [255.0, 0.0]


# --- datasets


@pytest.fixture
def pair_options(tmp_path):
    """Options for two pairs of 8 x 8 images: pure red sharp ones, black blurry ones."""
    for folder, colour in (('gt', (0, 0, 255)), ('lq', (0, 0, 0))):
        (tmp_path / folder).mkdir()
        for name in ('a', 'b'):
            cv2.imwrite(str(tmp_path / folder / f'{name}.png'), np.full((8, 8, 3), colour, np.uint8))
    return {
        'dataroot_gt': str(tmp_path / 'gt'),
        'dataroot_lq': str(tmp_path / 'lq'),
        'io_backend': {'type': 'disk'},
        'phase': 'val',
        'scale': 1,
    }


@needs_basicsr
@pytest.mark.parametrize('normalised', [False, True])
def test_dataset_gives_images_in_our_range_and_keeps_names(pair_options, normalised):
    if normalised:
        pair_options.update(mean=[0.5, 0.4, 0.3], std=[0.5, 0.6, 0.7])
    dataset = find('DATASET_REGISTRY', 'PairedImageDataset')(**pair_options)
    assert len(dataset) == 2
    sample = dataset[1]
    assert sample['gt'].shape == (3, 8, 8)
    assert sample['gt'].mean((1, 2)).tolist() == pytest.approx([1, -1, -1], abs=1e-6)
    assert sample['lq'].mean().item() == pytest.approx(-1, abs=1e-6)
    assert Path(sample['lq_path']).name == Path(sample['gt_path']).name == 'b.png'
    assert pair_options['io_backend'] == {'type': 'disk'}


@needs_basicsr
def test_dataset_reaches_a_spawned_worker(run, pair_options, tmp_path):
    dataset = find('DATASET_REGISTRY', 'PairedImageDataset')(**pair_options)
    (tmp_path / 'dataset.pkl').write_bytes(pickle.dumps(dataset))
    path = str(tmp_path / 'dataset.pkl')
    code = f'import pickle; print(float(pickle.load(open({path!r}, "rb"))[0]["gt"].max()))'
    assert run(code).splitlines()[-1] == '1.0'


# --- networks and arguments


@needs_basicsr
def test_network_is_returned_as_it_is_with_or_without_suffix():
    network = ARCH_REGISTRY.get('SRVGGNetCompact')(num_feat=4, num_conv=1, upscale=1)
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert find('ARCH_REGISTRY', 'SRVGGNetCompact_basicsr') is find('ARCH_REGISTRY', 'SRVGGNetCompact')


@needs_basicsr
def test_arguments_are_read_from_the_signature():
    def define(registry, name) -> Definition:
        definition = registry.find(name)
        assert definition is not None
        return definition

    loss = define(LOSS_REGISTRY, 'MultiScaleGANLoss')
    assert [(item.name, item.required, item.default) for item in loss.parameters] == [
        ('gan_type', True, None),
        ('real_label_val', False, 1.0),
        ('fake_label_val', False, 0.0),
        ('loss_weight', False, 1.0),
    ]
    assert not loss.open_ended
    assert loss.role == 'adversarial'
    niqe = BasicSR('METRIC_REGISTRY').find('calculate_niqe')
    assert niqe is not None
    assert [item.name for item in niqe.parameters] == ['crop_border', 'input_order', 'convert_to']
    assert niqe.open_ended
    dataset = define(DATASET_REGISTRY, 'FFHQDataset')
    assert (dataset.parameters, dataset.open_ended) == ((), True)
    network = define(ARCH_REGISTRY, 'RRDBNet')
    assert {'num_in_ch', 'num_out_ch'} == {item.name for item in network.parameters if item.required}
