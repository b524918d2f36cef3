"""Damaged option files: each is options, or refused in one short message and before anything heavy is imported."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gpen.errors import UserError
from gpen.options import parse_options, parse_scoring_options
from gpen.options.yaml_reader import read_yaml
from gpen.utils.files import project_root

_HEAVY = {'torch', 'basicsr'}
# What is put in place of a value: as it stands in a file.
_VALUES = r"""
~ ; '' ; "\0" ; "\ud800" ; [] ; {} ; [[]] ; {a: {b: [c]}} ; '[key]' ; - a ; ? a ; key: value ; | ; > ; {type: blur}
yes ; off ; 0 ; 1 ; 2 ; 16 ; -1 ; -0 ; 08 ; 0100 ; 1:30 ; 1_000 ; 0x10 ; 0b1 ; 0b ; 1e3 ; 1e38 ; 1e400 ; -1e400
.inf ; -.inf ; .nan ; nan ; 9223372036854775808 ; -9223372036854775809 ; 1e-320 ; 0.5 ; [0, 1] ; [1] ; 2020-01-01
!!bool x ; !!int "" ; !!int [] ; !!float "" ; !!float x ; !!null x ; !!timestamp x ; !!timestamp 2020-99-99 ; !x y
!!binary x ; !!set {a} ; !!omap [a] ; !!pairs [a] ; !!str [a] ; !!python/name:os.system ; ! x ; *nothing ; &a [*a]
&b {<<: *b} ; {<<: [[a]]} ; {<<: {[a]: 1}} ; {? [a] : b} ; {1: 2} ; {~: 1} ; << ; = ; {a: 1, a: 2} ; name ; true
GPEN ; L1Loss ; a.b.C ; os.path ; os. ; . ; .. ; ../x ; / ; ~nobody/x ; a b ; 名前 ; é ; : ; [ ; { ; } ; " ; ' ; % ; @x
`x` ; psnr ; auto ; all ; none ; bf16 ; iter ; FaceImageDataset ; GPENPriorModel ; CosineAnnealingLR ; calculate_fid
""".replace('\n', ' ; ').split(' ; ')[1:-1]
_LONG = [
    *('x' * 100_000, '9' * 5_000, '0x' + 'f' * 4_000, '[' * 5_000, '{a: ' * 2_000, f'[{"x," * 20_000}]'),
    *('&' * 999, '"' + 'x ' * 50_000 + '"', '# ' + 'x' * 300_000),
]
_CHARACTERS = [*':{}[],&*#?|->!%@`"\'\t\0~ é\ufeff']


def fuzz(generator: np.random.Generator, folder: Path) -> str:
    """Read a damaged option file as training and scoring do."""
    path = folder / 'copy.yml'
    text = _draw_recipe(generator)
    for _ in range(generator.integers(1, 4)):
        text = _change(text, generator)
    path.write_text(text, encoding='utf-8', errors='surrogatepass')

    before = _HEAVY & set(sys.modules)
    try:
        parsed = parse_options(path) if generator.random() < 0.8 else parse_scoring_options(path, check_models=False)
    except UserError:
        after = _HEAVY & set(sys.modules)
        assert after == before, f'{after - before} imported'
        raise
    assert parsed is not None
    return 'read'


def _draw_recipe(generator: np.random.Generator) -> str:
    recipes = _dump_recipes()
    return recipes[int(generator.integers(len(recipes)))]


@cache
def _dump_recipes() -> list[str]:
    """Return all recipes as text, with folders and files that are there, or that nobody asks for."""
    folder = project_root() / 'options'
    texts = []
    for path in sorted([*folder.glob('train/*.yml'), *folder.glob('test/*.yml')]):
        data: dict[str, Any] = read_yaml(path).data
        data.get('path', {}).clear()
        for dataset in data['datasets'].values():
            roots = {name: str(folder) for name in dataset if name.startswith('dataroot')}
            dataset |= roots
        texts.append(yaml.safe_dump(data, sort_keys=False))
    return texts


def _change(text: str, generator: np.random.Generator) -> str:
    """Return an option file with one change."""
    lines = text.splitlines()
    if not lines:
        return 'name: a\n'
    number = int(generator.integers(len(lines)))
    line = lines[number]
    indent = line[: len(line) - len(line.lstrip())]
    key = line.strip().partition(':')[0]
    value = str(generator.choice(_VALUES if generator.random() < 0.95 else _LONG))

    change = generator.integers(8)
    if change <= 2:  # another value
        lines[number] = f'{indent}{key}: {value}'
    elif change == 3:  # a key more
        lines.insert(number, f'{indent}{value}: {key}')
    elif change == 4:
        del lines[number]
    elif change == 5:  # twice, or in another block
        lines.insert(int(generator.integers(len(lines))), line)
    elif change == 6:
        lines[number] = ' ' * int(generator.integers(5)) + line.strip()
    else:
        characters = [*line]
        characters.insert(
            int(generator.integers(len(line) + 1)), str(generator.choice([*':{}[],&*#?|->!%@`"\'\t\0~ é\ufeff']))
        )
        lines[number] = ''.join(characters)
    return '\n'.join(lines) + '\n'
