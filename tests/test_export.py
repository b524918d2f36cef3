"""Exported files restore as the checkpoint does, or they are not written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import ROOT, write_pairs
from gpen.archs.gpen import GPEN
from gpen.commands import export
from gpen.errors import UserError
from gpen.restoration import export_onnx
from gpen.restoration.export import Format, export_generator, plan_output
from gpen.restoration.loading import load_restorer

onnx = pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')

CPU = torch.device('cpu')
STEP = 2 / 255  # of [-1, 1]
FLAT: tuple[Format, ...] = ('safetensors', 'gpen')


def make_network(seed: int = 0, **options: Any) -> GPEN:
    """A tiny network in which the encoder's features and the noise count as much as the rest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = GPEN(**{'size': 16, 'style_dim': 16, 'n_mlp': 2, 'narrow': 0.02, **options})
        for name, parameter in network.named_parameters():
            if name.endswith('noise.weight'):
                torch.nn.init.ones_(parameter)
    return network


def save(path: Path, network: GPEN) -> Path:
    """Write a checkpoint as our training does; the weights that are not EMA are others."""
    others = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save({'params': others, 'params_ema': network.state_dict()}, path)
    return path


def faces(count: int, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


def assert_same(exported: Path, checkpoint: Path, tolerance: float) -> None:
    """Assert that both files restore alike, in batches of several sizes; differences in 1/255."""
    ours, theirs = load_restorer(checkpoint, CPU), load_restorer(exported, CPU)
    assert (theirs.in_size, theirs.size) == (ours.in_size, ours.size)
    for count in (1, 2, 5):
        expected = ours.run(faces(count, ours.in_size))
        assert expected.std() > 0.1
        assert (theirs.run(faces(count, ours.in_size)) - expected).abs().max() <= tolerance * STEP


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp('checkpoint') / 'net_g.pth', make_network())


@pytest.fixture(scope='module')
def enlarging(checkpoint: Path) -> Path:
    """Another checkpoint beside that one."""
    return save(checkpoint.with_name('enlarging.pth'), make_network(size=16, in_size=8, isconcat=False))


# Runs the script for each list of arguments, in one process, since the exporter takes seconds to import.
RUNS = """
import runpy, sys
for words in ARGUMENTS:
    sys.argv = ['export.py', *words]
    try: runpy.run_path(SCRIPT, run_name='__main__')
    except SystemExit as end: print('Status', end.code)
"""


@pytest.fixture(scope='module')
def exported(checkpoint: Path, enlarging: Path) -> tuple[Path, str]:
    """The checkpoint as ONNX beside it, as the other one is, and what the command printed."""
    write_pairs(checkpoint.parent / 'pairs', 12, size=20)
    faces = checkpoint.parent / 'pairs' / 'sharp'
    runs = [['--model', str(path), '--format', 'onnx', '--check', str(faces)] for path in (checkpoint, enlarging)]
    code = RUNS.replace('ARGUMENTS', repr(runs)).replace('SCRIPT', repr(str(ROOT / 'scripts/export.py')))
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=environment)
    assert result.stderr == ''
    printed, second, rest = result.stdout.split('Status 0\n')
    assert 'GPEN 8 x 8 to 16 x 16' in second
    assert rest == ''
    return checkpoint.with_suffix('.onnx'), printed


@pytest.fixture
def prepared(exported: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests the seconds that the exporter takes: the graph is that of ``exported``."""
    monkeypatch.setattr(export_onnx, 'build_model', lambda *_: onnx.load(exported[0]))


def test_onnx_restores_as_pytorch_with_any_batch_size(exported: tuple[Path, str], checkpoint: Path) -> None:
    assert_same(exported[0], checkpoint, 0.1)


def test_the_command_says_what_was_compared_and_written(exported: tuple[Path, str], checkpoint: Path) -> None:
    path, printed = exported
    first, *compared, written = printed.splitlines()
    assert first == f'{checkpoint}: GPEN 16 x 16, channel_multiplier 2, narrow 0.0195312'
    checks = [re.fullmatch(r'Largest difference .* in 1/255, (.*): ([\d.e-]+)', line) for line in compared]
    assert [check and check[1] for check in checks] == ['random input, batch 1', 'random input, batch 3', '8 faces']
    assert all(check and 0 < float(check[2]) < 0.1 for check in checks)
    assert re.fullmatch(rf'Written: {re.escape(str(path))} \(0\.\d MB\)', written)


def test_onnx_has_a_free_batch_the_options_and_no_source_paths(exported: tuple[Path, str]) -> None:
    model = onnx.load(exported[0])
    (given,), (taken,) = model.graph.input, model.graph.output
    assert (given.name, taken.name) == ('input', 'output')  # what FaceFusion and ReActor look for
    for value in (given, taken):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param == 'batch'
        assert [length.dim_value for length in rest] == [3, 16, 16]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert {'format': 'gpen', 'size': '16', 'in_size': '16', 'isconcat': 'True'}.items() <= properties.items()
    assert model.producer_name == 'gpen-trainer'
    content = exported[0].read_bytes()
    assert b'.py' not in content
    assert str(ROOT).encode() not in content


@pytest.mark.usefixtures('exported')
def test_onnx_of_a_network_that_enlarges_and_adds_restores_as_pytorch(enlarging: Path) -> None:
    assert_same(enlarging.with_suffix('.onnx'), enlarging, 0.1)


@pytest.mark.parametrize('kind', FLAT)
@pytest.mark.parametrize(
    'options', [{}, {'size': 32, 'in_size': 16}, {'isconcat': False}], ids=['', 'enlarging', 'adding']
)
def test_weights_in_other_formats_restore_bit_for_bit(tmp_path: Path, kind: Format, options: dict[str, Any]) -> None:
    path = save(tmp_path / 'net.pth', make_network(**options))
    assert_same(export_generator(path, kind), path, 0)


def test_the_published_layout_is_a_flat_state_dict(checkpoint: Path, tmp_path: Path) -> None:
    path = export_generator(checkpoint, 'gpen', tmp_path / 'a.pth')
    state = torch.load(path, weights_only=True)
    network = make_network(seed=1)
    network.load_state_dict(state, strict=True)
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(tensor, make_network().state_dict()[name]) for name, tensor in state.items())


def test_safetensors_have_the_options_as_metadata(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(export_generator(checkpoint, 'safetensors', tmp_path / 'a.safetensors'), 'pt') as content:
        metadata = content.metadata()
        names = set(content.keys())
    assert names == set(make_network().state_dict())
    assert metadata['format'] == 'pt'
    assert metadata['version'].startswith('gpen-trainer ')
    options = json.loads(metadata['network_g'])
    assert options.pop('type') == 'GPEN'
    assert {name: tuple(tensor.shape) for name, tensor in GPEN(**options).state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in make_network().state_dict().items()
    }


@pytest.mark.parametrize(
    'wrap',
    [lambda state: state, lambda state: {'g_ema': state}, lambda state: {f'module.{key}': state[key] for key in state}],
    ids=['published', 'self-trained', 'parallel'],
)
def test_every_kind_of_checkpoint_can_be_exported(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    path = tmp_path / 'net.pth'
    torch.save(wrap(make_network().state_dict()), path)
    middle = export_generator(path, 'safetensors')
    assert_same(export_generator(middle, 'gpen', tmp_path / 'b.pth'), path, 0)


def test_files_lie_beside_the_checkpoint_and_never_replace_it() -> None:
    checkpoint = Path('models/net_g_latest.pth')
    names = {kind: plan_output(checkpoint, kind, None, False).as_posix() for kind in ('onnx', *FLAT)}
    assert names == {
        'onnx': 'models/net_g_latest.onnx',
        'safetensors': 'models/net_g_latest.safetensors',
        'gpen': 'models/net_g_latest_gpen.pth',
    }
    with pytest.raises(UserError, match='is the checkpoint itself'):
        plan_output(checkpoint, 'gpen', Path('models/../models/net_g_latest.pth'), True)
    with pytest.raises(UserError, match='is the checkpoint itself'):
        plan_output(Path('net.safetensors'), 'safetensors', None, True)


def test_a_file_that_is_there_stays_unless_told_otherwise(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'a.pth'
    output.write_bytes(b'precious')
    command = ['--model', str(checkpoint), '--format', 'gpen', '--output', str(output)]
    assert export.main(command) == 2
    message = capsys.readouterr().err
    assert message.startswith(f'Error: {output} is there already.')
    assert '--overwrite' in message
    assert output.read_bytes() == b'precious'
    assert export.main([*command, '--overwrite']) == 0
    assert_same(output, checkpoint, 0)
    assert files_in(tmp_path) == ['a.pth']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'checkpoint': Path('no.pth')}, 'There is no file no.pth'),
        ({'checkpoint': Path('net.onnx')}, 'net.onnx is exported already'),
        ({'output': Path('face.bin')}, '--output face.bin: a file of --format onnx should end in .onnx'),
        (
            {'output': Path('face.onnx'), 'kind': 'gpen'},
            '--output face.onnx: a file of --format gpen should end in .pth',
        ),
        ({'kind': 'gpen', 'faces': Path('face.png')}, '--check belongs to --format onnx'),
        ({'faces': Path('no')}, '--check no: there is no such file or folder'),
        ({'faces': Path('empty')}, '--check empty: there is no image in it'),
    ],
)
def test_arguments_that_do_not_fit_are_one_message(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    with pytest.raises(UserError, match=re.escape(message)):
        export_generator(
            **{
                'checkpoint': checkpoint,
                'kind': 'onnx',
                'output': Path(f'a.{arguments.get("kind", "onnx").replace("gpen", "pth")}'),
                **arguments,
            }
        )
    assert files_in(tmp_path) == ['empty']


def test_a_checkpoint_of_another_network_is_one_message(tmp_path: Path) -> None:
    torch.save({'weight': torch.zeros(3)}, tmp_path / 'net.pth')
    with pytest.raises(UserError, match='are not the weights of a GPEN generator'):
        export_generator(tmp_path / 'net.pth', 'onnx')


@pytest.mark.usefixtures('prepared')
def test_onnx_that_restores_otherwise_than_pytorch_is_not_kept(tmp_path: Path) -> None:
    other = save(tmp_path / 'net.pth', make_network(seed=1))
    with pytest.raises(UserError, match=r'ONNX Runtime and PyTorch differ by [\d.]+/255 \(random input, batch 1\)'):
        export_generator(other, 'onnx')
    assert files_in(tmp_path) == ['net.pth']
    (tmp_path / 'net.onnx').write_bytes(b'precious')
    with pytest.raises(UserError, match='nothing was written'):
        export_generator(other, 'onnx', overwrite=True)
    assert files_in(tmp_path) == ['net.onnx', 'net.pth']
    assert (tmp_path / 'net.onnx').read_bytes() == b'precious'


@pytest.mark.usefixtures('prepared')
def test_values_that_are_no_numbers_are_a_difference(tmp_path: Path) -> None:
    network = make_network()
    network.state_dict()['generator.conv1.conv.weight'].fill_(3e38)  # their squares are infinite; the graph has others
    with pytest.raises(UserError, match='differ by nan/255'):
        export_generator(save(tmp_path / 'net.pth', network), 'onnx')
    assert files_in(tmp_path) == ['net.pth']


@pytest.mark.parametrize('kind', ['onnx', *FLAT])
@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path, kind: Format, value: float) -> None:
    network = make_network()
    network.state_dict()['generator.to_rgb1.bias'].fill_(value)
    with pytest.raises(UserError, match=r'net\.pth is spoilt: 1 of its .* not finite \(generator\.to_rgb1\.bias\)'):
        export_generator(save(tmp_path / 'net.pth', network), kind)
    assert files_in(tmp_path) == ['net.pth']


@pytest.mark.usefixtures('prepared')
def test_weights_too_large_for_the_file_lie_beside_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / 'a.onnx'
    with monkeypatch.context() as context:
        context.setattr(export_onnx, 'LARGEST_FILE', 10_000)
        export_generator(checkpoint, 'onnx', output)
    assert files_in(tmp_path) == ['a.onnx', 'a.onnx.data']
    assert output.stat().st_size < 0.6 * (tmp_path / 'a.onnx.data').stat().st_size
    (tmp_path / 'moved').mkdir()
    moved = [path.rename(tmp_path / 'moved' / path.name) for path in (output, tmp_path / 'a.onnx.data')]
    assert_same(moved[0], checkpoint, 0.1)

    moved[1].rename(tmp_path / 'a.onnx.data')
    with pytest.raises(UserError, match=r'a\.onnx\.data is there already'):
        export_generator(checkpoint, 'onnx', output)
    export_generator(checkpoint, 'onnx', output, overwrite=True)
    assert files_in(tmp_path) == ['a.onnx', 'moved']
    assert_same(output, checkpoint, 0.1)


@pytest.mark.usefixtures('prepared')
def test_a_failing_check_leaves_no_weights_beside_it_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, 'LARGEST_FILE', 10_000)
    with pytest.raises(UserError, match='nothing was written'):
        export_generator(save(tmp_path / 'net.pth', make_network(seed=1)), 'onnx')
    assert files_in(tmp_path) == ['net.pth']


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_one_message(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(export_onnx, 'build_model', fail)
    command = ['--model', str(checkpoint), '--format', 'onnx', '--output', str(tmp_path / 'a.onnx')]
    assert export.main(command) == 2
    assert capsys.readouterr().err.startswith('Error: Out of memory.')
    assert files_in(tmp_path) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(UserError, match='pip install onnxscript'):
        export_generator(checkpoint, 'onnx', tmp_path / 'a.onnx')


def test_an_exporter_that_fails_is_one_message(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError('no such operator.\nmore')

    monkeypatch.setattr(torch.export, 'export', fail)
    with pytest.raises(UserError, match=r'cannot write this network as ONNX: no such operator\. Use torch 2\.6'):
        export_generator(checkpoint, 'onnx', tmp_path / 'a.onnx')
    assert files_in(tmp_path) == []
