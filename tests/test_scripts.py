"""The README's commands find or make their environment, and never end without a word."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT

# Stands in for a Python with pip: makes an environment of itself, and writes down what it is asked to do.
PYTHON = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in
    '-m venv '*) {venv} ;;
esac
exit 0
"""
MAKES = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python"'
FAILS = 'mkdir -p "$3/bin"; exit 1'

pytestmark = pytest.mark.skipif(shutil.which('bash') is None, reason='needs bash')


def run(script: str, folder: Path, venv: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a script in a copy of the project, with a stand-in for Python; return the result and the stand-in's calls."""
    project = folder / 'project'
    if not project.exists():
        shutil.copytree(ROOT / 'scripts', project / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copytree(ROOT / 'tests', project / 'tests', ignore=shutil.ignore_patterns('*.py', '__pycache__'))
        shutil.copy(ROOT / 'requirements.txt', project)
    python = folder / 'bin' / 'python3.11'
    python.parent.mkdir(exist_ok=True)
    python.write_text(PYTHON.format(venv=venv))
    python.chmod(0o755)
    calls = folder / 'calls'
    environment = {'PATH': f'{python.parent}{os.pathsep}{os.environ["PATH"]}', 'CALLS': str(calls)}
    command = ['bash', str(project / 'scripts' / script)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return result, calls.read_text().splitlines()


@pytest.mark.parametrize(
    ('script', 'last'),
    [
        ('quickstart.sh', 'codes/test.py -opt options/train/quickstart.yml'),
        ('test.sh', '-m pytest -n auto --maxprocesses 4 --dist loadfile'),
    ],
)
def test_without_an_environment_one_is_made_used_and_kept(script: str, last: str, tmp_path: Path) -> None:
    result, calls = run(script, tmp_path, MAKES)
    assert result.returncode == 0, result.stderr
    assert 'Installing into .venv' in result.stderr
    assert calls[-1] == f'python {last}'
    assert any('-m pip install' in call and ' -r ' in call for call in calls)
    again, more = run(script, tmp_path, MAKES)
    assert again.returncode == 0
    assert 'Installing' not in again.stderr
    assert not any('-m venv' in call for call in more[len(calls) :])


@pytest.mark.parametrize('script', ['quickstart.sh', 'test.sh'])
def test_an_environment_that_cannot_be_made_is_said_and_not_left_half(script: str, tmp_path: Path) -> None:
    result, _ = run(script, tmp_path, FAILS)
    assert result.returncode == 1
    assert 'apt install python3-venv' in result.stderr
    assert not (tmp_path / 'project' / '.venv').exists()


@pytest.mark.parametrize('script', ['quickstart.sh', 'test.sh'])
def test_a_folder_of_the_user_in_its_place_is_not_removed(script: str, tmp_path: Path) -> None:
    mine = tmp_path / 'project' / '.venv' / 'mine'
    shutil.copytree(ROOT / 'scripts', tmp_path / 'project' / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'requirements.txt', tmp_path / 'project')
    mine.parent.mkdir()
    mine.write_text('mine')
    result, _ = run(script, tmp_path, FAILS)
    assert result.returncode == 1
    assert mine.read_text() == 'mine'
