"""Alignment: known landmarks land where the FFHQ formula puts them."""

import itertools

import cv2
import numpy as np
import pytest

from gpen.errors import UserError
from gpen.faces import alignment
from gpen.faces.alignment import align_face, ffhq_quad

# Eyes, nose, corners of the mouth of an upright face with 40 pixels between the eyes.
FACE = np.array([[-20, -15], [20, -15], [0, 5], [-16, 25], [16, 25]], np.float64)


def turned(points: np.ndarray, angle: float, scale: float, centre: tuple[float, float]) -> np.ndarray:
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return scale * points @ rotation.T + np.array(centre)


def draw_dots(points: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Return a black photograph (height, width) with a soft white dot at each point, exact to a fraction of a pixel."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.full((*size, 3), -1, np.float32)
    for x, y in points:
        dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        image = np.maximum(image, (2 * dot - 1)[..., None].astype(np.float32))
    return image


def find_dots(image: np.ndarray, near: np.ndarray, radius: int) -> np.ndarray:
    """Return the centre of mass of the dot near each point."""
    found = []
    for x, y in np.round(near).astype(int):
        left, top = max(0, x - radius), max(0, y - radius)
        part = image[top : y + radius + 1, left : x + radius + 1, 0] + 1
        rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
        found.append([(columns * part).sum() / part.sum(), (rows * part).sum() / part.sum()])
    return np.array(found)


def to_68(five: np.ndarray) -> np.ndarray:
    """Return 68 landmarks whose eyes (in rings) and corners of the mouth are those of ``five``."""
    points = np.zeros((68, 2))
    ring = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, 6, endpoint=False)])
    points[36:42], points[42:48] = five[0] + 3 * ring, five[1] + 3 * ring
    points[48], points[54] = five[3], five[4]
    return points


def test_square_of_an_upright_face_has_the_sides_of_the_formula() -> None:
    quad = ffhq_quad(FACE)
    # Eyes to mouth: 40 pixels, between the eyes: 40; half the side is max(40 * 2, 40 * 1.8) = 80 about (0, -11).
    assert quad == pytest.approx(np.array([[-80, -91], [-80, 69], [80, 69], [80, -91]]), abs=1e-9)


def test_mouth_far_below_the_eyes_makes_the_square_larger() -> None:
    long_face = FACE + np.array([0, 20]) * (np.arange(5) > 2)[:, None]
    side = np.hypot(*(ffhq_quad(long_face)[3] - ffhq_quad(long_face)[0]))
    assert side == pytest.approx(2 * 60 * 1.8)


@pytest.mark.parametrize('landmarks', ['5', '68'])
@pytest.mark.parametrize('size', [64, 160, 256, 512])
@pytest.mark.parametrize(('angle', 'scale'), [(0, 1), (25, 1.3), (-40, 2.2), (170, 0.9)])
def test_landmarks_land_where_the_formula_says(angle: float, scale: float, size: int, landmarks: str) -> None:
    points = turned(FACE, angle, scale, (301.3, 260.8))
    ratio = size / (160 * scale)
    image = draw_dots(points, (520, 600), sigma=max(3.0, 1.5 / ratio))
    aligned = align_face(image, points if landmarks == '5' else to_68(points), size)
    # The square's centre is (0, -11) of FACE, and its left and top edges are the image's.
    expected = (FACE + np.array([80, 91])) * size / 160 - 0.5
    assert cv2.transform(points[None], aligned.matrix)[0] == pytest.approx(expected, abs=1e-6)
    assert np.abs(find_dots(aligned.image, expected, round(12 * size / 160)) - expected).max() < 0.2
    assert aligned.scale == pytest.approx(ratio)
    assert aligned.image.shape == (size, size, 3)
    assert aligned.image.dtype == np.float32
    assert np.abs(aligned.image).max() <= 1


def test_matrix_can_be_inverted_to_paste_a_face_back() -> None:
    points = turned(FACE, 12, 1.1, (200, 180))
    aligned = align_face(np.zeros((400, 400, 3), np.float32), points, 128)
    inverse = cv2.invertAffineTransform(aligned.matrix)
    corners = np.array([[-0.5, -0.5], [-0.5, 127.5], [127.5, 127.5], [127.5, -0.5]])
    assert corners @ inverse[:, :2].T + inverse[:, 2] == pytest.approx(aligned.quad, abs=1e-6)


def sample_plainly(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the image at positions (..., 2), interpolated by Keys' cubic with a = -0.75, one neighbour at a time."""

    def weight(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        inner, outer = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
        return np.where(x <= 1, inner, np.where(x < 2, outer, 0))

    first = np.floor(where).astype(int)
    total = np.zeros((*where.shape[:-1], 3))
    for across, down in itertools.product(range(-1, 3), repeat=2):
        columns, rows = first[..., 0] + across, first[..., 1] + down
        share = weight(where[..., 0] - columns) * weight(where[..., 1] - rows)
        total += share[..., None] * image[rows, columns]
    return total


@pytest.mark.parametrize(('size', 'limit'), [(48, 0.05), (96, 0.05), (150, 0.03), (200, 0.03), (300, 1e-3)])
def test_face_equals_a_plain_average_over_each_pixel(size: int, limit: float) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (420, 440, 3)).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 2) * 4, -1, 1)
    aligned = align_face(image, turned(FACE, 17, 1.4, (215.5, 212.25)), size)
    # Plainly: a smaller pixel is the mean of 8 x 8 samples spread over its square, a larger one is one sample.
    samples = 8 if aligned.scale < 1 else 1
    fine = (np.arange(size * samples) + 0.5) / samples - 0.5
    inverse = cv2.invertAffineTransform(aligned.matrix)
    where = np.stack(np.meshgrid(fine, fine), axis=-1) @ inverse[:, :2].T + inverse[:, 2]
    plain = sample_plainly(image, where).reshape(size, samples, size, samples, 3).mean(axis=(1, 3))
    difference = np.abs(aligned.image - np.clip(plain, -1, 1))
    assert difference.max() < limit
    assert difference.mean() < limit / 5


def test_fine_stripes_become_grey_instead_of_moire() -> None:
    image = np.where(np.arange(1200)[None, :, None] % 2, 1.0, -1.0).astype(np.float32).repeat(1200, axis=0).repeat(3, 2)
    face = align_face(image, turned(FACE, 3, 6, (600, 600)), 64).image
    assert np.abs(face).max() < 0.1


@pytest.mark.parametrize('centre', [(40, 150), (150, 40), (265, 150), (150, 265), (30, 30)])
def test_padding_has_no_hard_edge_and_is_measured(centre: tuple[float, float]) -> None:
    smooth = np.linspace(-0.8, 0.8, 300, dtype=np.float32)
    image = np.stack(np.broadcast_arrays(smooth[None], smooth[:, None], 0 * smooth[None]), axis=-1)
    aligned = align_face(np.ascontiguousarray(image), turned(FACE, 0, 1, centre), 160)
    assert np.isfinite(aligned.image).all()
    for axis in (0, 1):
        assert np.abs(np.diff(aligned.image, axis=axis)).max() < 0.06
    left, top = aligned.quad[0]
    columns, rows = (np.arange(160) + start + 0.5 for start in (left, top))
    outside = 1 - np.outer((rows >= -0.5) & (rows <= 299.5), (columns >= -0.5) & (columns <= 299.5)).mean()
    assert aligned.padding == pytest.approx(outside, abs=0.01)
    assert aligned.padding > 0.1


def test_padding_of_a_larger_photograph_is_the_same() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (200, 200, 3)).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 4) * 6, -1, 1)
    points = turned(FACE, 8, 1, (40, 60))
    aligned = align_face(image, points, 64)
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    other = align_face(large, (points + 0.5) * 4 - 0.5, 64)
    assert aligned.padding == other.padding > 0.3
    assert aligned.image.dtype == other.image.dtype == np.float32
    assert np.abs(aligned.image - other.image).mean() < 0.01


def test_padding_of_a_huge_photograph_is_made_at_the_size_of_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blurring and fading 4000 pixels of a photograph took half a minute."""
    softened = []
    soften = alignment._soften

    def record(region: np.ndarray, *rest: object) -> np.ndarray:
        softened.append(max(region.shape))
        return soften(region, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(alignment, '_soften', record)
    aligned = align_face(np.zeros((2400, 2400, 3), np.float32), turned(FACE, 10, 12, (400, 400)), 64)
    assert aligned.padding > 0.3
    assert max(softened) < 4 * 64


@pytest.mark.parametrize('sigma', [2, 5, 12, 30])
def test_wide_blur_equals_a_plain_one(sigma: float) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (300, 341, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 1) * 2
    plain = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    difference = np.abs(alignment._blur(image, sigma) - plain)
    assert difference.max() < 0.03
    assert difference.mean() < 0.005


def test_face_within_the_photograph_is_left_as_it_is() -> None:
    generator = np.random.default_rng(1)
    image = generator.uniform(-1, 1, (300, 300, 3)).astype(np.float32)
    aligned = align_face(image, turned(FACE, 0, 1, (149.5, 149.5)), 160)
    assert aligned.padding == 0
    # Scale 1, no turn, whole pixels: the square is cut out.
    assert np.abs(aligned.image - image[59:219, 70:230]).max() < 1e-5


@pytest.mark.parametrize('landmarks', [np.zeros((5, 2)), np.zeros((7, 2)), np.zeros((5, 3))])
def test_landmarks_that_make_no_face_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(UserError, match='landmarks'):
        align_face(np.zeros((32, 32, 3), np.float32), landmarks, 16)


@pytest.mark.parametrize('quarters', [1, 2, 3])
def test_all_borders_of_a_photograph_are_softened_alike(quarters: int) -> None:
    noise = np.random.default_rng(3).uniform(-1, 1, (300, 300, 3)).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 2) * 4, -1, 1)
    points = turned(FACE, 0, 1, (30, 149.5))
    expected = align_face(image, points, 160)
    assert expected.padding > 0.2
    for _ in range(quarters):
        points = np.stack([points[:, 1], 299 - points[:, 0]], axis=1)
    face = align_face(np.rot90(image, quarters).copy(), points, 160)
    assert face.padding == pytest.approx(expected.padding, abs=0.01)
    assert np.abs(face.image - expected.image).max() < 1e-3


@pytest.mark.parametrize('size', [40, 300])
def test_interpolation_never_leaves_the_range_of_images(size: int) -> None:
    stripes = np.where(np.arange(300)[None, :, None] % 30 < 15, 1.0, -1.0).astype(np.float32)
    face = align_face(np.broadcast_to(stripes, (300, 300, 3)).copy(), turned(FACE, 20, 1, (150, 150)), size).image
    assert face.max() == 1
    assert face.min() == -1
