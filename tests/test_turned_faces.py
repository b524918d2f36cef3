"""Faces that lie in a photograph in any direction, are small, cut off or many."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import SHARED
from demo_process import draw_portraits
from gpen.data.ffhq_square import ffhq_quad
from gpen.data.image_io import read_image, resize, write_image
from gpen.faces.detection import build_detector
from gpen.faces.face import Face, Found, split_by_size
from gpen.faces.turns import TurnedDetector, turn_back
from gpen.preparation import prepare as preparing
from gpen.preparation.settings import PreparationSettings
from gpen.preparation.work import DetectorSource
from gpen.restoration.base import Restorer
from gpen.restoration.photograph import PhotographRestorer
from photographs import DotDetector, Prepare, draw_photo, read_manifest, save

pytest_plugins = ['preparation_fixtures']

DATA = SHARED / 'data'
SIZE = 64
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason='needs the photographs and YuNet of ../shared/data')


class DotFinder:
    """Finds faces of five dots at any turn, always as if they were upright, with a lower score where they are not."""

    name, smallest, threshold, certain = 'dots', 1, 0.5, 0.0

    def find(self, image: np.ndarray, min_face: float) -> Found:
        faces = DotDetector(round(min_face), None).detect(image)
        landmarks = np.array([face.landmarks for face in faces]).reshape(-1, 5, 2)
        # The nose of an upright one is nearer to the eyes than to the mouth, and eyes are farther apart.
        eyes, mouth = (np.hypot(*(landmarks[:, n + 1] - landmarks[:, n]).T) for n in (0, 3))
        return Found(np.array([face.box for face in faces]).reshape(-1, 4), landmarks, 0.6 + 0.2 * (eyes > 1.1 * mouth))


def photo(turns: int, **settings: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(draw_photo(1, **settings), turns)).astype(np.float32) / 127.5 - 1


def build_dots(name: str, weights: Path | None, min_face: int) -> TurnedDetector:  # noqa: ARG001
    return TurnedDetector(DotFinder(), min_face)


@pytest.mark.parametrize('turns', range(4))
def test_a_turned_photograph_is_restored_as_the_upright_one_and_stays_as_it_lay(turns: int) -> None:
    given = []

    def darken_the_top(lq: torch.Tensor) -> torch.Tensor:
        given.append(lq)
        return torch.cat([torch.full_like(lq[:, :, : SIZE // 2], -1), lq[:, :, SIZE // 2 :]], dim=2)

    restorer = PhotographRestorer(Restorer(darken_the_top, SIZE, SIZE, 'a stand-in'), build_dots('', None, 30))
    upright, turned = (restorer.restore([photo(turn, faces=2, width=400)])[0].compose() for turn in (0, turns))
    assert given[0] == pytest.approx(given[1], abs=0.1)
    assert np.rot90(turned, -turns) == pytest.approx(upright, abs=0.1)


def test_prepared_data_holds_turned_faces_upright(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_detector(settings: PreparationSettings, say: object) -> DetectorSource:  # noqa: ARG001
        return DetectorSource(build_dots, 'dots', None, settings.detectable)

    for turns in range(4):
        save(tmp_path / 'in' / f'{turns}.png', np.ascontiguousarray(np.rot90(draw_photo(1), turns)))
    monkeypatch.setattr(preparing, 'find_detector', find_detector)
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 0
    files = {path.stem: read_image(path) for path in (tmp_path / 'set').glob('*/sharp/*.png')}
    assert sorted(files) == ['0', '1', '2', '3']
    for name, row in zip(files, read_manifest(tmp_path / 'set'), strict=True):
        assert files[name] == pytest.approx(files['0'], abs=0.1)
        assert row['reason'] == ''


def test_what_is_found_in_a_turned_image_is_turned_back() -> None:
    height, width = 40, 70
    point, box = np.array([[[10.0, 5.0]] * 5]), np.array([[4.0, 2.0, 20.0, 30.0]])
    image = np.zeros((height, width))
    image[5, 10] = 1
    for turns in range(4):
        row, column = np.argwhere(np.rot90(image, turns))[0]
        seen = Found(box, np.array([[[column, row]] * 5], float), np.ones(1))
        assert turn_back(seen, turns, height, width).landmarks == pytest.approx(point)
        corners = turn_back(Found(box, point, np.ones(1)), turns, height, width).boxes[0]
        sides = corners[2:] - corners[:2]
        assert sides == pytest.approx([16, 28] if turns % 2 == 0 else [28, 16])


# The networks themselves, on rendered portraits and real photographs.


def load(name: str, side: int) -> np.ndarray:
    image = read_image(DATA / name)
    factor = side / max(image.shape[:2])
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def turn(image: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, turned counter-clockwise by some degrees before grey, and the 2 x 3 matrix that did it."""
    side = int(np.hypot(*image.shape[:2])) + 1
    middle = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D(middle, angle, 1)
    matrix[:, 2] += (side - 1) / 2 - np.array(middle)
    return cv2.warpAffine(image, matrix, (side, side), borderValue=(0, 0, 0)), matrix


def error_of(face: Face, expected: np.ndarray) -> float:
    """Return how far landmarks lie from where they are expected, in distances between the eyes."""
    return float(np.hypot(*(face.landmarks - expected).T).mean() / np.hypot(*(expected[1] - expected[0])))


@pytest.mark.parametrize('angle', [45, 90, 180])
def test_landmarks_of_a_rendered_portrait_turn_with_it(angle: int) -> None:
    detector = build_detector('mtcnn')
    image = draw_portraits(1, 128).astype(np.float32) / 127.5 - 1
    turned, matrix = turn(image, angle)
    (plain,), (found,) = detector.detect(image), detector.detect(turned)
    assert error_of(found, plain.landmarks @ matrix[:, :2].T + matrix[:, 2]) < 0.05


@needs_data
@pytest.mark.parametrize('name', ['yunet', 'mtcnn'])
@pytest.mark.parametrize('angle', [15, 30, 45, -60, 90, 120, 180, -90])
def test_landmarks_turn_with_the_photograph(name: str, angle: int) -> None:
    detector = build_detector(name, DATA / 'models')
    for source, side in (('photos/lisa1.jpg', 300), ('faces256/london_061_03.png', 128)):
        image = load(source, side)
        turned, matrix = turn(image, angle)
        (plain,), (found,) = detector.detect(image), detector.detect(turned)
        assert error_of(found, plain.landmarks @ matrix[:, :2].T + matrix[:, 2]) < 0.05, source


@needs_data
@pytest.mark.parametrize('turns', range(1, 4))
def test_a_large_photograph_may_lie_on_its_side_or_head(turns: int) -> None:
    detector = build_detector('yunet', DATA / 'models')
    image = read_image(DATA / 'photos' / 'lisa2.jpg')
    (plain,), (found,) = detector.detect(image), detector.detect(np.ascontiguousarray(np.rot90(image, turns)))
    seen = Found(np.zeros((1, 4)), found.landmarks[None], np.ones(1))
    (landmarks,) = turn_back(seen, turns, *image.shape[:2]).landmarks
    assert error_of(plain, landmarks) < 0.02


@needs_data
def test_each_of_many_small_faces_is_found_whatever_the_smallest_one_is() -> None:
    """The sides of their boxes are about half of their images' sides."""
    sides = np.linspace(44, 84, 30).astype(int)
    crowd = np.zeros((5 * 90, 6 * 90, 3), np.float32)
    files = sorted((DATA / 'faces256').glob('*.png'))[::6]
    for n, (side, path) in enumerate(zip(sides, files, strict=False)):
        y, x = n // 6 * 90, n % 6 * 90
        crowd[y : y + side, x : x + side] = resize(read_image(path), int(side))

    for limit in (20, 24, 28, 32, 40):
        kept, small = split_by_size(build_detector('yunet', DATA / 'models', limit).detect(crowd), limit)
        assert len(kept) + len([face for face in small if face.shorter_side > 0.8 * limit]) <= len(sides)
        if limit == 20:
            assert len(kept) == len(sides)
            all_sizes = sorted(face.shorter_side for face in kept)
        # A box varies by a pixel with the size at which it is looked at.
        assert len(kept) == pytest.approx(sum(size >= limit for size in all_sizes), abs=1)


@needs_data
@pytest.mark.parametrize('cut', ['left', 'right', 'top', 'bottom', 'lower half'])
def test_of_a_face_that_is_cut_off_the_landmarks_are_right(cut: str) -> None:
    detector = build_detector('yunet', DATA / 'models')
    image = load('photos/lisa1.jpg', 500)
    (whole,) = detector.detect(image)
    left, top, right, bottom = (round(side) for side in whole.box)
    x, y = left + (right - left) // 3, top + (bottom - top) // 3
    parts = {
        'left': np.s_[:, x:],
        'right': np.s_[:, : right - x + left],
        'top': np.s_[y:],
        'bottom': np.s_[: bottom - y + top],
        'lower half': np.s_[: (top + bottom) // 2],  # mirrored at the border it would look like a face upside down
    }
    (found,) = detector.detect(np.ascontiguousarray(image[parts[cut]]))
    moved = np.array([x if cut == 'left' else 0, y if cut == 'top' else 0])
    assert error_of(found, whole.landmarks - moved) < 0.2


@needs_data
def test_the_square_of_an_aligned_face_stays_where_it_is() -> None:
    detector = build_detector('yunet', DATA / 'models')
    moves = []
    for path in sorted((DATA / 'faces256').glob('*.png'))[::25]:
        quad = ffhq_quad(detector.detect(read_image(path))[0].landmarks)
        along = quad[3] - quad[0]
        moves.append([*(quad.mean(axis=0) - 127.5), 100 * np.hypot(*along) / 256 - 100])
    assert np.abs(np.median(moves, axis=0)).max() < 2
    assert np.abs(moves).max() < 12


def test_faces_just_too_small_are_counted_and_stay_as_they_were(tmp_path: Path) -> None:
    picture = photo(0, faces=2, width=400)
    picture[:, 200:] = -0.2
    picture[60:124, 250:330] = cv2.resize(picture[:, :200], (80, 64), interpolation=cv2.INTER_AREA)
    write_image(tmp_path / 'two.png', picture)

    restorer = Restorer(torch.neg, SIZE, SIZE, 'a stand-in')
    for limit, counts in ((20, (2, 0)), (40, (1, 1)), (60, (1, 0))):
        (result,) = PhotographRestorer(restorer, build_dots('', None, limit), min_face=limit).restore([picture])
        assert (len(result.faces), result.too_small) == counts
