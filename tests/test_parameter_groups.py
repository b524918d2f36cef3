"""Learning rates by name pattern, and parameters that stay as they are."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import processes
from comparing import assert_same, assert_same_run, read_records
from conftest import tiny_options, write_options
from gpen.errors import UserError
from gpen.models.gpen_model import GPENModel
from gpen.options import Options, parse_options
from gpen.registry import OPTIMIZER_REGISTRY
from gpen.training.schedule import LearningRates
from tiny_model import batch_of, build

ENCODER = {'encoder': {'patterns': ['ecd*', 'final_linear*'], 'lr': 4e-3}}
SGD = {'type': 'SGD', 'lr': 0.1}


def with_groups(groups: dict[str, Any], **train: Any) -> GPENModel:
    return build(train={'optim_g': {**SGD, 'param_groups': groups}, **train})


def names_by_group(optimizer: torch.optim.Optimizer) -> dict[str | None, list[str]]:
    return {group.get('group'): group['names'] for group in optimizer.param_groups}


def snapshot(network: nn.Module | None) -> dict[str, Tensor]:
    assert network is not None
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def changed(network: nn.Module | None, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in snapshot(network).items() if not torch.equal(value, before[name])}


# --- groups


def test_every_parameter_is_in_one_group_and_the_first_match_counts() -> None:
    groups = {
        'first': {'patterns': ['ecd0.*'], 'lr': 1.0},
        'encoder': {'patterns': ['final_linear*', 'ecd*'], 'lr': 2.0},
        'rgb': {'patterns': ['generator.to_rgb?.bias', 'generator.to_rgbs.?.bias'], 'lr': 3.0},
    }
    model = with_groups(groups)
    found = names_by_group(model.optimizer_g)
    assert list(found) == [None, 'first', 'encoder', 'rgb']
    assert sorted(name for names in found.values() for name in names) == sorted(
        name for name, _ in model.net_g.named_parameters()
    )
    assert {name.split('.')[0] for name in found['first']} == {'ecd0'}
    assert {name.split('.')[0] for name in found['encoder']} == {'ecd1', 'ecd2', 'final_linear'}
    assert found['rgb'] == ['generator.to_rgb1.bias', 'generator.to_rgbs.0.bias', 'generator.to_rgbs.1.bias']
    parameters = dict(model.net_g.named_parameters())
    for group in model.optimizer_g.param_groups:
        assert all(one is parameters[name] for one, name in zip(group['params'], group['names'], strict=True))


def test_a_group_learns_at_its_own_rate() -> None:
    models = [with_groups(ENCODER), with_groups({})]
    starts = [snapshot(model.net_g) for model in models]
    models[0].set_learning_rates({'g': 0.1, 'g_encoder': 0.3, 'd': 0.1})
    models[1].set_learning_rates({'g': 0.1, 'd': 0.1})
    for model in models:
        model.train_step(batch_of(1), 1)
    (grouped, plain) = (
        {name: value - start[name] for name, value in snapshot(model.net_g).items()}
        for model, start in zip(models, starts, strict=True)
    )
    for name, step in plain.items():
        factor = 3 if name.startswith(('ecd', 'final_linear')) else 1
        torch.testing.assert_close(grouped[name], factor * step, rtol=1e-3, atol=1e-6, msg=name)
    assert plain['ecd0.0.0.weight'].abs().max() > 1e-5


def test_the_discriminator_has_groups_of_its_own() -> None:
    model = build(train={'optim_d': {**SGD, 'param_groups': {'last': {'patterns': ['final_*'], 'lr': 0.5}}}})
    assert model.optimizer_d is not None
    model.set_learning_rates({'g': 0.1, 'd': 0.2, 'd_last': 0.5})
    assert [group['lr'] for group in model.optimizer_d.param_groups] == [0.2, 0.5]


def test_warm_up_and_schedule_scale_all_rates_alike() -> None:
    options = tiny_options(Path('data'), Path('results'))
    options['train']['optim_g'] |= {'lr': 1e-3, 'param_groups': {'encoder': {'patterns': ['ecd*'], 'lr': 1e-2}}}
    options['train']['optim_d'] |= {'param_groups': {'slow': {'patterns': ['convs*'], 'lr': 2e-5}}}
    rates = LearningRates(Options.model_validate(options), iterations_per_epoch=4)
    assert set(rates.at(1)) == {'g', 'd', 'g_encoder', 'd_slow'}
    for iteration in (1, 5, 12, 13, 16):  # warm-up, full, full, after the milestone
        found = rates.at(iteration)
        assert found['g_encoder'] == pytest.approx(10 * found['g'])
        assert found['d_slow'] == pytest.approx(found['d'] / 100)
    assert rates.at(5)['g_encoder'] == 1e-2
    assert rates.at(13)['g_encoder'] == 5e-3


@pytest.mark.parametrize(
    ('groups', 'words'),
    [
        (
            {'encoder': {'patterns': ['ecd*', 'edc*'], 'lr': 1.0}},
            r"train\.optim_g\.param_groups\.encoder\.patterns\.1: 'edc\*' matches no parameter .* Near it are: ecd",
        ),
        ({'rgb': {'patterns': ['zzz'], 'lr': 1.0}}, r"'zzz' matches no parameter .* Names start with: generator, ecd0"),
        (
            {**ENCODER, 'late': {'patterns': ['ecd1*'], 'lr': 1.0}},
            r'param_groups\.late: all parameters .* belong to earlier groups',
        ),
    ],
    ids=['misspelt', 'far off', 'shadowed'],
)
def test_a_pattern_without_effect_is_one_message(groups: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        with_groups(groups)


def test_wrong_groups_are_found_with_the_other_options(tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    options['train']['optim_g']['param_groups'] = {
        'encoder': {'patterns': [], 'lr': 1e-3},
        'decoder': {'pattern': ['x'], 'lr': -1},
    }
    options['train']['freeze_g'] = 'generator.style*'
    with pytest.raises(UserError) as caught:
        parse_options(write_options(tmp_path / 'wrong.yml', options))
    text = str(caught.value)
    for place in (
        'param_groups.encoder.patterns',
        'param_groups.decoder.pattern: there is no',
        'decoder.lr',
        'freeze_g',
    ):
        assert place in text
    assert 'Traceback' not in text


# --- frozen


def test_frozen_parameters_stay_and_the_others_learn() -> None:
    model = build(train={'freeze_g': ['generator.style*', 'ecd0*'], 'freeze_d': ['convs.0*'], 'r1_reg_weight': 10})
    before = {name: snapshot(getattr(model, name)) for name in ('net_g', 'net_d', 'net_g_ema')}
    for iteration in (1, 2, 3):  # R1 in the third
        model.train_step(batch_of(iteration), iteration)
    still = {name for name in before['net_g'] if name.startswith(('generator.style', 'ecd0'))}
    assert len(still) == 6
    for name in ('net_g', 'net_g_ema'):
        moved = changed(getattr(model, name), before[name])
        assert not moved & still
        assert moved >= {name for name in before['net_g'] if name.startswith('ecd1')}
    moved = changed(model.net_d, before['net_d'])
    assert moved
    assert not any(name.startswith('convs.0') for name in moved)


def test_a_frozen_discriminator_part_learns_the_same_in_parts() -> None:
    ends = []
    for parts in (1, 2):
        options = tiny_options(Path('data'), Path('results'))
        options['datasets']['train']['accumulate'] = parts
        options['train'] |= {'freeze_d': ['convs.0*'], 'optim_d': SGD}
        model = build(datasets=options['datasets'], train=options['train'])
        model.train_step(batch_of(3), 3)
        ends.append(snapshot(model.net_d))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('train', 'words'),
    [
        ({'freeze_g': ['generator.stile*']}, r"train\.freeze_g\.0: 'generator\.stile\*' matches .*generator\.style"),
        ({'freeze_d': ['*']}, r'train\.freeze_d freezes all \d+ parameters'),
    ],
    ids=['misspelt', 'everything'],
)
def test_freezing_nothing_or_everything_is_one_message(train: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(train=train)


# --- states


def test_parameters_find_their_optimizer_state_by_name() -> None:
    before = build()
    for iteration in (1, 2):
        before.train_step(batch_of(iteration), iteration)
    saved = copy.deepcopy(before.state_dict())
    after = build(train={'optim_g': {'type': 'Adam', 'param_groups': ENCODER}, 'freeze_g': ['generator.style*']})
    after.load_state_dict(saved)
    states = [
        {
            name: model.optimizer_g.state[parameter]
            for group in model.optimizer_g.param_groups
            for name, parameter in zip(group['names'], group['params'], strict=True)
        }
        for model in (before, after)
    ]
    frozen = {name for name in states[0] if name.startswith('generator.style')}
    assert set(states[1]) == set(states[0]) - frozen
    for name, state in states[1].items():
        assert_same(dict(state), dict(states[0][name]), name)
    # And back: what was frozen starts without a state.
    again = build()
    again.load_state_dict(copy.deepcopy(after.state_dict()))
    names = {parameter: name for name, parameter in again.net_g.named_parameters()}
    assert {names[parameter] for parameter in again.optimizer_g.state} == set(states[1])
    again.train_step(batch_of(3), 3)
    assert all(len(again.optimizer_g.state[parameter]) == 3 for parameter in again.net_g.parameters())


def test_a_state_of_earlier_versions_which_has_no_names_still_loads() -> None:
    model = build()
    model.train_step(batch_of(1), 1)
    saved = copy.deepcopy(model.state_dict())
    for name in ('optimizer_g', 'optimizer_d'):
        for group in saved[name]['param_groups']:
            del group['names']
    other = build()
    other.load_state_dict(saved)
    assert_same(other.state_dict()['optimizer_g']['state'], model.state_dict()['optimizer_g']['state'])


def test_rates_of_groups_are_logged_and_a_killed_run_continues_bit_for_bit(tiny_data: Path, tmp_path: Path) -> None:
    ends = []
    for name in ('whole', 'broken'):
        options = tiny_options(tiny_data, tmp_path / name)
        options['train']['optim_g']['param_groups'] = ENCODER
        options['train'] |= {'freeze_g': ['generator.style*'], 'freeze_d': ['convs.0*']}
        path = write_options(tmp_path / f'{name}.yml', options)
        log = tmp_path / 'log'
        if name == 'broken':
            processes.run(log, '-opt', path, '--auto_resume', kill_at=('step', 7))
        status, printed = processes.run(log, '-opt', path, '--auto_resume')
        assert status == 0, printed
        ends.append(tmp_path / name / 'experiments' / 'tiny')
    assert_same_run(ends[1], ends[0])
    records = [record for record in read_records(ends[0]) if record['phase'] == 'train']
    assert all(record['lr_g_encoder'] == pytest.approx(2 * record['lr_g']) for record in records)
    assert {'lr_d', 'lr_g'} <= set(records[0])


@pytest.mark.parametrize(
    ('kind', 'options', 'expected'),
    [
        ('Adam', {}, {'lr': 1e-4, 'betas': (0.9, 0.99), 'eps': 1e-8, 'weight_decay': 0, 'fused': True}),
        ('AdamW', {}, {'lr': 1e-4, 'betas': (0.9, 0.99), 'eps': 1e-8, 'weight_decay': 0.01, 'fused': True}),
        ('Adam', {'betas': [0, 0.5], 'eps': 1e-6}, {'betas': (0, 0.5), 'eps': 1e-6}),
        ('SGD', {}, {'lr': 1e-2, 'momentum': 0, 'weight_decay': 0, 'nesterov': False}),
        ('SGD', {'momentum': 0.5, 'nesterov': True}, {'momentum': 0.5, 'nesterov': True}),
    ],
)
def test_an_optimizer_has_its_documented_defaults(kind: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = OPTIMIZER_REGISTRY.build({'type': kind, **options}, [{'params': [parameter]}])
    assert isinstance(optimizer, getattr(torch.optim, kind))
    assert {name: optimizer.defaults[name] for name in expected} == expected
