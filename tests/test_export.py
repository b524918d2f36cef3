"""Exported ONNX files restore as the checkpoint does, in other programs too, or they are not written."""

import io
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT, write_pairs
from exporting import CPU, assert_same, files_in, make_network, save
from face_tools import TEMPLATE, cut_as_facefusion, cut_as_reactor, restore_as_tools
from gpen.commands import export
from gpen.errors import UserError
from gpen.restoration import export_onnx
from gpen.restoration.export import SUFFIXES, Format, export_generator
from gpen.restoration.loading import load_restorer

onnx = pytest.importorskip('onnx', reason='onnx is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp('checkpoint') / 'net_g.pth', make_network(size=8))


@pytest.fixture(scope='module')
def enlarging(checkpoint: Path) -> Path:
    """Another checkpoint beside that one; its biases are zero, so that a grey image is zero in each layer."""
    network = make_network(size=16, in_size=8, isconcat=False)
    for name, values in network.named_parameters():
        if name.endswith('bias'):
            values.data.zero_()
    return save(checkpoint.with_name('enlarging.pth'), network)


@pytest.fixture(scope='module')
def exported(checkpoint: Path, enlarging: Path) -> tuple[Path, str]:
    """The checkpoint as ONNX beside it, as the other one is, and what the command printed."""
    write_pairs(checkpoint.parent / 'pairs', 12, size=20)
    printed = []
    for path in (checkpoint, enlarging):
        out, errors = io.StringIO(), io.StringIO()
        command = ['--model', str(path), '--format', 'onnx', '--check', str(checkpoint.parent / 'pairs' / 'sharp')]
        with warnings.catch_warnings(record=True) as warned, redirect_stdout(out), redirect_stderr(errors):
            warnings.simplefilter('always')
            assert export.main(command) == 0
        assert (errors.getvalue(), warned) == ('', [])
        printed.append(out.getvalue())
    assert 'GPEN 8 x 8 to 16 x 16' in printed[1]
    return checkpoint.with_suffix('.onnx'), printed[0]


@pytest.fixture
def prepared(exported: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests the seconds that the exporter takes: the graph is that of ``exported``."""
    monkeypatch.setattr(export_onnx, 'build_model', lambda *_: onnx.load(exported[0]))


def test_onnx_restores_as_pytorch_with_any_batch_size(exported: tuple[Path, str], checkpoint: Path) -> None:
    assert_same(exported[0], checkpoint, 0.1)


def test_the_command_says_what_was_compared_and_written(exported: tuple[Path, str], checkpoint: Path) -> None:
    path, printed = exported
    first, *compared, written = printed.splitlines()
    assert first == f'{checkpoint}: GPEN 8 x 8, channel_multiplier 2, narrow 0.0195312'
    checks = [re.fullmatch(r'Largest difference .* in 1/255, (.*): ([\d.e-]+)', line) for line in compared]
    names = ['grey input', 'random input, batch 1', 'random input, batch 3', '8 faces']
    assert [check and check[1] for check in checks] == names
    assert all(check and 0 < float(check[2]) < 0.1 for check in checks)
    assert re.fullmatch(rf'Written: {re.escape(str(path))} \(0\.\d MB\)', written)


def test_onnx_has_a_free_batch_the_options_and_no_source_paths(exported: tuple[Path, str]) -> None:
    model = onnx.load(exported[0])
    (given,), (taken,) = model.graph.input, model.graph.output
    assert (given.name, taken.name) == ('input', 'output')
    for value in (given, taken):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param == 'batch'
        assert [length.dim_value for length in rest] == [3, 8, 8]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert {'format': 'gpen', 'size': '8', 'in_size': '8', 'isconcat': 'True'}.items() <= properties.items()
    assert model.producer_name == 'gpen-trainer'
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [('', 17)]
    content = exported[0].read_bytes()
    assert b'.py' not in content
    assert str(ROOT).encode() not in content


@pytest.fixture(scope='module')
def halved(exported: tuple[Path, str], checkpoint: Path) -> Path:
    """The checkpoint as ONNX with weights in float16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, 'build_model', lambda *_: onnx.load(exported[0]))
        patch.setattr(export_onnx, '_SMALL', 64)  # in a tiny network nearly all tensors are small
        assert export.main(['--model', str(checkpoint), '--format', 'onnx', '--half']) == 0
    return checkpoint.with_name('net_g_fp16.onnx')


def test_weights_in_float16_take_half_the_room_and_restore_the_same(
    exported: tuple[Path, str], halved: Path, checkpoint: Path
) -> None:
    types = [weight.data_type for weight in onnx.load(halved).graph.initializer if len(weight.raw_data) >= 64]
    assert types.count(onnx.TensorProto.FLOAT16) > 20
    assert onnx.TensorProto.FLOAT not in types
    weights = [sum(len(w.raw_data) for w in onnx.load(path).graph.initializer) for path in (exported[0], halved)]
    assert weights[1] < 0.52 * weights[0]
    assert_same(halved, checkpoint, 0.5)
    with pytest.raises(AssertionError):
        assert_same(halved, checkpoint, 1e-3)


def test_a_weight_beyond_float16_stays_in_float32(exported: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, '_SMALL', 64)
    model = onnx.load(exported[0])
    large = next(weight for weight in model.graph.initializer if weight.name == 'generator.input.input')
    large.raw_data = np.full(large.dims, 7e4, np.float32).tobytes()
    export_onnx.halve_weights(model)
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert kinds['generator.input.input'] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT16 in kinds.values()


@pytest.mark.usefixtures('prepared')
def test_float16_that_is_too_coarse_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_onnx, '_SMALL', 64)
    monkeypatch.setattr(export_onnx, 'LARGEST_DIFFERENCE', 0.01)
    with pytest.raises(UserError, match=r'more than 0\.01/255; nothing was written\. Leave out --half\.$'):
        export_generator(checkpoint, 'onnx', tmp_path / 'a.onnx', half=True)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize('cut', [cut_as_facefusion, cut_as_reactor])
@pytest.mark.parametrize('kind', ['exported', 'halved'])
def test_other_programs_restore_as_we_do(
    request: pytest.FixtureRequest, checkpoint: Path, cut: Callable[..., np.ndarray], kind: str
) -> None:
    path = checkpoint.with_suffix('.onnx') if kind == 'exported' else request.getfixturevalue('halved')
    photograph = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    face = cut(photograph, TEMPLATE * 20 + [25, 15], 8)
    restored = restore_as_tools(onnxruntime.InferenceSession(path), face)

    lq = torch.from_numpy(face[..., ::-1].copy()).permute(2, 0, 1).float() / 127.5 - 1
    expected = (load_restorer(checkpoint, CPU).run(lq[None])[0].clamp(-1, 1) + 1) * 127.5
    assert expected.std() > 20
    difference = np.abs(restored[..., ::-1] - expected.permute(1, 2, 0).numpy()).max()
    assert difference <= (0.51 if kind == 'exported' else 1)  # half of it is rounding


def test_a_graph_with_operators_of_a_later_version_keeps_it() -> None:
    helper = onnx.helper
    nodes = [helper.make_node('Split', ['input'], ['a', 'b'], axis=1, num_outputs=2)]
    values = [helper.make_tensor_value_info(name, 1, [1, 2]) for name in ('input', 'a', 'b')]
    graph = helper.make_graph(nodes, 'split', values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)])
    export_onnx.lower_opset(model)
    assert model.opset_import[0].version == 18


@pytest.mark.usefixtures('exported')
def test_onnx_of_a_network_that_enlarges_and_adds_restores_as_pytorch(enlarging: Path) -> None:
    assert_same(enlarging.with_suffix('.onnx'), enlarging, 0.1)


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
        ({'kind': 'safetensors', 'half': True}, '--half belongs to --format onnx'),
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
                'output': Path('a').with_suffix(SUFFIXES[arguments.get('kind', 'onnx')]),
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
    other = save(tmp_path / 'net.pth', make_network(seed=1, size=8))
    with pytest.raises(UserError, match=r'ONNX Runtime and PyTorch differ by [\d.]+/255 \(grey input\)'):
        export_generator(other, 'onnx')
    assert files_in(tmp_path) == ['net.pth']
    (tmp_path / 'net.onnx').write_bytes(b'precious')
    with pytest.raises(UserError, match='nothing was written'):
        export_generator(other, 'onnx', overwrite=True)
    assert files_in(tmp_path) == ['net.onnx', 'net.pth']
    assert (tmp_path / 'net.onnx').read_bytes() == b'precious'


@pytest.mark.usefixtures('prepared')
def test_values_that_are_no_numbers_are_a_difference(tmp_path: Path) -> None:
    network = make_network(size=8)
    network.state_dict()['generator.conv1.conv.weight'].fill_(3e38)  # their squares are infinite; the graph has others
    with pytest.raises(UserError, match='differ by nan/255'):
        export_generator(save(tmp_path / 'net.pth', network), 'onnx')
    assert files_in(tmp_path) == ['net.pth']


@pytest.mark.parametrize('kind', ['onnx', 'safetensors', 'gpen'])
@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path, kind: Format, value: float) -> None:
    network = make_network(size=8)
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
        export_generator(save(tmp_path / 'net.pth', make_network(seed=1, size=8)), 'onnx')
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
