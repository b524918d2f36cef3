"""``find_landmarks.py``: a table of landmarks that a data set of aligned faces takes."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest

import find_landmarks
from gpen.commands import train
from gpen.data.degraded_dataset import DegradedFaceDataset
from gpen.errors import UserError
from gpen.faces import detection
from gpen.options import parse_options
from photographs import POINTS, build_detector, draw_photo, save


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find faces by their dots."""
    monkeypatch.setattr(detection, 'choose_detector', lambda *_: ('dots', 'Faces are found by their dots.'))
    monkeypatch.setattr(detection, 'build_detector', build_detector)


def run(folder: Path, output: Path, *more: str) -> int:
    return find_landmarks.main(['--input', str(folder), '--output', str(output), '--workers', '1', *more])


def test_a_data_set_takes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces, output = tmp_path / 'faces', tmp_path / 'tables' / 'landmarks.csv'
    for name in ('b.png', 'more/a.png'):
        save(faces / name, draw_photo(1, height=160, width=160))
    assert run(faces, output) == 0
    assert f'2 of 2 images have landmarks now: {output}' in capsys.readouterr().out
    with output.open(newline='') as stream:
        assert [row['name'] for row in csv.DictReader(stream)] == ['b', 'more/a']

    boxes = DegradedFaceDataset(str(faces), {'type': 'simple'}, 32, landmarks=str(output))[0]['boxes']
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = np.vstack([POINTS[:2], POINTS[3:].mean(axis=0)]) * 40 + 80  # of a face of radius 40
    assert centres == pytest.approx(expected / 5, abs=0.15)


def test_the_printed_command_takes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / 'my faces' / 'a.png', draw_photo(1))
    assert run(Path('my faces'), Path('a #1.csv')) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])[2:]
    args = train.parse_arguments(words)
    options = parse_options(option_file, args.force_yml).options
    assert args.opt == 'RECIPE.yml'
    assert options.datasets.train.arguments['landmarks'] == str(tmp_path / 'a #1.csv')
    assert options.train.component_opt is not None


def test_images_without_a_face_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / 'faces' / 'face.png', draw_photo(1))
    save(tmp_path / 'faces' / 'empty.png', draw_photo(2, faces=0))
    assert run(tmp_path / 'faces', tmp_path / 'landmarks.csv') == 0
    printed = capsys.readouterr().out
    assert '1 of 2 images have landmarks now' in printed
    assert 'No face was found in 1: empty.' in printed
    with pytest.raises(UserError, match='1 of 2 images have no landmarks'):
        DegradedFaceDataset(
            str(tmp_path / 'faces'), {'type': 'simple'}, 32, landmarks=str(tmp_path / 'landmarks.csv'), scan=False
        )


def test_damaged_images_stop_no_other_and_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('a.png', 'b.png', 'c.png'):
        save(tmp_path / 'faces' / name, draw_photo(1))
    (tmp_path / 'faces' / 'b.png').write_bytes(b'GIF89a')
    (tmp_path / 'faces' / 'd.mp4').write_bytes(b'film')
    assert run(tmp_path / 'faces', tmp_path / 'landmarks.csv') == 0
    printed = capsys.readouterr().out
    assert '2 of 3 images have landmarks now' in printed
    assert 'b.png cannot be used: it is a GIF' in printed


@pytest.mark.parametrize(
    ('faces', 'message'),
    [(None, 'There is no folder'), ([], 'There are no images'), ([0], 'No face was found in the 1 images')],
)
def test_nothing_to_find_is_said(
    faces: list[int] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'faces'
    if faces is not None:
        folder.mkdir()
        for number in faces:
            save(folder / f'{number}.png', draw_photo(3, faces=0))
    assert run(folder, tmp_path / 'landmarks.csv') == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'landmarks.csv').exists()


def test_small_faces_are_looked_for_where_that_is_asked(tmp_path: Path) -> None:
    save(tmp_path / 'faces' / 'face.png', draw_photo(1))
    assert run(tmp_path / 'faces', tmp_path / 'landmarks.csv', '--min_face', '120') == 2
    assert run(tmp_path / 'faces', tmp_path / 'landmarks.csv', '--min_face', '20') == 0
