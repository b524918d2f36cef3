"""``test`` scores what was trained: tables, ``results.json``, ``results.csv`` and picture sheets."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import fail, read_records, succeed
from conftest import write_options, write_pairs
from gpen.archs import build_network
from gpen.data.image_io import read_image
from gpen.errors import UserError
from gpen.evaluation.models import find_run_weights, load_model, name_models
from gpen.evaluation.sheet import choose_ranks, draw_sheet
from gpen.options import Component, parse_options, to_scoring_options


def scoring_options(trained: Path, tiny_data: Path, root: Path) -> dict[str, Any]:
    """Return options that score two models on two sets, one with whole folders, one smaller."""
    models = trained.parent / 'experiments' / 'tiny' / 'models'
    dataset = {'type': 'PairedImageDataset', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    return {
        'name': 'scores',
        'num_gpu': 0,
        'models': {'last': str(models / 'net_g_latest.pth'), 'first': str(models / 'net_g_4.pth')},
        'datasets': {
            phase: {**dataset, **{f'dataroot_{a}': str(tiny_data / phase / b) for a, b in KINDS.items()}}
            for phase in ('val', 'train')
        },
        'path': {'experiments_root': str(root)},
        'val': {
            'metrics': {
                'psnr': {'type': 'calculate_psnr'},
                'ssim': {'type': 'calculate_ssim'},
                'identity': {'type': 'calculate_identity', 'weights': '/nowhere/arc.pth', 'optional': True},
            },
            'num_pictures': 3,
        },
    }


KINDS = {'gt': 'sharp', 'lq': 'blurry'}


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / 'results.csv').open(newline='', encoding='utf-8') as stream:
        return list(csv.DictReader(stream))


def read_table(printed: str, title: str) -> dict[str, list[str]]:
    """Return the rows of the table that begins with a line with ``title``, words by label."""
    lines = printed.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(title))
    end = next(n for n, line in enumerate([*lines, ''][start:], start) if not line.strip())
    rows = [re.split(r'\s{2,}', line.strip()) for line in lines[start:end]]
    return {row[0]: row[1:] for row in rows}


def test_a_training_file_is_scored_with_input_restored_and_difference(trained: Path) -> None:
    printed = succeed(trained, command='test')
    folder = trained.parent / 'experiments' / 'tiny' / 'results'
    summary = json.loads((folder / 'results.json').read_text(encoding='utf-8'))
    means = summary['sets']['val']['means']
    model = summary['models']['net_g_best']
    assert model['path'] == f'{trained.parent}/experiments/tiny/models/net_g_best.pth'
    assert (model['size'], model['in_size'], summary['manual_seed']) == (16, 16, 3)
    table = read_table(printed, '3 images')
    assert table['3 images'] == ['PSNR', 'SSIM']
    for row, key in (('blurry input', 'input'), ('net_g_best', 'net_g_best')):
        assert table[row] == [f'{means[key][name]:.4f}' for name in ('psnr', 'ssim')]
    differences = [means['net_g_best'][name] - means['input'][name] for name in ('psnr', 'ssim')]
    assert table['difference'] == [f'{value:+.4f}' for value in differences]
    rows = read_csv(folder)
    assert [(row['set'], row['image'], row['model']) for row in rows] == [
        ('val', name, model) for model in ('input', 'net_g_best') for name in ('000', '001', '002')
    ]
    for kind in ('input', 'net_g_best'):
        mean = sum(float(row['psnr']) for row in rows if row['model'] == kind) / 3
        assert mean == pytest.approx(means[kind]['psnr'])
    assert f'Picture (input | restored | sharp): {folder / "input_restored_sharp.png"}' in printed
    assert read_image(folder / 'input_restored_sharp.png').shape[1] > 3 * 256
    report, restore = (shlex.split(line)[1:] for line in printed.partition('\nNext:\n')[2].splitlines())
    assert report == ['scripts/report.py', str(folder.parent)]
    assert restore[:3] == ['codes/restore.py', '--model', model['path']]
    assert Path(restore[restore.index('--input') + 1]).is_dir()


def test_the_score_is_that_of_the_validation_in_training(trained: Path) -> None:
    output = trained.parent / 'latest'
    model = trained.parent / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    succeed(trained, command='test', flags=('--model', str(model), '--output', str(output)))
    summary = json.loads((output / 'results.json').read_text(encoding='utf-8'))
    last = read_records(trained.parent / 'experiments' / 'tiny', 'val')[8]
    expected = {'psnr': last['val/psnr'], 'ssim': last['val/ssim']}
    assert summary['sets']['val']['means']['net_g_latest'] == pytest.approx(expected, rel=1e-6)


def test_two_models_on_two_sets(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip('facexlib')
    option_file = write_options(tmp_path / 'scores.yml', scoring_options(trained, tiny_data, tmp_path))
    printed = succeed(option_file, command='test')
    folder = tmp_path / 'scores' / 'results'
    summary = json.loads((folder / 'results.json').read_text(encoding='utf-8'))
    assert list(summary['models']) == ['last', 'first']
    assert len({model['sha256'] for model in summary['models'].values()}) == 2
    assert {name: found['images'] for name, found in summary['sets'].items()} == {'val': 3, 'train': 7}

    for name, found in summary['sets'].items():
        table = read_table(printed, f'{name}: {found["images"]} images')
        assert list(table) == [f'{name}: {found["images"]} images', 'blurry input', 'last', 'first']
        for column, metric in enumerate(('psnr', 'ssim')):
            values = {'blurry input': found['means']['input'], **found['means']}
            best = max(values[label][metric] for label in values)
            for label in ('blurry input', 'last', 'first'):
                value = values[label][metric]
                assert table[label][column] == f'{value:.4f}' + ('*' if value == best else '')
        assert {row[2] for row in list(table.values())[1:]} == {'n/a'}
        assert len(found['per_image']) == found['images']
    assert 'Higher is better: PSNR, SSIM; * best of its column.' in printed

    assert 'IDENTITY not available: recognition_arcface_ir_se50.pth\n' in printed
    assert 'val.metrics.identity.weights names /nowhere/arc.pth, but there is no such file' in printed
    assert summary['not_available']['identity']['missing'] == 'recognition_arcface_ir_se50.pth'
    assert '/nowhere/arc.pth' in summary['not_available']['identity']['reason']

    rows = read_csv(folder)
    assert list(rows[0]) == ['set', 'image', 'model', 'psnr', 'ssim']
    assert len(rows) == (3 + 7) * 3
    sheets = {f'{name}_{model}.png' for name in ('val', 'train') for model in ('last', 'first')}
    assert {path.name for path in folder.iterdir()} == {'results.json', 'results.csv', *sheets}


def test_models_on_the_command_line_take_the_place_of_those_in_the_file(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = scoring_options(trained, tiny_data, tmp_path)
    files = list(options['models'].values())
    options['models'] = {'gone': '/nowhere/gone.pth'}
    del options['datasets']['train'], options['val']['metrics']['identity']
    option_file = write_options(tmp_path / 'scores.yml', options)
    printed = succeed(option_file, command='test', flags=('--model', *files))
    assert list(read_table(printed, 'val: 3 images'))[2:] == ['net_g_latest', 'net_g_4']
    assert f'models.gone: there is no file {Path("/nowhere/gone.pth")}' in fail(option_file, command='test')


def test_a_metric_that_cannot_be_had_stops_the_run_before_it_starts(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip('facexlib')
    options = scoring_options(trained, tiny_data, tmp_path)
    options['val']['metrics']['identity']['optional'] = False
    printed = fail(write_options(tmp_path / 'scores.yml', options), command='test')
    assert 'val.metrics.identity: val.metrics.identity.weights names /nowhere/arc.pth' in printed
    assert 'To go on without it, set val.metrics.identity.optional to true.' in printed
    assert not (tmp_path / 'scores').exists()


def test_a_metric_that_images_are_too_small_for_is_named_with_its_set(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = scoring_options(trained, tiny_data, tmp_path)
    options['val']['metrics'] = {'edges_off': {'type': 'calculate_ssim', 'crop_border': 3}}
    printed = fail(write_options(tmp_path / 'scores.yml', options), command='test')
    assert 'Error: datasets.val: The metric edges_off: A metric needs images of at least 11 x 11' in printed


def test_a_typo_in_a_scoring_file_is_pointed_out_with_its_line(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    option_file = write_options(tmp_path / 'scores.yml', scoring_options(trained, tiny_data, tmp_path))
    text = option_file.read_text(encoding='utf-8').replace('dataroot_lq', 'dataroot_lp', 1)
    option_file.write_text(text, encoding='utf-8')
    line = next(n for n, words in enumerate(text.splitlines(), start=1) if 'dataroot_lp' in words)
    printed = fail(option_file, command='test')
    assert f'{option_file}:{line}: datasets.val.dataroot_lp: there is no such option.' in printed
    assert "Did you mean 'dataroot_lq'?" in printed


def test_scoring_needs_weights_and_pairs_of_their_size(trained: Path, tmp_path: Path) -> None:
    assert 'There are no weights in' in fail(trained, 'name=never_trained', command='test')
    missing = fail(trained, command='test', flags=('--model', str(tmp_path / 'no.pth')))
    assert f'There is no file {tmp_path}/no.pth' in missing
    assert 'datasets.val is missing' in fail(trained, 'datasets:val=~', command='test')
    wrong = fail(trained, 'network_g:size=32', 'network_d:size=32', command='test')
    assert re.search(r'datasets\.val\.size is 32, but .*net_g_best\.pth works at 16', wrong)


def test_models_of_different_sizes_are_not_put_into_one_table(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = scoring_options(trained, tiny_data, tmp_path)
    small = {'type': 'GPEN', 'size': 8, 'style_dim': 8, 'n_mlp': 1, 'narrow': 0.008}
    torch.save(build_network(small).state_dict(), tmp_path / 'small.pth')
    options['models']['small'] = str(tmp_path / 'small.pth')
    del options['val']['metrics']['identity']
    printed = fail(write_options(tmp_path / 'scores.yml', options), command='test')
    assert 'small makes images of 8 pixels out of 8, but last 16 out of 16: their scores cannot be compared' in printed


def test_a_network_that_enlarges_is_scored_beside_the_enlarged_input(tmp_path: Path) -> None:
    network = {'type': 'GPEN', 'size': 16, 'in_size': 8, 'style_dim': 8, 'n_mlp': 1, 'narrow': 0.008}
    torch.save(build_network(network).state_dict(), tmp_path / 'x2.pth')
    write_pairs(tmp_path / 'pairs', 2)
    options = {
        'name': 'x2',
        'num_gpu': 0,
        'models': {'x2': str(tmp_path / 'x2.pth')},
        'datasets': {
            'pairs': {
                'type': 'PairedImageDataset',
                'num_worker_per_gpu': 0,
                **{f'dataroot_{a}': str(tmp_path / 'pairs' / b) for a, b in KINDS.items()},
            }
        },
        'path': {'experiments_root': str(tmp_path)},
    }
    option_file = write_options(tmp_path / 'x2.yml', options)
    first, second = (succeed(option_file, command='test') for _ in range(2))
    table = read_table(first, '2 images')
    assert float(table['blurry input'][0]) > 15
    assert table == read_table(second, '2 images')  # its noise is fixed


def test_another_registered_network_is_scored_as_network_g_says(tmp_path: Path) -> None:
    pytest.importorskip('torchvision')
    network = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1, 'upscale': 1}
    try:
        built = build_network(network)
    except Exception as error:  # noqa: BLE001  (UserError where basicsr is not installed)
        pytest.skip(f'basicsr cannot be used: {error}')
    torch.save(built.state_dict(), tmp_path / 'other.pth')
    model = load_model(tmp_path / 'other.pth', Component.model_validate(network), torch.device('cpu'))
    assert (model.size, model.in_size) == (0, 0)
    lq = torch.rand(1, 3, 12, 20) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(model(lq), built(lq).clamp(-1, 1))


def test_models_are_named_by_their_files_and_where_these_are_equal_by_suffix_and_folder(tmp_path: Path) -> None:
    for run in ('a', 'b'):
        (tmp_path / run / 'models').mkdir(parents=True)
        (tmp_path / run / 'models' / 'net_g_best.pth').touch()
        (tmp_path / run / 'models' / 'net_g_best.onnx').touch()
        (tmp_path / run / 'models' / 'input.pth').touch()
    best = [tmp_path / run / 'models' / 'net_g_best.pth' for run in ('a', 'b')]
    both = [best[0], best[0].with_suffix('.onnx')]
    assert list(name_models(best)) == ['a_net_g_best', 'b_net_g_best']
    assert list(name_models(both)) == ['net_g_best.pth', 'net_g_best.onnx']
    assert list(name_models([*both, best[1]])) == ['a_net_g_best.pth', 'a_net_g_best.onnx', 'b_net_g_best.pth']
    assert name_models([best[0], best[0]]) == {'net_g_best': best[0]}
    link = tmp_path / 'mine.pth'  # as the cache of the Hugging Face Hub has them, whose files are called by a hash
    link.symlink_to(best[1])
    assert name_models([link, best[0]]) == {'mine': link, 'net_g_best': best[0]}
    assert list(name_models([best[0], best[0].with_name('input.pth')])) == ['net_g_best.pth', 'input.pth']


def test_a_training_file_with_pictures_alone_is_asked_for_a_metric(trained: Path) -> None:
    options = parse_options(trained, ['val:metrics:psnr=~', 'val:metrics:ssim=~'], training=False).options
    with pytest.raises(UserError, match=r'val\.metrics names no metric in the option file\. Give one: --force_yml'):
        to_scoring_options(options)


def test_a_training_run_is_scored_by_its_best_weights_or_else_its_latest(trained: Path, tmp_path: Path) -> None:
    options = parse_options(trained, [f'path:experiments_root={tmp_path}'], training=False).options
    folder = tmp_path / 'tiny' / 'models'
    folder.mkdir(parents=True)
    for name in ('net_g_latest.pth', 'net_g_best.pth'):
        (folder / name).touch()
        assert find_run_weights(options) == folder / name


@pytest.mark.parametrize(
    ('count', 'expected'),
    [
        (0, []),
        (1, ['median']),
        (2, ['best', 'worst']),
        (3, ['best', 'median', 'worst']),
        (4, ['best', 'median', '7', 'worst']),
        (5, ['best', '3', 'median', '7', 'worst']),
        (99, ['best', '2', '3', '4', 'median', '6', '7', '8', 'worst']),
    ],
)
@pytest.mark.parametrize('higher', [True, False])
def test_the_sheet_shows_images_spread_from_the_best_to_the_worst(
    count: int, expected: list[str], higher: bool
) -> None:
    values = [float(value) for value in np.random.default_rng(0).permutation(9)]
    chosen = choose_ranks([*values, float('nan')], higher, count)
    assert list(chosen.values()) == [f'{word} of 9' for word in expected]
    shown = [values[index] for index in chosen]
    assert shown == sorted(shown, reverse=higher)


def test_every_image_of_a_small_set_is_shown_once() -> None:
    assert list(choose_ranks([3.0], True, 5).values()) == ['best of 1']
    assert list(choose_ranks([3.0, 4.0], True, 5)) == [1, 0]
    assert choose_ranks([float('nan')], True, 5) == {}


@pytest.mark.parametrize('size', [16, 64, 600])
def test_a_row_of_the_sheet_shows_input_restored_and_sharp_side_by_side(size: int) -> None:
    grey = [torch.full((3, side, side), value) for side, value in ((size // 2, -0.5), (size, 0.0), (size, 0.5))]
    row = ('best of 1', tuple(grey), {'name': 'a', 'psnr': 20.0}, {'name': 'ä' * 99, 'psnr': 25.0, 'ssim': 0.5})
    sheet = draw_sheet([row, row], 'title')  # type: ignore[list-item]
    assert sheet.dtype == np.uint8
    width = (sheet.shape[1] - 8) // 3
    assert 256 <= width - 8 <= 512
    middle = sheet[8 + 26 + 128]  # a line of pixels through the first row of images
    assert [int(middle[8 + n * width + 128].mean()) for n in range(3)] == [64, 128, 191]
    assert (sheet[-60:] < 128).any(), 'no text below the images'
