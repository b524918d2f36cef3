"""What a training step asks of the convolution kernels: small kernels, the memory format, no copies of inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpen.archs.ops import conv, fir_filter, fir_upsample, make_fir_kernel, modulated_conv
from gpen.losses.r1 import r1_penalty
from tiny_model import batch_of, build, build_prior, faces


class Convolutions(TorchDispatchMode):
    """Collects what convolutions and their backward passes are called with.

    Attributes:
        kernels: the largest side of each weight.
        weight_gradients: number of gradients of weights.
        formats: whether images of more than 4 x 4 pixels are in NHWC, apart from those of FIR filters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[int] = []
        self.formats: list[bool] = []
        self.weight_gradients = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ('convolution', 'convolution_backward'):
            images, weight, groups = args[:2] + args[8:9] if name == 'convolution' else args[1:3] + args[9:10]
            self.kernels.append(max(weight.shape[2:]))
            self.weight_gradients += name == 'convolution_backward' and args[-1][1]
            if groups == 1 and images.shape[2] > 4:
                self.formats.append(images.is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


def test_second_derivatives_need_no_kernel_as_large_as_the_image() -> None:
    model, prior = build(), build_prior(net_d_reg_every=1, net_g_reg_every=1)
    with Convolutions() as seen:
        model.train_step(batch_of(3), 3)  # with R1
        prior.train_step(faces(1), 1)  # with R1 and path lengths
    assert len(seen.kernels) > 100
    assert max(seen.kernels) == 4


def test_the_first_gradient_of_r1_is_for_the_images_alone() -> None:
    model = build()
    assert model.net_d is not None
    gt = batch_of(1)['gt'].requires_grad_()
    logits = model.net_d(gt)
    with Convolutions() as seen:
        r1_penalty(logits, gt)
    assert seen.kernels
    assert not seen.weight_gradients


@pytest.mark.parametrize('large', [1, 10**9], ids=['one by one', 'all at once'])
def test_channels_last_holds_in_all_convolutions_of_a_step(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modulated_conv, 'LARGE', large)
    model = build(train={'channels_last': True})
    with Convolutions() as seen:
        model.train_step(batch_of(3), 3)
    assert len(seen.formats) > 50
    assert all(seen.formats)


def test_the_transposed_filter_is_the_gradient_of_the_filter() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 6, generator=generator)
    weight = make_fir_kernel().expand(3, 1, 4, 4)
    arguments = (x, weight, (10, 12), 2, 1, 3)
    # A GPU takes the second of these, and a CPU the first.
    assert torch.equal(conv.transpose(*arguments), conv.gradient_of_images(*arguments))


@pytest.mark.parametrize('trains', [True, False], ids=['training', 'restoring'])
def test_transposed_filters_on_a_cpu_are_computed_in_float32(trains: bool) -> None:
    types: list[torch.dtype] = []

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ == 'convolution' and args[6]:
                types.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with torch.set_grad_enabled(trains), torch.autocast('cpu', torch.bfloat16), Types():
        enlarged = fir_upsample(x, make_fir_kernel(4.0))
        halved = fir_filter(x, make_fir_kernel(), padding=1, down=2)
    if trains:
        with Types():
            halved.float().sum().backward()
    assert enlarged.dtype == halved.dtype == torch.bfloat16
    assert types == [torch.float32] * (1 + trains)
    torch.testing.assert_close(enlarged.float(), fir_upsample(x, make_fir_kernel(4.0)), rtol=0.02, atol=0.02)


def test_filters_keep_no_image_for_the_backward_pass() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        weight = make_fir_kernel().expand(2, 1, 4, 4)
        conv.Convolution.apply(x, weight, None, 1, 1, 2)
        conv.Transpose.apply(x, weight, (16, 16), 2, 1, 2)
    assert {tuple(tensor.shape) for tensor in kept} == {(2, 1, 4, 4)}
