"""Training steps on the pretend GPU: the host never waits, copies from pinned memory alone, and no devices mix."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_options
from gpen.models.adversarial import AdversarialModel
from gpen.utils.arithmetic import set_arithmetic
from pretend_gpu.strict import waiting
from test_components import COMPONENTS, batch_with_boxes
from tiny_model import batch_of, build, build_prior, faces

GPU = torch.device('cuda', 0)
TINY = tiny_options(Path('data'), Path('results'))
STEPS = 4
"""R1 and a record come in the third, path lengths in the second and the fourth, a change of augmentation too."""

FEATURES = {'feature_matching_opt': {'type': 'FeatureMatchingLoss', 'loss_weight': 0.1}}
CLIPPED = {'use_grad_norm': True, 'grad_norm_clip': 0.01}
ACCUMULATED = {'datasets': {**TINY['datasets'], 'train': {**TINY['datasets']['train'], 'accumulate': 2}}}
RECIPES: dict[str, dict[str, Any]] = {
    'float32': {},
    'bf16': {'train': {'amp': 'bf16'}},
    'fp16': {'train': {'amp': 'fp16', **CLIPPED}},
    'channels last': {'train': {'channels_last': True, **CLIPPED}},
    'micro-batches': ACCUMULATED,
    'recomputation': {'network_g': {'grad_checkpoint': True}},
    'feature matching': {'train': FEATURES},
    'adaptive augmentation': {'train': {'augment_opt': {'ada_target': 0.1, 'ada_images': 40}}},
    'path lengths of a restorer': {'train': {'path_reg_weight': 2.0, 'net_g_reg_every': 2}},
    'many at once': {
        **{'network_g': {'grad_checkpoint': True}, **ACCUMULATED},
        'train': {'amp': 'bf16', 'channels_last': True, **FEATURES, 'augment_opt': {'probability': 0.5}},
    },
}


def pinned(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as the loader gives it."""
    return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}


def take_steps(model: AdversarialModel, make_batch: Callable[[int], dict[str, Any]] = batch_of) -> None:
    """Train a model some steps, in which the host may not wait for the GPU."""
    assert {parameter.device for parameter in model.net_g_ema.parameters()} == {GPU}
    batches = [pinned(make_batch(iteration)) for iteration in range(1, STEPS + 1)]
    with waiting(allowed=False):
        for iteration, batch in enumerate(batches, start=1):
            model.set_learning_rates({'g': 1e-3, 'd': 1e-3})
            model.train_step(batch, iteration)


@pytest.mark.parametrize('name', RECIPES)
def test_no_step_of_a_restorer_waits(name: str) -> None:
    take_steps(build(GPU, **RECIPES[name]))


def test_no_step_with_component_losses_waits() -> None:
    take_steps(build(GPU, train={'component_opt': COMPONENTS, 'amp': 'bf16'}), batch_with_boxes)


@pytest.fixture(scope='module')
def fixed_networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of losses that look through fixed networks, whose weights are zeros."""
    folder = tmp_path_factory.mktemp('weights')
    with torch.device('meta'):
        features = pytest.importorskip('torchvision.models').vgg11().features
        arcface = pytest.importorskip('facexlib.recognition.arcface_arch').Backbone(50, 0.6, 'ir_se')
    for name, network in (('vgg', nn.ModuleDict({'features': features})), ('arcface', arcface)):
        weights = network.state_dict().items()
        torch.save({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in weights}, folder / name)

    perceptual = {'type': 'PerceptualLoss', 'vgg_type': 'vgg11', 'layer_weights': {'conv1_1': 1, 'conv3_2': 1}}
    return {
        'perceptual_opt': {**perceptual, 'style_weight': 1, 'weights': str(folder / 'vgg')},
        'identity_opt': {'type': 'IdentityLoss', 'weights': str(folder / 'arcface')},
    }


@pytest.mark.parametrize('changes', [{}, {'amp': 'bf16', 'channels_last': True}], ids=['float32', 'bf16'])
def test_no_step_with_losses_of_fixed_networks_waits(changes: dict[str, Any], fixed_networks: dict[str, Any]) -> None:
    take_steps(build(GPU, train={**fixed_networks, **changes}))


@pytest.mark.parametrize('train', [{}, {'amp': 'bf16'}], ids=['float32', 'bf16'])
def test_no_step_of_a_prior_waits(train: dict[str, Any]) -> None:
    take_steps(build_prior(GPU, net_d_reg_every=2, **train), faces)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """The arithmetic of a run with ``deterministic: true``, in which what has no such algorithm is an error."""
    set_arithmetic(tf32=False, deterministic=True)
    torch.use_deterministic_algorithms(True)
    yield
    set_arithmetic(tf32=True, deterministic=False)


@pytest.mark.usefixtures('deterministic')
@pytest.mark.parametrize('name', ['float32', 'path lengths of a restorer', 'many at once'])
def test_every_operation_of_a_step_has_a_deterministic_algorithm(name: str) -> None:
    take_steps(build(GPU, **RECIPES[name]))


@pytest.mark.usefixtures('deterministic')
def test_every_operation_of_component_losses_has_a_deterministic_algorithm() -> None:
    take_steps(build(GPU, train={'component_opt': COMPONENTS}), batch_with_boxes)


# ---- what these tests can see


MISTAKES: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    'reads a number': ('the host waits', lambda x: x.sum().item()),
    'branches on a value': ('the host waits', lambda x: bool(x.sum() > 0)),
    'copies to the host': ('pageable memory', lambda x: x.cpu()),
    'makes a tensor of numbers': ('pageable memory', lambda x: torch.tensor([1.0], device=x.device)),
    'picks by a list': ('pageable memory', lambda x: x[[0, 1]]),
    'picks by a mask': ('the host waits', lambda x: x[x > 0]),
    'copies from memory that is not pinned': ('pageable', lambda x: torch.ones(3).to(x.device, non_blocking=True)),
    'waits for a copy': ('the host waits', lambda x: torch.ones(3).pin_memory().to(x.device)),
    'waits for all kernels': ('the host waits', lambda x: torch.cuda.synchronize(x.device)),
    'mixes devices': ('on the same device', lambda x: x + torch.ones(3)),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_seen_and_a_transfer_as_it_should_be_is_none(mistake: str) -> None:
    message, act = MISTAKES[mistake]
    x, pinned_values = torch.ones(3, device=GPU), torch.ones(3).pin_memory()
    with waiting(allowed=False):
        pinned_values.to(GPU, non_blocking=True)
        with pytest.raises(RuntimeError, match=message):
            act(x)
