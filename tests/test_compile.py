"""Compiled by inductor, each network is the one that runs without compiling: outputs and gradients."""

import shutil
from collections.abc import Iterator

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn

from gpen.archs import build_network
from gpen.archs.generator import FeatureInjection

TINY = {'size': 8, 'channel_multiplier': 1, 'narrow': 0.02}
NETWORKS = {
    'GPEN': ({**TINY, 'style_dim': 16, 'n_mlp': 1}, (2, 3, 8, 8)),
    'GPENPrior': ({**TINY, 'style_dim': 16, 'n_mlp': 1}, (2, 16)),
    'GPENDiscriminator': (TINY, (2, 3, 8, 8)),
}

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ('g++', 'clang++', 'c++'))), reason='inductor needs a C++ compiler'
)


@pytest.fixture(autouse=True)
def _compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(FeatureInjection, 'draw', lambda _, x: torch.linspace(-1, 1, x.numel()).view(x.shape))
    torch.compiler.reset()
    with torch._inductor.config.patch({'cpp.simdlen': 1}):  # which compiles faster
        yield
    torch.compiler.reset()


def look(network: nn.Module, run: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return what the network makes of an input, and the gradients of a sum of it, by name."""
    torch.manual_seed(1)
    x = torch.randn(shape, requires_grad=True)
    output: Tensor = run(x)
    network.zero_grad()
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert x.grad is not None
    return {
        'output': output.detach(),
        'input': x.grad,
        **{name: gradient.clone() for name, gradient in gradients.items()},
    }


@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_and_gradients_are_those_of_the_network_itself(name: str) -> None:
    options, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network({'type': name, **options})
    with torch.no_grad():
        for parameter in network.parameters():  # biases and weights of features start at 0
            parameter.add_(0.1 * torch.randn_like(parameter))

    expected = look(network, network, shape)
    found = look(network, torch.compile(network), shape)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-4 * float(value.abs().max())), key
