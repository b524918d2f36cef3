"""Whatever an option file holds, it is options or refused in a sentence: odd values, sizes, names, and spellings."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, tiny_options, write_options
from gpen.commands._arguments import ArgumentParser, within
from gpen.commands.train import main, parse_arguments
from gpen.errors import UserError
from gpen.options import blocks, parse_options, parse_scoring_options
from gpen.options.components import signature_model
from gpen.options.remarks import find_late_warnings
from gpen.registry import ARCH_REGISTRY
from option_docs.tables import SECTIONS

LONGEST_MESSAGE = 1_500


def refuse(path: Path, *overrides: str) -> str:
    """Return the message with which the options are refused, soon."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        parse_options(path, overrides)
    assert time.monotonic() - started < 5
    assert len(str(caught.value)) < LONGEST_MESSAGE
    return str(caught.value)


def write(folder: Path, text: str, name: str = 'bad.yml') -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    'value',
    [
        *(
            '!!bool x',
            '!!int ""',
            '!!int 0x',
            '!!int []',
            '!!float x',
            '!!float ""',
            '!!null x',
            '!!str [x]',
            '!!map [x]',
        ),
        *('!!timestamp x', '!!timestamp 2020-99-99', '!!binary x', '!!set {x}', '!!omap x', '!!pairs [x]', '!x y'),
        *(
            '&a [*a]',
            '&a {<<: *a}',
            '{<<: {[x]: 1}}',
            '{<<: [[x]]}',
            '{<<: x}',
            '{? [x] : 1}',
            '{1: 2}',
            '{~: 1}',
            '*no',
        ),
        *('"\\ud800"', '"\\0"', '[', '2020-01-01', '2020-99-99', '<<', '='),
    ],
)
def test_odd_values_are_refused_in_a_sentence(option_file: Path, value: str) -> None:
    message = refuse(option_file, f'train:total_epochs={value}')
    assert '--force_yml train:total_epochs' in message


@pytest.mark.parametrize('value', ['0100', '08', '1:30', '1:30.5', '-010', '0o17', '010_0'])
def test_no_number_is_read_as_another_one(option_file: Path, value: str) -> None:
    message = refuse(option_file, f'train:total_epochs={value}')
    assert f"train.total_epochs: should be a whole number, not '{value}'" in message
    if not value.startswith('-'):
        assert parse_options(option_file, [f'path:experiments_root={value}']).options.path.experiments_root == value


@pytest.mark.parametrize('value', ['10_0', '0x64', '1e2', '+100', '0b1100100'])
def test_numbers_that_cannot_be_misread_are_numbers(option_file: Path, value: str) -> None:
    assert parse_options(option_file, [f'train:total_epochs={value}']).options.train.total_epochs == 100


def list_numbers(node: Any) -> Iterator[dict[str, Any]]:
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from list_numbers(child)
    if isinstance(node, dict) and node.get('type') in ('integer', 'number'):
        yield node


def test_every_number_has_a_smallest_and_a_largest_value() -> None:
    for heading, block, registry in SECTIONS:
        types = registry.definitions.values() if registry is not None else ()
        for model in (block, *map(signature_model, types)):
            for name, node in model.model_json_schema().get('properties', {}).items():
                for number in list_numbers(node):
                    limits = {key.lower() for key in number}
                    assert limits & {'minimum', 'exclusiveminimum'}, (heading, model.__name__, name)
                    assert limits & {'maximum', 'exclusivemaximum'}, (heading, model.__name__, name)


@pytest.mark.parametrize(
    'value', ['1e38', '-1e38', '1e-300', '1e400', '.inf', '-.inf', '.nan', '1' + '0' * 400, '0x' + 'f' * 4000]
)
@pytest.mark.parametrize(
    'option',
    [
        *('train:optim_g:lr', 'train:pixel_opt:loss_weight', 'manual_seed', 'num_gpu', 'network_g:style_dim'),
        *('network_g:narrow', 'val:num_pictures', 'train:optim_g:betas', 'datasets:train:batch_size_per_gpu'),
    ],
)
def test_huge_numbers_are_refused_in_a_sentence(option_file: Path, option: str, value: str) -> None:
    message = refuse(option_file, f'{option}={value}')
    assert f'--force_yml {option}' in message
    if value.lstrip('-') in ('1e400', '.inf', '.nan'):
        assert 'is not finite, and no option takes that' in message


@pytest.mark.parametrize('text', ['1' + '0' * 400, '-5', '1e400', 'inf', 'nan', '9' * 5000, 'x' * 5000, ''])
@pytest.mark.parametrize('kind', [int, float])
def test_huge_numbers_on_the_command_line_are_refused(kind: Any, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument('--number', type=within(kind, 0, 2**62))
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([f'--number={text}'])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err) < LONGEST_MESSAGE


def fan_out(folder: Path) -> str:
    """Return a file that names 9 bases, each of which names 9 others, and so on."""
    for level in range(6):
        inner = '' if level == 0 else f'_base_: [{", ".join([f"level_{level - 1}.yml"] * 9)}]\n'
        write(folder, inner + 'val: {num_pictures: 1}\n', f'level_{level}.yml')
    return '_base_: level_5.yml\n'


def merge_often() -> str:
    """Return blocks each of which merges 9 times the one before it."""
    lines = [f'x{n}: &x{n} {{<<: [{", ".join([f"*x{n - 1}"] * 9)}]}}' for n in range(1, 40)]
    return '\n  '.join(['x:', 'x0: &x0 {a: 1}', *lines]) + '\n'


@pytest.mark.parametrize(
    'text',
    [
        *('# comment\n' * 10**6, ''.join(f'key{n}: 1\n' for n in range(10**6)), 'a: [' + '1, ' * 3 * 10**6 + ']\n'),
        *(''.join(f'key{n}: 1\n' for n in range(15_000)), 'a: ' + '[' * 200_000, 'a: ' + '{a: ' * 50_000),
        *(
            'a: "' + 'x' * 200_000 + '"\n',
            'x' * 200_000 + ': 1\n',
            '&' + 'x' * 200_000 + ' a\n',
            merge_often(),
            fan_out,
        ),
    ],
    ids=lambda text: text[:5] if isinstance(text, str) else 'bases',
)
def test_what_is_too_much_is_refused_soon(tmp_path: Path, text: Any) -> None:
    path = write(tmp_path, text if isinstance(text, str) else text(tmp_path))
    assert str(tmp_path) in refuse(path)  # the file, or one that it inherits from, is named


def test_files_may_inherit_often_enough(tmp_path: Path, option_file: Path) -> None:
    for number in range(20):
        write(tmp_path, f'_base_: {f"base_{number - 1}" if number else option_file.stem}.yml\n', f'base_{number}.yml')
    assert parse_options(tmp_path / 'base_19.yml').options == parse_options(option_file).options


@pytest.mark.parametrize(
    'option',
    [
        *('name', 'model_type', 'num_gpu', 'train:pixel_opt:type', 'network_g:size', 'datasets:train:dataroot_gt'),
        *('train:early_stopping:metric', 'path:pretrain_network_g', 'train:amp', 'datasets:train:io_backend:type'),
        *('val:metrics', 'train:losses:x:type', 'train:freeze_g'),
    ],
)
@pytest.mark.parametrize('value', ['x' * 100_000, 'x' * 4_000, f'{{{"x, " * 4_000}}}', f'x.{"y" * 4_000}'], ids=len)
def test_a_long_value_is_not_shown_whole(option_file: Path, option: str, value: str) -> None:
    for override in (f'{option}={value}', f'{option}:{value}=1'):
        message = refuse(option_file, override)
        assert message
        assert value not in message


def test_a_text_longer_than_any_path_is_refused(option_file: Path) -> None:
    message = refuse(option_file, f'path:experiments_root={"x" * 5_000}')
    assert 'a text of 5,000 characters is no option; the longest has 4,096' in message


@pytest.mark.parametrize('name', ['', ' ', '.', '..', 'a.', '.a', '_basicsr', 'a b', '../x', 'a/b.c', 'calculate_fid'])
@pytest.mark.parametrize('option', ['network_g:type', 'train:pixel_opt:type', 'datasets:train:type'])
def test_a_name_that_stands_for_nothing_imports_nothing(option_file: Path, option: str, name: str) -> None:
    before = set(sys.modules)
    message = refuse(option_file, f'{option}={name!r}')
    assert f'{option.replace(":", ".")}: There is no ' in message
    assert 'Available: ' in message
    assert not {'torch', 'basicsr'} & (set(sys.modules) - before)


def list_defaults(block: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the options of a block and those in it that have a default."""
    for name, field in type(block).model_fields.items():
        if not field.is_required() and name != 'name':
            yield (*prefix, name)
        value = getattr(block, name)
        if isinstance(value, blocks.Section):
            yield from list_defaults(value, (*prefix, name))


def test_an_empty_value_means_the_default(option_file: Path) -> None:
    needed = (('network_d',), ('train', 'gan_opt'), ('train', 'total_epochs'), ('datasets', 'train'))
    keys = [key for key in list_defaults(parse_options(option_file).options) if key not in needed]
    for block, name in (('network_g', 'GPEN'), ('network_d', 'GPENDiscriminator')):
        keys += [(block, one.name) for one in ARCH_REGISTRY.definitions[name].parameters if not one.required]
    for key in [*keys, ('datasets', 'train', 'num_worker_per_gpu'), ('datasets', 'val', 'size')]:
        parse_options(option_file, [f'{":".join(key)}=~'])

    emptied = parse_options(option_file, ['path:strict_load_g=~', 'network_g:style_dim=~', 'val:metrics=~']).options
    assert (emptied.path.strict_load_g, list(emptied.val.metrics)) == (True, ['psnr', 'ssim'])
    assert 'style_dim' not in emptied.network_g.arguments
    assert parse_options(option_file, ['train:ema_decay=~']).options.train.ema_decay is None  # which means something


def test_an_empty_value_in_a_step_of_a_degradation_means_the_default(tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    for block in options['datasets'].values():
        block |= {'type': 'DegradedFaceDataset', 'degradation': [{'type': 'blur', 'probability': None, 'sigma': None}]}
        del block['dataroot_lq']
    parsed = parse_options(write_options(tmp_path / 'steps.yml', options)).options
    assert parsed.datasets.train is not None
    assert parsed.datasets.train.arguments['degradation'] == [{'type': 'blur'}]
    changed = parse_options(tmp_path / 'steps.yml', ['datasets.train.degradation.0.sigma=[1, 2]']).options
    assert changed.datasets.train is not None
    assert changed.datasets.train.arguments['degradation'] == [{'type': 'blur', 'sigma': [1, 2]}]


@pytest.mark.parametrize(
    ('overrides', 'remark'),
    [
        (['train:warmup_epochs=9'], 'train.warmup_epochs: training ends before the warm-up'),
        (['train:warmup_epochs=0', 'train:warmup_iter=99'], 'train.warmup_iter: training ends before the warm-up'),
        (['train:total_epochs=~', 'train:total_iter=4', 'train:warmup_epochs=9'], 'train.warmup_epochs: training ends'),
        (['train:scheduler:milestones=[50, 80]'], 'train.scheduler.milestones: none of 50, 80 is reached'),
        (['train:scheduler:unit=iter', 'train:scheduler:milestones=[50]'], 'milestones: none of 50 is reached'),
        (['train:scheduler:milestones=[2, 80]'], 'train.scheduler.milestones.1: milestone 80 has no effect'),
        (['train:scheduler:milestones=[]'], 'train.scheduler.milestones: there are none'),
        (['train:scheduler={type: CosineAnnealingLR, T_max: 9}'], 'train.scheduler.T_max: training ends before'),
    ],
)
def test_a_schedule_beyond_the_run_is_remarked(option_file: Path, overrides: list[str], remark: str) -> None:
    parsed = parse_options(option_file, overrides)
    found = [*parsed.warnings, *parsed.find_late_warnings(iterations_per_epoch=4)]
    assert len([line for line in found if remark in line]) == 1, found
    assert parse_options(option_file).warnings == find_late_warnings(parse_options(option_file).options, 4) == []


def test_folders_that_are_given_twice_are_remarked(option_file: Path, tiny_data: Path) -> None:
    sharp = tiny_data / 'train' / 'sharp'
    twice = parse_options(option_file, [f'datasets:train:dataroot_lq={sharp}/../sharp/']).warnings
    assert len(twice) == 1
    assert 'datasets.train.dataroot_lq: is the same as dataroot_gt' in twice[0]
    (line,) = parse_options(option_file, [f'datasets:val:dataroot_gt={sharp}']).warnings
    assert 'datasets.val.dataroot_gt: is that of datasets.train' in line


def test_overrides_are_written_with_colons_or_with_dots_as_in_messages(option_file: Path) -> None:
    overrides = ['train.optim_g.lr=3e-4', 'train.scheduler.milestones.0=2', 'train:losses:l1.a={type: L1Loss}']
    options = parse_options(option_file, overrides).options
    assert options.train.optim_g.lr == 3e-4
    assert options.train.scheduler is not None
    assert options.train.scheduler.arguments['milestones'] == [2]
    assert list(options.train.losses) == ['l1.a']
    assert 'is no item of that list, which has 1 from 0 on' in refuse(option_file, 'train.scheduler.milestones.1=2')


@pytest.mark.parametrize(
    'given',
    [
        ['--opt', 'a.yml', '--auto-resume', '--dry-run', '--force-yml', 'name=a-b', 'val:x-y=1'],
        ['-opt=a.yml', '--auto_resume', '--dry_run', '--force_yml=name=a-b', '--force-yml=val:x-y=1'],
        ['-opt', 'a.yml', '--auto-res', '--dry', '--force-y', 'name=a-b', 'val:x-y=1'],
    ],
)
def test_command_line_options_take_hyphens_for_underscores(given: list[str]) -> None:
    args = parse_arguments(given)
    assert (args.opt, args.auto_resume, args.dry_run) == ('a.yml', True, True)
    assert args.force_yml == ['name=a-b', 'val:x-y=1']


@pytest.mark.parametrize('given', [['-opt', ''], ['--opt= '], ['-opt', 'a.yml', '--force_yml', 'name=a', '']])
def test_an_empty_argument_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(given)
    assert 'empty' in capsys.readouterr().err


def test_every_command_has_that_parser() -> None:
    files = [*(ROOT / 'codes' / 'gpen' / 'commands').glob('*.py'), *(ROOT / 'scripts').glob('*.py')]
    plain = [path.name for path in files if '= argparse.ArgumentParser(' in path.read_text(encoding='utf-8')]
    assert plain == []


@pytest.mark.parametrize(
    ('override', 'names'),
    [
        ('datasets:train:zzz=1', 'batch_size_per_gpu, dataroot_gt, dataroot_lq'),
        ('datasets:train:zzz=1', 'size, skip_damaged, type, use_hflip'),
        ('train:optim_g:zzz=1', 'betas, eps, lr, param_groups, type, weight_decay'),
        ('network_g:zzz=1', 'style_dim, type'),
        ('val:metrics:x={type: calculate_psnr, zzz: 1}', 'optional, test_y_channel, type'),
        ('train:losses:x={type: L1Loss, zzz: 1}', 'loss_weight, reduction, type'),
    ],
)
def test_an_unknown_option_lists_all_that_there_are(option_file: Path, override: str, names: str) -> None:
    message = refuse(option_file, override)
    assert 'Known here: ' in message
    assert names in message


@pytest.mark.parametrize(
    'override',
    [
        *('train:total_epochs=x', 'train:pixel_opt=5', 'train:gan_opt=5', 'network_g=5', 'datasets:train=5', 'train=5'),
        *('train:optim_g=5', 'val:metrics=5', 'train:scheduler=5', 'network_g:type=GPNE', 'network_d=5'),
    ],
)
def test_a_wrong_type_is_the_only_error(option_file: Path, override: str) -> None:
    lines = refuse(option_file, override).splitlines()
    assert lines[0].endswith('1 error in the options')
    assert f': {override.partition("=")[0].replace(":", ".")}: ' in lines[1]


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        (
            'train:perceptual_opt={type: PerceptualLoss, layer_weights: {conv5_44: 1}}',
            "train.perceptual_opt.layer_weights: 'conv5_44' is no layer of a VGG. Did you mean 'conv5_4'?",
        ),
        (
            'val:metrics:x={type: psnr}',
            "val.metrics.x.type: There is no metric named 'psnr'. Did you mean 'calculate_psnr'?",
        ),
        (
            'network_g:type=gpenprior',
            "network_g.type: There is no network named 'gpenprior'. Did you mean 'GPENPrior'?",
        ),
        ('val:metrics:int={type: calculate_psnr, crop_border: -1}', 'val.metrics.int.crop_border: should be greater'),
        ("network_g:'[key]'=1", 'there is no such option'),
        ('datasets:train:accumulate=x', 'datasets.train.accumulate: should be a whole number'),
        ('val:metrics:a b={type: calculate_psnr}', 'val.metrics.a b: should be letters'),
        ('name=yes', 'name: should be text, not true (put it in quotes)'),
        ('train:optim_g:betas=[0.9]', 'train.optim_g.betas: should have at least 2 items, not [0.9]'),
        ('datasets:train:dataroot_gt=""', 'datasets.train.dataroot_gt: is empty. Give the folder of the images.'),
        ('path:experiments_root=""', 'path.experiments_root: should have at least 1 character'),
        (':'.join('a' * 2000) + '=1', 'no option has such a name'),
        ('\udcff=1', 'no option has such a name'),
    ],
)
def test_names_have_their_place_and_the_nearest_one(option_file: Path, override: str, message: str) -> None:
    assert message in refuse(option_file, override)


def test_what_is_found_wrong_later_has_its_line_too(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_options(tiny_data, tmp_path)
    options['train']['freeze_g'] = ['generator.styl.*']
    path = write_options(tmp_path / 'late.yml', options)
    line = 1 + path.read_text().splitlines().index('  - generator.styl.*')
    assert main(['-opt', str(path), '--dry_run']) == 2
    assert f'{path}:{line}: train.freeze_g.0: ' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['müller', 'mu\u0308ller', '名前', 'नाम', 'é' * 60, 'a.b-c_1', '٣'])
def test_names_may_have_letters_of_any_script(option_file: Path, name: str) -> None:
    assert parse_options(option_file, [f'name={name}']).options.name == name


@pytest.mark.parametrize('name', ['a b', '.a', '-a', 'a/b', '..', 'é' * 61, 'a\tb', '\u202ea', '😀'])
def test_names_that_are_no_good_for_files_are_refused(option_file: Path, name: str) -> None:
    assert 'name: should ' in refuse(option_file, f'name="{name}"' if '\t' not in name else 'name="a\\tb"')


def test_a_run_with_such_a_name_is_trained_and_scored(option_file: Path) -> None:
    change = ['--force_yml', 'name=mü_名前', 'train:total_epochs=1', 'val:save_img=true']
    assert main(['-opt', str(option_file), *change]) == 0
    folder = option_file.parent / 'experiments' / 'mü_名前'
    assert (folder / 'metrics.jsonl').is_file()
    assert main(['-opt', str(option_file), *change, '--auto-resume']) == 0


def test_a_scoring_file_is_guarded_in_the_same_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='should be a block'):
        parse_scoring_options(write(tmp_path, 'name: a\nmodels: !!bool no\ndatasets: 5\n'))
