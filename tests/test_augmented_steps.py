"""Steps and runs with augmentation against formulas that are put together here: both networks, R1, memory, ranks."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import processes
from comparing import read_records
from conftest import tiny_options, write_options
from gpen.memory.plan import Recipe, forecast
from tiny_model import batch_of, build, logged, weights_of

ALWAYS: dict[str, Any] = {'augment_opt': {}}
ADAPTIVE: dict[str, Any] = {'augment_opt': {'ada_target': 0.6, 'ada_images': 20}}
SGD = {'optim_g': {'type': 'SGD', 'lr': 1.0}, 'optim_d': {'type': 'SGD', 'lr': 1.0}}


def watch(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, ...]]:
    """Return a list that grows by what the model augments."""
    seen: list[tuple[Tensor, ...]] = []
    augment = model.augment

    def record(*batches: Tensor) -> tuple[Tensor, ...]:
        seen.append(augment(*batches))
        return seen[-1]

    monkeypatch.setattr(model, 'augment', record)
    return seen


@pytest.mark.parametrize('way', ['shared pass', 'amp', 'micro-batches'])
def test_the_discriminator_learns_from_augmented_images_with_r1_at_these(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {'train': {**ALWAYS, **SGD, 'r1_reg_weight': 4.0, 'net_d_reg_every': 2}}
    if way == 'micro-batches':
        data = {'accumulate': 2, 'batch_size_per_gpu': 2}
        options = tiny_options(Path('data'), Path('results'))['datasets']
        changes['datasets'] = {**options, 'train': {**options['train'], **data}}
    if way == 'amp':
        changes['train']['amp'] = 'bf16'
    model = build(**changes)
    model.set_learning_rates({'g': 1e-9, 'd': 1.0})
    net_d: Any = copy.deepcopy(model.net_d)
    seen = watch(model, monkeypatch)
    model.train_step(batch_of(2), 2)

    (fake,), (real,) = seen[:2]
    assert not torch.equal(real, batch_of(2)['gt'])
    real = real.detach().requires_grad_(True)
    logits = net_d(real)
    loss = F.softplus(-logits).mean() + F.softplus(net_d(fake)).mean()
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    r1 = gradient.square().flatten(1).sum(1).mean()
    (loss + 2 * 2 * r1).backward()  # weight / 2, every 2 iterations
    assert logged(model)['D_r1'] == pytest.approx(float(r1.detach()), rel=1e-4)
    if way != 'amp':
        for (name, parameter), after in zip(net_d.named_parameters(), weights_of(model.net_d), strict=True):
            torch.testing.assert_close(parameter.detach() - after, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_generator_learns_through_the_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(train={**ALWAYS, **SGD, 'r1_reg_weight': 0})
    model.set_learning_rates({'g': 1.0, 'd': 1e-9})
    net_g, net_d = copy.deepcopy(model.net_g), copy.deepcopy(model.net_d)
    assert net_d is not None
    seen = watch(model, monkeypatch)
    batch = batch_of(1)
    state: list[Tensor] = []
    loss_of = model.generator_loss

    def remember(*arguments: Any) -> Any:
        state.append(torch.get_rng_state())
        return loss_of(*arguments)

    monkeypatch.setattr(model, 'generator_loss', remember)
    model.train_step(batch, 1)
    assert len(seen) == 3  # fake, real, and fake for the generator

    restored = net_g(batch['lq'].contiguous(memory_format=torch.channels_last))  # as on every CPU
    torch.set_rng_state(state[0])
    (changed,) = model.augment(restored)
    assert torch.equal(changed, seen[2][0])
    (F.l1_loss(restored, batch['gt']) + 0.1 * F.softplus(-net_d(changed)).mean()).backward()
    for (name, parameter), after in zip(net_g.named_parameters(), weights_of(model.net_g), strict=True):
        torch.testing.assert_close(parameter.detach() - after, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


# ---- runs


def write(tiny_data: Path, root: Path, name: str = 'tiny.yml', **train: Any) -> Path:
    root.mkdir(exist_ok=True)
    options = tiny_options(tiny_data, root)
    options['train'] |= train
    return write_options(root / name, options)


def run(option_file: Path, *arguments: object, **settings: Any) -> tuple[int, str]:
    return processes.run(option_file.with_name('log'), '-opt', option_file, *arguments, **settings)


def test_two_processes_train_with_augmentation(tiny_data: Path, tmp_path: Path) -> None:
    train = {'augment_opt': {'ada_target': 0.01, 'ada_images': 20}, 'total_epochs': 2}
    option_file = write(tiny_data, tmp_path / 'together', **train)
    results = processes.run_together(option_file.parent, '-opt', option_file)
    assert [status for status, _ in results] == [0, 0], results
    records = read_records(option_file.parent / 'experiments' / 'tiny')
    assert all('D_augment_p' in record for record in records if record['phase'] == 'train')


def test_a_dry_run_trains_a_step_with_augmentation(tiny_data: Path, tmp_path: Path) -> None:
    status, printed = run(write(tiny_data, tmp_path, **ADAPTIVE), '--dry_run')
    assert status == 0, printed
    assert not (tmp_path / 'experiments').exists()


@pytest.mark.parametrize('augment_opt', [{}, ADAPTIVE['augment_opt']], ids=['fixed', 'adaptive'])
def test_memory_is_forecast_with_augmentation(augment_opt: dict[str, Any], tmp_path: Path) -> None:
    uses = []
    for number, train in enumerate(({}, {'augment_opt': augment_opt})):
        found = forecast(Recipe(str(write(tmp_path / 'nowhere', tmp_path, f'{number}.yml', **train))))
        uses.append(found.peak)
    assert uses[0] < uses[1]
