"""What is computed in TF32, in IEEE float32 and in the same order each time, and what is said about the device."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_options
from gpen.models import adversarial
from gpen.options import Options
from gpen.training import device as training_device
from gpen.training.device import prepare_device
from gpen.utils.arithmetic import ieee_float32, set_arithmetic, uses_tf32
from tiny_model import CPU, batch_of, build


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put PyTorch's settings back after each test."""
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    yield
    set_arithmetic(tf32=True, deterministic=False)


def options_of(**changes: Any) -> Options:
    """The tiny options; ``changes`` are blocks of options to add to."""
    options = tiny_options(Path('data'), Path('results'))
    for block, values in changes.items():
        options[block] = {**options[block], **values} if isinstance(values, dict) else values
    return Options.model_validate(options)


# --- TF32


@pytest.mark.parametrize('tf32', [True, False])
def test_the_option_decides_about_convolutions_and_matrix_products_are_ieee(tf32: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        prepare_device(options_of(train={'tf32': tf32}))
    assert uses_tf32() is tf32
    assert torch.get_float32_matmul_precision() == 'highest'
    assert torch.backends.cudnn.allow_tf32 is tf32  # PyTorch refuses to say so where its two names for it disagree
    if hasattr(torch.backends.cudnn, 'conv'):
        assert torch.backends.cudnn.conv.fp32_precision == ('tf32' if tf32 else 'ieee')
        assert torch.backends.cuda.matmul.fp32_precision == 'ieee'


def test_ieee_float32_ends_with_its_block_also_by_an_error() -> None:
    set_arithmetic(tf32=True, deterministic=False)
    inside = []

    def fail() -> None:
        with ieee_float32():
            inside.append(uses_tf32())
            raise ValueError('inside')

    with pytest.raises(ValueError, match='inside'):
        fail()
    assert inside == [False]
    assert uses_tf32()
    with ieee_float32(is_needed=False):
        assert uses_tf32()

    set_arithmetic(tf32=False, deterministic=False)
    with ieee_float32():
        assert not uses_tf32()
    assert not uses_tf32()


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('amp', [None, 'bf16'])
def test_the_step_with_r1_is_in_ieee_float32_with_its_backward_passes_and_no_other(
    accumulate: int, amp: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_arithmetic(tf32=True, deterministic=False)
    data = tiny_options(Path('data'), Path('results'))['datasets']
    data['train']['accumulate'] = accumulate
    model = build(datasets=data, train={'net_d_reg_every': 3, 'amp': amp})
    seen: dict[str, set[bool]] = {}

    def note(name: str) -> Any:
        return lambda *_: seen.setdefault(name, set()).add(uses_tf32())

    for letter, network in (('d', model.net_d), ('g', model.net_g)):
        assert network is not None
        for module in network.modules():
            module.register_forward_hook(note(f'{letter} forward'))
        for parameter in network.parameters():
            parameter.register_hook(note(f'{letter} backward'))
    penalties = []
    for name in ('r1_penalty', 'r1_in_micro_batches'):
        real = getattr(adversarial, name)
        monkeypatch.setattr(adversarial, name, lambda *given, real=real: penalties.append(uses_tf32()) or real(*given))

    # The discriminator judges for the generator, too, in TF32.
    forward_of_d = {2: {True}, 3: {True, False}}
    for iteration, expected in forward_of_d.items():
        seen.clear()
        model.train_step(batch_of(iteration), iteration)
        is_plain = iteration == 2
        assert seen == {
            **{'g forward': {True}, 'g backward': {True}},
            **{'d forward': expected, 'd backward': {is_plain}},
        }
    assert penalties == [False]
    assert uses_tf32()


# --- deterministic


@pytest.mark.parametrize('deterministic', [True, False])
def test_deterministic_is_set_before_cuda_starts(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    at_start: list[Any] = []

    def start(*_: Any) -> tuple[torch.device, str]:
        at_start.append(os.environ.get('CUBLAS_WORKSPACE_CONFIG'))
        at_start.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic))
        return CPU, 'Training on a test.'

    monkeypatch.setattr(training_device, 'select_device', start)
    assert prepare_device(options_of(deterministic=deterministic)) == (CPU, 'Training on a test.', [])
    assert at_start == [':4096:8' if deterministic else None, (deterministic, deterministic)]
    assert torch.is_deterministic_algorithms_warn_only_enabled() or not deterministic


def test_a_workspace_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':16:8')
    set_arithmetic(tf32=True, deterministic=True)
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':16:8'


def test_a_deterministic_step_gives_the_same_weights_and_no_warning() -> None:
    results = []
    for deterministic in (False, True):
        set_arithmetic(tf32=True, deterministic=deterministic)
        torch.manual_seed(0)
        model = build(train={'feature_matching_opt': {'type': 'FeatureMatchingLoss'}, 'augment_opt': {}})
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for iteration in (2, 3):
                model.train_step(batch_of(iteration), iteration)
        results.append(torch.cat([weight.flatten() for weight in model.net_g.parameters()]))
    assert torch.equal(*results)


# --- what is said about a GPU


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """PyTorch says that there is a GPU; the value of ``capability`` says which."""
    found: dict[str, Any] = {'capability': (7, 5)}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda _: 'Old GPU')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: found['capability'])
    return found


@pytest.mark.parametrize('deterministic', [True, False])
@pytest.mark.usefixtures('gpu')
def test_algorithms_are_tried_for_speed_unless_they_have_to_be_deterministic(deterministic: bool) -> None:
    prepare_device(options_of(num_gpu='auto', deterministic=deterministic))
    assert torch.backends.cudnn.benchmark is not deterministic


def test_bf16_on_a_gpu_before_ampere_is_warned_of(gpu: dict[str, Any]) -> None:
    (warning,) = prepare_device(options_of(num_gpu='auto', train={'amp': 'bf16'}))[2]
    assert warning.startswith('train.amp: bf16 is slow on Old GPU (compute capability 7.5): ')
    for changes in ({'amp': 'fp16'}, {}):
        assert prepare_device(options_of(num_gpu='auto', train=changes))[2] == []
    gpu['capability'] = (8, 0)
    assert prepare_device(options_of(num_gpu='auto', train={'amp': 'bf16'}))[2] == []
    assert prepare_device(options_of(train={'amp': 'bf16'}))[2] == []  # the CPU, by num_gpu: 0
