"""Synthetic portraits and their degradation."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpen.commands import make_portraits, train
from gpen.data.degradations import build_degradation
from gpen.data.image_io import read_image, write_image
from gpen.options import parse_options
from gpen.portraits.canvas import Canvas, Pose, spline_basis
from gpen.portraits.pair import render_pair
from gpen.portraits.render import render_portrait
from gpen.preparation.pairs import measure_psnr
from gpen.utils.seeds import derive_generator

TASKS = [('train', 0), ('train', 1), ('val', 0)]


def portrait(index: int, size: int = 32) -> np.ndarray:
    return render_portrait(derive_generator(3, 'portrait', 0, index), size)


def make(output: Path, *more: str) -> int:
    arguments = ['--output', str(output), '--train', '2', '--val', '1', '--size', '32', '--workers', '0', *more]
    return make_portraits.main(arguments)


@pytest.mark.parametrize('size', [32, 64])
def test_portrait_is_a_float_image_that_uses_the_range(size: int) -> None:
    image = portrait(0, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert -1 <= image.min() < -0.5
    assert 0.3 < image.max() <= 1


def test_same_seed_gives_the_same_person_and_another_index_another() -> None:
    assert np.array_equal(portrait(0), portrait(0))
    assert measure_psnr(portrait(0), portrait(1)) < 20


def test_person_is_the_same_at_every_size() -> None:
    for index in range(12):  # among them hair and beards, whose number of strokes depends on the size
        large = portrait(index, 64).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3), dtype=np.float32)
        assert measure_psnr(large, portrait(index, 32)) > 26


def test_eyes_are_where_alignment_puts_them() -> None:
    mean = np.mean([portrait(index) for index in range(24)], axis=(0, 3))
    eyes, cheeks = mean[14:17, 9:14].mean(), mean[18:21, 9:14].mean()
    assert eyes < cheeks - 0.05


def test_pose_is_inverted_exactly_enough_to_draw_with() -> None:
    pose = Pose(roll=0.05, yaw=0.36, pitch=-0.2, scale=1.03, shift=(0.01, -0.01))
    canvas = Canvas(64, pose)
    back = pose.project(np.stack([canvas.x, canvas.y], axis=-1))
    assert np.abs(back[..., 0] - canvas.screen_x).max() < 2e-3
    assert np.abs(back[..., 1] - canvas.screen_y).max() < 2e-3


def test_curve_passes_through_its_knots() -> None:
    np.testing.assert_allclose(spline_basis(5, 9)[::2], np.eye(5), atol=1e-6)


def test_number_of_workers_changes_nothing() -> None:
    alone = list(make_portraits.render_pairs(5, 32, TASKS, 0))
    together = list(make_portraits.render_pairs(5, 32, TASKS, 2))
    assert [task for task, _ in together] == TASKS
    for (_, first), (_, second) in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_train_and_val_show_different_people() -> None:
    images = [render_pair(5, 32, task)[0] for task in TASKS]
    assert max(measure_psnr(images[0], images[2]), measure_psnr(images[1], images[2])) < 20


def test_portraits_are_written_in_pairs_by_name(tmp_path: Path) -> None:
    assert make(tmp_path / 'set') == 0
    for split, names in (('train', ['0000.png', '0001.png']), ('val', ['0000.png'])):
        for kind in ('sharp', 'blurry'):
            assert sorted(path.name for path in (tmp_path / 'set' / split / kind).iterdir()) == names
    sharp = read_image(tmp_path / 'set' / 'train' / 'sharp' / '0001.png')
    assert np.abs(sharp - render_pair(10, 32, ('train', 1))[0]).max() < 1 / 127


def test_the_printed_command_trains_on_the_portraits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make(Path('my set #1, ü')) == 0
    python, script, *words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (Path(python).name, Path(script).name) == ('python', 'train.py')
    args = train.parse_arguments(words)
    options = parse_options(args.opt, args.force_yml).options  # the folders are looked at
    assert (options.name, options.network_g.arguments['size'], args.auto_resume) == ('my_set_1_ü', 32, True)
    assert options.datasets.val.arguments['dataroot_lq'] == str(tmp_path / 'my set #1, ü' / 'val' / 'blurry')


def test_finished_set_is_not_rendered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path / 'set') == 0
    monkeypatch.setattr(make_portraits, 'render_pairs', None)
    assert make(tmp_path / 'set') == 0
    assert 'already there' in capsys.readouterr().out


def test_set_that_lacks_a_file_or_its_mark_is_rendered_again(tmp_path: Path) -> None:
    assert make(tmp_path / 'set') == 0
    lost = tmp_path / 'set' / 'val' / 'blurry' / '0000.png'
    content = lost.read_bytes()
    for missing in (lost, tmp_path / 'set' / make_portraits.MANIFEST):
        missing.unlink()
        assert make(tmp_path / 'set') == 0
        assert missing.is_file()
        assert lost.read_bytes() == content


def test_portraits_do_not_mix_with_other_settings_or_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path / 'set') == 0
    assert make(tmp_path / 'set', '--seed', '11') == 2
    assert f'other settings. Choose another --output, such as {tmp_path / "set_2"}.' in capsys.readouterr().err
    other = tmp_path / 'other' / 'train' / 'sharp' / 'mine.png'
    write_image(other, portrait(0))
    assert make(tmp_path / 'other') == 2
    assert 'mine.png' in capsys.readouterr().err
    assert other.is_file()


@pytest.mark.parametrize('wrong', [['--size', '8'], ['--train', 'many'], ['--workers', '-1'], []])
def test_wrong_arguments_end_with_status_2(wrong: list[str]) -> None:
    arguments = ['--output', 'nowhere', *wrong] if wrong else []
    with pytest.raises(SystemExit) as stopped:
        make_portraits.main(arguments)
    assert stopped.value.code == 2


def test_help_needs_no_heavy_import() -> None:
    code = (
        'import sys\nfrom gpen.commands import make_portraits\n'
        'try: make_portraits.main(["--help"])\n'
        'except SystemExit: print("torch" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert '--output' in done.stdout
    assert done.stdout.endswith('False\n')


def test_blurry_is_worse_but_close() -> None:
    degrade = build_degradation({'type': 'simple'})
    values = []
    for index in range(24):
        sharp = portrait(index, 64)
        blurry = degrade(sharp, derive_generator(3, 'degrade', 0, index))
        assert blurry.shape == sharp.shape
        assert blurry.dtype == np.float32
        assert np.abs(blurry).max() <= 1
        values.append(measure_psnr(blurry, sharp))
    assert 22 < np.mean(values) < 24.5
    assert 18 < min(values) <= max(values) < 30


def test_psnr_knows_equal_and_opposite() -> None:
    white = np.ones((4, 4, 3), np.float32)
    assert measure_psnr(white, -white) == pytest.approx(0)
    assert measure_psnr(white, white) >= 100
