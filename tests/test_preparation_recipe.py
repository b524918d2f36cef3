"""The recipe that a prepared data set ends with, and what is said of people who may be in both splits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from gpen.commands import train
from gpen.data.image_io import write_image
from gpen.faces import sface
from gpen.options import parse_options
from gpen.options.schema import Options
from gpen.preparation import people, recipe
from gpen.preparation.pairs import KINDS
from gpen.preparation.recipe import RECIPE, write_recipe
from gpen.preparation.settings import PreparationSettings
from gpen.preparation.splitting import SPLITS
from gpen.utils import files
from photographs import Prepare, draw_photo, read_manifest, save
from recognizers import write_recognizer

pytest_plugins = ['preparation_fixtures']


def write_set(folder: Path, size: int = 64, faces: int = 6, **settings: object) -> Path:
    """Write what a recipe needs of a finished data set; return its path."""
    for split in SPLITS:
        for kind in KINDS:
            write_image(folder / split / kind / '0.png', np.zeros((16, 16, 3), np.float32))
    (folder / 'dataset.json').write_text(json.dumps({'counts': {'pairs': {'train': faces, 'val': 1}}}))
    given = {'degradation': {'type': 'simple'}, 'min_face': 1, **settings}
    return write_recipe(PreparationSettings(Path('in'), folder, size=size, **given))  # type: ignore[arg-type]


def read(path: Path) -> Options:
    return parse_options(path).options


@pytest.mark.parametrize('size', [16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_each_size_has_a_recipe_that_trains_as_it_is(size: int, tmp_path: Path) -> None:
    path = write_set(tmp_path / 'my faces', size)
    parsed = parse_options(path)
    assert parsed.warnings == []
    options = parsed.options
    assert options.name == 'my_faces'
    assert options.network_g.arguments['size'] == size
    assert options.network_d is not None
    assert options.network_d.arguments['size'] == size
    assert options.datasets.train is not None
    assert options.datasets.train.arguments['dataroot_gt'] == str(tmp_path / 'my faces' / 'train' / 'sharp')
    assert options.datasets.val is not None
    assert options.datasets.val.arguments['dataroot_lq'] == str(tmp_path / 'my faces' / 'val' / 'blurry')
    total = options.train.total_iter
    assert total is not None
    assert 1600 <= total <= 2000
    assert options.val.val_freq is not None
    assert 10 <= total / options.val.val_freq <= 40


def test_a_recipe_passes_the_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path / 'set', 16)
    assert train.main(['-opt', str(path), '--dry_run', '--force_yml', 'datasets:train:num_worker_per_gpu=0']) == 0
    assert 'The options are good.' in capsys.readouterr().out


def test_many_faces_make_a_longer_run(tmp_path: Path) -> None:
    small, large = (write_set(tmp_path / f'{size}', size, faces=20_000) for size in (64, 256))
    assert (read(small).train.total_iter, read(large).train.total_iter) == (80_000, 250_000)
    assert (read(small).val.val_freq, read(large).val.val_freq) == (4000, 5000)


def test_the_degradation_is_that_of_the_pairs_and_nothing_of_the_base(tmp_path: Path) -> None:
    steps = [{'type': 'gpen', 'noise_range': [1, 2]}, {'type': 'jpeg', 'quality': [30, 40]}]
    for number, degradation in enumerate((steps[0], steps)):
        data = read(write_set(tmp_path / f'{number}', 256, degradation=degradation)).datasets.train
        assert data is not None
        assert data.arguments['degradation'] == (degradation if number else [degradation])


def test_landmarks_are_named_where_there_are_some_and_can_be_switched_on(tmp_path: Path) -> None:
    path = write_set(tmp_path / 'set')
    line = f'    # landmarks: {tmp_path / "set" / "manifest.csv"}'
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, line.replace('# ', '')))
    path.with_name('manifest.csv').touch()
    data = read(path).datasets.train
    assert data is not None
    assert data.arguments['landmarks'] == str(tmp_path / 'set' / 'manifest.csv')
    assert 'landmarks:' not in write_set(tmp_path / 'aligned', aligned=True).read_text()


def test_published_weights_are_tuned_where_they_are_on_the_disk_and_faces_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / 'weights' / 'GPEN-BFR-256.pth'
    weights.parent.mkdir()
    weights.touch()
    monkeypatch.setattr(recipe, 'resolve_path', lambda path: tmp_path / path)
    options = read(write_set(tmp_path / 'few', 256))
    assert (options.path.pretrain_network_g, options.path.pretrain_network_d) == (str(weights), None)
    assert options.train.optim_g.lr == 1e-5
    assert read(write_set(tmp_path / 'many', 256, faces=5000)).path.pretrain_network_g is None
    weights.with_stem('GPEN-BFR-256-D').touch()
    assert read(write_set(tmp_path / 'both', 256)).path.pretrain_network_d == str(weights.with_stem('GPEN-BFR-256-D'))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the project with its recipes and nothing else."""
    root = tmp_path / 'project'
    (root / 'codes' / 'gpen').mkdir(parents=True)
    shutil.copytree(ROOT / 'options' / 'train', root / 'options' / 'train')
    monkeypatch.setattr(recipe, 'find_option_file', lambda path: root / path)
    for module in (files, recipe):
        monkeypatch.setattr(module, 'project_root', lambda: root)
    return root


@pytest.mark.parametrize('is_linked', [False, True])
def test_a_set_in_the_checkout_moves_with_it_and_is_used_from_anywhere(
    is_linked: bool, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_linked:  # to another disk
        (tmp_path / 'disk').mkdir()
        (checkout / 'datasets').symlink_to(tmp_path / 'disk')
    text = write_set(checkout / 'datasets' / 'faces').read_text()
    assert 'dataroot_gt: datasets/faces/train/sharp ' in text
    assert (f'_base_: {tmp_path}' if is_linked else '_base_: ../../options/train/quickstart.yml ') in text
    monkeypatch.chdir('/')
    assert read(checkout / 'datasets' / 'faces' / RECIPE).name == 'faces'


def test_a_recipe_is_written_once_and_changes_stay(
    tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        save(tmp_path / 'in' / f'{n}.png', draw_photo(n))
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 0
    path = tmp_path / 'set' / RECIPE
    first = read(path)
    assert (first.network_g.arguments['size'], first.name) == (32, 'set')
    printed = capsys.readouterr().out
    assert 'one person may be in both splits' in printed
    (command,) = (line.strip() for line in printed.splitlines() if 'train.py' in line)

    path.write_text(path.read_text().replace('name: set ', 'name: mine '))
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 0
    assert f'\n  {command}\n' in capsys.readouterr().out
    assert read(path).name == 'mine'
    path.unlink()
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 0
    assert read(path) == first


def test_likely_same_people_in_both_splits_are_counted_where_sface_is_here(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where: list[Path | None] = [tmp_path / sface.FILENAME]
    monkeypatch.setattr(people, 'find_sface_on_disk', lambda _: where[0])
    monkeypatch.setattr(people, 'SAME_PERSON', 0.995)  # the discs of the photographs are much alike
    for name, seed in {'0': 0, '1': 1, '2': 2, '3': 3, 'again': 0}.items():
        save(tmp_path / 'in' / f'{name}.png', draw_photo(seed))

    def run(name: str, *more: object) -> str:
        capsys.readouterr()
        assert prepare(tmp_path / 'in', tmp_path / name, *more) == 0
        return capsys.readouterr().out

    write_recognizer(tmp_path)
    printed = run('set', '--seed', 7)
    splits = {row['name']: row['split'] for row in read_manifest(tmp_path / 'set')}
    assert splits == {'0': 'train', '1': 'train', '2': 'train', '3': 'val', 'again': 'val'}
    assert 'in train for 1 of the 2 faces of val' in printed
    assert 'such as again and 0 (1.00).' in printed
    assert 'SFace finds nobody who is.' in run('apart', '--seed', 2)

    # Nothing is compared, and why.
    (tmp_path / sface.FILENAME).write_text('no network')
    assert f'People are not compared: {where[0]} does not hold' in run('broken')
    printed = run('named', '--split_by', '(.*)')
    assert 'compared' not in printed
    assert 'both splits' not in printed
    where[0] = None
    assert f"where SFace's file is there: weights/{sface.FILENAME}." in run('none')
