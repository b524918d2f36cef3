"""Option files are checked to the last key, and messages say where and what to do."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, find_tracked, run_code, tiny_options, write_options
from gpen.errors import UserError
from gpen.options import Options, ParsedOptions, parse_options, parse_scoring_options
from gpen.options.yaml_reader import read_yaml
from gpen.runs.options_file import write_options as keep_options
from option_docs.json_schema import dump_json_schema

RECIPES = find_tracked(ROOT / 'options' / 'train', '*.yml')


def parse(path: Path, *overrides: str) -> Options:
    return parse_options(path, overrides).options


def errors_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse_options(path, overrides)
    return str(caught.value).splitlines()


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Overrides that point a recipe of pairs to folders that exist."""
    return point_to(tmp_path, ('gt', 'lq'))


def point_to(folder: Path, kinds: tuple[str, ...]) -> list[str]:
    return [f'datasets:{phase}:dataroot_{kind}={folder}' for phase in ('train', 'val') for kind in kinds]


def parse_recipe(recipe: Path, folder: Path) -> tuple[dict, ParsedOptions]:
    """Return what a recipe says with that of its base, and its options with folders that exist."""
    data = read_yaml(recipe).data
    is_paired = data['datasets']['train']['type'] == 'PairedImageDataset'
    files = [f'path:{name}=~' for name in data.get('path', {}) if name.startswith('pretrain_')]
    return data, parse_options(recipe, point_to(folder, ('gt', 'lq') if is_paired else ('gt',)) + files)


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(recipe: Path, tmp_path: Path) -> None:
    data, parsed = parse_recipe(recipe, tmp_path)
    assert parsed.options.name == recipe.stem
    assert parsed.options.network_g.type == ('GPENPrior' if data['model_type'] == 'GPENPriorModel' else 'GPEN')


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_the_options_that_a_run_keeps_are_read_back_as_the_same(recipe: Path, tmp_path: Path) -> None:
    _, parsed = parse_recipe(recipe, tmp_path)
    keep_options(tmp_path, parsed)
    assert parse_options(tmp_path / 'options.yml').options == parsed.options


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_every_line_of_a_recipe_has_a_comment(recipe: Path) -> None:
    lines = [line for line in recipe.read_text(encoding='utf-8').splitlines() if line.strip()]
    headings = ('datasets:', '  train:', '  val:', 'network_g:', 'network_d:', 'path:', 'train:', 'val:', 'logger:')
    blocks = ('  ema_scheduler:', '  metrics:', '  optim_g:')
    bare = [line for line in lines if '#' not in line and line not in (*headings, *blocks)]
    assert bare == []


def test_the_512_recipe_holds_the_values_of_the_specification(folders: list[str]) -> None:
    options = parse(ROOT / 'options' / 'train' / 'gpen_512.yml', *folders)
    train = options.train
    assert (options.num_gpu, options.seed) == (1, 10)
    assert (train.optim_g.lr, train.optim_d.lr) == (1e-4, 4e-4)
    assert train.optim_g.arguments == {'lr': 1e-4, 'weight_decay': 0, 'betas': [0.9, 0.99], 'eps': 1e-15}
    assert train.scheduler is not None
    assert train.scheduler.arguments == {'milestones': [80, 150], 'gamma': 0.5}
    assert (train.total_epochs, train.warmup_epochs, train.base_lr) == (150, 5, 1e-5)
    assert (train.use_grad_norm, train.grad_norm_clip) == (True, 0.01)
    assert train.ema_scheduler.total_iter == 100_000


def test_a_milestone_at_the_end_of_training_is_a_warning(folders: list[str]) -> None:
    warnings = parse_options(ROOT / 'options' / 'train' / 'gpen_512.yml', folders).warnings
    (line,) = [warning for warning in warnings if 'dataroot' not in warning]
    assert 'train.scheduler.milestones.1: milestone 150 has no effect' in line


@pytest.mark.parametrize('text', ['1e-4', '1E-4', '.0001', '+1e-4'])
def test_numbers_in_exponent_notation_are_numbers(option_file: Path, text: str) -> None:
    assert parse(option_file, f'train:optim_g:lr={text}').train.optim_g.lr == 1e-4


def test_whole_numbers_may_be_written_with_an_exponent(option_file: Path) -> None:
    assert parse(option_file, 'train:ema_scheduler:total_iter=1e5').train.ema_scheduler.total_iter == 100_000


def test_all_errors_are_shown_together_with_line_path_and_nearest_name(tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    options['train']['optim_g']['lrr'] = 1
    options['train']['pixel_opt']['type'] = 'L1los'
    options['network_g']['szie'] = 3
    options['datasets']['val']['dataroot_gt'] = str(tmp_path / 'nowhere')
    options['trian'] = {}
    path = write_options(tmp_path / 'wrong.yml', options)
    lines = errors_of(path)
    text = path.read_text().splitlines()
    assert lines[0] == f'{path}: 5 errors in the options'
    for key, part in {
        'szie': "network_g.szie: there is no such option. Did you mean 'size'?",
        'lrr': "train.optim_g.lrr: there is no such option. Did you mean 'lr'?",
        'L1los': "train.pixel_opt.type: There is no loss named 'L1los'. Did you mean 'L1Loss'?",
        'nowhere': f'datasets.val.dataroot_gt: there is no folder {tmp_path / "nowhere"}',
        'trian': "trian: there is no such option. Did you mean 'train'?",
    }.items():
        number = next(n for n, line in enumerate(text, start=1) if key in line)
        assert any(line.startswith(f'  {path}:{number}: {part}') for line in lines), (key, lines)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('train:optim_d:lr=fast', "train.optim_d.lr: should be a number, not 'fast'"),
        ('train:optim_d:lr=-1', 'train.optim_d.lr: should be greater than 0, not -1'),
        ('train:optim_g:betas=[0.9]', 'train.optim_g.betas: '),
        ('train:total_epochs=2.5', 'train.total_epochs: should be a whole number, not 2.5'),
        ('train:total_iter=10', 'train: give one of total_epochs and total_iter'),
        ('train:use_grad_norm=maybe', "train.use_grad_norm: should be true or false, not 'maybe'"),
        ('train:use_grad_norm=true', 'needs train.grad_norm_clip'),
        ('train:early_stopping:metric=psrn', "'psrn' is not in val.metrics. Did you mean 'psnr'?"),
        ('train:losses:pixel={type: L1Loss}', 'has the name of a built-in loss'),
        ('train:scheduler:type=MultiStep', "no scheduler named 'MultiStep'. Did you mean 'MultiStepLR'?"),
        ('train:feature_matching_opt={type: FeatureMatchingLoss, weight: 1}', 'there is no such option'),
        ('val:metrics:psnr={type: calculate_psnr, crop_border: -1}', 'val.metrics.psnr.crop_border: '),
        ('network_g:size=20', 'should be a power of two, such as 16 or 32'),
        ('network_g:in_size=32', 'network_g.in_size: is 32, larger than size 16'),
        ('network_d:size=32', 'network_d.size: is 32, but the generator makes 16 x 16 images'),
        ('network_d=~', 'needs a discriminator'),
        ('datasets:train:size=32', 'datasets.train.size: is 32, but the generator works at 16'),
        ('datasets:train:dataroot_gt=3', 'datasets.train.dataroot_gt: should be text, not 3'),
        ('num_gpu=-1', 'should be auto, 0 (the CPU) or a number of GPUs, not -1'),
        ('manual_seed=-4', 'manual_seed: should be greater than or equal to 0'),
        ('name=../elsewhere', 'name: '),
        ('path:pretrain_network_g=nothing.pth', 'path.pretrain_network_g: there is no file'),
        ('model_type=GPNModel', "no model named 'GPNModel'. Did you mean 'GPENModel'?"),
        ('datasets:train:type=PairedDataset', "Did you mean 'PairedImageDataset'?"),
    ],
)
def test_a_wrong_value_is_explained(option_file: Path, override: str, message: str) -> None:
    lines = errors_of(option_file, override)
    assert any(message in line for line in lines[1:]), lines


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('network_g:type=GPENDiscriminator', 'network_g.type: GPENDiscriminator is a discriminator'),
        ('network_d:type=GPEN', 'network_d.type: GPEN is a generator'),
        ('train:gan_opt={type: L1Loss}', 'train.gan_opt.type: L1Loss is no adversarial loss'),
        ('train:pixel_opt={type: GANLoss}', 'train.pixel_opt.type: GANLoss is an adversarial loss'),
        ('train:losses={x: {type: FeatureMatchingLoss}}', 'FeatureMatchingLoss compares features'),
        ('train:feature_matching_opt={type: L1Loss}', 'L1Loss does not compare features'),
    ],
)
def test_a_network_or_loss_in_the_wrong_place_is_refused(option_file: Path, override: str, message: str) -> None:
    assert any(message in line for line in errors_of(option_file, override))


def test_a_size_that_the_generator_lacks_is_said_once(option_file: Path) -> None:
    (line,) = errors_of(option_file, 'network_g={type: GPEN, size: ~}')[1:]
    assert 'network_g.size: should be a whole number, not null' in line


def test_a_size_that_is_missing_has_file_and_line(tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    del options['network_g']['size'], options['network_d']['size']
    path = write_options(tmp_path / 'no_size.yml', options)
    lines = path.read_text().splitlines()
    numbers = [1 + lines.index(f'{name}:') for name in ('network_g', 'network_d')]
    assert errors_of(path)[1:] == [
        f'  {path}:{numbers[0]}: network_g.size: is missing; give it (Width and height of the output)',
        f'  {path}:{numbers[1]}: network_d.size: is missing; give it (Width and height of the images)',
    ]


@pytest.mark.skipif(importlib.util.find_spec('basicsr') is None, reason='basicsr is not installed')
def test_with_a_network_for_any_size_the_data_sets_need_one(tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    options['network_g'] = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1, 'upscale': 1}
    path = write_options(tmp_path / 'any_size.yml', options)
    assert [line.partition(': ')[2] for line in errors_of(path)[1:]] == [
        'datasets.train.size: is missing; give it (Width and height that GT images are resized to)',
        'datasets.val.size: is missing; give it (Width and height that GT images are resized to)',
    ]
    assert parse(path, 'datasets:train:size=16', 'datasets:val:size=16').datasets.train is not None


def test_scoring_takes_a_size_that_is_missing_from_the_file_of_weights(tiny_data: Path, tmp_path: Path) -> None:
    block = {'type': 'PairedImageDataset', 'dataroot_gt': str(tiny_data / 'val' / 'sharp')}
    block['dataroot_lq'] = str(tiny_data / 'val' / 'blurry')
    path = write_options(tmp_path / 'score.yml', {'name': 'score', 'datasets': {'val': block}})
    assert 'size' not in parse_scoring_options(path, check_models=False).dataset_blocks['val'].arguments


def test_a_new_type_keeps_the_options_that_do_not_depend_on_it(option_file: Path) -> None:
    options = parse(option_file, 'train:optim_g:lr=0.05', 'train:optim_g:type=SGD')
    assert options.train.optim_g.arguments == {'lr': 0.05}
    assert parse(option_file, 'train:optim_g:type=SGD').train.optim_g.lr == 2e-3


def test_whole_floats_as_in_basicsr_files_are_whole_numbers(option_file: Path) -> None:
    assert parse(option_file, 'logger:print_freq=!!float 5000').logger.print_freq == 5000


def test_merge_keys_of_yaml_are_overridden_by_own_keys(tmp_path: Path, option_file: Path) -> None:
    path = tmp_path / 'merged.yml'
    text = 'x: &a {type: Adam, lr: 1e-3}\ntrain: {optim_g: {<<: *a, lr: 1e-4}}\n'
    path.write_text(f'_base_: {option_file.name}\n' + text)
    lines = errors_of(path)
    assert len(lines) == 2
    assert 'x: there is no such option' in lines[1]
    path.write_text(path.read_text().replace('x: &a {', 'train: {optim_d: &a {').replace('1e-3}\ntrain: {', '1e-3}, '))
    options = parse(path)
    assert (options.train.optim_d.lr, options.train.optim_g.lr) == (1e-3, 1e-4)


def test_scoring_does_not_ask_for_training_files(option_file: Path) -> None:
    missing = ['datasets:train:dataroot_gt=nowhere', 'path:pretrain_network_g=nothing.pth']
    assert parse_options(option_file, missing, training=False).options.datasets.val is not None


def test_run_options_are_accepted_under_train_and_must_agree(tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    del options['num_gpu'], options['manual_seed']
    options['train'] |= {'num_gpu': 1, 'manual_seed': 10}
    parsed = parse(write_options(tmp_path / 'inside.yml', options))
    assert (parsed.num_gpu, parsed.seed) == (1, 10)

    # What comes later decides: the command line, and a file after its bases.
    changed = parse_options(tmp_path / 'inside.yml', ['num_gpu=0', 'manual_seed=5']).options
    assert (changed.num_gpu, changed.seed) == (0, 5)
    child = write_options(tmp_path / 'child.yml', {'_base_': 'inside.yml', 'manual_seed': 7})
    assert parse(child).seed == 7
    assert parse_options(child, ['train:manual_seed=8']).options.seed == 8

    options['manual_seed'] = 11
    assert 'is 10 here and 11 at the top level' in errors_of(write_options(tmp_path / 'both.yml', options))[1]


def test_a_base_file_is_inherited_and_a_new_type_replaces_its_block(option_file: Path) -> None:
    child = option_file.with_name('child.yml')
    child.write_text('_base_: tiny.yml\nname: child\ntrain:\n  scheduler: {type: CosineAnnealingLR, T_max: 4}\n')
    options = parse(child)
    assert options.name == 'child'
    assert options.train.total_epochs == 4
    assert options.train.scheduler is not None
    assert options.train.scheduler.arguments == {'T_max': 4}


@pytest.mark.parametrize('is_link', [False, True])
def test_a_base_is_named_by_its_shortest_path_that_leads_there(
    option_file: Path, tmp_path: Path, is_link: bool
) -> None:
    (tmp_path / 'base.yml').write_text(f'_base_: {option_file.name}\nunknown: 1\n')
    folder = tmp_path / 'faces' / 'set'
    folder.mkdir(parents=True)
    (folder / 'child.yml').write_text('_base_: ../../base.yml\nname: child\n')
    if is_link:  # above the link lies another folder
        (tmp_path / 'link').symlink_to(folder)
        folder = tmp_path / 'link'
    where = folder / '..' / '..' if is_link else tmp_path
    assert f'{where / "base.yml"}:2: unknown: there is no such option.' in '\n'.join(errors_of(folder / 'child.yml'))


@pytest.mark.parametrize('base', ['5', '~', '[1]'])
def test_a_base_that_is_no_file_name_is_refused_with_its_line(tmp_path: Path, base: str) -> None:
    path = tmp_path / 'child.yml'
    path.write_text(f'name: a\n_base_: {base}\n')
    with pytest.raises(UserError, match=r'child.yml:2: _base_ should be the name of an option file'):
        parse_options(path)


def test_files_that_inherit_in_a_ring_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'a.yml').write_text('_base_: b.yml\n')
    (tmp_path / 'b.yml').write_text('_base_: a.yml\n')
    with pytest.raises(UserError, match='_base_ leads back to this file'):
        parse_options(tmp_path / 'a.yml')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('name: a\nname: b\n', ':2: name: is given twice'),
        ('name: [a\n', 'not valid YAML'),
        (
            'name: !!python/object/apply:os.system ["true"]\n',
            ':1: name: the tag !!python/object/apply:os.system is none of',
        ),
        ('- a\n- b\n', 'holds a list'),
        ('1: a\n', ':1: the key 1 is not text'),
        (
            'a: &a [x, x]\nb: &b [*a, *a]\n'
            + ''.join(f'c{n}: &c{n} [' + f'*{"b" if n == 0 else f"c{n - 1}"}, ' * 9 + ']\n' for n in range(9)),
            'this is no option file',
        ),
    ],
)
def test_what_is_no_good_yaml_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'bad.yml'
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        parse_options(path)
    assert message in str(caught.value)


def test_overrides_are_parsed_as_yaml_and_never_executed(option_file: Path) -> None:
    options = parse(option_file, 'val:metrics:ssim=~', 'val:metrics:psnr={type: calculate_psnr}', 'name=other')
    assert (options.name, list(options.val.metrics)) == ('other', ['psnr'])
    with pytest.raises(UserError, match='the tag !!python/name'):
        parse_options(option_file, ['name=!!python/name:os.system'])
    with pytest.raises(UserError, match='write it as block:key=value'):
        parse_options(option_file, ['name'])


def test_option_errors_come_before_anything_heavy_is_imported(option_file: Path) -> None:
    code = (
        'import sys; from gpen.options import parse_options; from gpen.errors import UserError\n'
        f'try: parse_options({str(option_file)!r}, ["network_g:narrow=-1", "train:pixel_opt:type=NoSuch"])\n'
        'except UserError as error: assert "2 errors" in str(error), error\n'
        'else: raise SystemExit("no error")\n'
        'heavy = {"torch", "cv2", "basicsr", "torchvision", "facexlib"} & set(sys.modules)\n'
        'raise SystemExit(f"imported: {heavy}" if heavy else 0)\n'
    )
    import subprocess

    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT / 'codes', capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_mistake_in_the_option_file_exits_with_2_and_no_traceback(option_file: Path) -> None:
    result = run_code('codes/train.py', '-opt', option_file, '--force_yml', 'train:optim_g:lrr=1')
    assert result.returncode == 2
    assert "Did you mean 'lr'?" in result.stderr
    assert 'Traceback' not in result.stderr
    missing = run_code('codes/train.py', '-opt', 'no/such.yml')
    assert missing.returncode == 2
    assert 'There is no option file no/such.yml' in missing.stderr


def test_the_json_schema_in_the_repository_is_current() -> None:
    written = (ROOT / 'options' / 'schema.json').read_text(encoding='utf-8')
    assert written == dump_json_schema(), 'run: python scripts/write_schema.py'


def test_the_json_schema_knows_the_arguments_of_each_type() -> None:
    rules = json.loads(dump_json_schema())['$defs']['Network']['allOf']
    arguments = {rule['if']['properties']['type']['const']: rule['then']['properties'] for rule in rules}
    assert {'size', 'style_dim', 'n_mlp', 'channel_multiplier', 'narrow', 'isconcat', 'in_size'} <= set(
        arguments['GPEN']
    )
    assert arguments['GPEN']['style_dim']['default'] == 512


def test_the_merged_file_can_be_parsed_again(option_file: Path, tmp_path: Path) -> None:
    parsed = parse_options(option_file, ['train:optim_g:lr=3e-5'])
    copy = tmp_path / 'copy.yml'
    copy.write_text(parsed.text)
    assert yaml.safe_load(parsed.text)['train']['optim_g']['lr'] == 3e-5
    assert parse(copy) == parsed.options


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'name: a\nlist: [1, \xe4]\n', ':2: is no text in UTF-8. Save the file in this encoding'),
        ('name: a\n'.encode('utf-16'), ':1: is no text in UTF-8'),
        ('name: a\n'.encode('utf-16-be'), ':1: not valid YAML: it holds the character U+0000'),
        (b'name: a\n# \x07\n', ':2: not valid YAML: it holds the character U+0007'),
    ],
    ids=['latin 1', 'UTF-16', 'UTF-16 without a mark', 'a bell'],
)
def test_a_file_in_another_encoding_is_named_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / 'bad.yml').write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        parse_options(tmp_path / 'bad.yml')
