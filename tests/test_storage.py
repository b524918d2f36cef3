"""The same images come out of every kind of storage, and what is wrong with one is said."""

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import processes
from command_line import states_in
from conftest import tiny_options, write_options
from gpen.data.image_io import read_image
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.scan import scan_images
from gpen.data.storage import open_storage, shards
from gpen.data.storage.base import Storage
from gpen.data.storage.shards import ParquetShard
from gpen.data.storage.tables import DatasetsStorage
from gpen.data.storage.writing import write_tables
from gpen.errors import UserError
from gpen.options import parse_options
from storage_fixtures import COUNT, KINDS, SIZE, locate, make_stores, open_pairs
from test_resume import assert_same_run, run_killed

pa = pytest.importorskip('pyarrow')
pytest.importorskip('datasets')
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture(scope='module')
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stores(tmp_path_factory.mktemp('stores'))


def write_table(path: Path, rows: int = 0, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows or None)
    return path


def open_table(root: Path | str, **options: Any) -> Storage:
    return open_storage(root, {'type': 'datasets', **options})


def error_of(root: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_table(root, **options)
    return str(caught.value)


@pytest.fixture
def encoded(stores: Path) -> list[bytes]:
    return [(stores / 'sharp' / f'face{number:02d}.png').read_bytes() for number in range(10)]


@pytest.mark.parametrize('kind', KINDS)
def test_the_same_images_come_out_of_every_storage(kind: str, stores: Path) -> None:
    disk = open_storage(*locate(stores, 'sharp', 'disk'))
    other = open_storage(*locate(stores, 'sharp', kind))
    keys = other.keys()
    assert keys == disk.keys()
    assert len(keys) == COUNT
    assert 'more/face.with.dots' in keys
    copy = pickle.loads(pickle.dumps(other))  # noqa: S301  (as for a spawned worker)
    for key in keys:
        assert other.read(key) == copy.read(key) == disk.read(key)
        assert other.file_name(key) == disk.file_name(key)
        with other.open(key) as stream:
            assert stream.read() == disk.read(key)
    expected, pairs = open_pairs(stores, 'disk', use_hflip=True), open_pairs(stores, kind, use_hflip=True)
    for index in range(COUNT):
        for side in ('lq', 'gt'):
            assert torch.equal(pairs[1, index][side], expected[1, index][side])
        assert pairs[1, index]['name'] == expected[1, index]['name']


def test_names_that_other_systems_write_otherwise_are_the_same_key(tmp_path: Path) -> None:
    name = unicodedata.normalize('NFD', 'more/face ähnlich.png')
    table = write_table(tmp_path / 'a.parquet', image=[b'x'], name=[name])
    assert open_table(table).keys() == [unicodedata.normalize('NFC', 'more/face ähnlich')]


@pytest.mark.skipif(importlib.util.find_spec('basicsr') is None, reason='basicsr is not installed')
def test_basicsr_reads_our_lmdb(stores: Path, tmp_path: Path) -> None:
    from gpen.registry.basicsr_package import import_basicsr

    import_basicsr()
    client_class = sys.modules['basicsr.utils'].FileClient
    path = str(shutil.copytree(stores / 'sharp.lmdb', tmp_path / 'sharp.lmdb'))  # one may be open once in a process
    client = client_class('lmdb', db_paths=[path], client_keys=['gt'])
    assert client.get('face03', 'gt') == (stores / 'sharp' / 'face03.png').read_bytes()
    assert client.get('more/face.with.dots', 'gt') == (stores / 'sharp' / 'more' / 'face.with.dots.png').read_bytes()
    paths = sys.modules['basicsr.data.data_util'].paths_from_lmdb(path)
    assert {'face00', 'face26', 'zuletzt'} <= set(paths)


def test_what_datasets_writes_and_loads_is_what_we_read_and_write(stores: Path, tmp_path: Path, encoded: Any) -> None:
    import datasets

    saved = datasets.load_from_disk(str(stores / 'sharp.arrow'))
    assert saved.features['image'] == datasets.Image()
    assert np.array_equal(np.asarray(saved[2]['image']), _pixels(stores / 'sharp' / saved[2]['name']))
    assert (
        pq.read_schema(next((stores / 'sharp.parquet').iterdir())).metadata[b'huggingface']
        == json.dumps(
            {'info': {'features': {'image': {'_type': 'Image'}, 'name': {'dtype': 'string', '_type': 'Value'}}}}
        ).encode()
    )
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.Value('int64')})
    paths = [str(stores / 'sharp' / f'face{number:02d}.png') for number in range(6)]
    theirs = datasets.Dataset.from_dict({'image': paths, 'label': [0] * 6}, features)
    datasets.DatasetDict({'train': theirs.select([0, 2, 4]), 'val': theirs}).save_to_disk(str(tmp_path / 'both'))
    train, val = (open_table(tmp_path / 'both', split=split) for split in ('train', 'val'))
    assert train.keys() == ['face00', 'face02', 'face04']
    assert [val.read(key) for key in val.keys()] == encoded[:6]  # noqa: SIM118
    assert 'it has train, val' in error_of(tmp_path / 'both')
    assert "has no split 'test'" in error_of(tmp_path / 'both', split='test')


def _pixels(path: Path) -> np.ndarray:
    return np.rint((read_image(path) + 1) * 127.5).astype(np.uint8)


def test_parquet_of_the_hub_is_chosen_by_split(tmp_path: Path, encoded: list[bytes]) -> None:
    rows = [{'bytes': data, 'path': f'{number}.png'} for number, data in enumerate(encoded)]
    write_table(tmp_path / 'data' / 'train-00000-of-00002.parquet', image=rows[:3])
    write_table(tmp_path / 'data' / 'train-00001-of-00002.parquet', image=rows[3:5])
    write_table(tmp_path / 'data' / 'validation-00000-of-00001.parquet', image=rows[5:])
    for streaming in (False, True):
        train = open_table(tmp_path, split='train', streaming=streaming)
        assert train.keys() == ['0', '1', '2', '3', '4']
        assert train.read('4') == encoded[4]
        assert 'it has train, validation' in error_of(tmp_path, streaming=streaming)
        assert "has no split 'test'" in error_of(tmp_path, split='test', streaming=streaming)


def test_names_come_from_the_column_the_path_or_the_row(tmp_path: Path, encoded: list[bytes]) -> None:
    images = [{'bytes': encoded[0], 'path': '/home/me/b.png'}, {'bytes': encoded[1], 'path': 'sub/a.jpg'}]
    table = write_table(tmp_path / 'a.parquet', image=images, id=[7, 5], png=[[1], [2]], raw=encoded[:2])
    assert open_table(table).keys() == ['b', 'sub/a']
    assert open_table(table).file_name('b') == 'b.png'
    assert open_table(table, name_column='id').keys() == ['5', '7']
    assert open_table(table, name_column='id').read('5') == encoded[1]
    assert open_table(table, name_column=None).keys() == ['00000000', '00000001']
    assert open_table(table, image_column='raw').keys() == ['00000000', '00000001']
    assert open_table(table, image_column='raw').read('00000001') == encoded[1]
    assert 'holds list<' in error_of(table, name_column='png')
    assert "has no column 'idd'; it has image, id, png, raw. Did you mean 'id'?" in error_of(table, name_column='idd')


def test_arrow_files_of_pandas_and_polars_are_read(tmp_path: Path, encoded: list[bytes]) -> None:
    table = pa.table({'image': encoded, 'name': [f'{number}.png' for number in range(10)]})
    with pa.OSFile(str(tmp_path / 'a.arrow'), 'wb') as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    storage = pickle.loads(pickle.dumps(open_table(tmp_path / 'a.arrow')))  # noqa: S301  (as for a spawned worker)
    assert [storage.read(key) for key in storage.keys()] == encoded  # noqa: SIM118


def test_reading_here_uses_neither_network_nor_home(stores: Path, tmp_path: Path) -> None:
    home = tmp_path / 'home'
    home.mkdir()
    code = (
        'import socket, sys\n'
        'def refuse(*_): raise AssertionError("network")\n'
        'socket.socket.connect = socket.getaddrinfo = refuse\n'
        'from gpen.data.storage import open_storage\n'
        'def read_all(root):\n'
        '    storage = open_storage(root, {"type": "datasets"})\n'
        '    assert all(storage.read(key) for key in storage.keys())\n'
        f'read_all({str(stores / "sharp.parquet")!r})\n'
        'assert not {"datasets", "torch", "huggingface_hub"} & set(sys.modules)\n'
        f'read_all({str(stores / "sharp.arrow")!r})\n'
        'assert "torch" not in sys.modules\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('XDG_', 'HF_'))}
    environment |= {'HOME': str(home), 'PYTHONDONTWRITEBYTECODE': '1'}
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list(home.rglob('*')) == []


# --- what can be wrong


def test_wrong_io_backends_are_refused(stores: Path) -> None:
    root = stores / 'sharp.parquet'
    assert "is 'hub'; it can be disk, lmdb or datasets" in _refusal(root, {'type': 'hub'})
    assert 'io_backend.streeming: there is no such option' in _refusal(root, {'type': 'datasets', 'streeming': True})
    assert 'io_backend.streaming: should be true or false' in _refusal(root, {'type': 'datasets', 'streaming': 'yes'})
    assert 'io_backend.buffer_size: ' in _refusal(root, {'type': 'datasets', 'buffer_size': 0})
    assert 'io_backend.split: there is no such option' in _refusal(root, {'type': 'lmdb', 'split': 'train'})
    for io_backend in ({'type': 'disk'}, {'type': 'datasets'}):
        assert 'streaming: true' in _refusal(f'file://{root}', io_backend)


def _refusal(root: Path | str, io_backend: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        open_storage(root, io_backend)
    return str(caught.value)


def test_what_is_no_data_set_is_said(stores: Path, tmp_path: Path) -> None:
    assert 'There is no file or folder' in error_of(tmp_path / 'nowhere')
    assert 'is no data set of Arrow or Parquet files' in error_of(stores / 'sharp')
    assert 'is no data set of Arrow or Parquet files' in error_of(stores / 'sharp' / 'face00.png')
    assert 'There are no .parquet files at' in error_of(f'file://{stores}/sharp', streaming=True)
    assert 'there is no ' in error_of(f'file://{stores}/none-{{0..1}}.parquet', streaming=True)
    assert 'Cannot read nosuch://bucket' in error_of('nosuch://bucket/a.parquet', streaming=True)
    (tmp_path / 'saved').mkdir()
    for content in ('', '{}', '{"_data_files": [{"filename": "../data.arrow"}]}'):
        (tmp_path / 'saved' / 'state.json').write_text(content)
        assert 'state.json' in error_of(tmp_path / 'saved')


def test_missing_and_wrong_columns_are_named(stores: Path, tmp_path: Path) -> None:
    message = error_of(stores / 'sharp.parquet', image_column='imag')
    assert "no column 'imag'; it has image, name. Did you mean 'image'?" in message
    assert 'io_backend.image_column' in message
    assert 'holds string, not images' in error_of(stores / 'sharp.arrow', image_column='name')
    table = write_table(tmp_path / 'b.parquet', image=[{'path': 'a.png'}])
    assert 'not images' in error_of(table)


def test_an_empty_table_holds_no_images(tmp_path: Path) -> None:
    table = write_table(tmp_path / 'empty.parquet', image=pa.array([], pa.binary()))
    with pytest.raises(UserError, match=r'there are no images in .*empty\.parquet'):
        scan_images(open_table(table))


def test_names_that_are_there_twice_or_lead_elsewhere_are_refused(tmp_path: Path, encoded: list[bytes]) -> None:
    names = ['a.png', 'b.png', 'a.jpg', '../c.png', '/d.png', 'C:\\e.png', 'f\0.png', '', 'g/../h.png', '.i.png']
    table = write_table(tmp_path / 'a.parquet', image=encoded, name=names)
    message = error_of(table)
    assert f'row 0 of {table} and row 2 of {table} have the same name' in message
    for row, name in enumerate(names[3:], 3):
        assert f'the name {name!r} of row {row} of ' in message
    assert 'b.png' not in message
    assert 'name_column' in message
    assert len(open_table(table, name_column=None).keys()) == 10


def test_rows_without_bytes_are_named(tmp_path: Path, encoded: list[bytes]) -> None:
    rows = [{'bytes': encoded[0], 'path': 'a.png'}, {'bytes': None, 'path': 'b.png'}, None]
    storage = open_table(write_table(tmp_path / 'a.parquet', image=rows))
    assert storage.keys() == ['00000002', 'a', 'b']
    for key in ('b', '00000002'):
        with pytest.raises(UserError, match=f'{key} in .* cannot be read: its row holds no image'):
            storage.read(key)


@pytest.mark.parametrize('kind', ['arrow', 'parquet'])
def test_a_damaged_file_is_named(kind: str, stores: Path, tmp_path: Path) -> None:
    path = tmp_path / f'x.{kind}'
    data = next((stores / f'sharp.{kind}').glob(f'*.{kind}')).read_bytes()
    for content in (b'', data[: len(data) // 2], b'no table at all, but something else' * 9):
        path.write_bytes(content)
        assert str(path) in error_of(path)
    # Damage between rows is found when they are read, or by the check of the images.
    face = (stores / 'sharp' / 'face09.png').read_bytes()
    path.write_bytes(data.replace(face, face[:-20] + bytes(20)))
    with pytest.raises(UserError, match=rf'face09 in {path}: it (is cut off|cannot be read)'):
        scan_images(open_table(path))


def test_streamed_images_are_checked_when_they_come(tmp_path: Path, encoded: list[bytes]) -> None:
    names = [f'{number}.png' for number in range(10)]
    table = write_table(tmp_path / 'a.parquet', image=[*encoded[:9], encoded[9][:-20]], name=names)
    dataset = PairedImageDataset(
        f'file://{table}', f'file://{table}', SIZE, io_backend={'type': 'datasets', 'streaming': True}
    )
    assert dataset[8]['name'] == '8'
    with pytest.raises(UserError, match=r'9 in .* cannot be used: it is cut off'):
        dataset[9]


def test_a_fetch_that_fails_is_tried_again(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True, False])
    original = ParquetShard.read

    def fail(*arguments: Any) -> Any:
        if next(failures, False):
            raise ConnectionResetError('connection reset')
        return original(*arguments)

    storage = open_table(f'file://{stores}/sharp.parquet', streaming=True)
    monkeypatch.setattr(shards, '_PAUSES', (0, 0, 0))
    monkeypatch.setattr(ParquetShard, 'read', fail)
    assert storage.read('face03') == (stores / 'sharp' / 'face03.png').read_bytes()
    failures = iter([True] * 4)
    with pytest.raises(UserError, match=r'face20 in .* cannot be read: .* \(connection reset\)'):
        storage.read('face20')
    here = open_table(stores / 'sharp.parquet', name_column=None)
    failures = iter([True])
    with pytest.raises(UserError, match='connection reset'):
        here.read('00000000')


def test_missing_packages_are_named(stores: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, 'datasets', None)
    assert isinstance(open_table(stores / 'sharp.parquet'), DatasetsStorage)
    assert 'pip install datasets' in error_of(stores / 'sharp.arrow')
    with pytest.raises(UserError, match='pip install datasets'):
        write_tables(stores / 'sharp', tmp_path / 'x', 'parquet')
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    assert 'pip install datasets' in error_of(stores / 'sharp.parquet')


# --- in an option file


def table_options(stores: Path, folder: Path, kind: str) -> dict[str, Any]:
    options = tiny_options(stores, folder)
    for phase in ('train', 'val'):
        block = options['datasets'][phase]
        for name, side in (('dataroot_gt', 'sharp'), ('dataroot_lq', 'blurry')):
            block[name], block['io_backend'] = locate(stores, side, kind)
    options['datasets']['train']['num_worker_per_gpu'] = 1
    options['train'] |= {'total_epochs': 1, 'warmup_epochs': 0}
    options['train'].pop('scheduler')
    return options


@pytest.mark.parametrize('kind', KINDS)
def test_option_files_take_every_storage(kind: str, stores: Path, tmp_path: Path) -> None:
    path = write_options(tmp_path / 'tiny.yml', table_options(stores, tmp_path, kind))
    assert parse_options(str(path)).options.datasets.train is not None


def test_option_errors_name_the_line_of_the_back_end(stores: Path, tmp_path: Path) -> None:
    options = table_options(stores, tmp_path, 'parquet')
    options['datasets']['train'] |= {'dataroot_gt': str(tmp_path / 'no.parquet'), 'dataroot_lq': 'https://x/a.parquet'}
    options['datasets']['val']['io_backend'] = {'type': 'datasets', 'colum': 'photo', 'buffer_size': '8'}
    with pytest.raises(UserError) as caught:
        parse_options(str(write_options(tmp_path / 'tiny.yml', options)))
    message = str(caught.value)
    assert 'datasets.val.io_backend.colum: there is no such option' in message
    assert "datasets.val.io_backend.buffer_size: should be a whole number, not '8'" in message
    assert f'datasets.train.dataroot_gt: there is no file or folder {tmp_path / "no.parquet"}' in message
    assert 'datasets.train.dataroot_lq: is a URL, which takes io_backend' in message


def test_killed_run_on_streamed_shards_continues_bit_for_bit(stores: Path, tmp_path: Path) -> None:
    ends = []
    for name in ('whole', 'broken'):
        options = table_options(stores, tmp_path / name, 'streamed')
        options['datasets']['train']['num_worker_per_gpu'] = 2
        options['logger']['save_checkpoint_freq'] = 4
        path = write_options(tmp_path / f'{name}.yml', options)
        if name == 'broken':
            run_killed('step', 7, '-opt', path, '--auto_resume')
            assert states_in(tmp_path / name / 'experiments' / 'tiny') == [4]
        status, printed = processes.run(tmp_path / 'log', '-opt', path, '--auto_resume')
        assert status == 0, printed
        ends.append(tmp_path / name / 'experiments' / 'tiny')
    assert_same_run(ends[1], ends[0])
