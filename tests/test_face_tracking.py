"""Faces that are followed through a film."""

import numpy as np
import pytest

from gpen.faces.face import Face
from gpen.faces.tracking import Look, choose_central, follow, smooth_points

SECONDS = [number / 25 for number in range(50)]
POINTS = np.array([[-20, -15], [20, -15], [0, 5], [-15, 25], [15, 25]], np.float32)


def make_face(x: float, y: float = 100.0, size: float = 1.0) -> Face:
    points = POINTS * size + np.array([x, y], np.float32)
    return Face((x - 50 * size, y - 50 * size, x + 50 * size, y + 50 * size), points, 0.9)


def test_a_resting_face_rests_and_a_moving_one_has_no_lag() -> None:
    random = np.random.default_rng(0)
    seconds = np.array(SECONDS)
    still = np.repeat(POINTS[None], 50, axis=0).astype(np.float64)
    moving = still + np.stack([200 * seconds, 30 * np.sin(3 * seconds)], axis=1)[:, None]
    noise = random.normal(0, 0.2, still.shape)
    faces = [Face((0, 0, 100, 100), points, 0.9) for points in (still + noise).astype(np.float32)]
    ((track,), _) = follow([Look(number, [face]) for number, face in enumerate(faces)], SECONDS)
    smooth = np.stack([face.landmarks for face in track.faces.values()])
    assert np.diff(smooth, axis=0).std() < 0.1 * np.diff(still + noise, axis=0).std()
    assert np.abs(smooth - still).mean() < 0.5 * np.abs(noise).mean()
    inner = np.s_[5:-5]
    assert np.abs(smooth_points(moving + noise, seconds) - moving)[inner].mean() < 1.2 * np.abs(noise).mean()


def test_two_faces_that_pass_each_other_keep_their_tracks() -> None:
    faces = [[make_face(100 + 8 * n, 80), make_face(500 - 8 * n, 220)] for n in range(50)]
    looks = [Look(n, pair[:: 1 if n % 2 else -1]) for n, pair in enumerate(faces)]
    tracks, fleeting = follow(looks, SECONDS)
    assert (len(tracks), fleeting) == (2, 0)
    for track in tracks:
        heights = {round(float(face.landmarks.mean(axis=0)[1])) for face in track.faces.values()}
        assert (len(track.faces), len(heights)) == (50, 1)


def test_frames_between_looks_and_short_absences_are_filled() -> None:
    looks = [Look(n, [] if n == 20 else [make_face(100 + 2 * n)]) for n in range(0, 50, 5)]
    ((track,), _) = follow(looks, SECONDS)
    assert list(track.faces) == list(range(46))
    for number, face in track.faces.items():
        assert face.landmarks.mean(axis=0)[0] == pytest.approx(100 + 2 * number, abs=8)
        assert face.box[0] == pytest.approx(50 + 2 * number)


def test_a_face_that_is_away_for_long_or_another_scene_is_a_new_track() -> None:
    away = [Look(n, [] if 10 <= n < 30 else [make_face(100)]) for n in range(50)]
    assert [list(track.faces)[:: len(track.faces) - 1] for track in follow(away, SECONDS)[0]] == [[0, 9], [30, 49]]
    cut = [Look(n, [make_face(100)], is_cut=n == 20) for n in range(50)]
    assert [len(track.faces) for track in follow(cut, SECONDS)[0]] == [20, 30]


def test_what_is_seen_once_is_no_face_but_counted() -> None:
    looks = [Look(n, [make_face(100), *([make_face(400)] if n == 7 else [])]) for n in range(50)]
    tracks, fleeting = follow(looks, SECONDS)
    assert ([len(track.faces) for track in tracks], fleeting) == ([50], 1)
    assert len(follow(looks[7:8], SECONDS)[0]) == 2  # a film of one frame


def test_the_face_in_the_middle_is_kept_until_it_is_gone() -> None:
    looks = [Look(n, [*([make_face(100 + 2 * n)] if n < 40 else []), make_face(260)]) for n in range(50)]
    tracks, _ = follow(looks, SECONDS)
    parts = choose_central(tracks, 201, 201)
    assert [list(part.faces)[:: len(part.faces) - 1] for part in parts] == [[0, 39], [40, 49]]
