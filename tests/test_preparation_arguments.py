"""The command line of data set preparation."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpen.commands import make_portraits, prepare_dataset
from gpen.data.degradations import build_degradation
from photographs import Prepare

pytest_plugins = ['preparation_fixtures']


@pytest.mark.parametrize(
    'wrong',
    [
        ['--size', '8'],
        ['--size', 'large'],
        ['--val_share', '0'],
        ['--val_share', '1'],
        ['--val_share', 'nan'],
        ['--workers', '0'],
        ['--duplicates', '65'],
        ['--detector', 'dots'],
        ['--max_turn', '-1'],
        ['--input', ''],
        ['--output', ' '],
    ],
)
def test_wrong_arguments_end_with_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        prepare_dataset.main(['--input', 'in', '--output', 'out', *wrong])
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize('command', ['demo', 'prepare_dataset', 'restore'])
def test_a_folder_of_weights_that_is_not_there_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {'prepare_dataset': ['--input', 'in', '--output', 'out'], 'demo': ['--model', 'a.pth']}
    words['restore'] = [*words['prepare_dataset'], *words['demo']]
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f'gpen.commands.{command}').main([*words[command], '--weights', 'nowhere'])
    assert stopped.value.code == 2
    assert 'argument --weights: there is no folder nowhere' in capsys.readouterr().err


def test_a_size_that_no_network_has_is_refused_with_those_that_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (prepare_dataset, make_portraits):
        with pytest.raises(SystemExit) as stopped:
            command.main(['--input', 'in', '--output', 'out', '--size', '60'])
        assert stopped.value.code == 2
        assert '--size: 60 is no size of a network: give 16, 32, 64, 128, 256, 512, 1024' in capsys.readouterr().err


def test_help_comes_at_once_and_tells_each_default() -> None:
    code = (
        'import sys\nfrom gpen.commands import prepare_dataset\n'
        'try: prepare_dataset.main(["--help"])\n'
        'except SystemExit: print([name for name in ("torch", "cv2", "joblib", "pydantic") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith('[]\n')
    for text in ('(512)', '(0.1)', '(10)', '(all cores)', 'a quarter of', 'simple for a --size below'):
        assert text in ' '.join(done.stdout.split())


def test_paths_of_the_command_line_start_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for output, wanted in (
        ('a/b', tmp_path / 'a' / 'b'),
        ('~nobody-of-that-name/b', tmp_path / '~nobody-of-that-name/b'),
    ):
        args = prepare_dataset.parse_arguments(['--input', output, '--output', output, '--size', '64'])
        settings = prepare_dataset.to_settings(args)
        assert (settings.input.absolute(), settings.output) == (wanted, wanted)


@pytest.mark.parametrize(
    ('degradation', 'wanted'),
    [
        (None, {'type': 'simple'}),
        ('gfpgan', {'type': 'gfpgan'}),
        ('{type: gaussian_noise, sigma: [1, 2]}', None),
        ('[{type: grayscale}, {type: simple, probability: 0.5}]', None),
    ],
)
def test_degradation_is_a_name_or_steps(degradation: str | None, wanted: Any, tmp_path: Path) -> None:
    more = [] if degradation is None else ['--degradation', degradation]
    args = prepare_dataset.parse_arguments(['--input', 'in', '--output', str(tmp_path), '--size', '64', *more])
    found = prepare_dataset.to_settings(args).degradation
    assert wanted is None or found == wanted
    assert build_degradation(found)(np.zeros((64, 64, 3), np.float32), np.random.default_rng(0)).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ('degradation', 'message'),
    [
        ('gfpgen', "Did you mean 'gfpgan'"),
        ('{type: gfpgan, blur: 3}', 'blur: there is no such option'),
        ('[{type: simple}, {type: nothing}]', '1.type'),
        ('{type: [', 'not valid YAML'),
        ('7', 'block'),
        ('/', '/ is a folder'),
    ],
)
def test_wrong_degradation_is_found_before_any_work(
    degradation: str, message: str, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / 'none', tmp_path / 'set', '--degradation', degradation) == 2
    printed = capsys.readouterr().err
    assert '--degradation' in printed
    assert message in printed
    assert not (tmp_path / 'set').exists()


def test_degradation_comes_from_a_file_whose_lines_are_named(
    tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'mine.yml'
    file.write_text('type: simple\n')
    args = ['--input', 'in', '--output', str(tmp_path), '--degradation', str(file)]
    assert prepare_dataset.to_settings(prepare_dataset.parse_arguments(args)).degradation == {'type': 'simple'}
    file.write_text('degradation:\n  - type: simple\n  - type: simpel\n')
    assert prepare(tmp_path / 'none', tmp_path / 'set', '--degradation', file) == 2
    assert "mine.yml:3: degradation.1.type: There is no degradation named 'simpel'" in capsys.readouterr().err
    assert prepare(tmp_path / 'none', tmp_path / 'set', '--degradation', tmp_path / 'gone.yml') == 2
    assert 'gone.yml' in capsys.readouterr().err
