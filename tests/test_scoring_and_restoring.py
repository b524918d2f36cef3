"""Use of what was trained: ``test`` prints a table and writes results, ``restore`` writes pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import processes
from command_line import Result, fail, read_records, succeed
from conftest import tiny_options, write_options, write_pairs
from gpen.data.image_io import read_image, write_image


@pytest.fixture(scope='module')
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The option file of a run that is done; its results lie beside it."""
    root = tmp_path_factory.mktemp('trained')
    option_file = write_options(root / 'tiny.yml', tiny_options(tiny_data, root))
    succeed(option_file, 'train:total_epochs=2')
    return option_file


def test_the_table_shows_input_restored_and_difference_and_is_written_to_files(trained: Path) -> None:
    printed = succeed(trained, command='test')
    folder = trained.parent / 'experiments' / 'tiny'
    results = folder / 'results'
    summary = json.loads((results / 'results.json').read_text())
    assert summary['weights'] == f'{folder}/models/net_g_best.pth'
    rows = {
        ' '.join(words[:-2]): [float(word) for word in words[-2:]]
        for words in (line.split() for line in printed.splitlines())
        if words[:1] in (['blurry'], ['restored'], ['difference'])
    }
    assert '3 images' in printed
    assert 'PSNR' in printed
    for row, key in (('blurry input', 'input'), ('restored', 'restored')):
        assert rows[row] == pytest.approx([summary[key]['psnr'], summary[key]['ssim']], abs=1e-4)
    assert rows['difference'] == pytest.approx(
        [summary['restored'][name] - summary['input'][name] for name in ('psnr', 'ssim')], abs=1e-4
    )
    with (results / 'results.csv').open(newline='') as stream:
        table = list(csv.DictReader(stream))
    assert [row['image'] for row in table] == ['000', '001', '002']
    for kind in ('input', 'restored'):
        mean = sum(float(row[f'{kind}_psnr']) for row in table) / 3
        assert mean == pytest.approx(summary[kind]['psnr'])
    picture = results / 'input_restored_sharp.png'
    assert f'Picture (input | restored | sharp): {picture}' in printed
    height, width, _ = read_image(picture).shape
    assert width == 3 * height
    assert height % 16 == 0  # enlarged by whole pixels


def test_the_score_is_that_of_the_validation_in_training(trained: Path) -> None:
    output = trained.parent / 'latest'
    model = trained.parent / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    succeed(trained, command='test', flags=('--model', str(model), '--output', str(output)))
    summary = json.loads((output / 'results.json').read_text())
    last = read_records(trained.parent / 'experiments' / 'tiny', 'val')[8]
    assert summary['restored'] == pytest.approx({'psnr': last['val/psnr'], 'ssim': last['val/ssim']}, rel=1e-6)


def test_scoring_needs_weights_and_validation_data(trained: Path, tmp_path: Path) -> None:
    assert 'There are no weights in' in fail(trained, 'name=never_trained', command='test')
    missing = fail(trained, command='test', flags=('--model', str(tmp_path / 'no.pth')))
    assert f'There is no file {tmp_path}/no.pth' in missing
    assert 'datasets.val is missing' in fail(trained, 'datasets:val=~', command='test')


def restore(trained: Path, source: Path, output: Path, *more: str, model: Path | None = None) -> Result:
    model = model or trained.parent / 'experiments' / 'tiny' / 'models' / 'net_g_best.pth'
    arguments = ('--model', model, '--input', source, '--output', output, *more)
    return processes.run(output.with_suffix('.log'), *arguments, command='restore')


def test_restoring_a_folder_skips_a_broken_file_and_names_it(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 5, size=24)
    source, output = tmp_path / 'faces' / 'blurry', tmp_path / 'restored'
    (source / 'more').mkdir()
    (source / '004.png').rename(source / 'more' / '004.png')
    (source / 'notes.txt').write_text('no image')
    broken = source / '002.png'
    broken.write_bytes(broken.read_bytes()[:100])
    status, printed = restore(trained, source, output, '--batch_size', '2')
    assert status == 0, printed
    assert f'Skipped: {broken} cannot be used: it is cut off' in printed
    assert f'4 restored at 16 x 16: {output}' in printed
    written = sorted(str(path.relative_to(output)) for path in output.rglob('*.png'))
    assert written == ['000.png', '001.png', '003.png', 'more/004.png']
    assert read_image(output / 'more' / '004.png').shape == (16, 16, 3)


def test_restoring_one_image_gives_the_same_whatever_the_batch(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 3)
    source = tmp_path / 'faces' / 'blurry'
    assert restore(trained, source, tmp_path / 'all')[0] == 0
    assert restore(trained, source / '001.png', tmp_path / 'one')[0] == 0
    one, together = (read_image(tmp_path / name / '001.png') for name in ('one', 'all'))
    assert abs(one - together).max() <= 2.01 / 255


def test_restoring_nothing_is_an_error(trained: Path, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    cases: list[tuple[Callable[[], Result], str]] = [
        (lambda: restore(trained, tmp_path / 'empty', tmp_path / 'out'), 'There is no image in'),
        (lambda: restore(trained, tmp_path / 'nowhere', tmp_path / 'out'), 'There is no file or folder'),
        (lambda: restore(trained, tmp_path / 'bad.png', tmp_path / 'out'), 'Skipped: '),
        (lambda: restore(trained, tmp_path, tmp_path / 'out', '--batch_size', '0'), '--batch_size 0: give 1 or more'),
        (lambda: restore(trained, tmp_path, tmp_path / 'out', model=tmp_path / 'no.pth'), 'no.pth'),
        (lambda: restore(trained, tmp_path, tmp_path / 'out', model=tmp_path / 'bad.png'), 'bad.png'),
    ]
    for command, message in cases:
        status, printed = command()
        assert status == 2, printed
        assert message in printed
        assert 'Traceback' not in printed


def test_originals_are_never_overwritten_and_results_never_restored_again(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 2)
    source = tmp_path / 'faces' / 'blurry'
    before = (source / '000.png').read_bytes()
    status, printed = restore(trained, source, source)
    assert (status, 'the originals would be lost' in printed) == (2, True)
    status, printed = restore(trained, source / '000.png', source)
    assert (status, 'would be overwritten' in printed) == (2, True)
    assert (source / '000.png').read_bytes() == before
    for _ in range(2):
        status, printed = restore(trained, source, source / 'restored')
        assert (status, '2 restored at 16 x 16' in printed) == (0, True)


def test_images_of_one_name_do_not_overwrite_each_other(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 1)
    source, output = tmp_path / 'faces' / 'blurry', tmp_path / 'restored'
    write_image(source / '000.jpg', read_image(source / '000.png'))
    assert restore(trained, source, output)[0] == 0
    assert sorted(path.name for path in output.iterdir()) == ['000.jpg.png', '000.png.png']
