"""Runs whose weights, losses or restored images are not finite say so, and never call anything good."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command_line import fail, states_in
from gpen.commands import train as train_command
from gpen.data.image_io import clamp_images
from gpen.losses.pixel import L1Loss
from gpen.models.gpen_model import GPENModel
from tiny_model import build


def spoil(path: Path, kind: str, value: float) -> Path:
    """Write weights of the tiny network, one of which is ``value``."""
    model = build()
    network = model.net_g if kind == 'g' else model.net_d
    assert network is not None
    state = dict(network.state_dict())
    name = list(state)[-1]
    state[name] = torch.full_like(state[name], value)
    torch.save({'params': state}, path)
    return path


@pytest.mark.parametrize(('kind', 'value'), [('g', math.nan), ('d', math.inf)])
def test_weights_that_are_not_finite_do_not_start_a_run(
    option_file: Path, tmp_path: Path, kind: str, value: float
) -> None:
    path = spoil(tmp_path / 'net.pth', kind, value)
    flags = ('--dry_run',) if kind == 'g' else ()
    printed = fail(option_file, f'path:pretrain_network_{kind}={path}', flags=flags)
    assert f'{path} is spoilt: 1 of its ' in printed
    assert 'Finished' not in printed
    assert 'are good' not in printed


@pytest.mark.parametrize('flags', [(), ('--dry_run',)])
def test_a_run_whose_losses_are_never_finite_is_not_called_good_or_finished(
    option_file: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(L1Loss, 'penalty', lambda _, restored, gt: (restored - gt).mean() * math.inf)
    assert train_command.main(['-opt', str(option_file), *flags, '--force_yml', 'train:total_epochs=1']) == 2
    printed = ''.join(capsys.readouterr())
    assert 'G_loss_pixel' in printed
    assert ('A run would learn nothing' if flags else 'None of the steps from 1 to 4 was finite') in printed
    assert 'Finished' not in printed
    assert 'are good' not in printed


def test_restored_images_that_are_not_finite_are_never_the_best(
    option_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def restore(_: GPENModel, lq: Tensor) -> Tensor:
        return clamp_images(lq * math.inf)

    monkeypatch.setattr(GPENModel, 'restore', restore)
    assert train_command.main(['-opt', str(option_file), '--dry_run']) == 2
    printed = capsys.readouterr().err
    assert 'Validation: The network gave values that are not finite for 2 of 2 images (000, 001)' in printed

    assert train_command.main(['-opt', str(option_file), '--force_yml', 'train:total_epochs=1']) == 0
    folder = option_file.parent / 'experiments' / 'tiny'
    sentence = 'The network gave values that are not finite for 3 of 3 images'
    assert f'Validation, iter 4: {sentence}' in (folder / 'train.log').read_text()
    records = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    events = [record for record in records if record.get('name') == 'validation']
    assert [event['severity'] for event in events] == ['warning']
    assert events[0]['sentence'].startswith(sentence)
    assert not list((folder / 'models').glob('net_g_best*'))
    assert (folder / 'models' / 'net_g_latest.pth').is_file()


def test_infinite_values_are_not_taken_for_white_or_black() -> None:
    images = torch.tensor([-3.0, -1.0, -0.0, 0.25, 1.0, 7.0, math.inf, -math.inf, math.nan])
    clamped = clamp_images(images)
    assert torch.equal(clamped[:6], images[:6].clamp(-1, 1))
    assert clamped[6:].isnan().all()


@pytest.mark.parametrize('part', ['generator', 'EMA generator', 'discriminator', 'optimizer of the discriminator'])
def test_a_run_whose_weights_are_not_finite_any_more_ends_with_the_checkpoint_before(
    part: str, option_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = GPENModel.train_step

    def train_step(model: GPENModel, batch: dict[str, object], iteration: int) -> None:
        real(model, batch, iteration)
        if iteration == 8:
            networks = {'generator': model.net_g, 'EMA generator': model.net_g_ema, 'discriminator': model.net_d}
            if part in networks:
                values = next(networks[part].parameters()).detach()
            else:
                values = next(iter(model.optimizer_d.state.values()))['exp_avg_sq']
            values.view(-1)[0] = math.nan

    monkeypatch.setattr(GPENModel, 'train_step', train_step)
    change = ('--force_yml', 'train:total_epochs=2', 'val:val_freq=4', 'train:scheduler=~')
    assert train_command.main(['-opt', str(option_file), *change]) == 2
    printed = capsys.readouterr().err
    assert f'Values of the {part} are not finite any more' in printed
    assert 'Iteration 4 is saved: go on from there' in printed
    folder = option_file.parent / 'experiments' / 'tiny'
    assert states_in(folder) == [4]
    assert json.loads((folder / 'run.json').read_text())['status'] == 'failed'
