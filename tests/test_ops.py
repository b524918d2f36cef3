"""The fast operations against their plain versions: values, gradients and second derivatives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gpen.archs import ops
from gpen.archs.ops import modulated_conv, reference

LOPSIDED = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.5, 2.0], [3.0, 1.0, 1.0, 0.0], [0.2, 0.1, 5.0, 1.0]]) / 16
FIR = ops.make_fir_kernel()


def concat_leaky_relu(x: Tensor, *others: Tensor) -> Tensor:
    return ops.concat_leaky_relu(x.split(1), *others)


def modulated_conv2d(*inputs: Tensor, **arguments: Any) -> Tensor:
    return ops.join(ops.modulated_conv2d(*inputs, **arguments))


FAST = {**vars(ops), 'concat_leaky_relu': concat_leaky_relu, 'modulated_conv2d': modulated_conv2d}

Case = tuple[str, list[tuple[int, ...]], dict[str, object]]
CASES: list[Case] = [
    ('fir_filter', [(2, 3, 6, 8)], {'kernel': FIR, 'padding': 1}),
    ('fir_filter', [(2, 3, 5, 4)], {'kernel': LOPSIDED, 'padding': 2}),
    ('fir_filter', [(2, 3, 6, 4)], {'kernel': FIR, 'padding': 1, 'down': 2}),
    ('fir_filter', [(2, 3, 7, 6)], {'kernel': LOPSIDED, 'padding': 1, 'down': 2}),
    ('fir_upsample', [(2, 3, 4, 5)], {'kernel': ops.make_fir_kernel(gain=4.0)}),
    ('fir_upsample', [(2, 3, 4, 3)], {'kernel': LOPSIDED}),
    ('conv2d', [(2, 3, 5, 4), (4, 3, 3, 3), (4,)], {'padding': 1}),
    ('conv2d', [(2, 3, 6, 5), (4, 3, 3, 3), (4,)], {'stride': 2}),
    ('conv2d', [(2, 3, 4, 4), (4, 3, 1, 1), (4,)], {}),
    ('conv2d', [(2, 3, 4, 3), (4, 3, 2, 2), (4,)], {'padding': 1}),
    ('conv2d', [(2, 5, 4, 3), (2, 5, 3, 3), (2,)], {'stride': 2, 'padding': 1}),
    ('conv_transpose2d', [(2, 3, 4, 5), (3, 4, 3, 3)], {'stride': 2}),
    ('concat_leaky_relu', [(2, 3, 4, 4), (2, 3, 4, 4), (1,), (6,)], {}),
    ('equal_linear', [(3, 4), (5, 4), (5,)], {}),
    ('equal_linear', [(3, 4), (5, 4), (5,)], {'lr_mul': 0.01}),
    ('equal_linear', [(3, 4), (5, 4), (5,)], {'activate': True, 'lr_mul': 0.5}),
    ('modulated_conv2d', [(2, 3, 4, 5), (4, 3, 3, 3), (2, 3)], {}),
    ('modulated_conv2d', [(2, 3, 4, 4), (4, 3, 3, 3), (2, 3)], {'demodulate': False}),
    ('modulated_conv2d', [(2, 3, 4, 3), (4, 3, 3, 3), (2, 3)], {'upsample': True}),
    ('modulated_conv2d', [(2, 5, 4, 3), (3, 5, 1, 1), (2, 5)], {'demodulate': False}),
    ('modulated_conv2d', [(2, 5, 4, 3), (3, 5, 1, 1), (2, 5)], {'demodulate': True, 'gain': 1.5}),
    ('modulated_conv2d', [(2, 3, 4, 4), (4, 3, 3, 3), (2, 3)], {'upsample': True, 'gain': 1.5}),
]
IDS = [f'{name}-{index}' for index, (name, _, _) in enumerate(CASES)]


def make_inputs(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def differentiate_twice(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[list[Tensor]]:
    """Return value, gradients, and the gradients of a weighted sum of the gradients."""
    value = function(*inputs)
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view_as(value).requires_grad_()
    gradients = torch.autograd.grad(value, inputs, weights, create_graph=True)
    total = sum(
        (gradient * torch.cos(torch.arange(gradient.numel())).view_as(gradient)).sum() for gradient in gradients
    )
    seconds = torch.autograd.grad(total, [*inputs, weights], allow_unused=True, materialize_grads=True)
    return [[value], list(gradients), list(seconds)]


@pytest.fixture(params=[1, 10**9], ids=['one by one', 'all at once'])
def _large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of the modulated convolution: for images from this number of pixels on, and below."""
    monkeypatch.setattr(modulated_conv, 'LARGE', request.param)


@pytest.mark.usefixtures('_large')
@pytest.mark.parametrize(('name', 'shapes', 'arguments'), CASES, ids=IDS)
def test_fast_operation_agrees_with_the_plain_one(
    name: str, shapes: list[tuple[int, ...]], arguments: dict[str, object]
) -> None:
    inputs = make_inputs(shapes)
    arguments = {key: value.double() if isinstance(value, Tensor) else value for key, value in arguments.items()}
    fast = differentiate_twice(lambda *args: FAST[name](*args, **arguments), inputs)
    plain = differentiate_twice(lambda *args: getattr(reference, name)(*args, **arguments), inputs)
    for what, ours, theirs in zip(('value', 'gradient', 'second derivative'), fast, plain, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                mine, other, rtol=1e-10, atol=1e-12, msg=lambda text, what=what: f'{what}: {text}'
            )


@pytest.mark.usefixtures('_large')
@pytest.mark.parametrize(('name', 'shapes', 'arguments'), CASES, ids=IDS)
def test_derivatives_are_those_of_finite_differences(
    name: str, shapes: list[tuple[int, ...]], arguments: dict[str, object]
) -> None:
    inputs = make_inputs([(*shape[:2], *(min(length, 3) for length in shape[2:])) for shape in shapes])
    arguments = {key: value.double() if isinstance(value, Tensor) else value for key, value in arguments.items()}

    def function(*args: Tensor) -> Tensor:
        return FAST[name](*args, **arguments)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize('magnitude', [1e-3, 1.0, 1e3])
@pytest.mark.parametrize('upsample', [False, True])
def test_modulated_convolution_keeps_float32_accuracy_with_extreme_styles(magnitude: float, upsample: bool) -> None:
    x, weight, style = (tensor.detach() for tensor in make_inputs([(2, 32, 8, 8), (16, 32, 3, 3), (2, 32)]))
    style = style * magnitude
    expected = reference.modulated_conv2d(x, weight, style, upsample=upsample)
    actual = modulated_conv2d(x.float(), weight.float(), style.float(), upsample=upsample)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_demodulated_output_does_not_depend_on_the_scale_of_the_style() -> None:
    x, weight, style = make_inputs([(1, 4, 5, 5), (3, 4, 3, 3), (1, 4)])
    once = modulated_conv2d(x, weight, style)
    torch.testing.assert_close(modulated_conv2d(x, weight, style * 5), once, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(modulated_conv2d(x, weight, style.flip(1)), once)


@pytest.mark.parametrize('function', [ops.fir_upsample, lambda x, kernel: ops.fir_filter(x, kernel / 4, 1, 2)])
def test_filters_keep_the_brightness_of_a_flat_image(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    flat = torch.full((1, 2, 8, 8), 0.5)
    result = function(flat, ops.make_fir_kernel(gain=4.0))
    torch.testing.assert_close(result[:, :, 2:-2, 2:-2], torch.full_like(result, 0.5)[:, :, 2:-2, 2:-2])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_filters_give_the_same_with_and_without_gradients(dtype: torch.dtype) -> None:
    (x,) = make_inputs([(1, 2, 8, 8)], dtype)
    for function in (lambda x: ops.fir_upsample(x, FIR), lambda x: ops.fir_filter(x, FIR, 2)):
        with_gradient = function(x)
        with torch.no_grad():
            without = function(x)
        assert with_gradient.requires_grad
        assert with_gradient.dtype == dtype
        assert torch.equal(with_gradient, without)


def test_activation_leaves_its_inputs_alone() -> None:
    inputs = make_inputs([(2, 3, 4, 4), (2, 3, 4, 4), (1,), (6,)])
    before = [one.detach().clone() for one in inputs]
    concat_leaky_relu(*inputs).sum().backward()
    assert all(map(torch.equal, [one.detach() for one in inputs], before))
