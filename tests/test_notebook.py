"""The notebook for Colab and Kaggle runs from its first cell to its last, and is kept without results."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
import yaml

from conftest import ROOT
from file_server import FileServer, serve_files
from gpen.archs import build_network

nbformat = pytest.importorskip('nbformat', reason='nbformat is not installed')
nbclient = pytest.importorskip('nbclient', reason='nbclient is not installed')
ipykernel = pytest.importorskip('ipykernel', reason='ipykernel is not installed')

NOTEBOOK = ROOT / 'scripts' / 'notebook.ipynb'
MODEL = 'GPEN-BFR-256'
# What the test adds after cells: a training of two iterations, from a network that is smaller than its name says, and a
# photograph on which MTCNN finds the face.
ADDED = {
    'settings': f"""
REPOSITORY, MODEL, SIZE = 'project', '{MODEL}', 64
TRAINING = 'train:total_iter=2 val:val_freq=2 train:warmup_iter=0 datasets:train:num_worker_per_gpu=0'
TRAINING += ' path:strict_load_g=false path:strict_load_d=false'
""",
    'photographs': "old = examples / 'val/sharp'",
}


def test_the_notebook_has_no_results_and_a_sentence_before_each_cell() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    nbformat.validate(notebook)
    cells = notebook['cells']
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell['cell_type'] == 'code':
            assert (cell['outputs'], cell['execution_count']) == ([], None)
            assert before['cell_type'] == 'markdown'
            assert ''.join(before['source']).rstrip().endswith(('.', ':', ')'))
    assert notebook['metadata']['accelerator'] == 'GPU'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository to clone, with what the notebook needs of this one."""
    folder = tmp_path / 'project'
    for name in ('codes', 'options', 'scripts'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    git = ['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b.c']
    for words in (['init', '-q'], ['add', '-A'], ['commit', '-q', '-m', 'all']):
        subprocess.run([*git, *words], check=True)
    return folder


@pytest.fixture
def server(project: Path) -> Iterator[FileServer]:
    """A server with a tiny network, and its discriminator, under the names of published ones."""
    options = yaml.safe_load((project / 'options' / 'train' / 'quickstart.yml').read_text(encoding='utf-8'))
    with serve_files() as files:
        for name, block in ((MODEL, 'network_g'), (f'{MODEL}-D', 'network_d')):
            stream = io.BytesIO()
            torch.save(build_network(options[block]).state_dict(), stream)
            files.publish(f'{name}.pth', stream.getvalue())
        yield files


@pytest.fixture
def environment(tmp_path: Path, server: FileServer) -> Iterator[dict[str, str]]:
    """Of a machine that reaches that server alone, and whose pip writes down what it is asked for."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    (tools / 'pip').write_text(f'#!/bin/sh\necho "$PWD" "$@" > {tmp_path}/pip.txt\n')
    (tools / 'pip').chmod(0o755)
    nowhere = dict.fromkeys(('http_proxy', 'https_proxy'), 'http://127.0.0.1:9')
    yield {
        **os.environ,
        'PATH': os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ['PATH']]),
        'PYTHONPATH': str(Path(ipykernel.__file__).parents[1]),
        'GPEN_MIRROR': server.address,
        'TMPDIR': str(tmp_path),
        'CUDA_VISIBLE_DEVICES': '',
        **nowhere,
        'no_proxy': '127.0.0.1',
    }

    # TensorBoard outlives the notebook.
    for file in (tmp_path / '.tensorboard-info').glob('pid-*.info'):
        with suppress(ProcessLookupError):
            os.kill(json.loads(file.read_text())['pid'], signal.SIGTERM)


@contextmanager
def one_core() -> Iterator[None]:
    """Let programs that start in this block use one core: they start no processes then, each of which costs seconds."""
    if not hasattr(os, 'sched_setaffinity'):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')
def test_the_notebook_runs_from_the_first_cell_to_the_last(
    tmp_path: Path, server: FileServer, environment: dict[str, str]
) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for name, code in ADDED.items():
        (place,) = [place for place, cell in enumerate(notebook.cells) if cell.id == name]
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(code, id=f'after-{name}'))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}})
    with one_core():
        client.execute(env=environment)
    said = {cell.id: [dict(output) for output in cell.get('outputs', [])] for cell in notebook.cells}

    # It installs what it cloned, and downloads both networks once.
    folder = tmp_path / 'gpen-trainer'
    assert (tmp_path / 'pip.txt').read_text() == f'{folder} install --quiet .\n'
    weights = sorted(path for path, _ in server.asked if path.startswith('GPEN'))
    assert weights == [f'{MODEL}-D.pth', f'{MODEL}.pth']

    # It shows what it restored, and TensorBoard.
    pictures = {name: sum('image/png' in output.get('data', {}) for output in shown) for name, shown in said.items()}
    assert {name: count for name, count in pictures.items() if count} == {'show': 2, 'sheet': 1, 'mine': 2}
    assert any('text/html' in output.get('data', {}) for output in said['tensorboard'])
    texts = {name: ''.join(output.get('text', '') for output in shown) for name, shown in said.items()}
    assert [name for name, text in texts.items() if 'Error' in text or 'usage:' in text] == []

    # The training started from the published network, and its result restored the photograph.
    run = folder / 'experiments' / 'examples'
    options = yaml.safe_load((run / 'options.yml').read_text(encoding='utf-8'))
    assert options['path']['pretrain_network_g'] == MODEL
    assert 'Finished: all 2 iterations are done' in texts['train']
    for name in ('published', 'mine'):
        assert '1 face restored in 1 photograph' in texts[name]
    assert (run / 'report.html').is_file()
    with zipfile.ZipFile(folder / 'result.zip') as result:
        assert {'net_g_best.pth', 'published/0001.png', 'mine/0001.png'} <= set(result.namelist())
