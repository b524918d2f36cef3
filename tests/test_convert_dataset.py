"""scripts/convert_dataset.py: any kind of storage becomes any other, whole or not at all."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, run_code, tiny_options, write_options, write_pairs
from gpen.commands import convert_dataset
from gpen.data.storage import find_backend, open_storage, writing
from gpen.data.storage.basicsr_lmdb import LmdbStorage
from gpen.data.storage.writing import write_tables
from gpen.options import parse_options

pa = pytest.importorskip('pyarrow')
pytest.importorskip('datasets')
import pyarrow.parquet as pq  # noqa: E402

TABLES = ('lmdb', 'parquet', 'arrow')


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Seven images; one in a sub-folder, one of two dots, one JPEG."""
    folder = tmp_path / 'faces'
    write_pairs(tmp_path / 'made', 7)
    (folder / 'more').mkdir(parents=True)
    names = ['a.png', 'b.png', 'c.d.png', 'e.jpg', 'more/a.png', 'more/f.png', 'z.png']
    for path, name in zip(sorted((tmp_path / 'made' / 'sharp').iterdir()), names, strict=True):
        path.rename(folder / name)
    import cv2

    cv2.imwrite(str(folder / 'e.jpg'), cv2.imread(str(folder / 'e.jpg')))
    return folder


def convert(*arguments: object) -> int:
    return convert_dataset.main([str(argument) for argument in arguments])


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert convert(*arguments) == 2
    return capsys.readouterr().err


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('kind', TABLES)
def test_there_and_back_are_the_same_files(kind: str, faces: Path, tmp_path: Path) -> None:
    assert convert('--input', faces, '--output', tmp_path / f'faces.{kind}') == 0
    assert convert('--input', tmp_path / f'faces.{kind}', '--output', tmp_path / 'back', '--to', 'disk') == 0
    assert files_in(tmp_path / 'back') == files_in(faces)


def test_kinds_convert_to_each_other(faces: Path, tmp_path: Path) -> None:
    assert convert('--input', faces, '--output', tmp_path / '1.arrow') == 0
    assert convert('--input', tmp_path / '1.arrow', '--output', tmp_path / '2.lmdb') == 0
    assert convert('--input', tmp_path / '2.lmdb', '--output', tmp_path / 'three', '--to', 'parquet') == 0
    file = next((tmp_path / 'three').iterdir())
    assert convert('--input', f'file://{file}', '--output', tmp_path / '4', '--to', 'disk') == 0
    assert files_in(tmp_path / '4') == files_in(faces)


@pytest.mark.parametrize('kind', ['parquet', 'arrow'])
def test_shards_have_the_size_that_was_asked_for(
    kind: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in faces.rglob('*.png'):
        with path.open('ab') as stream:
            stream.write(bytes(600_000))  # bytes after the end of an image are no damage
    monkeypatch.setattr(writing, 'ROWS_PER_GROUP', 1)
    assert convert('--input', faces, '--output', tmp_path / f'x.{kind}', '--shard_size', 1) == 0
    shards = sorted(path.name for path in (tmp_path / f'x.{kind}').glob('data-*'))
    assert shards == [f'data-{number:05d}-of-00003.{kind}' for number in range(3)]
    assert convert('--input', tmp_path / f'x.{kind}', '--output', tmp_path / 'back', '--to', 'disk') == 0
    assert files_in(tmp_path / 'back') == files_in(faces)


def test_row_groups_are_small_and_say_what_they_hold(faces: Path, tmp_path: Path) -> None:
    for number in range(40):
        shutil.copy(faces / 'a.png', faces / f'more{number}.png')
    assert convert('--input', faces, '--output', tmp_path / 'x.parquet') == 0
    file = pq.ParquetFile(next((tmp_path / 'x.parquet').iterdir()))
    rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert rows == [16, 16, 15]
    assert file.schema_arrow.names == ['image', 'name']


def options_of(printed: str) -> Any:
    return yaml.safe_load(printed.partition('RECIPE.yml:\n')[2])


@pytest.mark.parametrize('kind', TABLES)
def test_whole_sets_are_converted_and_their_option_lines_can_be_used(
    kind: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert('--input', tiny_data, '--output', tmp_path / 'set', '--to', kind) == 0
    printed = capsys.readouterr().out
    assert f'7 images: {tmp_path / "set" / "train" / f"sharp.{kind}"}' in printed
    lines = options_of(printed)
    options = tiny_options(tiny_data, tmp_path)
    for phase, block in lines['datasets'].items():
        options['datasets'][phase] |= block
        for name, side in (('dataroot_gt', 'sharp'), ('dataroot_lq', 'blurry')):
            storage = open_storage(block[name], block['io_backend'])
            assert len(storage.keys()) == (7 if phase == 'train' else 3)
            assert storage.read('001') == (tiny_data / phase / side / '001.png').read_bytes()
    assert parse_options(str(write_options(tmp_path / 'tiny.yml', options))).options.datasets.train is not None

    # Pasted below a recipe such as prepare_dataset.py writes, which degrades sharp faces anew
    roots = {'dataroot_gt': str(tiny_data / 'train' / 'sharp'), 'degradation': {'type': 'simple'}}
    options['datasets']['train'] = {'type': 'DegradedFaceDataset', 'batch_size_per_gpu': 2, **roots}
    write_options(tmp_path / 'recipe.yml', options)
    (tmp_path / 'mine.yml').write_text('_base_: recipe.yml\n' + printed.partition('RECIPE.yml:\n')[2])
    pasted = parse_options(str(tmp_path / 'mine.yml')).options.datasets.train
    assert (pasted.type, pasted.batch_size_per_gpu) == ('PairedImageDataset', 2)

    assert convert('--input', tmp_path / 'set', '--output', tmp_path / 'back', '--to', 'disk') == 0
    assert files_in(tmp_path / 'back') == files_in(tiny_data)


def test_option_lines_of_one_folder_are_relative_to_the_project(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('gpen.utils.files.project_root', lambda: tmp_path)
    (tmp_path / 'codes' / 'gpen').mkdir(parents=True)  # a checkout
    assert convert('--input', faces, '--output', tmp_path / 'new' / 'x.parquet') == 0
    lines = options_of(capsys.readouterr().out)
    assert lines == {'dataroot_gt': 'new/x.parquet', 'io_backend': {'type': 'datasets'}}
    assert len(open_storage(lines['dataroot_gt'], lines['io_backend']).keys()) == 7


def test_what_lies_in_another_order_is_read_in_that_order(faces: Path, tmp_path: Path) -> None:
    contents = files_in(faces)
    order = ['z.png', 'a.png', 'more/f.png', 'e.jpg']
    rows = [{'bytes': contents[name], 'path': name} for name in order]
    pq.write_table(pa.table({'photo': rows}), tmp_path / 'x.parquet', row_group_size=1)
    backend = '{type: datasets, image_column: photo}'
    assert convert('--input', tmp_path / 'x.parquet', '--output', tmp_path / 'y.arrow', '--io_backend', backend) == 0
    table = pa.ipc.open_stream(next((tmp_path / 'y.arrow').glob('*.arrow')).read_bytes()).read_all()
    assert table.column('name').to_pylist() == order


def test_what_is_there_is_not_touched(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (*TABLES, 'disk'):
        target = tmp_path / f'mine.{kind}'
        target.mkdir()
        assert 'is there already' in fail(capsys, '--input', faces, '--output', target, '--to', kind)
        assert list(target.iterdir()) == []


@pytest.mark.parametrize('kind', TABLES)
def test_a_damaged_image_leaves_nothing_behind(
    kind: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / 'data')
    bad = data / 'val' / 'blurry' / '002.png'
    bad.write_bytes(bad.read_bytes()[:-20])
    (tmp_path / 'out').mkdir()
    for source in (data, data / 'val' / 'blurry'):
        message = fail(capsys, '--input', source, '--output', tmp_path / 'out' / f'x.{kind}')
        assert f'{bad} cannot be used: it is cut off' in message
        assert list((tmp_path / 'out').iterdir()) == []


@pytest.mark.skipif(os.name != 'posix', reason='no limit on the size of files here')
@pytest.mark.parametrize('kind', [*TABLES, 'disk'])
def test_a_full_disk_is_said_and_nothing_is_left(kind: str, faces: Path, tmp_path: Path) -> None:
    for path in faces.rglob('*.png'):
        with path.open('ab') as stream:
            stream.write(os.urandom(30_000))
    limit = 'import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n'
    code = f'{limit}from gpen.commands import convert_dataset; sys.exit(convert_dataset.main(sys.argv[1:]))'
    target = tmp_path / 'out' / f'x.{kind}'
    arguments = [sys.executable, '-c', code, '--input', str(faces), '--output', str(target), '--to', kind]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert f'Error: Cannot write {target}: ' in result.stderr
    assert 'Traceback' not in result.stderr
    assert list((tmp_path / 'out').iterdir()) == []


@pytest.mark.skipif(os.name != 'posix', reason='processes cannot be asked for here')
def test_what_a_killed_run_left_is_removed_by_the_next(faces: Path, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    out = tmp_path / 'out'
    others = [out / f'.x.lmdb.{os.getppid()}.tmp', out / '.x.lmdb.mine.tmp', out / f'.y.lmdb.{ended.pid}.tmp']
    for folder in (out / f'.x.lmdb.{ended.pid}.tmp', *others):
        folder.mkdir(parents=True)
    assert convert('--input', faces, '--output', out / 'x.lmdb') == 0
    assert sorted(out.iterdir()) == sorted([*others, out / 'x.lmdb'])


EVIL = ['../evil.png', '/tmp/evil.png', 'C:\\evil.png', 'a/../../evil.png', 'e\0vil.png', '..\\evil.png', '.evil.png']


@pytest.mark.parametrize('name', EVIL)
def test_names_never_lead_out_of_the_target(
    name: str, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (faces / 'a.png').read_bytes()
    pq.write_table(pa.table({'image': [data], 'name': [name]}), tmp_path / 'x.parquet')
    assert convert('--input', faces, '--output', tmp_path / 'x.lmdb') == 0
    (tmp_path / 'x.lmdb' / 'meta_info.txt').write_text(f'{name} (16,16,3) 1\n')
    (tmp_path / 'out').mkdir()
    before = set(tmp_path.rglob('*'))
    for source in ('x.parquet', 'x.lmdb'):
        message = fail(capsys, '--input', tmp_path / source, '--output', tmp_path / 'out' / 'x', '--to', 'disk')
        assert f'the name {name!r} of ' in message
        assert set(tmp_path.rglob('*')) == before
    assert LmdbStorage(tmp_path / 'x.lmdb').problems


def test_paths_of_the_images_lead_nowhere_either(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (faces / 'a.png').read_bytes()
    pq.write_table(pa.table({'image': [{'bytes': data, 'path': '../evil.png'}]}), tmp_path / 'x.parquet')
    assert "'../evil.png'" in fail(
        capsys, '--input', tmp_path / 'x.parquet', '--output', tmp_path / 'y', '--to', 'disk'
    )
    pq.write_table(pa.table({'image': [{'bytes': data, 'path': '/home/me/evil.png'}]}), tmp_path / 'x.parquet')
    assert convert('--input', tmp_path / 'x.parquet', '--output', tmp_path / 'y', '--to', 'disk') == 0
    assert files_in(tmp_path / 'y') == {'evil.png': data}


def test_images_without_a_suffix_get_that_of_their_format(faces: Path, tmp_path: Path) -> None:
    contents = [(faces / 'a.png').read_bytes(), (faces / 'e.jpg').read_bytes()]
    pq.write_table(pa.table({'image': contents}), tmp_path / 'x.parquet')
    assert convert('--input', tmp_path / 'x.parquet', '--output', tmp_path / 'y', '--to', 'disk') == 0
    assert files_in(tmp_path / 'y') == {'00000000.png': contents[0], '00000001.jpg': contents[1]}


def test_mistakes_on_the_command_line_are_explained(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / 'x.lmdb'
    assert 'does not tell the kind' in fail(capsys, '--input', faces, '--output', tmp_path / 'x')
    assert 'another kind than --to arrow' in fail(capsys, '--input', faces, '--output', target, '--to', 'arrow')
    assert 'should end in .lmdb' in fail(capsys, '--input', faces, '--output', tmp_path / 'x', '--to', 'lmdb')
    assert 'There is no folder' in fail(capsys, '--input', tmp_path / 'no', '--output', target)
    (tmp_path / 'empty').mkdir()
    assert 'it holds no images' in fail(capsys, '--input', tmp_path / 'empty', '--output', target)
    write_tables(faces, tmp_path / 'table', 'parquet')
    for wrong, words in (('{type: datasets, imag: a}', 'no such option'), ('image', 'no block'), ('{a: [', 'no block')):
        assert words in fail(capsys, '--input', tmp_path / 'table', '--output', target, '--io_backend', wrong)
    assert find_backend(tmp_path / 'table') == {'type': 'datasets'}
    assert not target.exists()


def test_help_comes_at_once() -> None:
    started = time.perf_counter()
    result = run_code('scripts/convert_dataset.py', '--help', cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert '--shard_size' in result.stdout
    assert time.perf_counter() - started < 3  # a second on an idle machine
