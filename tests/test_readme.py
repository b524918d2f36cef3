"""What the README tells users to do works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from conftest import ROOT, tiny_options, write_options, write_pairs

FENCE = re.compile(r'^ *```(\w+)\n(.*?)^ *```', re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r'`codes/(gpen/[\w/]+\.py)`.*?```python\n(.*?)```', re.DOTALL)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


def test_what_is_added_as_the_readme_says_can_be_trained(tiny_data: Path, tmp_path: Path) -> None:
    examples = dict(EXAMPLE.findall(read('README.md')))
    assert len(examples) == 4
    codes = tmp_path / 'codes'
    shutil.copytree(ROOT / 'codes', codes, ignore=shutil.ignore_patterns('__pycache__'))
    for name, code in examples.items():
        (codes / name).write_text(code, encoding='utf-8')
    options = tiny_options(tiny_data, tmp_path)
    options['network_g'] = {'type': 'PlainNet', 'size': 16, 'channels': 4}
    options['train']['losses'] = {'edges': {'type': 'EdgeLoss', 'loss_weight': 0.1}}
    options['datasets']['train'] = {'type': 'NoisyFaces', 'folder': str(tiny_data / 'train' / 'sharp'), 'size': 16}
    val = options['datasets']['val']
    val.pop('dataroot_lq')
    val |= {'type': 'DegradedFaceDataset', 'degradation': [{'type': 'scratches', 'count': [1, 2]}, {'type': 'simple'}]}
    option_file = write_options(tmp_path / 'own.yml', options)
    command = [sys.executable, str(codes / 'train.py'), '-opt', str(option_file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={'OMP_NUM_THREADS': '1'})
    assert result.returncode == 0, result.stderr
    metrics = (tmp_path / 'experiments' / 'tiny' / 'metrics.jsonl').read_text()
    assert 'G_loss_edges' in metrics
    weights = torch.load(tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_best.pth', weights_only=True)
    assert weights['params_ema']['layers.0.weight'].shape == (4, 3, 3, 3)


def test_both_readmes_show_the_same_code() -> None:
    english, chinese = (FENCE.findall(read(name)) for name in ('README.md', 'README_zh.md'))

    def without_comments(blocks: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(language, re.sub(r'\s*#.*', '', code)) for language, code in blocks]

    assert without_comments(english) == without_comments(chinese)
    assert len(english) >= 7


def test_every_file_that_the_readmes_link_to_exists() -> None:
    for name in ('README.md', 'README_zh.md'):
        links = re.findall(r'\]\(([^)#]+)\)', read(name))
        assert links
        missing = [link for link in links if not link.startswith('http') and not (ROOT / link).exists()]
        assert missing == []


def test_the_degradation_in_the_readme_is_one(tmp_path: Path) -> None:
    from gpen.data.loader import build_dataset
    from gpen.options import parse_options

    (block,) = (code for language, code in FENCE.findall(read('README.md')) if language == 'yaml')
    shown = yaml.safe_load(block)['datasets']['train']
    faces = tmp_path / 'faces' / 'sharp'
    write_pairs(faces.parent, 2, size=32)
    options = tiny_options(tmp_path, tmp_path)
    options['datasets'] = {'train': {**shown, 'dataroot_gt': str(faces)}}
    parsed = parse_options(write_options(tmp_path / 'shown.yml', options)).options
    assert parsed.datasets.train is not None
    sample = build_dataset(parsed.datasets.train.to_dict())[0]
    assert (sample['lq'] - sample['gt']).abs().mean() > 0.01
