"""The benchmark measures ours and BasicSR's side of the same work, and PyTorch beside ONNX Runtime."""

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import benchmark
import processes
from benchmarks import data, restore
from benchmarks.plain_degradations import Plain, find_plain
from benchmarks.tables import Cost, Row, format_speeds
from conftest import write_pairs
from gpen.archs.gpen import GPEN
from gpen.data.degradations import build_degradation
from gpen.data.image_io import read_image
from gpen.options.components import check_degradations

RECIPES = list(data.RECIPES)
OURS_ALONE = ('gpen (paper)', 'grayscale', 'mask')
COMPARED = [name for name in RECIPES if name not in OURS_ALONE]
TINY = ('--quick', '--sizes', '32', '--draws', '2', '--repeats', '1')

needs_basicsr = pytest.mark.skipif(importlib.util.find_spec('basicsr') is None, reason='basicsr is not installed')


@pytest.fixture
def _threads() -> Iterator[None]:
    """Undo what the benchmark does to OpenCV."""
    threads = cv2.getNumThreads()
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope='module')
def plain() -> Plain:
    """BasicSR's side."""
    found = find_plain()
    assert found is not None
    return found


@pytest.fixture(scope='module')
def face() -> bytes:
    """A PNG file of a portrait, 96 x 96."""
    return data.load_faces(None, 1, {96}, seed=1)[96][0]


def seed_globals(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)


def mean_of(images: list[np.ndarray], measure: Callable[[np.ndarray], float]) -> float:
    return float(np.mean([measure(image) for image in images]))


def detail(image: np.ndarray) -> float:
    """How much neighbouring pixels differ."""
    return float(np.abs(cv2.Laplacian(image, -1)).mean())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of two images in [0, 1]."""
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.usefixtures('_threads')
def test_a_quick_run_prints_every_row_and_writes_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, 3, size=24)
    target = tmp_path / 'numbers.json'
    files = ['--input', str(tmp_path / 'sharp'), '--images', '2', '--json', str(target)]
    assert benchmark.main(['data', *TINY, *files]) == 0
    lines = {line.split('|')[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith('|')}
    expected = {'decoding', *RECIPES, *(f'{name} + decoding' for name in RECIPES)}
    assert expected <= lines
    numbers = json.loads(target.read_text())
    assert {row['name'] for row in numbers['recipes']} == expected
    assert all(row['ours']['mean'] > 0 for row in numbers['recipes'] + numbers['steps'])
    assert numbers['settings']['images'] == 2
    assert numbers['machine']['numpy'] == np.__version__


@pytest.mark.usefixtures('_threads')
def test_without_basicsr_ours_alone_is_measured_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, 'find_plain', lambda: None)
    assert benchmark.main(['data', *TINY, '--recipes', 'gfpgan']) == 0
    printed = capsys.readouterr().out
    assert 'basicsr is not installed' in printed
    row = next(line for line in printed.splitlines() if line.startswith('| gfpgan '))
    assert row.split('|')[3].strip() == row.split('|')[4].strip() == '-'
    assert float(row.split('|')[2]) > 0


def test_help_comes_without_torch() -> None:
    code = 'import sys, benchmark, atexit; atexit.register(lambda: print("torch" in sys.modules)); benchmark.main()'
    command = [sys.executable, '-c', code, 'data', '--help']
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '--quick' in printed
    assert printed.endswith('False\n')


def test_an_unknown_recipe_or_an_empty_folder_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(['data', *TINY, '--recipes', 'gfpgun']) == 2
    assert 'Choose among gfpgan, ' in capsys.readouterr().err
    assert benchmark.main(['data', *TINY, '--input', str(tmp_path)]) == 2
    assert 'There are no images' in capsys.readouterr().err


def test_the_ratio_says_how_many_times_faster_ours_is() -> None:
    slow, fast = Cost.of(np.full((3, 4), 0.030)), Cost.of(np.full((3, 4), 0.010))
    row = Row('gfpgan', 512, ours=fast, plain=slow)
    assert row.ratio() == pytest.approx((3, 0))
    cells = format_speeds([row]).splitlines()[-1].split('|')
    assert [cell.strip() for cell in cells[1:-1]] == ['gfpgan', '100', '33.3', '3.00 ±0.00']


def test_a_disturbed_repeat_does_not_count() -> None:
    times = np.full((3, 4), 0.010)
    times[1] = 5
    assert Cost.of(times).mean == pytest.approx(0.010)


def test_the_error_of_the_ratio_shrinks_with_more_draws() -> None:
    costs = [Cost.of(np.tile([0.01, 0.03], (3, count))) for count in (5, 500)]
    few, many = (Row('gpen', 64, cost, cost).ratio() for cost in costs)
    assert few is not None
    assert many is not None
    assert few[0] == many[0] == 1
    assert 5 < few[1] / many[1] < 15


@pytest.mark.parametrize('options', [*data.RECIPES.values(), *data.STEPS.values()], ids=[*data.RECIPES, *data.STEPS])
def test_what_is_measured_is_what_an_option_file_could_say(options: dict) -> None:
    assert check_degradations(options, ('degradation',)) == []


@needs_basicsr
def test_the_plain_recipes_are_all_of_ours_that_basicsr_has_functions_for(plain: Plain) -> None:
    assert set(plain.recipes) == set(COMPARED)
    assert set(plain.steps) == set(data.STEPS)


@needs_basicsr
@pytest.mark.parametrize('name', COMPARED)
def test_plain_recipes_keep_size_and_range(name: str, plain: Plain, face: bytes) -> None:
    image = plain.decode(face)[:80]
    for seed in range(12):
        seed_globals(seed)
        result = plain.recipes[name](image)
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert 0 <= result.min() <= result.max() <= 1
        assert psnr(image, result) < 60


@needs_basicsr
@pytest.mark.parametrize('name', COMPARED)
def test_ours_and_plain_do_the_same_harm_on_average(name: str, plain: Plain, face: bytes) -> None:
    """Half or twice the blur moves the PSNR by 1 dB; other noise, factors or quality, what is left of fine detail."""
    bgr, rgb = plain.decode(face), read_image(face)
    degrade = build_degradation(data.RECIPES[name])
    seed_globals(0)
    theirs = [plain.recipes[name](bgr) for _ in range(200)]
    ours = [(degrade(rgb, np.random.default_rng(seed)) + 1) / 2 for seed in range(200)]
    unit = (rgb + 1) / 2
    assert mean_of(ours, lambda image: psnr(unit, image)) == pytest.approx(
        mean_of(theirs, lambda image: psnr(bgr, image)), abs=0.8
    )
    assert mean_of(ours, detail) == pytest.approx(mean_of(theirs, detail), rel=0.4)


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the process of the published code from one that has imported everything."""
    monkeypatch.setattr(restore, 'get_context', lambda _: processes.CONTEXT)


@pytest.mark.usefixtures('_forked')
def test_restoring_is_timed_with_pytorch_and_onnx_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(package, reason=f'{package} is not installed')
    target = tmp_path / 'numbers.json'
    tiny = ['--size', '8', '--narrow', '0.02', '--batch_sizes', '1', '3', '--rounds', '2']
    assert benchmark.main(['restore', *tiny, '--json', str(target)]) == 0
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in printed.splitlines() if line.startswith('|')]
    assert lines[0] == ['seconds per face', 'batch 1', 'times as fast', 'batch 3', 'times as fast']
    assert [line[0] for line in lines[2:]] == [restore.PLAIN, restore.OURS, 'PyTorch, bf16', 'ONNX Runtime, fp32']
    assert lines[2][2] == lines[2][4] == '1.00'
    assert 'GPEN 8 x 8' in printed
    numbers = json.loads(target.read_text())
    assert {(row['backend'], row['batch_size']) for row in numbers['times']} == {
        (line[0], batch) for line in lines[2:] for batch in (1, 3)
    }
    assert all(len(row['seconds']) == 2 and min(row['seconds']) > 0 for row in numbers['times'])


@pytest.mark.usefixtures('_forked')
def test_what_restoring_is_timed_beside_gives_the_same_image(tmp_path: Path) -> None:
    network = GPEN(16, style_dim=8, n_mlp=2, narrow=0.02)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    faces = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.save(network.state_dict(), tmp_path / 'model.pth')
    with ExitStack() as stack:
        same_size = {'size': 16, 'in_size': 16, 'isconcat': True}
        plain = restore.find_plain(tmp_path / 'model.pth', same_size, stack)[restore.PLAIN]
        torch.testing.assert_close(plain.run(faces), network(faces), rtol=1e-4, atol=1e-4)
        assert restore.find_plain(tmp_path / 'model.pth', {**same_size, 'size': 32}, stack) == {}


def test_the_table_of_restoring_shows_medians_and_how_many_times_faster_they_are() -> None:
    times = {(restore.PLAIN, 1): [2.0, 2.0, 9.0], ('ONNX Runtime, fp32', 1): [1.0, 9.0, 1.0]}
    cells = restore.format_times(times).splitlines()[-1].split('|')
    assert [cell.strip() for cell in cells[1:-1]] == ['ONNX Runtime, fp32', '1', '2.00']
