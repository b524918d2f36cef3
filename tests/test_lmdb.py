"""LMDBs in BasicSR's layout: what they give, and how they are refused where they are damaged."""

import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

from gpen.data.scan import scan_images
from gpen.data.storage.basicsr_lmdb import LmdbStorage
from gpen.data.storage.writing import write_files, write_lmdb
from gpen.errors import UserError
from test_paired_dataset import cut_off, open_pairs, write_roots


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return write_roots(tmp_path)


def test_lmdb_gives_the_samples_of_the_folder(roots: tuple[Path, Path], tmp_path: Path) -> None:
    databases = (tmp_path / 'gt.lmdb', tmp_path / 'lq.lmdb')
    for root, database in zip(roots, databases, strict=True):
        assert write_lmdb(root, database) == 12
    disk, lmdb = open_pairs(roots), open_pairs(databases, io_backend={'type': 'lmdb'})
    copy = pickle.loads(pickle.dumps(lmdb))  # noqa: S301  (as for a spawned worker, before and after it was read)
    for index in range(12):
        for side in ('lq', 'gt'):
            assert torch.equal(disk[index][side], lmdb[index][side])
            assert torch.equal(disk[index][side], copy[index][side])
        assert lmdb[index]['name'] == disk[index]['name']
    pickle.dumps(lmdb)


def test_lmdb_has_the_layout_of_basicsr(roots: tuple[Path, Path], tmp_path: Path) -> None:
    lmdb = pytest.importorskip('lmdb')
    target = tmp_path / 'new' / 'faces.lmdb'
    write_lmdb(roots[1], target)
    lines = (target / 'meta_info.txt').read_text().splitlines()
    assert 'face00.png (16,16,3) 1' in lines
    assert 'face10.webp (16,16,3) 1' in lines
    assert 'more/face09.png (16,16,3) 1' in lines
    with lmdb.open(str(target), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert transaction.get(b'more/face09') == (roots[1] / 'more' / 'face09.png').read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ['faces.lmdb']


def test_lmdb_problems_are_told(roots: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / 'faces.lmdb'
    write_lmdb(roots[0], target)
    with pytest.raises(UserError, match=r'faces\.lmdb'):
        write_lmdb(roots[0], target)
    with pytest.raises(UserError, match=r'should end in \.lmdb'):
        write_lmdb(roots[0], tmp_path / 'faces')
    with pytest.raises(UserError, match='no LMDB of images'):
        LmdbStorage(roots[0])
    with (target / 'meta_info.txt').open('a') as stream:
        stream.write('a ghost.png (16,16,3) 1\n')
    storage = LmdbStorage(target)
    listed = storage.keys()
    assert 'a ghost' in listed
    with pytest.raises(UserError, match=r'a ghost in .*faces\.lmdb cannot be read'):
        storage.read('a ghost')
    (target / 'meta_info.txt').unlink()
    with pytest.raises(UserError, match=r'without meta_info\.txt'):
        LmdbStorage(target)


@pytest.mark.parametrize('share', [0, 0.0001, 0.1, 0.5, 0.9, 0.999])
def test_an_lmdb_that_is_cut_off_is_refused_before_it_is_opened(
    share: float, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / 'faces.lmdb'
    write_lmdb(roots[0], target)
    file = target / 'data.mdb'
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.raises(UserError, match=r'faces\.lmdb cannot be used: its data\.mdb is cut off'):
        LmdbStorage(target)


def test_an_lmdb_whose_tree_leads_out_of_the_file_is_said_and_ends_no_process(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / 'faces.lmdb'
    write_lmdb(roots[0], target)
    content = bytearray((target / 'data.mdb').read_bytes())
    for page in range(2 * 4096, len(content), 4096):
        flags, lower = struct.unpack_from('=HH', content, page + 10)
        if flags & 3:  # a branch or a leaf: where its nodes are
            content[page + 16 : page + lower] = b'\xfe\xff' * ((lower - 16) // 2)
    (target / 'data.mdb').write_bytes(content)
    with pytest.raises(UserError, match=r'faces\.lmdb is damaged: its data\.mdb leads out of itself'):
        scan_images(LmdbStorage(target))
    with pytest.raises(UserError, match='leads out of itself'):
        write_files(LmdbStorage(target), tmp_path / 'out')


def test_failed_lmdb_leaves_nothing_behind(roots: tuple[Path, Path], tmp_path: Path) -> None:
    cut_off(roots[0] / 'face07.png')
    with pytest.raises(UserError, match=r'face07\.png cannot be used: it is cut off'):
        write_lmdb(roots[0], tmp_path / 'out' / 'faces.lmdb')
    assert list((tmp_path / 'out').iterdir()) == []
