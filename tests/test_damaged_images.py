"""Images that are damaged or no files at all: found beforehand, left out where that is asked for, never waited for."""

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpen.data.degraded_dataset import DegradedFaceDataset
from gpen.data.face_dataset import FaceImageDataset
from gpen.data.image_io import read_image, write_image
from gpen.data.paired_dataset import PairedImageDataset
from gpen.errors import UserError
from gpen.preparation.photos import list_photos
from gpen.restoration.base import Restorer
from gpen.restoration.folder import plan_targets, restore_faces

SIZE = 16


@pytest.fixture(autouse=True)
def _cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Six pairs."""
    for number in range(6):
        image = np.random.default_rng(number).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
        write_image(tmp_path / 'sharp' / f'{number}.png', image)
        write_image(tmp_path / 'blurry' / f'{number}.png', image / 2)
    return tmp_path / 'sharp', tmp_path / 'blurry'


def damage_pixels(path: Path) -> None:
    """Damage a PNG between its header and its end."""
    content = bytearray(path.read_bytes())
    place = content.index(b'IDAT') + 30
    content[place : place + 8] = bytes(byte ^ 0xFF for byte in content[place : place + 8])
    path.write_bytes(content)


def open_pairs(roots: tuple[Path, Path], **options: Any) -> PairedImageDataset:
    return PairedImageDataset(str(roots[0]), str(roots[1]), SIZE, **options)


def open_faces(roots: tuple[Path, Path], **options: Any) -> FaceImageDataset:
    return FaceImageDataset(str(roots[0]), SIZE, **options)


def open_degraded(roots: tuple[Path, Path], **options: Any) -> FaceImageDataset:
    return DegradedFaceDataset(str(roots[0]), {'type': 'simple'}, SIZE, **options)


KINDS = [open_pairs, open_faces, open_degraded]


@pytest.mark.parametrize('open_set', KINDS)
def test_damaged_pixels_are_found_by_a_full_scan_alone(open_set: Any, roots: tuple[Path, Path]) -> None:
    damage_pixels(roots[0] / '2.png')
    assert len(open_set(roots)) == 6
    for _ in range(2):  # the sizes that the first scan kept do not hide it, nor does the second full one
        with pytest.raises(UserError, match=r'unreadable or damaged \(1\):\n.*sharp/2\.png: it is damaged'):
            open_set(roots, scan='full')


def test_a_full_scan_decodes_each_image_once(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr('gpen.data.scan.check_pixels', decoded.append)
    for expected in (12, 0):
        decoded.clear()
        open_pairs(roots, scan='full')
        assert len(decoded) == expected
    (roots[0] / '3.png').write_bytes((roots[0] / '4.png').read_bytes())
    open_pairs(roots)  # notes the new size, not that its pixels are good
    open_pairs(roots, scan='full')
    assert decoded == [(roots[0] / '3.png').read_bytes()]


@pytest.mark.parametrize('open_set', KINDS)
def test_up_to_so_many_damaged_images_are_left_out_and_named(
    open_set: Any, roots: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    damage_pixels(roots[0] / '2.png')
    (roots[0] / '4.png').write_bytes(b'')
    for _ in range(2):
        caplog.clear()
        dataset = open_set(roots, skip_damaged=2)
        assert [dataset[index]['name'] for index in range(len(dataset))] == ['0', '1', '3', '5']
        (message,) = caplog.messages
        assert '2 of 6 images are left out' in message
        assert f'{roots[0] / "2.png"}: it is damaged' in message
        assert f'{roots[0] / "4.png"}: it is empty' in message
    with pytest.raises(UserError, match=r'where skip_damaged allows 1 \(2\):'):
        open_set(roots, skip_damaged=1)


def test_a_set_of_which_nothing_would_be_left_is_refused(roots: tuple[Path, Path]) -> None:
    for path in roots[1].iterdir():
        path.write_bytes(b'')
    with pytest.raises(UserError, match='where skip_damaged allows 9'):
        open_pairs(roots, skip_damaged=9)


def test_leaving_out_what_is_not_looked_for_is_refused(roots: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match='but scan is false'):
        open_pairs(roots, scan=False, skip_damaged=1)


# --- what has the name of an image, but is no file


def make_special(kind: str, path: Path) -> None:
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'socket':
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))  # a path of any length
    elif kind == 'device':
        path.symlink_to('/dev/null')
    elif kind == 'dangling link':
        path.symlink_to(path.with_name('nowhere'))
    else:
        path.symlink_to(path)  # a link to itself


SPECIAL = ['pipe', 'socket', 'device', 'dangling link', 'circle']
pytestmark = pytest.mark.timeout(60)


@pytest.mark.skipif(os.name != 'posix', reason='other systems have no such files')
@pytest.mark.parametrize('kind', SPECIAL)
def test_what_is_no_file_is_named_and_not_waited_for(
    kind: str, roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    special = roots[0] / '9.png'
    make_special(kind, special)

    # A data set, with and without a scan, and one that leaves it out
    with pytest.raises(UserError, match=r'9\.png: it cannot be read \('):
        open_faces(roots)
    with pytest.raises(UserError, match=r'9\.png cannot be read: '):
        open_faces(roots, scan=False)[6]
    assert len(open_faces(roots, skip_damaged=1)) == 6

    # Photographs to restore and to prepare
    targets = plan_targets(roots[0], tmp_path / 'out')
    outcome = restore_faces(Restorer(lambda lq: lq, SIZE, SIZE, 'none'), targets, 4)
    assert outcome.restored == 6
    assert len(outcome.failures) == 1
    assert f'{special} cannot be read: ' in outcome.failures[0]
    photos, skipped = list_photos(roots[0])
    assert len(photos) == 6
    assert list(skipped) == ['9.png']
    with pytest.raises(UserError, match=r'9\.png'):
        read_image(special)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='other systems have no such files')
def test_a_pipe_alone_is_no_input_to_wait_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'a.png')
    outcome = restore_faces(Restorer(int, SIZE, SIZE, 'none'), plan_targets(tmp_path / 'a.png', tmp_path / 'out'), 4)
    assert outcome.failures == [f'{tmp_path / "a.png"} cannot be read: it is a named pipe, not a file.']


def test_a_folder_with_the_name_of_an_image_is_a_folder(roots: tuple[Path, Path]) -> None:
    (roots[0] / 'x.png').mkdir()
    (roots[0] / '5.png').rename(roots[0] / 'x.png' / '5.png')
    assert open_faces(roots).keys == ['0', '1', '2', '3', '4', 'x.png/5']
    targets = plan_targets(roots[0], roots[0] / 'out')
    assert targets[roots[0] / 'x.png' / '5.png'] == roots[0] / 'out' / 'x.png' / '5.png'
    assert len(targets) == 6
