"""Sharpness, pose and fingerprints of faces."""

import itertools

import cv2
import numpy as np
import pytest

from conftest import SHARED
from gpen.data.image_io import read_image, resize, to_uint8
from gpen.faces.quality import Pose, estimate_pose, fingerprint, sharpness

FACES = SHARED / 'data' / 'faces256'
needs_faces = pytest.mark.skipif(not FACES.is_dir(), reason='the example faces are not beside the project')


def some_face(seed: int, size: int = 128) -> np.ndarray:
    """Return a smooth random picture with detail at several scales."""
    generator = np.random.default_rng(seed)
    image = np.zeros((size, size, 3), np.float32)
    for cells in (4, 8, 16, 32):
        image += cv2.resize(generator.uniform(-1, 1, (cells, cells, 3)).astype(np.float32), (size, size)) / 2
    return np.clip(image, -1, 1)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode('.jpg', to_uint8(image), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32) / 127.5 - 1


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image


def test_blur_lowers_sharpness() -> None:
    face = some_face(0)
    values = [sharpness(blurred(face, sigma)) for sigma in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[-1]


def test_sharpness_is_the_variance_of_the_laplacian_of_the_inner_part() -> None:
    face = np.zeros((100, 100, 3), np.float32)
    face[50, 50] = 2 / 255 * 10  # ten 8-bit steps: the Laplacian is -40 there and 10 at four neighbours
    assert sharpness(face) == pytest.approx((40**2 + 4 * 10**2) / 60**2, rel=1e-3)
    face[5, 5] = 1  # outside of the inner part
    assert sharpness(face) == pytest.approx(2000 / 3600, rel=1e-3)


@pytest.mark.parametrize('roll', [-35, 0, 20])
@pytest.mark.parametrize('pitch', [-20, 0, 15])
@pytest.mark.parametrize('yaw', [-50, -25, 0, 10, 40])
def test_pose_of_a_projected_head_is_found(yaw: float, pitch: float, roll: float) -> None:
    # Right as seen, down, towards the camera; not quite the head that is fitted.
    head = np.array([[-31, -35, -27], [31, -35, -27], [0, 0, 1], [-24, 33, -19], [24, 33, -19]], np.float64)
    y, p, r = np.radians([yaw, pitch, roll])
    # The nose (0, 0, 1) goes to (sin yaw, sin pitch, ...): to the right, and down.
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    upright = head @ (about_y @ about_x).T
    pose = estimate_pose((upright @ about_z.T)[:, :2] * 2.5 + 300)
    nose = about_z @ about_y @ about_x @ np.array([0, 0, 1.0])
    assert pose.yaw == pytest.approx(np.degrees(np.arctan2(nose[0], nose[2])), abs=6)
    assert pose.pitch == pytest.approx(np.degrees(np.arcsin(nose[1])), abs=6)
    if yaw == pitch == 0:
        assert pose.roll == pytest.approx(roll, abs=2)


def test_landmarks_in_one_place_have_a_pose_all_the_same() -> None:
    assert estimate_pose(np.ones((5, 2))) == Pose(0, 0, 0)


def hamming(a: int, b: int) -> int:
    """Return in how many bits two fingerprints differ."""
    return (a ^ b).bit_count()


@pytest.mark.parametrize(
    'change',
    [
        lambda face: through_jpeg(face, 60),
        lambda face: np.clip(face * 0.9 + 0.08, -1, 1),
        lambda face: cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA),
        lambda face: cv2.resize(face, (256, 256), interpolation=cv2.INTER_CUBIC),
    ],
    ids=['compressed', 'brighter', 'smaller', 'larger'],
)
def test_copies_of_a_face_have_nearly_its_fingerprint(change: object) -> None:
    distances = [hamming(fingerprint(face), fingerprint(change(face))) for face in map(some_face, range(8))]  # type: ignore[operator]
    assert np.median(distances) <= 2
    assert max(distances) <= 4


def test_other_faces_have_other_fingerprints() -> None:
    prints = [fingerprint(some_face(seed)) for seed in range(12)]
    assert min(hamming(a, b) for a, b in itertools.combinations(prints, 2)) > 12
    assert all(0 <= value < 2**64 for value in prints)


@needs_faces
def test_no_two_people_have_nearly_the_same_fingerprint() -> None:
    people = [fingerprint(read_image(path)) for path in sorted(FACES.glob('london_*.png'))]
    assert len(people) >= 70
    assert min(hamming(a, b) for a, b in itertools.combinations(people, 2)) > 4


@needs_faces
@pytest.mark.parametrize('side', [128, 512])
def test_resized_and_compressed_copies_have_nearly_the_same_fingerprint(side: int) -> None:
    for path in sorted(FACES.glob('*.png'))[::10]:
        face = read_image(path)
        copy = through_jpeg(resize(face, side), 60)
        assert hamming(fingerprint(face), fingerprint(copy)) <= 4, path.name


@needs_faces
def test_blur_makes_sharp_faces_less_sharp_by_far() -> None:
    faces = [read_image(path) for path in sorted(FACES.glob('*.png'))[::20]]
    medians = [np.median([sharpness(blurred(face, sigma)) for face in faces]) for sigma in (0, 1, 2, 4)]
    assert medians[0] > 200
    assert medians[1] < 80
    assert medians[2] < 20
    assert medians[3] < 8
