"""What becomes of each photograph of a folder, and what results keep of it: colours, transparency, detail."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gpen.commands import restore as command
from gpen.data.image_io import read_picture
from gpen.errors import UserError
from gpen.faces.face import Face
from gpen.restoration import folder as folders
from gpen.restoration.background import Enlarger
from gpen.restoration.base import Restorer
from gpen.restoration.folder import Outcome, plan_targets, restore_faces, restore_photographs
from gpen.restoration.photograph import PhotographRestorer
from photograph_files import make_profile
from photographs import DotDetector, draw_photo, save

SIZE = 64
GREEN = (-1.0, 0.5, -1.0)


def paint(lq: Tensor) -> Tensor:
    """Stand in for a network that makes every face green."""
    return torch.tensor(GREEN).view(1, 3, 1, 1).expand(len(lq), 3, SIZE, SIZE)


def build(run: Callable[[Tensor], Tensor] = paint, **settings: object) -> PhotographRestorer:
    return PhotographRestorer(Restorer(run, SIZE, SIZE, 'a stand-in'), DotDetector(20, None), **settings)  # type: ignore[arg-type]


def restore(source: Path, output: Path, suffix: str = '.png', restorer: PhotographRestorer | None = None) -> Outcome:
    return restore_photographs(restorer or build(), plan_targets(source, output, suffix))


@pytest.mark.parametrize('faces', [0, 1])
@pytest.mark.parametrize('scale', [1, 2])
@pytest.mark.parametrize('suffix', ['.png', '.webp', '.tif', '.jpg'])
def test_transparency_and_resolution_are_kept_with_and_without_a_face(
    suffix: str, scale: int, faces: int, tmp_path: Path
) -> None:
    alpha = np.tile(np.linspace(40, 250, 200).astype(np.uint8), (160, 1))
    for name in ('a.png', 'b.tif'):  # one of them is copied where it has no face
        save(tmp_path / 'in' / name, np.dstack([draw_photo(1, faces), alpha]), dpi=(300, 300))
    outcome = restore(tmp_path / 'in', tmp_path / 'out', suffix, build(enlarger=Enlarger(scale)))
    assert (outcome.restored, outcome.failures) == (2 * faces, [])
    for name in ('a', 'b'):
        result = read_picture(tmp_path / 'out' / f'{name}{suffix}')
        assert result.metadata.dpi == pytest.approx((300, 300), abs=0.1)
        if suffix == '.jpg':
            assert {path.name for path in outcome.losses['transparency']} == {'a.png', 'b.tif'}
        else:
            assert result.alpha is not None
            expected = cv2.resize(alpha, (200 * scale, 160 * scale), interpolation=cv2.INTER_CUBIC)
            assert np.abs(result.alpha * 255 - expected).max() < 3


@pytest.mark.parametrize('aligned', [False, True])
def test_faces_have_the_right_colours_in_a_photograph_with_colours_of_its_own(aligned: bool, tmp_path: Path) -> None:
    save(tmp_path / 'in' / 'a.png', draw_photo(1, width=600), icc_profile=make_profile('grb'))  # first channel: green
    targets = plan_targets(tmp_path / 'in', tmp_path / 'out')
    if aligned:
        restore_faces(Restorer(paint, SIZE, SIZE, 'a stand-in'), targets, 1)
    else:
        restore_photographs(build(keep_detail=False), targets)
    with Image.open(tmp_path / 'out' / 'a.png') as image:
        assert image.info['icc_profile'] == make_profile('grb')
        red, green, _ = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    assert red > 150
    assert green < 60
    picture = read_picture(tmp_path / 'out' / 'a.png')
    middle = picture.space.to_srgb(picture.image)[picture.image.shape[0] // 2, picture.image.shape[1] // 2]
    assert middle == pytest.approx(GREEN, abs=0.1)
    if not aligned:  # and the rest is the same to the bit
        assert (picture.image[:, :40] == read_picture(tmp_path / 'in' / 'a.png').image[:, :40]).all()


@pytest.mark.parametrize('problem', ['too wide', 'long name', 'a folder', 'no face can be looked for'])
def test_a_photograph_that_cannot_be_written_or_restored_stops_no_other(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / 'in', tmp_path / 'out'
    for name in ('a', 'c'):
        save(source / f'{name}.png', draw_photo(1))
    bad = 'b' * 251 if problem == 'long name' else 'b'
    save(source / f'{bad}.png', np.zeros((2, 17_000, 3), np.uint8) if problem == 'too wide' else draw_photo(2))
    if problem == 'a folder':
        (output / 'b.webp').mkdir(parents=True)
    if problem == 'no face can be looked for':
        detect = DotDetector.detect
        expected = read_picture(source / 'b.png').image

        def fail(self: DotDetector, image: np.ndarray) -> list[Face]:
            if np.array_equal(image, expected):
                raise cv2.error('OpenCV cannot')
            return detect(self, image)

        monkeypatch.setattr(DotDetector, 'detect', fail)
    outcome = restore(source, output, '.webp')
    assert (outcome.restored, outcome.stopped) == (2, None)
    assert [str(source / bad) in failure for failure in outcome.failures] == [True]
    assert sorted(path.name for path in output.iterdir() if path.is_file()) == ['a.webp', 'c.webp']


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_ends_the_work_with_what_is_done_and_what_is_not(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(12):
        save(tmp_path / 'in' / f'{index:02d}.png', draw_photo(index))
    real = folders.write_image

    def write(path: Path, *rest: object) -> None:
        if path.name == '05.png':
            raise UserError(f'Cannot write {path}: {os.strerror(number)}.') from OSError(number, os.strerror(number))
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(folders, 'write_image', write)
    outcome = restore(tmp_path / 'in', tmp_path / 'out')
    assert os.strerror(number) in str(outcome.stopped)
    assert outcome.restored < 12
    args = command.parse_arguments(['--model', 'm', '--input', str(tmp_path / 'in'), '--output', str(tmp_path / 'out')])
    assert command._tell(args, outcome, 12, 0, SIZE) == 2
    printed = capsys.readouterr().err
    assert f'{12 - outcome.restored} images not done; run the command again with --skip_existing' in printed


def test_detail_that_the_network_cannot_add_is_the_photographs_own(tmp_path: Path) -> None:
    picture = draw_photo(1, height=800, width=900, radius=300)
    texture = np.random.default_rng(0).integers(-12, 13, picture.shape)
    save(tmp_path / 'in' / 'large.png', (picture.astype(int) + texture).clip(0, 255).astype(np.uint8))
    save(tmp_path / 'in' / 'small.png', draw_photo(2, radius=24))
    before = read_picture(tmp_path / 'in' / 'large.png').image
    middle = np.s_[250:550, 300:600]
    left = {}
    for keep in (True, False):
        restorer = build(lambda lq: lq, keep_detail=keep)  # the best that a network of 64 pixels can do
        outcome = restore(tmp_path / 'in', tmp_path / str(keep), restorer=restorer)
        assert [path.name for path in outcome.large] == ['large.png']
        assert outcome.large[tmp_path / 'in' / 'large.png'] > 2 * SIZE
        after = read_picture(tmp_path / str(keep) / 'large.png').image
        left[keep] = np.abs(after - before)[middle].max()
    assert left[True] < 0.01
    assert left[False] > 0.2


def test_what_a_network_changes_is_changed_in_large_faces_too(tmp_path: Path) -> None:
    save(tmp_path / 'in' / 'large.png', draw_photo(1, height=800, width=900, radius=300))
    restore(tmp_path / 'in', tmp_path / 'out', restorer=build(lambda lq: (lq + 0.5).clamp(-1, 1)))
    before, after = (read_picture(tmp_path / name / 'large.png').image for name in ('in', 'out'))
    assert np.median((after - before)[350:450, 400:500]) == pytest.approx(0.5, abs=0.02)


def test_the_command_says_what_was_done_with_photographs_without_a_face_and_with_large_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ['--model', 'm', '--input', 'in', '--output', 'out']
    outcome = Outcome(
        restored=1,
        faces=2,
        faceless={Path('a.png'): 'copied as it is', Path('b.png'): 'only enlarged 2 times'},
        losses={'transparency': [Path('c\udcff.png')]},
        large={Path('d.png'): 440.0},
    )
    texts = {}
    for more in ([], ['--large_faces', 'replace'], ['--aligned']):
        assert command._tell(command.parse_arguments([*words, *more]), outcome, 4, 0, 64) == 0
        texts[' '.join(more)] = capsys.readouterr().out.encode().decode()
    for text in texts.values():
        assert 'No face was found in 1 photograph, copied as it is: a.png' in text
        assert 'No face was found in 1 photograph, only enlarged 2 times: b.png' in text
        assert 'Not kept in .png: transparency (1 image: c\\udcff.png)' in text
        assert 'faces of 64 pixels, far smaller than those in 1 image with faces of up to 440 pixels' in text
    assert "finer than 64 pixels is the photograph's own" in texts['']
    assert 'such faces have less detail now' in texts['--large_faces replace']
    assert 'results have 64 pixels' in texts['--aligned']


def test_photographs_in_a_folder_of_results_are_photographs(tmp_path: Path) -> None:
    save(tmp_path / 'new' / 'a.png', draw_photo(1))
    outcome = restore(tmp_path / 'new', tmp_path)
    assert (outcome.restored, (tmp_path / 'a.png').is_file()) == (1, True)


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / 'in.png', draw_photo(1))
    (tmp_path / 'file').write_bytes(b'mine')
    for output in ('/dev/null', tmp_path / 'file', tmp_path / 'file' / 'below', tmp_path / ('x' * 300)):
        words = ['--model', str(tmp_path / 'none.pth'), '--input', str(tmp_path / 'in.png'), '--output', str(output)]
        assert command.main(words) == 2
        printed = capsys.readouterr()
        expected = f'{output} is a file, and' if output == tmp_path / 'file' else f'Cannot write {output}: '
        assert f'Error: {expected}' in printed.err
        assert printed.out == ''
    assert (tmp_path / 'file').read_bytes() == b'mine'


@pytest.mark.parametrize(
    ('failed', 'restored', 'skipped', 'expected'),
    [(0, 2, 0, 0), (1, 2, 0, 1), (1, 0, 2, 1), (3, 0, 0, 2)],
    ids=['all well', 'some failed', 'some failed beside earlier results', 'all failed'],
)
def test_the_exit_status_tells_a_script_whether_photographs_failed(
    failed: int, restored: int, skipped: int, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    args = command.parse_arguments(['--model', 'm', '--input', 'in', '--output', 'out'])
    outcome = Outcome(restored=restored, faces=restored, failures=['x.png is damaged'] * failed)
    assert command._tell(args, outcome, failed + restored, skipped, SIZE) == expected
    assert (f'Error: {failed} of ' in capsys.readouterr().err) == bool(failed)


def test_a_folder_of_nothing_that_is_read_says_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'sound.mp3').touch()
    words = ['--model', 'm', '--input', str(tmp_path / 'in'), '--output', str(tmp_path / 'out')]
    assert command.main(words) == 2
    assert 'of kinds that are not read (1 .mp3): sound.mp3' in capsys.readouterr().err
