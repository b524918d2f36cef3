"""From a folder of photographs to a data set: what is written."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from gpen.commands import prepare_dataset
from gpen.data.degradations import build_degradation
from gpen.data.image_io import read_image, resize, to_uint8, write_image
from photographs import FACES, Prepare, draw_photo, read_manifest, save, words

pytest_plugins = ['preparation_fixtures']


def test_faces_of_all_kinds_of_photographs_become_pairs(finished: Path) -> None:
    names = {}
    for split in ('train', 'val'):
        sharp, blurry = (sorted((finished / split / kind).iterdir()) for kind in ('sharp', 'blurry'))
        assert [path.name for path in sharp] == [path.name for path in blurry]
        names |= {path.stem: split for path in sharp}
        for a, b in zip(sharp, blurry, strict=True):
            assert read_image(a).shape == read_image(b).shape == (32, 32, 3)
            assert not np.array_equal(read_image(a), read_image(b))
    wanted = ['anna_1', 'anna_2', 'ben_turned', 'cleo_deep', 'cleo_grey', *(f'ben_group_{n}' for n in range(3))]
    assert sorted(names) == sorted(wanted)
    assert len({names[f'ben_group_{n}'] for n in range(3)}) == 1
    assert set(names.values()) == {'train', 'val'}
    top = {path.name for path in finished.iterdir()}
    assert top == {'train', 'val', 'manifest.csv', 'contact_sheet.png', 'dataset.json', 'recipe.yml'}


def test_eyes_are_in_their_place_whatever_way_the_camera_was_held(finished: Path) -> None:
    images = {path.stem: read_image(path) for path in finished.rglob('sharp/*.png')}
    for name in ('anna_1', 'ben_turned', 'cleo_deep', 'cleo_grey'):
        assert np.abs(images[name][8:24, 8:24] - images['anna_2'][8:24, 8:24]).mean() < 0.1


def test_manifest_tells_where_each_face_was_and_how_its_blurry_image_was_made(finished: Path) -> None:
    rows = read_manifest(finished)
    assert len(rows) == FACES
    assert [(row['source'], row['face']) for row in rows] == sorted((row['source'], row['face']) for row in rows)
    record = json.loads((finished / 'dataset.json').read_text())
    degrade = build_degradation(record['settings']['degradation'])
    for row in rows:
        sharp, blurry = (finished / row['split'] / kind / f'{row["name"]}.png' for kind in ('sharp', 'blurry'))
        generator = np.random.Generator(np.random.PCG64(int(row['degradation_seed'])))
        assert np.array_equal(to_uint8(degrade(read_image(sharp), generator)), to_uint8(read_image(blurry)))
        assert float(row['left']) < float(row['left_eye_x']) < float(row['right_eye_x']) < float(row['right'])
        assert float(row['top']) < float(row['left_eye_y']) < float(row['left_mouth_y']) < float(row['bottom'])
        assert float(row['score']) == 0.99
        assert float(row['sharpness']) > 0
    assert {row['name'].rsplit('_', 1)[0] for row in rows if row['source'] == 'ben/group.png'} == {'ben_group'}


def test_counts_and_reasons_are_recorded(finished: Path) -> None:
    record = json.loads((finished / 'dataset.json').read_text())
    assert record['counts']['photographs'] == {'read': 7, 'skipped': 2, 'without_faces': 1}
    assert record['counts']['faces']['found'] == FACES
    assert sum(record['counts']['pairs'].values()) == FACES
    assert record['without_faces'] == ['cleo/empty.png']
    reasons = {item['source']: item['reason'] for item in record['skipped']}
    assert reasons['cut.jpg'] == 'it is cut off'
    assert 'a web page, which is not read' in reasons['page\n1.jpg']
    assert all(10 < record['psnr'][split] < 50 for split in ('train', 'val'))


def test_summary_shows_what_was_left_out_and_the_next_command(
    photos: Path, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(photos, tmp_path / 'set', '--min_face', 100, '--faces', 'largest') == 2
    assert '8 too small (--min_face)' in capsys.readouterr().err
    assert prepare(photos, tmp_path / 'set', '--faces', 'largest') == 0
    printed = capsys.readouterr().out
    assert 'Faces are found by their dots.' in printed
    assert '7 read, 2 skipped' in printed
    assert 'cut.jpg: it is cut off' in printed
    assert 'page\\n1.jpg: ' in printed
    assert 'without a face: cleo/empty.png' in printed
    assert 'not the largest: 2 (--faces)' in printed
    assert printed.rstrip().endswith(f'train.py -opt {tmp_path / "set" / "recipe.yml"} --auto_resume')
    assert 'mean PSNR' in printed
    assert {row['reason'] for row in read_manifest(tmp_path / 'set')} == {'', 'not the largest'}


def test_contact_sheet_shows_pairs_and_what_is_not_kept(finished: Path, tmp_path: Path, prepare: Prepare) -> None:
    assert read_image(finished / 'contact_sheet.png').shape[1] > 1000
    for n in range(3):
        save(tmp_path / 'in' / f'{n}.png', draw_photo(n))
    assert prepare(tmp_path / 'in', tmp_path / 'few') == 0
    save(tmp_path / 'in' / 'copy.png', draw_photo(0))
    assert prepare(tmp_path / 'in', tmp_path / 'set', '--duplicates', 0) == 0
    (row,) = (row for row in read_manifest(tmp_path / 'set') if row['reason'])
    assert (row['name'], row['reason'], row['duplicate_of']) == ('copy', 'near duplicate', '0')
    heights = [len(read_image(tmp_path / name / 'contact_sheet.png')) for name in ('few', 'set')]
    assert heights[1] > heights[0] + 128


def test_face_is_the_same_whichever_other_photographs_there_are(
    finished: Path, photos: Path, tmp_path: Path, prepare: Prepare
) -> None:
    for name in ('anna/1.jpg', 'ben/group.png'):
        save(tmp_path / 'few' / 'x.png', draw_photo(9))
        target = tmp_path / 'few' / name
        target.parent.mkdir()
        target.write_bytes((photos / name).read_bytes())
    assert prepare(tmp_path / 'few', tmp_path / 'set') == 0
    for kind in ('sharp', 'blurry'):
        few = {path.name: path.read_bytes() for path in (tmp_path / 'set').rglob(f'{kind}/*.png')}
        all_of_them = {path.name: path.read_bytes() for path in finished.rglob(f'{kind}/*.png')}
        assert few.pop('x.png')
        assert few.items() <= all_of_them.items()
        assert len(few) == 4


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such names')
def test_file_names_that_are_no_text_survive_in_the_manifest(
    tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ['a "quoted", name\nof two lines.png', 'bytes \udcff.png', '=1+1.png', '面孔.png']
    for n, name in enumerate(names):
        path = tmp_path / 'in' / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode('.png', draw_photo(n))[1].tobytes())
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 0
    rows = read_manifest(tmp_path / 'set')
    assert {row['source'] for row in rows} == set(names)
    for row in rows:
        assert (tmp_path / 'set' / row['split'] / 'sharp' / f'{row["name"]}.png').is_file()
    capsys.readouterr()


def test_nothing_usable_is_an_error_that_says_why(
    tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / 'none', tmp_path / 'set') == 2
    assert 'not a folder' in capsys.readouterr().err
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.jpg').write_bytes(b'')
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 2
    assert 'a.jpg: it is empty' in capsys.readouterr().err
    save(tmp_path / 'in' / 'b.png', draw_photo(1, faces=0))
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 2
    assert 'No face was found' in capsys.readouterr().err
    save(tmp_path / 'in' / 'c.png', draw_photo(1, faces=2))
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 2
    assert 'only one photograph' in capsys.readouterr().err
    assert prepare(tmp_path / 'in', tmp_path / 'in' / 'set') == 2
    assert 'lies in --input' in capsys.readouterr().err


# Faces that are aligned already


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / 'faces'
    names = [f'{kind}_{n:03d}_0{k}' for n in range(6) for kind, k in (('london', 3), ('londonsmile', 8))]
    for index, name in enumerate([*names, *(f'canada_{n:03d}f' for n in range(6))]):
        write_image(folder / f'{name}.png', draw_photo(index % 4, height=120, width=120)[:48, :48] / 127.5 - 1)
    return folder


def test_no_person_is_in_both_splits(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people_of = ['--split_by', r'^(canada|london)(?:smile)?_(\d+)']
    arguments = words(faces, tmp_path / 'set', '--aligned', '--val_share', 0.25, *people_of)
    assert prepare_dataset.main([str(word) for word in arguments]) == 0
    people: dict[str, set[str]] = {}
    for split in ('train', 'val'):
        sharp = {path.name for path in (tmp_path / 'set' / split / 'sharp').iterdir()}
        assert sharp == {path.name for path in (tmp_path / 'set' / split / 'blurry').iterdir()}
        assert sharp <= {path.name for path in faces.iterdir()}
        people[split] = {name.replace('smile', '')[:10] for name in sharp}
    assert not people['train'] & people['val']
    assert len(people['val']) == 3
    assert len(people['train']) == 9
    printed = capsys.readouterr().out
    assert 'train: ' in printed
    assert 'mean PSNR' in printed
    rows = read_manifest(tmp_path / 'set')
    assert len(rows) == 18
    assert not any(row['left_eye_x'] or row['score'] or row['yaw'] for row in rows)
    row = rows[0]
    sharp_image = read_image(tmp_path / 'set' / row['split'] / 'sharp' / f'{row["name"]}.png')
    assert np.abs(sharp_image - resize(read_image(faces / row['source']), 32)).max() < 1 / 127


def test_aligned_images_that_are_oblong_are_left_out_or_all_of_them_an_error(
    faces: Path, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / 'wide' / 'a.png', np.zeros((16, 32, 3), np.float32))
    assert prepare(tmp_path / 'wide', tmp_path / 'set', '--aligned') == 2
    assert '32 x 16, not square' in capsys.readouterr().err
    write_image(faces / 'wide.png', np.zeros((16, 32, 3), np.float32))
    assert prepare(faces, tmp_path / 'set', '--aligned') == 0
    assert 'wide.png: it is 32 x 16' in capsys.readouterr().out


def test_enlarged_faces_are_noted(
    faces: Path, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(faces, tmp_path / 'set', '--aligned', '--size', 64) == 0
    assert 'enlarged: 18 of those kept' in capsys.readouterr().out
