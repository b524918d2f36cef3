"""Mixed precision: most of a step in bfloat16 or float16; what has to be exact stays in float32."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpen.archs import build_network
from gpen.archs.ops import modulated_conv2d
from gpen.models import precision
from gpen.models.gpen_model import GPENModel
from gpen.models.precision import PATIENCE, START, LossScale
from gpen.runs.training_state import pack_networks
from tiny_model import batch_of, build

CPU = torch.device('cpu')


def train(steps: int = 2, size: int = 16, **train_options: Any) -> tuple[GPENModel, dict[str, float]]:
    """Train the tiny model some steps (R1 in the third); return it and the means of its values."""
    torch.manual_seed(0)
    sizes = {'network_g': {'size': size}, 'network_d': {'size': size}}
    model = build(**sizes, train={'net_d_reg_every': 3, **train_options})
    for iteration in range(1, steps + 1):
        model.train_step(batch_of(iteration, size), iteration)
    return model, model.means.read()


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_losses_are_nearly_those_of_float32(amp: str) -> None:
    _, full = train(steps=1)
    model, half = train(steps=1, amp=amp)
    assert full.keys() == half.keys()
    for name, value in full.items():
        assert half[name] == pytest.approx(value, rel=0.1, abs=0.01), name
    assert any(half[name] != value for name, value in full.items())
    assert all(parameter.dtype == torch.float32 for parameter in [*model.net_g.parameters(), *model.net_d.parameters()])  # type: ignore[union-attr]


def test_r1_is_computed_in_float32() -> None:
    penalties = []
    for amp in (None, 'bf16'):
        torch.manual_seed(0)
        model = build(train={'net_d_reg_every': 1, 'amp': amp})
        model.train_step(batch_of(1), 1)
        penalties.append(model.means.read()['D_r1'])
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_features_are_halves_but_the_image_and_the_judgement_are_not(dtype: torch.dtype) -> None:
    generator = build_network({'type': 'GPEN', 'size': 32, 'style_dim': 8, 'n_mlp': 2, 'narrow': 0.02})
    discriminator = build_network({'type': 'GPENDiscriminator', 'size': 32, 'narrow': 0.02})
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output.dtype)  # noqa: ARG005

    for name, module in [*generator.named_modules(), *discriminator.named_modules()]:
        if name in ('generator.convs.1', 'ecd1', 'generator.to_rgbs.2', 'generator.style', 'convs.1', 'final_linear'):
            module.register_forward_hook(note(name))
    with torch.autocast('cpu', dtype):
        image = generator(torch.rand(2, 3, 32, 32) * 2 - 1)
        logits = discriminator(image)
    assert {seen[name] for name in ('generator.convs.1', 'ecd1', 'convs.1')} == {dtype}
    assert {seen[name] for name in ('generator.to_rgbs.2', 'generator.style', 'final_linear')} == {torch.float32}
    assert image.dtype == logits.dtype == torch.float32


def test_float16_does_not_overflow_in_a_modulated_convolution() -> None:
    x, weight, style = torch.rand(2, 64, 8, 8), torch.rand(8, 64, 3, 3), torch.full((2, 64), 3000.0)
    (expected,) = modulated_conv2d(x, weight, style)
    with torch.autocast('cpu', torch.float16):
        (found,) = modulated_conv2d(x.half(), weight, style)
    assert torch.isfinite(found).all()
    assert found.float() == pytest.approx(expected.numpy(), rel=0.02)
    with torch.autocast('cpu', torch.float16):  # which is what the modulated values themselves do
        assert not torch.isfinite(torch.nn.functional.conv2d(x.half() * style[..., None, None].half(), weight)).all()


def test_the_loss_scale_is_halved_after_a_bad_step_and_doubled_after_many_good_ones() -> None:
    scale = LossScale('fp16', CPU)
    yes, no = torch.tensor(True), torch.tensor(False)
    assert scale.up(torch.tensor(2.0)) == 2 * START
    gradients = [torch.full((2,), START)]
    scale.down(gradients)
    assert gradients[0].tolist() == [1, 1]
    for _ in range(PATIENCE - 1):
        scale.update(yes)
    scale.update(no)
    assert scale.scale == START / 2
    for _ in range(PATIENCE):
        assert scale.scale == START / 2
        scale.update(yes)
    assert scale.scale == START
    again = LossScale('fp16', CPU)
    again.load_state_dict({name: value.clone() for name, value in scale.state_dict().items()})
    assert again.scale == START
    assert LossScale('bf16', CPU).up(torch.tensor(2.0)) == 2


def test_gradients_beyond_the_range_skip_the_step_lower_the_scale_and_are_not_reported() -> None:
    model, _ = train(steps=1, amp='fp16')
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    model.scale_g.scale = torch.tensor(2.0**120)
    model.train_step(batch_of(2), 2)
    assert model.scale_g.scale == 2.0**119
    assert model.guard.review() == []
    assert all(torch.equal(value, before[name]) for name, value in model.net_g.state_dict().items())


def test_the_loss_scale_goes_on_after_an_interruption() -> None:
    model, _ = train(steps=1, amp='fp16')
    model.scale_d.scale = torch.tensor(512.0)
    state = model.state_dict()
    other, _ = train(steps=0, amp='fp16')
    other.load_state_dict(state)
    assert other.scale_d.scale == 512
    old = {name: value for name, value in state.items() if not name.startswith('loss_scale')}
    other.load_state_dict(old)  # a state of an earlier version


def assert_same_training(
    found: tuple[GPENModel, dict[str, float]], expected: tuple[GPENModel, dict[str, float]]
) -> None:
    (model, values), (other, others) = found, expected
    assert values.keys() == others.keys()
    assert values == pytest.approx(others, rel=2e-3, abs=1e-5)
    assert pack_networks(model)['net_g']['params'].keys() == pack_networks(other)['net_g']['params'].keys()


def test_the_layout_in_memory_changes_no_loss() -> None:
    assert_same_training(train(steps=3, channels_last=False), train(steps=3))


@pytest.mark.parametrize(('amp', 'channels_last'), [(None, False), ('bf16', True)])
def test_compiling_makes_three_graphs_and_none_anew_and_changes_no_loss(
    amp: str | None, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the generator, and the discriminator with and without a gradient at its images."""
    compiled: list[Any] = []
    graphs: list[torch.fx.GraphModule] = []
    real_compile = torch.compile

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward  # the tracing alone: there may be no compiler here

    def compile_and_count(network: Any) -> Any:
        compiled.append(network)
        return real_compile(network, backend=count, fullgraph=True)

    torch.compiler.reset()
    monkeypatch.setattr(torch, 'compile', compile_and_count)
    settings: dict[str, Any] = {'steps': 6, 'size': 8, 'amp': amp, 'channels_last': channels_last}  # R1 comes twice
    expected = train(**settings)
    model, found = train(**settings, compile=True)
    assert compiled == [model.net_g, model.net_d]
    assert len(graphs) == 3
    if amp is None:  # each step in bfloat16 rounds otherwise
        assert_same_training((model, found), expected)


@pytest.mark.parametrize(('channels_last', 'expected'), [(None, True), (True, True), (False, False)])
def test_channels_lie_together_on_a_cpu_and_where_that_is_asked_for(
    channels_last: bool | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = train(steps=0, channels_last=channels_last)
    layouts: list[bool] = []
    forward = model.net_g.forward

    def look(lq: Tensor) -> Any:
        layouts.append(lq.is_contiguous(memory_format=torch.channels_last))
        return forward(lq)

    monkeypatch.setattr(model.net_g, 'forward', look)
    model.train_step(batch_of(1), 1)
    assert layouts == [expected]


def test_the_loss_scale_counts_anew_after_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, 'PATIENCE', 3)
    scale = LossScale('fp16', CPU)
    grown = []
    for _ in range(7):
        scale.update(torch.tensor(True))
        grown.append(float(scale.scale / START))
    assert grown == [1, 1, 2, 2, 2, 4, 4]


@pytest.mark.parametrize(
    ('factor', 'norm', 'reported'),
    [(2.0, 5.0, 5.0), (2.0, math.inf, 0.0), (1.0, math.inf, math.inf), (0.5, math.inf, math.inf)],
)
def test_an_overflow_is_ignored_while_the_scale_is_above_1(factor: float, norm: float, reported: float) -> None:
    scale = LossScale('fp16', CPU)
    scale.scale = torch.tensor(factor)
    assert scale.ignore_overflow(torch.tensor(norm)) == reported
    assert LossScale('bf16', CPU).ignore_overflow(torch.tensor(math.inf)) == math.inf
