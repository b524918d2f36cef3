"""Restored faces go back to where they came from, without a seam, and nothing else changes."""

import itertools

import cv2
import numpy as np
import pytest

from gpen.faces.alignment import align_face
from gpen.faces.pasting import Patch, _find_region, _overlap, _shrink, _weigh, feather_mask, paste, scale_matrix

# Eyes, nose, corners of the mouth of an upright face with 40 pixels between the eyes.
FACE = np.array([[-20, -15], [20, -15], [0, 5], [-16, 25], [16, 25]], np.float64)
SIZE = 64


def place(angle: float, scale: float, centre: tuple[float, float]) -> np.ndarray:
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return scale * FACE @ rotation.T + np.array(centre)


def draw_blobs(height: int, width: int, seed: int = 0, cells: int = 12) -> np.ndarray:
    blobs = np.random.default_rng(seed).uniform(-0.9, 0.9, (cells, cells, 3)).astype(np.float32)
    return np.clip(cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def draw_waves(height: int, width: int, cycles: float = 4.0) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    waves = [
        np.sin(2 * np.pi * cycles * (a * rows / height + b * columns / width)) for a, b in ((1, 0), (0, 1), (1, 1))
    ]
    return 0.9 * np.stack(waves, axis=2)


def cut(photo: np.ndarray, landmarks: np.ndarray, size: int = SIZE) -> Patch:
    face = align_face(photo, landmarks, size, soften=False)
    return Patch(face.image, feather_mask(size), face.matrix)


def colour(patch: Patch, value: tuple[float, float, float]) -> Patch:
    return Patch(np.full_like(patch.image, value), patch.mask, patch.matrix)


@pytest.mark.parametrize(('angle', 'scale'), [*itertools.product([0, 25, -140], [0.3, 1.0, 2.5])])
def test_a_face_that_was_not_changed_leaves_the_photograph_as_it_was(angle: float, scale: float) -> None:
    photo = draw_waves(480, 520)
    size = 512 if scale > 1 else 128
    pasted = paste(photo, [cut(photo, place(angle, scale, (250.3, 240.8)), size)])
    # What is left is interpolation, most of it at the mirrored border; a shift by half a pixel would be 0.024.
    assert abs(pasted - photo).max() < 0.01


@pytest.mark.parametrize('scale', [0.2, 1.0, 3.0])
def test_nothing_changes_outside_the_square_and_all_of_its_middle_does(scale: float) -> None:
    photo = draw_blobs(400, 500)
    patch = cut(photo, place(20, scale, (240, 210)))
    pasted = paste(photo, [colour(patch, (1, -1, 1))])
    rows, columns = np.mgrid[:400, :500]
    x, y = (row[0] * columns + row[1] * rows + row[2] for row in patch.matrix)
    depth = SIZE / 2 - np.maximum(abs(x - (SIZE - 1) / 2), abs(y - (SIZE - 1) / 2))  # inside the square, its pixels
    outside, middle = depth < -max(1, SIZE / 64 * (1 / scale)), depth > 0.3 * SIZE
    assert outside.any()
    assert np.array_equal(pasted[outside], photo[outside])
    assert middle.any()
    assert pasted[middle] == pytest.approx(np.broadcast_to(np.float32([1, -1, 1]), (middle.sum(), 3)), abs=1e-4)


def test_the_way_from_photograph_to_face_has_no_step() -> None:
    photo = np.zeros((400, 400, 3), np.float32)
    pasted = paste(photo, [colour(cut(photo, place(0, 1, (200, 200)), 256), (1, 1, 1))])
    # 160 pixels wide, faded over 12 % of that: 1.5 / 19 in the steepest place.
    assert abs(np.diff(pasted, axis=0)).max() < 0.09
    assert abs(np.diff(pasted, axis=1)).max() < 0.09
    assert pasted.max() == pytest.approx(1)


def test_strength_goes_from_the_photograph_to_the_face() -> None:
    photo = draw_blobs(300, 300)
    patch = colour(cut(photo, place(10, 1, (150, 150))), (1, 1, 1))
    none, half, full = (paste(photo, [patch], strength) for strength in (0, 0.5, 1))
    assert np.array_equal(none, photo)
    assert half == pytest.approx((photo + full) / 2, abs=1e-6)


def test_of_two_faces_that_overlap_each_keeps_its_middle_whatever_the_order() -> None:
    photo = draw_blobs(300, 400)
    red = colour(cut(photo, place(0, 1, (150, 150))), (1, -1, -1))
    blue = colour(cut(photo, place(0, 1, (250, 150))), (-1, -1, 1))
    pasted = paste(photo, [red, blue])
    assert pasted == pytest.approx(paste(photo, [blue, red]), abs=1e-6)
    assert pasted[150, 150] == pytest.approx([1, -1, -1], abs=0.02)
    assert pasted[150, 250] == pytest.approx([-1, -1, 1], abs=0.02)
    assert pasted[150, 200, 0] == pytest.approx(pasted[150, 200, 2], abs=0.05)  # half way
    assert pasted[150, 200, 1] == pytest.approx(-1, abs=0.02)  # and nothing of the photograph in between


@pytest.mark.parametrize('centre', [(5, 5), (295, 150), (-40, 150), (-500, 900)])
def test_a_face_may_reach_beyond_the_photograph(centre: tuple[float, float]) -> None:
    photo = draw_waves(300, 300)
    pasted = paste(photo, [cut(photo, place(0, 1, centre))])
    assert pasted.shape == photo.shape
    # The square has sides of 160 pixels about a point 11 pixels above the given one.
    rows, columns = np.mgrid[:300, :300]
    outside = (abs(columns - centre[0]) > 83) | (abs(rows - centre[1] + 11) > 83)
    assert outside.any()
    assert np.array_equal(pasted[outside], photo[outside])
    if centre == (-500, 900):
        assert np.array_equal(pasted, photo)


def test_a_large_face_is_averaged_when_it_gets_small_again() -> None:
    photo = np.zeros((100, 100, 3), np.float32)
    face = align_face(photo, place(0, 0.25, (50, 50)), 640)  # 40 pixels wide: 16 of the face in one
    stripes = np.where(np.arange(640) % 8 < 4, 1.0, -1.0).astype(np.float32)
    patch = Patch(np.broadcast_to(stripes[None, :, None], (640, 640, 3)).copy(), feather_mask(640), face.matrix)
    assert abs(paste(photo, [patch])).max() < 0.05


@pytest.mark.parametrize(('source', 'target'), [(1, 1), (2, 1), (1, 4), (3, 0.5)])
def test_a_scaled_matrix_keeps_the_outer_edges(source: float, target: float) -> None:
    matrix = align_face(np.zeros((90, 90, 3), np.float32), place(30, 0.6, (40, 50)), SIZE).matrix
    scaled = scale_matrix(matrix, source, target)
    for point in ([0, 0], [10, 3], [44.5, 71.25]):
        enlarged = source * (np.array(point) + 0.5) - 0.5
        expected = target * (matrix @ [*point, 1] + 0.5) - 0.5
        assert scaled @ [*enlarged, 1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize('size', [16, 65, 512])
def test_a_feathered_mask_is_one_in_the_middle_and_zero_at_the_edges(size: int) -> None:
    mask = feather_mask(size)
    assert mask.shape == (size, size)
    assert mask.dtype == np.float32
    assert mask[size // 4 : -size // 4, size // 4 : -size // 4].min() == 1
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0
    assert np.array_equal(mask, mask.T)
    assert np.allclose(mask, mask[::-1])
    assert (np.diff(mask[size // 2, : size // 2]) >= 0).all()


@pytest.mark.parametrize(
    ('other', 'overlaps'),
    [
        ((5, 5, 15, 15), True),
        ((9, 9, 15, 15), True),
        ((10, 0, 20, 10), False),  # they touch
        ((0, 10, 10, 20), False),
        ((10, 10, 20, 20), False),
        ((2, 2, 3, 3), True),
        ((0, 12, 10, 20), False),
    ],
)
def test_regions_that_only_touch_do_not_overlap(other: tuple[int, int, int, int], overlaps: bool) -> None:
    assert _overlap((0, 0, 10, 10), other) == _overlap(other, (0, 0, 10, 10)) == overlaps


def test_where_faces_overlap_their_shares_add_up_to_one() -> None:
    photo = np.full((300, 400, 3), -1, np.float32)
    dark = colour(cut(photo, place(0, 1, (170, 150))), (0.2, 0.2, 0.2))
    light = colour(cut(photo, place(0, 1, (230, 150))), (0.6, 0.6, 0.6))
    alone = [paste(photo, [patch]) for patch in (dark, light)]
    pasted = paste(photo, [dark, light])
    both = (abs(alone[0] - 0.2) < 1e-6) & (abs(alone[1] - 0.6) < 1e-6)  # pixels in the middle of both
    assert both.any()
    assert pasted[both].min() > 0.2
    assert pasted[both].max() < 0.6
    between = pasted[150, 190:211, 0]
    assert (np.diff(between) > 0).all()
    assert between[10] == pytest.approx(0.4, abs=1e-4)  # half way


def test_a_face_never_leaves_the_range_of_images() -> None:
    photo = np.zeros((300, 300, 3), np.float32)
    patch = cut(photo, place(0, 2.5, (150, 150)), 32)
    # Interpolation overshoots at edges.
    edges = np.where(np.arange(32)[None, :, None] % 16 < 8, 1.0, -1.0) * np.ones(
        (32, 32, 3)
    )  # interpolation overshoots
    pasted = paste(photo, [Patch(edges.astype(np.float32), patch.mask, patch.matrix)], strength=0.5)
    assert abs(pasted).max() <= 0.5 + 1e-6


@pytest.mark.parametrize('size', [51, 101])
def test_a_feathered_mask_is_a_smooth_step_over_12_percent_of_its_side(size: int) -> None:
    middle = size // 2
    way = np.arange(middle + 1) / (size - 1) / 0.12  # from the edge, in widths of the feather
    ramp = np.clip(way, 0, 1)
    assert feather_mask(size)[middle, : middle + 1] == pytest.approx(3 * ramp**2 - 2 * ramp**3, abs=1e-6)
    # In a corner, the way is that to the rounded corner.
    depth = np.clip(1 - np.hypot(1 - ramp, 1 - ramp), 0, 1)
    assert np.diag(feather_mask(size))[: middle + 1] == pytest.approx(3 * depth**2 - 2 * depth**3, abs=1e-6)


def test_the_claim_of_a_face_is_the_fourth_power_of_what_is_left_of_one_from_its_middle() -> None:
    patch = Patch(np.zeros((8, 8, 3), np.float32), np.ones((8, 8), np.float32), np.eye(2, 3))
    claim, mask = _weigh(patch, (0, 0, 8, 8))
    x, y = np.meshgrid(*[(np.arange(8) - 3.5) / 4] * 2)
    assert mask == pytest.approx(np.ones((8, 8)))
    assert claim == pytest.approx((1 - (x**2 + y**2) / 2) ** 4 + 1e-4, rel=1e-5)


@pytest.mark.parametrize(
    ('shift', 'region'),
    [
        ((0, 0), (0, 0, 11, 11)),
        ((20, 30), (17, 27, 31, 41)),
        ((90, 45), (87, 42, 100, 50)),
        ((200, 0), (197, 0, 100, 11)),
    ],
)
def test_a_region_is_the_face_with_a_margin_within_the_photograph(
    shift: tuple[int, int], region: tuple[int, int, int, int]
) -> None:
    matrix = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float64)
    patch = Patch(np.zeros((8, 8, 3), np.float32), np.ones((8, 8), np.float32), matrix)
    assert _find_region(patch, (50, 100, 3)) == region


@pytest.mark.parametrize(('scale', 'size'), [(1.0, 64), (2.0, 64), (0.5, 32), (0.26, 17), (0.001, 1)])
def test_a_face_is_as_large_as_its_place_in_the_photograph_but_never_larger(scale: float, size: int) -> None:
    matrix = np.array([[1 / scale, 0, 0], [0, 1 / scale, 0]])
    patch = _shrink(Patch(np.ones((64, 64, 3), np.float32), np.ones((64, 64), np.float32), matrix))
    assert patch.image.shape == (size, size, 3)
    assert patch.mask.shape == (size, size)
