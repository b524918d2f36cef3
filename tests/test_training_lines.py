"""What training shows: a line per record, a row per validation, commands to type at its end; curves in groups."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2

from command_line import run_here, succeed
from conftest import tiny_options, write_options
from gpen.options import Options
from gpen.options.blocks import Dataset
from gpen.training.lines import WIDTH, ValidationTable, describe_record, list_next_commands, spell_restoring

NAMES = ['pixel', 'adv', 'perceptual', 'identity', 'feature_matching', 'lpips', 'component', 'style']
VALUES = {f'G_loss_{name}': 1.2345e-3 for name in NAMES} | {'D_loss_real': 0.5, 'D_loss_fake': 0.25, 'D_acc_real': 0.9}


def test_a_record_is_one_line_with_epoch_iteration_losses_rates_and_time_left() -> None:
    values = {name: VALUES[name] for name in ('G_loss_pixel', 'D_loss_real', 'D_loss_fake', 'D_acc_real')}
    line = describe_record((2, 10, 30, 200), values, {'g': 2e-3, 'd': 5e-4}, 0.5)
    assert line == 'epoch  2/10  iter  30/200  G pixel 0.00123  D 0.75  lr 0.002/0.0005  0.500 s/it  1:25 left'


@pytest.mark.parametrize('total', [100, 999_999])
def test_a_line_keeps_to_its_width_however_many_losses_there_are(total: int) -> None:
    line = describe_record((1, 1000, 9, total), VALUES, {'g': 1.234567e-5, 'd': 1.234567e-5}, 123.4567)
    assert len(line) <= WIDTH
    assert re.search(r'G( \w+ 0\.00123)+ \.\.\.  D 0\.75  lr', line)
    assert line.endswith(' left')


def test_validations_are_rows_of_one_table_below_one_header() -> None:
    table = ValidationTable(['psnr', 'ssim'], 3, 12)
    lines = [*table.add(1, 4, {'psnr': 20.5, 'ssim': 0.5, 'variety': 1.0}, ['psnr', 'ssim'])]
    lines += table.add(2, 8, {'psnr': float('nan'), 'ssim': 0.625}, ['ssim'])
    assert lines == [
        'validation  epoch  iter       psnr        ssim',
        'validation      1     4    20.5000*     0.5000*',
        'validation      2     8        nan      0.6250*',
    ]


def test_a_table_of_many_metrics_keeps_to_its_width() -> None:
    means = {f'metric_{number}': 1234.5 for number in range(20)}
    lines = ValidationTable(means, 1000, 10**6).add(1000, 10**6, means, means)
    assert max(map(len, lines)) <= WIDTH
    assert 'metric_5' in lines[0]


@pytest.fixture(scope='module')
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run, and the lines that it printed."""
    root = tmp_path_factory.mktemp('my runs')
    option_file = write_options(root / 'tiny.yml', tiny_options(tiny_data, root))
    printed = succeed(option_file, 'train:total_epochs=2', 'logger:print_freq=1', runner=run_here)
    return root / 'experiments' / 'tiny', printed.splitlines()


def test_a_run_says_so_and_its_last_lines_can_be_pasted(
    run: tuple[Path, list[str]], tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lines = run
    records = [line for line in lines if ' s/it ' in line]
    assert len(records) == 8
    assert max(map(len, records)) <= WIDTH
    assert [line.split()[1] for line in lines if line.startswith('validation ')] == ['epoch', '1', '2']

    monkeypatch.chdir(folder.parent)
    commands = [shlex.split(line) for line in lines[lines.index('Next:') + 1 :]]
    assert [Path(script).name for _, script, *_ in commands] == ['test.py', 'restore.py', 'report.py']
    for _, script, *words in commands:
        assert import_module(f'gpen.commands.{Path(script).stem}').main(words) == 0
    names = sorted(path.name for path in (tiny_data / 'val' / 'blurry').iterdir())
    assert sorted(path.name for path in (folder / 'restored').iterdir()) == names
    assert (folder / 'results' / 'results.json').is_file()
    assert (folder / 'report.html').is_file()


def test_without_a_folder_of_lq_images_the_photographs_are_left_to_fill_in(tmp_path: Path) -> None:
    options = tiny_options(tmp_path, tmp_path)
    options['datasets']['val'] |= {'io_backend': {'type': 'lmdb'}}
    (tmp_path / 'val' / 'blurry').mkdir(parents=True)
    commands = list_next_commands(Options.model_validate(options), tmp_path, tmp_path / 'net.pth', True)
    assert ' --input PHOTOS ' in commands[1]
    assert '--aligned' not in commands[1]
    del options['datasets']['val']
    no_val = list_next_commands(Options.model_validate(options), tmp_path, tmp_path / 'net.pth', True)
    assert no_val == commands[1:]
    assert list_next_commands(Options.model_validate(options), tmp_path, tmp_path / 'net.pth', False) == commands[2:]


def test_only_commands_that_can_work_are_listed(tmp_path: Path) -> None:
    def list_scripts(**changes: object) -> list[str]:
        options = Options.model_validate({**tiny_options(tmp_path, tmp_path), **changes})
        commands = list_next_commands(options, tmp_path, tmp_path / 'net.pth', True)
        return [Path(shlex.split(command)[1]).name for command in commands]

    assert list_scripts() == ['test.py', 'restore.py', 'report.py']
    assert list_scripts(val={'metrics': {}}) == ['restore.py', 'report.py']
    assert list_scripts(network_g={'type': 'nets.PlainNet'}) == ['test.py', 'report.py']


@pytest.mark.parametrize('degradation', [{'type': 'grayscale'}, [{'type': 'simple'}, {'type': 'grayscale'}]])
def test_a_network_that_colours_faces_is_tried_on_photographs_with_color(tmp_path: Path, degradation: object) -> None:
    val = Dataset.model_validate({'type': 'DegradedFaceDataset', 'dataroot_gt': 'faces', 'degradation': degradation})
    (command,) = spell_restoring(tmp_path / 'net.pth', None, val, tmp_path)
    assert command.endswith(' --color')
    (plain,) = spell_restoring(tmp_path / 'net.pth', None, val.model_copy(update={'degradation': []}), tmp_path)
    assert '--color' not in plain


def test_every_curve_of_a_run_has_its_place_in_the_layout_and_only_one(run: tuple[Path, list[str]]) -> None:
    tags, layouts = [], []
    for path in (run[0] / 'tb_logger').iterdir():
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.WhichOneof('value') == 'simple_value':
                    tags.append(value.tag)
                elif value.metadata.plugin_data.plugin_name == 'custom_scalars':
                    layouts.append(layout_pb2.Layout.FromString(value.tensor.string_val[0]))
    (layout,) = layouts
    charts = [chart.multiline.tag for section in layout.category for chart in section.chart]
    places = {tag: sum(any(re.match(regex, tag) for regex in chart) for chart in charts) for tag in tags}
    assert places == dict.fromkeys(tags, 1)
    assert [section.title for section in layout.category] == [
        'Validation',
        'Generator',
        'Discriminator',
        'Optimization',
    ]
