"""The table of all options in options/README.md says what the program does."""

import re

import pytest

from conftest import ROOT
from gpen.errors import UserError
from gpen.options.schema import Logger, Options, PathOptions, Val
from gpen.options.train import Train
from option_docs.tables import BEGIN, END, replace_tables

README = ROOT / 'options' / 'README.md'


def read_rows(section: str) -> dict[str, list[str]]:
    """Return type, default and meaning of each option in a section of the table, as they stand in the README."""
    text = README.read_text(encoding='utf-8').partition(f'### {section}\n')[2].partition('\n### ')[0]
    rows = [re.split(r' (?<!\\)\| ', line.strip('| ')) for line in text.splitlines()[2:] if line.startswith('| `')]
    return {name.strip('`'): cells for name, *cells in rows}


def test_the_tables_in_the_readme_are_current() -> None:
    text = README.read_text(encoding='utf-8')
    assert replace_tables(text) == text, 'run: python scripts/write_schema.py'


def test_a_stale_table_is_replaced_and_the_prose_around_it_stays() -> None:
    text = README.read_text(encoding='utf-8')
    assert replace_tables(f'# Mine\n{BEGIN}\nold\n{END}\nand more\n') == (
        f'# Mine\n{BEGIN}{text.partition(BEGIN)[2].partition(END)[0]}{END}\nand more\n'
    )
    with pytest.raises(UserError, match='should hold the lines'):
        replace_tables('# Mine\n')


@pytest.mark.parametrize(
    ('section', 'block'),
    [
        ('Top level', Options),
        ('`train`', Train),
        ('`val`', Val),
        ('`logger`', Logger),
        ('`path`', PathOptions),
    ],
)
def test_each_option_has_a_row_with_a_type_and_a_meaning(section: str, block: type) -> None:
    rows = read_rows(section)
    assert set(rows) - {'_base_'} == set(block.model_fields)
    assert all(kind and meaning for kind, _, meaning in rows.values())


@pytest.mark.parametrize(
    ('section', 'defaults'),
    [
        (
            '`train`',
            {
                'optim_g': '`{type: Adam, lr: 0.0001}`',
                'optim_d': '`{type: Adam, lr: 0.0004}`',
                'base_lr': '`1e-05`',
                'ema_decay': '`0.9978`',
                'use_grad_norm': '`false`',
                'r1_reg_weight': '`10`',
                'net_d_reg_every': '`16`',
                'net_d_iters': '`1`',
                'net_d_init_iters': '`0`',
            },
        ),
        ('`train.ema_scheduler`', {'total_iter': '`0`'}),
        ('`train.early_stopping`', {'metric': '`psnr`', 'patience': '`10`', 'min_delta': '`0`', 'enabled': '`true`'}),
        (
            '`val`',
            {
                'metrics': '`{psnr: {type: calculate_psnr}, ssim: {type: calculate_ssim}}`',
                'num_pictures': '`4`',
                'save_img': '`false`',
            },
        ),
        ('`logger`', {'print_freq': '`100`', 'keep_last': '`3`', 'use_tb_logger': '`true`'}),
        ('Top level', {'name': 'required', 'model_type': '`GPENModel`'}),
    ],
)
def test_the_defaults_in_the_readme_are_these(section: str, defaults: dict[str, str]) -> None:
    rows = read_rows(section)
    assert {name: rows[name][1] for name in defaults} == defaults


def test_arguments_of_a_type_have_rows_with_ranges_and_what_its_docstring_says() -> None:
    rows = read_rows('`network_g`, `network_d`')
    assert rows['style_dim'] == ['integer > 0, ≤ 8192', '`512`', 'Length of the latents.']
    assert rows['size'][:2] == ['integer ≥ 8, ≤ 4096, power of two', 'required']
