"""Boxes of eyes and mouth in a data set's samples, from a file of landmarks."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_pairs
from gpen.data.degraded_dataset import DegradedFaceDataset
from gpen.data.image_io import write_image
from gpen.data.loader import build_train_loader
from gpen.data.paired_dataset import PairedImageDataset
from gpen.errors import UserError
from gpen.faces.alignment import align_face
from landmark_files import COLUMNS, FACE, POINTS, write_landmarks, write_rows

KINDS: dict[str, Any] = {'paired': PairedImageDataset, 'degraded': DegradedFaceDataset}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with 7 pairs of 16 x 16, and landmarks of all."""
    write_pairs(tmp_path, 7)
    write_landmarks(tmp_path / 'landmarks.csv', [f'{n:03d}' for n in range(7)])
    return tmp_path


def build(data: Path, kind: str = 'paired', **arguments: Any) -> Any:
    other = {'dataroot_lq': str(data / 'blurry')} if kind == 'paired' else {'degradation': {'type': 'simple'}}
    arguments = {'size': 16, 'landmarks': str(data / 'landmarks.csv'), **other, **arguments}
    return KINDS[kind](str(data / 'sharp'), **arguments)


def boxes_of(dataset: Any, index: int = 0, epoch: int = 0) -> np.ndarray:
    boxes: np.ndarray = dataset[epoch, index]['boxes']
    assert boxes.shape == (3, 4)
    assert boxes.dtype == np.float32
    return boxes


def squares(points: Any, sides: Any) -> np.ndarray:
    """Squares around points; pixel 0 is from edge 0 to edge 1."""
    centres, halves = np.asarray(points) + 0.5, np.asarray(sides)[:, None] / 2
    return np.hstack([centres - halves, centres + halves])


@pytest.mark.parametrize('kind', KINDS)
def test_boxes_are_squares_around_eyes_and_mouth_of_the_face_s_size(data: Path, kind: str) -> None:
    # From the eyes to the mouth it is 5, so the eyes of a face seen from the front would be 4.5 apart; here they are 4.
    mouth = (7.5, 11.5)
    expected = squares([*FACE[:2], mouth], np.array([0.9, 0.9, 1.2]) * 4.5)
    assert boxes_of(build(data, kind)) == pytest.approx(expected)

    wide = [(x * 1.5 - 3.75, y) for x, y in FACE]  # the eyes are 6 apart
    write_landmarks(data / 'landmarks.csv', [f'{n:03d}' for n in range(7)], wide)
    assert boxes_of(build(data, kind)) == pytest.approx(squares([*wide[:2], mouth], np.array([0.9, 0.9, 1.2]) * 6))


@pytest.mark.parametrize('kind', KINDS)
def test_without_the_option_samples_are_as_they_were(data: Path, kind: str) -> None:
    plain, with_boxes = (build(data, kind, use_hflip=True, **more) for more in ({'landmarks': None}, {}))
    for index in range(7):
        sample, other = plain[1, index], with_boxes[1, index]
        assert list(other) == [*sample, 'boxes']
        assert all(np.array_equal(other[name], value) for name, value in sample.items())


@pytest.mark.parametrize('kind', KINDS)
def test_boxes_follow_the_size(data: Path, kind: str) -> None:
    assert boxes_of(build(data, kind, size=64)) == pytest.approx(4 * boxes_of(build(data, kind)), rel=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_boxes_follow_flips_and_the_eyes_change_places(data: Path, kind: str) -> None:
    shifted = [(x - 1, y) for x, y in FACE]
    write_landmarks(data / 'landmarks.csv', [f'{n:03d}' for n in range(7)], shifted)
    plain, flipping = build(data, kind), build(data, kind, use_hflip=True)
    straight = boxes_of(plain)
    mirrored = np.array([[16 - x1, y0, 16 - x0, y1] for x0, y0, x1, y1 in straight[[1, 0, 2]]])

    flips = 0
    for index in range(7):
        is_mirrored = not np.array_equal(plain[0, index]['gt'], flipping[0, index]['gt'])
        assert boxes_of(flipping, index) == pytest.approx(mirrored if is_mirrored else straight)
        flips += is_mirrored
    assert 0 < flips < 7


def test_images_that_are_stretched_to_a_square_have_stretched_landmarks(data: Path) -> None:
    write_image(data / 'sharp' / '000.png', np.zeros((16, 32, 3), np.float32))
    row = {'name': '000', **dict(zip(COLUMNS, [v for x, y in FACE for v in (2 * x + 0.5, y)], strict=True))}
    names = [f'{n:03d}' for n in range(7)]
    write_landmarks(data / 'rest.csv', names[1:])
    with (data / 'rest.csv').open(newline='') as stream:
        write_rows(data / 'landmarks.csv', [row, *csv.DictReader(stream)])
    dataset = build(data, 'degraded')
    assert boxes_of(dataset, 0) == pytest.approx(boxes_of(dataset, 1))


def test_boxes_that_would_reach_beyond_the_image_are_moved_inside(data: Path) -> None:
    names = [f'{n:03d}' for n in range(7)]
    write_landmarks(data / 'landmarks.csv', names, [(x - 5, y - 7) for x, y in FACE])
    boxes = boxes_of(build(data))
    assert boxes[0] == pytest.approx([0, 0, 4.05, 4.05])
    assert boxes[1] == pytest.approx([5 - 2.025, 0, 5 + 2.025, 4.05])

    write_landmarks(data / 'landmarks.csv', names, [(x * 5, y * 5) for x, y in FACE])
    assert boxes_of(build(data))[2] == pytest.approx([0, 0, 16, 16])


def test_a_batch_holds_the_boxes_of_its_images(data: Path) -> None:
    batch = next(iter(build_train_loader(build(data), 4, 0, 0)))
    assert tuple(batch['boxes'].shape) == (4, 3, 4)


def test_names_may_have_suffixes_and_folders(data: Path) -> None:
    (data / 'sharp' / 'more').mkdir()
    (data / 'sharp' / '006.png').rename(data / 'sharp' / 'more' / 'a.png')
    write_landmarks(data / 'landmarks.csv', [*(f'{n:03d}.jpg' for n in range(6)), 'more/a'])
    assert len(build(data, 'degraded')) == 7


def test_a_manifest_has_the_landmarks_of_the_photograph(tmp_path: Path) -> None:
    """The eyes and the mouth are found where alignment put them, whatever the size and the turn in the photograph."""
    photo = np.zeros((300, 400, 3), np.float32)
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    face = (np.array(FACE) - 7.5) * 12 @ turn + (210, 140)
    aligned = align_face(photo, face, 32)
    (tmp_path / 'sharp').mkdir()
    write_image(tmp_path / 'sharp' / 'a.b.png', aligned.image)
    write_landmarks(tmp_path / 'manifest.csv', ['a.b'], face, source='photo.jpg', split='train')

    boxes = boxes_of(build(tmp_path, 'degraded', size=64, landmarks=str(tmp_path / 'manifest.csv')))
    points = face @ aligned.matrix[:, :2].T + aligned.matrix[:, 2]
    centres = (np.vstack([points[:2], points[3:].mean(axis=0)]) + 0.5) * 2
    assert (boxes[:, :2] + boxes[:, 2:]) / 2 == pytest.approx(centres, abs=1e-3)


def test_prepared_faces_have_their_boxes_from_the_manifest(tmp_path: Path) -> None:
    """The columns are those that the preparation writes."""
    from gpen.preparation.selection import Entry
    from gpen.preparation.summary import write_manifest
    from gpen.preparation.work import FoundFace

    landmarks = tuple((10 * x, 10 * y) for x, y in FACE)
    face = FoundFace(box=(1.0, 2.0, 3.0, 4.0), landmarks=landmarks)
    rejected = FoundFace(box=(1.0, 2.0, 3.0, 4.0))
    entries = [
        Entry('photo.jpg', 0, face, None, 'photo', split='train'),
        Entry('other.jpg', 0, rejected, None, 'other', reason='too small'),
    ]
    write_manifest(tmp_path / 'manifest.csv', entries, 0)
    (tmp_path / 'sharp').mkdir()
    write_image(tmp_path / 'sharp' / 'photo.png', np.zeros((16, 16, 3), np.float32))
    boxes = boxes_of(build(tmp_path, 'degraded', landmarks=str(tmp_path / 'manifest.csv')))
    assert boxes[0, 1] == pytest.approx(boxes[1, 1], abs=1e-4)  # upright
    assert (boxes[0, 0] + boxes[1, 2]) / 2 == pytest.approx(8, abs=1e-4)  # in the middle


# ---- what goes wrong


def test_images_without_landmarks_are_counted_and_named(data: Path) -> None:
    write_landmarks(data / 'landmarks.csv', ['000', '002', '003', '005', '006', 'another'])
    with pytest.raises(UserError, match=re.escape(f'2 of 7 images have no landmarks in {data}')) as caught:
        build(data)
    assert ': 001, 004. Each needs a row' in str(caught.value)


@pytest.mark.parametrize('value', ['', 'x', 'nan', 'inf'])
def test_a_row_without_numbers_is_no_row(data: Path, value: str) -> None:
    rows = [{'name': f'{n:03d}', **dict.fromkeys(COLUMNS, 1.0 + n), 'nose_x': 0.0} for n in range(7)]
    rows[3]['left_mouth_y'] = value
    write_rows(data / 'landmarks.csv', rows)
    with pytest.raises(UserError, match=r'1 of 7 images have no landmarks .*: 003'):
        build(data)


def test_landmarks_in_one_place_are_no_face(data: Path) -> None:
    write_landmarks(data / 'landmarks.csv', [f'{n:03d}' for n in range(7)], [(3.0, 3.0)] * len(POINTS))
    with pytest.raises(UserError, match='7 of 7 images have no landmarks'):
        build(data)


def test_a_file_that_is_missing_or_of_another_kind_is_named(data: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f'There is no file of landmarks {data / "none.csv"}')):
        build(data, landmarks=str(data / 'none.csv'))

    write_rows(data / 'other.csv', [{'name': '000', 'left_eye_x': 1, 'left_eye_y': 2}])
    with pytest.raises(UserError, match=r'other\.csv is no table of landmarks: it has no column right_eye_x') as caught:
        build(data, landmarks=str(data / 'other.csv'))
    assert 'It needs a header with name, left_eye_x, left_eye_y, right_eye_x' in str(caught.value)

    with pytest.raises(UserError, match='cannot be read as a table of landmarks'):
        build(data, landmarks=str(data / 'sharp'))
    (data / 'empty.csv').touch()
    with pytest.raises(UserError, match='has no column name, left_eye_x'):
        build(data, landmarks=str(data / 'empty.csv'))


def test_two_rows_for_an_image_are_named(data: Path) -> None:
    write_landmarks(data / 'landmarks.csv', ['000', '001', '000.png'])
    with pytest.raises(UserError, match=r'two rows for 000 \(the second in line 4\)'):
        build(data)


@pytest.mark.parametrize('augment', [{'type': 'affine'}, [{'type': 'color_jitter'}, {'type': 'affine'}]])
def test_augmentation_that_moves_faces_is_refused(data: Path, augment: Any) -> None:
    with pytest.raises(UserError, match='affine moves the faces'):
        build(data, 'degraded', augment=augment)
    assert 'boxes' in build(data, 'degraded', augment={'type': 'color_jitter'})[0]
    assert len(build(data, 'degraded', augment=augment, landmarks=None)) == 7
