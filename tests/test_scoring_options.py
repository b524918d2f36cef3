"""Option files of scoring runs are checked to the last key, like those of training runs."""

import json
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, find_tracked, tiny_options, write_options, write_pairs
from gpen.errors import UserError
from gpen.options import Options, ScoringOptions, parse_options, parse_scoring_options, to_scoring_options
from option_docs.json_schema import SCHEMAS, build_json_schema, dump_json_schema

RECIPES = find_tracked(ROOT / 'options' / 'test', '*.yml')


@pytest.fixture
def option_file(tmp_path: Path) -> Path:
    """A scoring file whose folders and weights are there."""
    write_pairs(tmp_path / 'faces', 1)
    (tmp_path / 'model.pth').touch()
    options = {
        'name': 'scores',
        'models': {'mine': str(tmp_path / 'model.pth')},
        'datasets': {
            'faces': {
                'type': 'PairedImageDataset',
                'dataroot_gt': str(tmp_path / 'faces' / 'sharp'),
                'dataroot_lq': str(tmp_path / 'faces' / 'blurry'),
            }
        },
        'val': {'metrics': {'psnr': {'type': 'calculate_psnr'}}},
    }
    return write_options(tmp_path / 'scores.yml', options)


def parse(path: Path, *overrides: str) -> ScoringOptions:
    options = parse_scoring_options(path, overrides)
    assert isinstance(options, ScoringOptions)
    return options


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_every_shipped_scoring_recipe_is_valid(recipe: Path, tmp_path: Path) -> None:
    raw = parse_scoring_options_without_files(recipe, tmp_path)
    assert raw.name == recipe.stem
    has_pairs = all(block.type == 'PairedImageDataset' for block in raw.datasets.values())
    assert ({'psnr', 'ssim', 'lpips'} if has_pairs else {'fid', 'niqe'}) <= set(raw.val.metrics)
    without_files = {'calculate_psnr', 'calculate_ssim'}
    assert all(metric.optional == (metric.type not in without_files) for metric in raw.val.metrics.values())


def parse_scoring_options_without_files(recipe: Path, folder: Path) -> ScoringOptions:
    blocks = yaml.safe_load(recipe.read_text(encoding='utf-8'))['datasets']
    roots = [f'datasets:{name}:{key}={folder}' for name in blocks for key in blocks[name] if 'dataroot' in key]
    options = parse_scoring_options(recipe, roots, check_models=False)
    assert isinstance(options, ScoringOptions)
    return options


def test_the_protocol_of_the_papers_differs_from_the_defaults_where_theirs_does(tmp_path: Path) -> None:
    options = parse_scoring_options_without_files(ROOT / 'options' / 'test' / 'celeba_test.yml', tmp_path)
    given = {name: metric.arguments for name, metric in options.val.metrics.items()}
    assert set(given) == {'psnr', 'ssim', 'lpips', 'fid', 'niqe', 'deg', 'lmd'}
    assert given['lpips'] == {'net': 'vgg'}
    assert given['fid'] == {'reference': 'weights/inception_FFHQ_512.pth', 'resize': 'pytorch'}
    assert given['psnr'] == given['ssim'] == {'match_colours': True}


def test_metrics_that_need_sharp_images_are_named_where_a_set_has_none(option_file: Path) -> None:
    alone = f'datasets:faces={{type: SingleImageDataset, dataroot_lq: {option_file.parent / "faces" / "blurry"}}}'
    fid = 'val:metrics:fid={type: calculate_fid}'
    with pytest.raises(UserError) as caught:
        parse(option_file, alone, fid, 'val:metrics:lmd={type: calculate_lmd}')
    compares = 'compares with sharp images, and datasets.faces has none (SingleImageDataset).'
    for name in ('psnr', 'lmd'):
        assert f'val.metrics.{name}: {compares} Remove the metric' in str(caught.value)
    assert f'val.metrics.fid: {compares} Give reference: a folder of sharp faces' in str(caught.value)
    parse(option_file, alone, 'val:metrics:psnr=~', 'val:metrics:fid={type: calculate_fid, reference: datasets/ffhq}')
    parse(option_file, alone, 'val:metrics:psnr=~', 'val:metrics:niqe={type: calculate_niqe}')


def test_training_needs_sharp_images(tiny_data: Path, tmp_path: Path) -> None:
    path = write_options(tmp_path / 'tiny.yml', tiny_options(tiny_data, tmp_path))
    alone = f'datasets:val={{type: SingleImageDataset, dataroot_lq: {tiny_data / "val" / "blurry"}}}'
    for parser in (parse_options, parse_scoring_options):
        with pytest.raises(UserError, match=r'datasets\.val\.type: SingleImageDataset has no sharp images'):
            parser(path, [alone])


def test_the_512_recipe_has_all_metrics(tmp_path: Path) -> None:
    options = parse_scoring_options_without_files(ROOT / 'options' / 'test' / 'gpen_512.yml', tmp_path)
    assert {metric.type for metric in options.val.metrics.values()} == {
        f'calculate_{name}' for name in ('psnr', 'ssim', 'lpips', 'niqe', 'identity', 'fid')
    }


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_every_line_of_a_scoring_recipe_has_a_comment(recipe: Path) -> None:
    lines = [line for line in recipe.read_text(encoding='utf-8').splitlines() if line.strip()]
    headings = ('models:', 'datasets:', 'path:', 'val:')
    assert [line for line in lines if '#' not in line and line not in headings] == []


def test_sizes_are_left_to_the_weights(option_file: Path) -> None:
    options = parse(option_file)
    assert 'size' not in options.datasets['faces'].arguments
    assert (options.num_gpu, options.seed, options.network_g, options.val.num_pictures) == ('auto', 0, None, 3)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('modles={a: b}', "modles: there is no such option. Did you mean 'models'?"),
        ('models:mine=nowhere.pth', 'models.mine: there is no file'),
        ('models:mine=3', 'models.mine: should be text, not 3'),
        ('models:my model=a.pth', 'models.my model: should be letters, digits'),
        ('models:input=a.pth', "models.input: 'input' is what tables call the blurry input"),
        ('models:mine=~', 'models: names no file of weights'),
        ('datasets:faces=~', 'datasets: names no set to score on'),
        ('datasets:faces:dataroot_gt=nowhere', 'datasets.faces.dataroot_gt: there is no folder'),
        ('datasets:faces:type=PairedDataset', "Did you mean 'PairedImageDataset'?"),
        ('datasets:faces:io_backend={type: disc}', "datasets.faces.io_backend.type: is 'disc'"),
        ('datasets:faces:size=20', 'should be a power of two, such as 16 or 32'),
        ('val:metrics:psnr=~', 'val.metrics: names no metric'),
        ('val:metrics:psnr:crop_boder=4', "val.metrics.psnr.crop_boder: there is no such option. Did you mean 'crop_"),
        ('val:metrics:lpips={type: calculate_lpips, net: alexnet}', 'val.metrics.lpips.net: should be'),
        ('val:metrics:psnr:optional=maybe', "val.metrics.psnr.optional: should be true or false, not 'maybe'"),
        (
            'val:metrics:fid={type: calculate_fdi}',
            "There is no metric named 'calculate_fdi'. Did you mean 'calculate_f",
        ),
        ('val:val_freq=3', 'val.val_freq: there is no such option'),
        ('network_g={type: GPENDiscriminator, size: 16}', 'GPENDiscriminator is a discriminator'),
        ('network_g={type: GPEN, size: 16, widht: 3}', 'network_g.widht: there is no such option'),
        ('path:resume_state=a', 'path.resume_state: there is no such option'),
    ],
)
def test_a_wrong_value_in_a_scoring_file_is_explained(option_file: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(option_file, override)
    lines = str(caught.value).splitlines()
    assert lines[0] == f'{option_file}: {"1 error" if len(lines) == 2 else f"{len(lines) - 1} errors"} in the options'
    assert any(message in line for line in lines[1:]), lines


def test_all_errors_of_a_scoring_file_are_shown_together_with_their_lines(option_file: Path) -> None:
    text = option_file.read_text(encoding='utf-8')
    for right, wrong in (('dataroot_gt', 'dataroot_tg'), ('metrics', 'metric'), ('model.pth', 'modle.pth')):
        assert right in text
        text = text.replace(right, wrong)
    option_file.write_text(text, encoding='utf-8')
    with pytest.raises(UserError) as caught:
        parse(option_file)
    for word, message in (
        ('dataroot_tg', "datasets.faces.dataroot_tg: there is no such option. Did you mean 'dataroot_gt'?"),
        ('metric:', "val.metric: there is no such option. Did you mean 'metrics'?"),
        ('modle.pth', 'models.mine: there is no file'),
    ):
        number = next(n for n, line in enumerate(text.splitlines(), start=1) if word in line)
        assert f'{option_file}:{number}: {message}' in str(caught.value)


def test_a_network_of_another_kind_needs_the_size_of_the_images(option_file: Path) -> None:
    pytest.importorskip('torchvision')
    network = 'network_g={type: GPEN, size: 16}'
    assert parse(option_file, network).datasets['faces'].arguments['size'] == 16
    with pytest.raises(UserError, match=r'datasets\.faces: needs size'):
        parse(option_file, 'network_g={type: GPEN, size: ~}')


def test_a_training_file_is_recognised_by_its_block_train(tiny_data: Path, tmp_path: Path) -> None:
    path = write_options(tmp_path / 'tiny.yml', tiny_options(tiny_data, tmp_path))
    options = parse_scoring_options(path, ['train:total_epochs=3', 'datasets:train:dataroot_gt=nowhere'])
    assert isinstance(options, Options)
    scoring = to_scoring_options(options)
    assert list(scoring.datasets) == ['val']
    assert scoring.datasets['val'].arguments['size'] == 16
    assert (scoring.name, scoring.seed, scoring.val.num_pictures) == ('tiny', 3, 1)
    assert scoring.experiment_folder == options.experiment_folder


def test_training_with_a_scoring_file_says_what_it_is_for(option_file: Path) -> None:
    with pytest.raises(UserError, match=r'scores\.yml is an option file for scoring.*codes/test\.py'):
        parse_options(option_file)


@pytest.mark.parametrize('file', SCHEMAS)
def test_the_json_schemas_in_the_repository_are_current(file: str) -> None:
    written = (ROOT / 'options' / file).read_text(encoding='utf-8')
    assert written == dump_json_schema(file), 'run: python scripts/write_schema.py'


def test_the_json_schema_of_scoring_files_knows_their_blocks() -> None:
    schema = json.loads(dump_json_schema('schema_test.json'))
    assert set(schema['properties']) == {*ScoringOptions.model_fields, '_base_'}
    rules = schema['$defs']['Metric']['allOf']
    arguments = {rule['if']['properties']['type']['const']: rule['then']['properties'] for rule in rules}
    assert arguments['calculate_lpips']['net']['enum'] == ['alex', 'vgg', 'squeeze']
    assert all(block['optional']['type'] == 'boolean' for block in arguments.values())
    assert build_json_schema()['$defs']['Metric'] == schema['$defs']['Metric']


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_editors_are_told_the_schema_of_scoring_files(recipe: Path) -> None:
    first = recipe.read_text(encoding='utf-8').splitlines()[0]
    assert first == '# yaml-language-server: $schema=../schema_test.json'
