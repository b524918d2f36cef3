"""Whole photographs: every face is restored and put back, and the rest stays as it was."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import SHARED
from gpen.data.image_io import read_picture, to_uint8, write_image
from gpen.errors import UserError
from gpen.faces.detection import build_detector
from gpen.restoration.background import Enlarger
from gpen.restoration.base import Restorer
from gpen.restoration.folder import Outcome, plan_targets, restore_faces, restore_photographs
from gpen.restoration.photograph import PhotographRestorer, is_grey
from photographs import DotDetector, draw_photo, save

SIZE = 64
RED = (1.0, -1.0, -1.0)


def paint(lq: Tensor) -> Tensor:
    """Stand in for a network that makes every face red."""
    return torch.tensor(RED).view(1, 3, 1, 1).expand(len(lq), 3, SIZE, SIZE)


def build(run: Callable[[Tensor], Tensor] = paint, in_size: int = SIZE, **settings: object) -> PhotographRestorer:
    detector = DotDetector(20, None)
    settings = {'keep_detail': False, **settings}  # so that all pixels are the network's
    return PhotographRestorer(Restorer(run, SIZE, in_size, 'a stand-in'), detector, **settings)  # type: ignore[arg-type]


def photo(seed: int = 0, **settings: int) -> np.ndarray:
    return draw_photo(seed, **settings).astype(np.float32) / 127.5 - 1


def is_red(image: np.ndarray, x: float, y: float) -> bool:
    return bool(np.allclose(image[round(y), round(x)], RED, atol=0.02))


def test_every_face_is_restored_and_the_rest_stays_to_the_bit() -> None:
    picture = photo(faces=3, width=600)
    (result,) = build().restore([picture])
    image = result.compose()
    assert len(result.faces) == 3
    assert all(is_red(image, x, 80) for x in (100, 300, 500))
    rows, columns = np.mgrid[:160, :600]
    outside = np.ones((160, 600), bool)
    for face in result.faces:
        x, y = (row[0] * columns + row[1] * rows + row[2] for row in face.matrix)
        outside &= (np.minimum(x, y) < -4) | (np.maximum(x, y) > SIZE + 3)
    assert outside.mean() > 0.1
    assert np.array_equal(image[outside], picture[outside])


def test_faces_of_several_photographs_share_batches() -> None:
    sizes = []

    def run(lq: Tensor) -> Tensor:
        sizes.append(len(lq))
        return lq

    results = build(run, batch_size=4).restore([photo(1, faces=3, width=600), photo(2), photo(3, faces=2, width=400)])
    assert sizes == [4, 2]
    assert [len(result.faces) for result in results] == [3, 1, 2]


def test_only_the_face_nearest_to_the_middle_is_restored_where_that_is_asked_for() -> None:
    (result,) = build(only_center=True).restore([photo(faces=3, width=600)])
    image = result.compose()
    assert [is_red(image, x, 80) for x in (100, 300, 500)] == [False, True, False]


def test_grey_photographs_stay_grey_unless_colours_are_asked_for() -> None:
    picture = np.repeat(photo()[..., :1], 3, axis=2)
    kept, coloured = (build(keep_grey=keep).restore([picture])[0].compose() for keep in (True, False))
    assert np.array_equal(to_uint8(kept)[..., 0], to_uint8(kept)[..., 2])
    assert is_red(coloured, 100, 80)
    # Luma of red: 0.299 of the way from black to white.
    assert kept[80, 100] == pytest.approx([2 * 0.299 - 1] * 3, abs=0.02)
    assert not is_grey(photo())


@pytest.mark.parametrize('keep', [True, False])
def test_a_grey_background_stays_grey_though_a_network_enlarges_it(keep: bool) -> None:
    enlarger = Enlarger(1, lambda seen: seen * np.array([1, 0.5, 0.5], np.float32))
    (result,) = build(keep_grey=keep, enlarger=enlarger).restore([np.repeat(photo()[..., :1], 3, axis=2)])
    assert is_grey(result.background) == keep


def test_an_enlarged_photograph_has_its_faces_at_the_same_place() -> None:
    picture = photo()
    small, large = (build(enlarger=Enlarger(scale)).restore([picture])[0].compose() for scale in (1, 3))
    assert large.shape == (480, 600, 3)
    expected = cv2.resize(small, (600, 480), interpolation=cv2.INTER_LINEAR)
    assert abs(large - expected).mean() < 0.02
    assert is_red(large, 301, 241)


def test_a_network_that_enlarges_gets_smaller_faces_and_its_larger_ones_are_put_back() -> None:
    def run(lq: Tensor) -> Tensor:
        assert lq.shape[-1] == 16
        return torch.nn.functional.interpolate(lq, size=SIZE, mode='bicubic')

    picture = photo()
    (result,) = build(run, in_size=16).restore([picture])
    assert result.faces[0].before.shape == result.faces[0].after.shape == (SIZE, SIZE, 3)
    middle = np.s_[40:120, 60:140]
    blurred = cv2.GaussianBlur(picture, (0, 0), 3)
    assert abs(result.compose() - picture)[middle].max() > 0.2  # it was blurred by the small input ...
    assert abs(result.compose() - blurred)[middle].mean() < 0.1  # ... but it is the same face in the same place


def test_values_that_are_no_numbers_are_an_error_that_says_what_to_try() -> None:
    with pytest.raises(UserError, match='--precision fp32 or bf16'):
        build(lambda lq: lq * torch.nan).restore([photo()])


def run_folder(folder: Path, restorer: PhotographRestorer, output: Path, **settings: object) -> Outcome:
    suffix = str(settings.pop('suffix', '.png'))
    return restore_photographs(restorer, plan_targets(folder, output, suffix), **settings)  # type: ignore[arg-type]


def test_a_folder_of_all_kinds_of_photographs(tmp_path: Path) -> None:
    source, output = tmp_path / 'photos', tmp_path / 'restored'
    save(
        source / 'turned.jpg',
        draw_photo(1, width=240),
        exif=b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0',
        quality=95,
    )
    write_image(source / 'deep.png', photo(2) * np.float32(0.9), bits=16)
    save(source / 'grey.png', draw_photo(3)[..., 0])
    save(source / 'sub' / 'two.png', draw_photo(4, faces=2, width=400))
    (source / 'broken.png').write_bytes((source / 'grey.png').read_bytes()[:200])
    report = run_folder(source, build(), output)
    assert (report.restored, report.faces, report.faceless) == (4, 5, {})
    assert len(report.failures) == 1
    assert 'broken.png cannot be used: it is cut off' in report.failures[0]
    assert read_picture(output / 'turned.png').image.shape == (240, 160, 3)
    deep = read_picture(output / 'deep.png')
    assert deep.bits == 16
    original = read_picture(source / 'deep.png').image
    assert np.array_equal(deep.image[:, :5], original[:, :5])
    assert (np.unique(to_uint8(original)).size) < np.unique(original).size  # there is more than 8 bits can hold
    assert is_grey(read_picture(output / 'grey.png').image)
    assert is_red(read_picture(output / 'sub' / 'two.png').image, 100, 80)


@pytest.mark.parametrize(('suffix', 'name'), [('.jpg', 'empty.jpg'), ('.png', 'empty.png')])
def test_a_photograph_without_a_face_is_copied(tmp_path: Path, suffix: str, name: str) -> None:
    save(tmp_path / 'photos' / 'empty.jpg', draw_photo(1, faces=0), quality=80)
    report = run_folder(tmp_path / 'photos', build(), tmp_path / 'out', suffix=suffix)
    assert (report.restored, list(report.faceless)) == (0, [tmp_path / 'photos' / 'empty.jpg'])
    original, copy = tmp_path / 'photos' / 'empty.jpg', tmp_path / 'out' / name
    assert np.array_equal(read_picture(copy).image, read_picture(original).image)
    assert (copy.read_bytes() == original.read_bytes()) == (suffix == '.jpg')


def test_a_photograph_without_a_face_is_enlarged_all_the_same(tmp_path: Path) -> None:
    save(tmp_path / 'photos' / 'empty.png', draw_photo(1, faces=0))
    run_folder(tmp_path / 'photos', build(enlarger=Enlarger(2)), tmp_path / 'out')
    assert read_picture(tmp_path / 'out' / 'empty.png').image.shape == (320, 400, 3)


def test_too_many_pixels_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    save(tmp_path / 'photos' / 'small.png', draw_photo(1))
    save(tmp_path / 'photos' / 'wide.png', draw_photo(2, width=400))
    report = run_folder(tmp_path / 'photos', build(), tmp_path / 'out', max_pixels=40_000)
    assert report.restored == 1
    assert '400 x 160; at most 40,000' in report.failures[0]
    report = run_folder(tmp_path / 'photos', build(enlarger=Enlarger(2)), tmp_path / 'out2', max_pixels=40_000)
    assert report.restored == 0  # the results would have too many


def test_each_face_is_written_before_and_after(tmp_path: Path) -> None:
    save(tmp_path / 'photos' / 'two.png', draw_photo(4, faces=2, width=400))
    run_folder(tmp_path / 'photos', build(), tmp_path / 'out', save_faces=True)
    folder = tmp_path / 'out' / 'two_faces'
    assert sorted(path.name for path in folder.iterdir()) == [
        '0_after.png',
        '0_before.png',
        '1_after.png',
        '1_before.png',
    ]
    assert is_red(read_picture(folder / '1_after.png').image, 32, 32)
    assert read_picture(folder / '1_before.png').image[32, 32].mean() < 0  # the dark disc


def test_strength_blends_aligned_faces_too(tmp_path: Path) -> None:
    save(tmp_path / 'faces' / 'a.png', draw_photo(5, width=160))
    restorer = Restorer(paint, SIZE, SIZE, 'a stand-in')
    images = {}
    for strength in (0.0, 0.5, 1.0):
        output = tmp_path / f'out{strength}'
        restore_faces(restorer, plan_targets(tmp_path / 'faces', output), 4, strength)
        images[strength] = read_picture(output / 'a.png').image
    assert images[1.0][10, 10] == pytest.approx(RED)
    assert images[0.5] == pytest.approx((images[0.0] + images[1.0]) / 2, abs=0.01)


@pytest.mark.skipif(not (SHARED / 'data' / 'photos').is_dir(), reason='needs the photographs of ../shared/data')
def test_real_photographs_keep_their_size_and_their_colours_outside_the_masks(tmp_path: Path) -> None:
    source = SHARED / 'data' / 'photos'
    detector = build_detector('yunet', SHARED / 'data' / 'models')
    restorer = PhotographRestorer(Restorer(lambda lq: -lq, 128, 128, 'a stand-in'), detector)
    report = restore_photographs(restorer, plan_targets(source, tmp_path))
    assert (report.restored, report.faces) == (7, 7)
    for path in sorted(source.glob('*.jpg'))[::3]:
        before, after = read_picture(path).image, read_picture(tmp_path / f'{path.stem}.png').image
        assert after.shape == before.shape
        face = detector.detect(before)[0]
        left, top, right, bottom = (round(value) for value in face.box)
        changed = (after != before).any(axis=2)
        assert changed[max(0, top) : bottom, max(0, left) : right].mean() > 0.95  # a negative of the face is there
        quad = cv2.boxPoints(cv2.minAreaRect(ffhq(face.landmarks)))
        inside = cv2.fillConvexPoly(np.zeros(changed.shape, np.uint8), quad.astype(np.int32), 1)
        assert not changed[cv2.dilate(inside, np.ones((9, 9), np.uint8)) == 0].any()


def ffhq(landmarks: np.ndarray) -> np.ndarray:
    from gpen.faces.alignment import ffhq_quad

    return ffhq_quad(landmarks).astype(np.float32)
