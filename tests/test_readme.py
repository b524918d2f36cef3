"""What the documentation tells users to do works, and what it names is there."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import ROOT, tiny_options, write_options, write_pairs
from test_structure import FLOORS

PAGES = [
    'README.md',
    'README_zh.md',
    'datasets/README.md',
    'options/README.md',
    'experiments/README.md',
    'scripts/README.md',
    'scripts/benchmarks/README.md',
    'codes/README.md',
    '.github/CONTRIBUTING.md',
]
FENCE = re.compile(r'^ *```(\w*)\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(([^)]+)\)')
EXAMPLE = re.compile(r'`(my_project/\w+\.py)`.*?```python\n(.*?)```', re.DOTALL)
HAN = r'[\u4e00-\u9fff]'
OURS = re.compile(r'(?:codes|scripts|options|tests|gpen|\.github|\.ci)/[\w./-]*|[\w.]+\.(?:md|toml|txt)')
MADE_BY_USERS = {'options/my_faces.yml', 'datasets/faces/recipe.yml', 'experiments/NAME/options.yml'}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def read_blocks(page: str, language: str) -> list[str]:
    return [textwrap.dedent(code) for name, code in FENCE.findall(read(page)) if name == language]


def read_prose(page: str) -> str:
    return FENCE.sub('', read(page))


def find_commands(page: str) -> list[list[str]]:
    """Return the commands in blocks and in the text that are words of a shell, without loops and assignments."""
    lines = [line for code in read_blocks(page, 'bash') for line in code.replace('\\\n', ' ').splitlines()]
    lines += re.findall(r'`((?:python|bash) [^`\n]+)`', read_prose(page))
    parts = [part.strip() for line in lines for part in line.split(' && ')]
    return [shlex.split(part, comments=True) for part in parts if re.match(r'(python|bash|torchrun) ', part)]


def find_scripts(page: str) -> list[list[str]]:
    """Return [script, arguments ...] of the commands that run a script or tests of ours."""
    found = []
    for words in find_commands(page):
        start = next((place for place, word in enumerate(words) if re.search(r'\.(py|sh)$', word)), None)
        if start is not None:
            found.append(words[start:])
    return found


@pytest.mark.parametrize('page', PAGES)
def test_every_script_in_a_command_is_there(page: str) -> None:
    scripts = [word for command in find_scripts(page) for word in command if word.endswith(('.py', '.sh'))]
    assert [script for script in scripts if not (ROOT / script).exists()] == []


def test_the_arguments_of_every_command_are_those_that_its_script_takes() -> None:
    commands = [command for page in PAGES for command in find_scripts(page)]
    shown = [command for command in commands if command[1:] and command[0].startswith(('codes/', 'scripts/'))]
    to_parse = [command for command in shown if command[0].endswith('.py')]
    assert len(to_parse) > 40
    result = subprocess.run(
        [sys.executable, str(ROOT / 'tests' / 'parse_commands.py')],
        input=json.dumps(to_parse),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(result.stdout) == {}


@pytest.mark.parametrize('page', PAGES)
def test_every_option_file_and_setting_in_a_command_is_known(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpen.options import checks, parse_options, parse_scoring_options

    # Folders of data and files of weights are the users' own.
    monkeypatch.setattr(checks, 'find_errors', lambda *_: [])
    monkeypatch.setattr(checks, 'find_scoring_errors', lambda *_: [])
    for command in find_scripts(page):
        if '-opt' not in command:
            continue
        file = command[command.index('-opt') + 1]
        if file in MADE_BY_USERS or file == 'FILE':
            continue
        settings = command[command.index('--force_yml') + 1 :] if '--force_yml' in command else []
        overrides = [word for word in settings if '=' in word]
        parse = parse_scoring_options if command[0].endswith('test.py') else parse_options
        parsed: Any = parse(file, overrides)
        assert getattr(parsed, 'options', parsed).name


def find_yaml() -> Iterator[Any]:
    for page in PAGES:
        for number, code in enumerate(read_blocks(page, 'yaml')):
            yield pytest.param(code, id=f'{page}-{number}')


@pytest.mark.parametrize('code', list(find_yaml()))
def test_every_yaml_block_is_accepted_by_the_options_checker(
    code: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpen.options import parse_options

    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = yaml.safe_load(code)
    base = options.get('_base_', 'quickstart.yml').removeprefix('train/')
    options = {'name': 'shown', **options, '_base_': str(ROOT / 'options' / 'train' / base)}
    shown = options.setdefault('datasets', {})
    for phase in ('train', 'val'):
        data = shown.setdefault(phase, {'dataroot_gt': '', 'dataroot_lq': ''})
        folders = {'dataroot_gt': 'sharp', 'dataroot_lq': 'blurry', 'folder': 'sharp'}
        data |= {name: str(tiny_data / phase / kind) for name, kind in folders.items() if name in data}
    parsed = parse_options(write_options(tmp_path / 'shown.yml', options))
    assert parsed.options.name == options['name']


@pytest.mark.parametrize('page', PAGES)
def test_every_file_and_section_that_a_page_links_to_exists(page: str) -> None:
    links = [link for link in LINK.findall(read_prose(page)) if not link.startswith('http')]
    assert links
    missing = []
    for link in links:
        name, _, section = link.partition('#')
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (section and section not in find_sections(target.read_text(encoding='utf-8'))):
            missing.append(link)
    assert missing == []


def find_sections(text: str) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r'^#+ (.+)$', FENCE.sub('', text), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_every_path_of_the_project_that_a_page_names_exists(page: str) -> None:
    names = [name for name in re.findall(r'`([^`\n]+)`', read_prose(page)) if OURS.fullmatch(name)]
    candidates = [(ROOT / name, ROOT / 'codes' / name, ROOT / name / 'README.md') for name in names]
    missing = [name for name, paths in zip(names, candidates, strict=True) if not any(map(Path.exists, paths))]
    assert set(missing) <= MADE_BY_USERS


def test_the_first_page_is_short() -> None:
    assert len(read('README.md').splitlines()) <= 200
    assert len(read('README_zh.md').splitlines()) <= 200


def test_both_languages_have_the_same_headings_code_pictures_and_links() -> None:
    english, chinese = read('README.md'), read('README_zh.md')
    levels = [re.findall(r'^#+(?= )', FENCE.sub('', text), re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]

    def without_comments(text: str) -> list[tuple[str, str]]:
        return [(language, re.sub(r' *#.*', '', code)) for language, code in FENCE.findall(text)]

    assert without_comments(english) == without_comments(chinese)
    assert len(without_comments(english)) >= 10
    links = [LINK.findall(text.replace('README_zh.md', 'README.md')) for text in (english, chinese)]
    assert links[0] == links[1]
    rows = [len(re.findall(r'^ *\|', text, re.MULTILINE)) for text in (english, chinese)]
    assert rows[0] == rows[1]


def test_the_chinese_page_is_set_as_chinese_is() -> None:
    text = read('README_zh.md')
    assert '复原' not in text, 'restoration is 修复 throughout'
    assert re.findall(rf'{HAN}`|`{HAN}', re.sub(r'`[^`\n]+`', '``', FENCE.sub('', text))) == [], 'a space is missing'
    assert re.findall(rf'{HAN}\w*[A-Za-z0-9]|[A-Za-z0-9]{HAN}', FENCE.sub('', text)) == [], 'a space is missing'
    comments = [comment for _, code in FENCE.findall(text) for comment in re.findall(r'# (.*)', code)]
    assert all(re.search(HAN, comment) or comment in MADE_BY_USERS for comment in comments)


def test_the_map_of_the_code_has_every_room_in_the_order_of_imports() -> None:
    rooms = re.findall(r'^\| `gpen/(\w+)` \|', read('codes/README.md'), re.MULTILINE)
    assert rooms == [room for room in reversed(FLOORS) if room not in ('errors', '__main__')]


def test_the_page_of_scripts_has_a_section_for_each() -> None:
    here = {path.name for path in (ROOT / 'scripts').iterdir() if path.suffix in ('.py', '.sh', '.ipynb')}
    helpers = {'_path.py', '_env.sh', 'paired_set.py'}
    linked = set(re.findall(r'^\| \[([\w.]+)\]', read('scripts/README.md'), re.MULTILINE))
    assert linked == here - helpers | {'train.py', 'test.py', 'restore.py'}


def write_examples(folder: Path) -> list[str]:
    """Write the components that the page of the code shows, as a user would; return their files."""
    examples = dict(EXAMPLE.findall(read('codes/README.md')))
    for name, code in examples.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code, encoding='utf-8')
    return list(examples)


def test_components_from_outside_the_package_can_be_trained_as_the_page_says(tiny_data: Path, tmp_path: Path) -> None:
    assert len(write_examples(tmp_path)) == 5
    (recipe,) = read_blocks('codes/README.md', 'yaml')
    shown = yaml.safe_load(recipe)
    options = tiny_options(tiny_data, tmp_path)
    options['network_g'] = {**shown['network_g'], 'size': 16, 'channels': 4}
    options['train']['losses'] = shown['train']['losses']
    train, val = shown['datasets']['train'], shown['datasets']['val']
    options['datasets']['train'] = {**train, 'folder': str(tiny_data / 'train' / 'sharp'), 'size': 16}
    options['datasets']['val'] = {**val, 'dataroot_gt': str(tiny_data / 'val' / 'sharp')}
    options['val'] |= {'metrics': {'psnr': {'type': 'calculate_psnr'}, **shown['val']['metrics']}}

    option_file = write_options(tmp_path / 'own.yml', options)
    command = [sys.executable, str(ROOT / 'codes' / 'train.py'), '-opt', str(option_file)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': ''}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr

    folder = tmp_path / 'experiments' / 'tiny'
    metrics = (folder / 'metrics.jsonl').read_text()
    assert 'G_loss_edges' in metrics
    assert 'val/edges' in metrics
    run = json.loads((folder / 'run.json').read_text())
    assert run['metrics']['edges']['higher_is_better'] is False
    weights = torch.load(folder / 'models' / 'net_g_best.pth', weights_only=True)
    assert weights['params_ema']['layers.0.weight'].shape == (4, 3, 3, 3)


def test_the_degradation_that_is_shown_degrades(tmp_path: Path) -> None:
    from gpen.data.loader import build_dataset
    from gpen.options import parse_options

    (block,) = read_blocks('datasets/README.md', 'yaml')
    shown = yaml.safe_load(block)['datasets']['train']
    faces = tmp_path / 'faces' / 'sharp'
    write_pairs(faces.parent, 2, size=32)
    options = tiny_options(tmp_path, tmp_path)
    options['datasets'] = {'train': {**shown, 'dataroot_gt': str(faces)}}
    parsed = parse_options(write_options(tmp_path / 'shown.yml', options)).options
    assert parsed.datasets.train is not None
    sample = build_dataset(parsed.datasets.train.to_dict())[0]
    assert (sample['lq'] - sample['gt']).abs().mean() > 0.01
