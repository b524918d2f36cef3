"""Gradients are averaged over the ranks while the backward pass still runs, in one order on all of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import processes
from gpen.distributed import gradients, ranks
from gpen.distributed.gradients import Gradients
from gpen.errors import UserError

WORLD = 2
PASSES = 3
Found = dict[str, Tensor | None]


class Uneven(nn.Module):
    """Four layers, one that rank 1 alone uses, and a parameter that none does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.never = nn.Parameter(torch.ones(5))
        self.layers = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
        self.own = nn.Linear(8, 8)

    def forward(self, x: Tensor, rank: int) -> Tensor:
        x = self.layers(x).tanh()
        return self.own(x) if rank == 1 else x


def losses_of(network: nn.Module, rank: int, number: int, log: list[str]) -> tuple[Tensor, Tensor]:
    """Return a loss and a penalty with one graph; their backward passes log when they come to the input."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(10 * number + rank)).requires_grad_(True)
    y = network(x, rank)
    x.register_hook(lambda _: log.append('input'))
    return y.square().sum(), y.abs().sum()


def gradients_of(network: nn.Module) -> Found:
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: None if gradient is None else gradient.clone() for name, gradient in found.items()}


def listen(log: list[str]) -> None:
    """Log the all-reduces of this process."""
    from torch import distributed as dist

    real = dist.all_reduce

    def all_reduce(tensor: Tensor, *arguments: Any, **settings: Any) -> Any:
        log.append(f'{tensor.numel()} {str(tensor.dtype).removeprefix("torch.")}')
        return real(tensor, *arguments, **settings)

    dist.all_reduce = all_reduce


def exchange(folder: Path, rank: int) -> None:
    """In a process of its own: compute gradients with the other ranks, and save them with what was sent."""
    from torch import distributed as dist

    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=WORLD)
    gradients.BUCKET = 72 * 4  # bytes of a layer
    log: list[str] = []
    listen(log)
    result: dict[Any, Any] = {'log': {}, 'found': {}}
    for compression in (None, 'bf16', 'fp16'):
        network = Uneven()
        exchanged = Gradients(network, compression)
        for number in range(PASSES):
            log.clear()
            network.zero_grad()
            loss, penalty = losses_of(network, rank, number, log)
            with exchanged.averaged():
                loss.backward(retain_graph=True)
            first = gradients_of(network)
            result['log'][compression, number] = [*log]
            with exchanged.averaged():
                penalty.backward()
            result['found'][compression, number] = first, gradients_of(network)

    # A layer whose gradient comes in parts
    layer = nn.Linear(2, 2)
    x = torch.ones(1, 2, requires_grad=True)
    y = checkpoint(layer, checkpoint(layer, x, use_reentrant=True), use_reentrant=True)
    with pytest.raises(UserError, match='use_reentrant=False'), Gradients(layer).averaged():
        y.sum().backward()
    torch.save(result, folder / f'{rank}.pt')


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each rank found and sent."""
    folder = tmp_path_factory.mktemp('gradients')
    children = [processes.CONTEXT.Process(target=exchange, args=(folder, rank)) for rank in range(WORLD)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    return [torch.load(folder / f'{rank}.pt') for rank in range(WORLD)]


def means(number: int, with_penalty: bool) -> Found:
    """Return the means of what the ranks would compute alone."""
    shares = []
    for rank in range(WORLD):
        network = Uneven()
        loss, penalty = losses_of(network, rank, number, [])
        (loss + penalty if with_penalty else loss).backward()
        shares.append(gradients_of(network))
    found = {name: [share[name] for share in shares if share[name] is not None] for name in shares[0]}
    return {name: sum(values) / WORLD if values else None for name, values in found.items()}


@pytest.mark.parametrize(('compression', 'tolerance'), [(None, 1e-6), ('bf16', 1e-2), ('fp16', 2e-3)])
@pytest.mark.parametrize('with_penalty', [False, True])
def test_gradients_are_the_means_over_the_ranks(
    results: list[dict[Any, Any]], compression: str | None, tolerance: float, with_penalty: bool
) -> None:
    for number in range(PASSES):
        wanted = means(number, with_penalty)
        for result in results:
            found = result['found'][compression, number][with_penalty]
            assert found['never'] is None  # so that no optimizer moves it
            for name, value in wanted.items():
                if value is not None:
                    assert (found[name] - value).abs().max() <= tolerance * value.abs().max() + 1e-7, name


def test_ranks_have_the_same_gradients_to_the_bit_and_send_the_same_sequence(results: list[dict[Any, Any]]) -> None:
    first, second = results
    for key, found in first['found'].items():
        for values, others in zip(found, second['found'][key], strict=True):
            for name, value in values.items():
                assert (value is None and others[name] is None) or torch.equal(value, others[name]), name
        sent, other_sent = ([entry for entry in result['log'][key] if entry != 'input'] for result in results)
        assert sent == other_sent
        assert len(sent) == 7  # a bucket for each layer and for the parameter, and which of them are used


def test_buckets_are_sent_while_the_backward_pass_runs(results: list[dict[Any, Any]]) -> None:
    first, second = (results[0]['log'][None, number] for number in range(2))
    assert first[0] == 'input'  # the first pass shows the order
    assert second[:4] == [*['72 float32'] * 3, 'input']


@pytest.mark.parametrize(('compression', 'dtype'), [('bf16', 'bfloat16'), ('fp16', 'float16')])
def test_compression_halves_what_is_sent(results: list[dict[Any, Any]], compression: str, dtype: str) -> None:
    plain, small = (results[0]['log'][kind, 1] for kind in (None, compression))
    assert small == [entry.replace('float32', dtype) for entry in plain]


def test_one_process_sends_nothing() -> None:
    network = Uneven()
    loss, _ = losses_of(network, 0, 0, [])
    gradients = Gradients(network)
    with gradients.averaged():
        loss.backward()
    found = gradients.found()
    assert ranks.world_size() == 1
    assert len(found) == 8
