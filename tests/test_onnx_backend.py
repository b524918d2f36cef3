"""ONNX files run through ONNX Runtime, and strangers' files are looked at first."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpen.errors import UserError
from gpen.restoration.loading import load_restorer

onnx = pytest.importorskip('onnx', reason='onnx is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT

CPU = torch.device('cpu')
SIDE = 8


def image_value(name: str, side: int = SIDE, batch: int | str = 'batch', channels: int = 3, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, [batch, channels, side, side])


def weights(values: np.ndarray, location: str | None = None) -> Any:
    """A tensor called ``factor`` whose values lie in another file if ``location`` is given."""
    tensor = onnx.numpy_helper.from_array(values, 'factor')
    if location is not None:
        onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=values.nbytes)
        tensor.ClearField('raw_data')
    return tensor


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Path:
    graph = helper.make_graph(nodes, 'graph', inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_scaling(path: Path, location: str | None = None) -> Path:
    """A file with the shape of our exports, whose image is half of lq; the factor may lie in another file."""
    nodes = [helper.make_node('Mul', ['lq', 'factor'], ['image'])]
    factor = weights(np.full((1, 3, 1, 1), 0.5, np.float32), location)
    return write(path, nodes, [image_value('lq')], [image_value('image')], [factor])


def write_cast(path: Path, given: Any, taken: Any) -> Path:
    """A file that gives what it gets."""
    node = helper.make_node('Cast', [given.name], [taken.name], to=taken.type.tensor_type.elem_type)
    return write(path, [node], [given], [taken], [])


def write_identity(path: Path, given: Any, taken: Any) -> Path:
    return write(path, [helper.make_node('Identity', [given.name], [taken.name])], [given], [taken], [])


def faces(count: int, side: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


def test_sizes_are_read_off_the_graph_and_any_number_of_faces_runs(tmp_path: Path) -> None:
    double = helper.make_node('Tile', ['lq', 'repeats'], ['image'])
    repeats = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2]), 'repeats')
    path = write(tmp_path / 'a.onnx', [double], [image_value('lq')], [image_value('image', 2 * SIDE)], [repeats])
    restorer = load_restorer(path, CPU)
    assert (restorer.in_size, restorer.size) == (SIDE, 2 * SIDE)
    assert restorer.backend == 'ONNX Runtime on cpu'
    for count in (1, 2, 5):
        assert torch.equal(restorer(faces(count)), faces(count).repeat(1, 1, 2, 2))


def test_the_threads_are_those_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    session = onnxruntime.InferenceSession

    def open_session(path: str, options: Any, **settings: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return session(path, options, **settings)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', open_session)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    load_restorer(write_scaling(tmp_path / 'a.onnx'), CPU)
    assert seen == [3]


def test_faces_of_another_size_are_refused(tmp_path: Path) -> None:
    restorer = load_restorer(write_scaling(tmp_path / 'a.onnx'), CPU)
    with pytest.raises(UserError, match='takes images of N x 3 x 8 x 8, but got 1 x 3 x 16 x 16'):
        restorer(faces(1, 16))


HALF = onnx.TensorProto.FLOAT16
UNKNOWN = helper.make_tensor_value_info('output', FLOAT, None)


@pytest.mark.parametrize(
    ('given', 'taken'),
    [
        (image_value('input'), image_value('output')),
        (image_value('lq'), image_value('image')),
        (image_value('x.1'), image_value('3074')),
        (image_value('input', batch=1), image_value('output', batch=1)),
        (image_value('input', batch=2), image_value('output', batch=2)),
        (image_value('input', kind=HALF), image_value('output', kind=HALF)),
        (image_value('input', batch=1, kind=HALF), image_value('output', batch=1)),
        (image_value('input'), UNKNOWN),
        (image_value('input'), helper.make_tensor_value_info('output', FLOAT, ['n', 3, 'h', 'h'])),
    ],
    ids=['ours', 'ours, before', 'other names', 'one', 'two', 'half', 'half in', 'unknown', 'unknown size'],
)
def test_files_from_elsewhere_are_taken_by_shape(tmp_path: Path, given: Any, taken: Any) -> None:
    restorer = load_restorer(write_cast(tmp_path / 'a.onnx', given, taken), CPU)
    assert (restorer.in_size, restorer.size) == (SIDE, SIDE)
    for count in (1, 2, 5):
        restored = restorer(faces(count))
        assert restored.dtype == torch.float32
        assert (restored - faces(count)).abs().max() < 1e-3


def test_of_several_outputs_the_largest_image_is_the_restored_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node('Tile', ['input', 'repeats'], ['large']),
        helper.make_node('Identity', ['input'], ['small']),
        helper.make_node('ReduceMean', ['input'], ['mean'], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info('mean', FLOAT, []), image_value('small'), image_value('large', 2 * SIDE)]
    repeats = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2]), 'repeats')
    restorer = load_restorer(write(tmp_path / 'a.onnx', nodes, [image_value('input')], outputs, [repeats]), CPU)
    assert restorer.size == 2 * SIDE
    assert torch.equal(restorer(faces(2)), faces(2).repeat(1, 1, 2, 2))


@pytest.mark.parametrize(
    ('given', 'taken'),
    [
        (image_value('lq', batch=10**9), image_value('image', batch=10**9)),
        (image_value('lq', channels=1), image_value('image', channels=1)),
        (image_value('lq', kind=onnx.TensorProto.UINT8), image_value('image', kind=onnx.TensorProto.UINT8)),
        (image_value('lq', side=8192), image_value('image', side=8192)),
        (image_value('lq', side=16), image_value('image', side=8)),
        (helper.make_tensor_value_info('lq', FLOAT, ['n', 3, 8, 16]), image_value('image')),
        (helper.make_tensor_value_info('lq', FLOAT, ['n', 3, 'h', 'w']), image_value('image')),
        (helper.make_tensor_value_info('lq', FLOAT, []), image_value('image')),
    ],
    ids=['batch', 'grey', 'bytes', 'huge', 'smaller', 'oblong', 'any size', 'scalar'],
)
def test_another_kind_of_graph_is_refused_and_what_it_has_is_said(tmp_path: Path, given: Any, taken: Any) -> None:
    path = write_identity(tmp_path / 'a.onnx', given, taken)
    with pytest.raises(UserError, match='is no generator that restores faces') as caught:
        load_restorer(path, CPU)
    message = str(caught.value)
    assert f'It takes {given.name!r} (' in message
    assert f'gives {taken.name!r} (' in message
    assert 'one input, N x 3 x S x S, and an output' in message


def test_an_output_that_is_no_image_after_all_is_refused(tmp_path: Path) -> None:
    node = helper.make_node('GlobalAveragePool', ['input'], ['output'])
    path = write(tmp_path / 'a.onnx', [node], [image_value('input')], [UNKNOWN], [])
    with pytest.raises(UserError, match=r'takes 1 x 3 x 8 x 8 and gives 1 x 3 x 1 x 1'):
        load_restorer(path, CPU)


def test_more_inputs_than_the_image_are_refused(tmp_path: Path) -> None:
    inputs = [image_value('lq'), image_value('mask')]
    path = write(
        tmp_path / 'a.onnx', [helper.make_node('Add', ['lq', 'mask'], ['image'])], inputs, [image_value('image')], []
    )
    with pytest.raises(UserError, match=r"It takes 'lq' \(\? x 3 x 8 x 8\), 'mask' \(\? x 3 x 8 x 8\) and gives"):
        load_restorer(path, CPU)


def test_weights_that_old_files_list_as_inputs_are_none(tmp_path: Path) -> None:
    factor = weights(np.full((1, 3, 1, 1), 0.5, np.float32))
    inputs = [image_value('lq'), helper.make_tensor_value_info('factor', FLOAT, [1, 3, 1, 1])]
    path = write(
        tmp_path / 'a.onnx',
        [helper.make_node('Mul', ['lq', 'factor'], ['image'])],
        inputs,
        [image_value('image')],
        [factor],
    )
    assert torch.equal(load_restorer(path, CPU)(faces(2)), faces(2) / 2)


@pytest.mark.parametrize(
    'spoil',
    [lambda content: content[:-9], lambda content: content[:5] + bytes(20), lambda content: content[::-1]],
    ids=['cut', 'zeros', 'backwards'],
)
def test_a_damaged_file_is_one_message(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = write_scaling(tmp_path / 'a.onnx')
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match='is damaged, cut short or no ONNX file'):
        load_restorer(path, CPU)


def test_a_missing_file_or_a_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'There is no file {re.escape(str(tmp_path))}/no.onnx'):
        load_restorer(tmp_path / 'no.onnx', CPU)
    (tmp_path / 'folder.onnx').mkdir()
    with pytest.raises(UserError, match='Cannot read'):
        load_restorer(tmp_path / 'folder.onnx', CPU)


def test_data_beside_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / 'a.data').write_bytes(np.full(3, 0.25, np.float32).tobytes())
    restorer = load_restorer(write_scaling(tmp_path / 'a.onnx', 'a.data'), CPU)
    assert torch.equal(restorer(faces(2)), faces(2) / 4)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs the file 'a\.data' in its folder"):
        load_restorer(write_scaling(tmp_path / 'a.onnx', 'a.data'), CPU)


@pytest.mark.parametrize('location', ['../secret', '{root}/secret', 'inner/../../secret', 'link', '..\\secret', ''])
def test_data_outside_the_folder_is_never_read(tmp_path: Path, location: str) -> None:
    (tmp_path / 'secret').write_bytes(bytes(12))
    folder = tmp_path / 'download'
    (folder / 'inner').mkdir(parents=True)
    (folder / 'link').symlink_to(tmp_path / 'secret')
    with pytest.raises(UserError, match='outside its own folder'):
        load_restorer(write_scaling(folder / 'a.onnx', location.format(root=tmp_path)), CPU)


def test_data_at_an_address_in_memory_is_never_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='which is not there'):
        load_restorer(write_scaling(tmp_path / 'a.onnx', '*/_ORT_MEM_ADDR_/*'), CPU)


def test_data_outside_the_folder_is_found_deep_inside_the_graph(tmp_path: Path) -> None:
    (tmp_path / 'secret').write_bytes(bytes(12))
    (tmp_path / 'download').mkdir()
    constant = helper.make_node(
        'Constant', [], ['factor'], value=weights(np.zeros((1, 3, 1, 1), np.float32), '../secret')
    )
    branch = helper.make_graph([constant], 'branch', [], [helper.make_tensor_value_info('factor', FLOAT, [1, 3, 1, 1])])
    flag = onnx.numpy_helper.from_array(np.array(True), 'flag')
    nodes = [
        helper.make_node('If', ['flag'], ['chosen'], then_branch=branch, else_branch=branch),
        helper.make_node('Mul', ['lq', 'chosen'], ['image']),
    ]
    path = write(tmp_path / 'download' / 'a.onnx', nodes, [image_value('lq')], [image_value('image')], [flag])
    with pytest.raises(UserError, match='outside its own folder'):
        load_restorer(path, CPU)


def test_operators_that_onnx_runtime_does_not_have_are_one_message(tmp_path: Path) -> None:
    nodes = [helper.make_node('Strange', ['lq'], ['image'], domain='stranger')]
    graph = helper.make_graph(nodes, 'graph', [image_value('lq')], [image_value('image')])
    opsets = [helper.make_opsetid('', 18), helper.make_opsetid('stranger', 1)]
    path = tmp_path / 'a.onnx'
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    with pytest.raises(UserError, match='ONNX Runtime cannot load') as caught:
        load_restorer(path, CPU)
    assert '\n' not in str(caught.value)


def write_dynamic(path: Path, count: int, last: Any) -> Path:
    """A file that makes ``count`` numbers of what it gets (not known before it runs), then image with ``last``."""
    constants = [
        onnx.numpy_helper.from_array(np.array(value), name) for name, value in (('zero', [0]), ('count', [count]))
    ]
    nodes = [
        helper.make_node('Shape', ['lq'], ['shape']),
        helper.make_node('Gather', ['shape', 'zero'], ['batch']),
        helper.make_node('Mul', ['batch', 'count'], ['length']),
        helper.make_node('ConstantOfShape', ['length'], ['many']),
        last,
    ]
    return write(path, nodes, [image_value('lq')], [image_value('image')], constants)


def test_memory_that_runs_out_is_told_as_such(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    add_all = [
        helper.make_node('ReduceMax', ['many'], ['most'], keepdims=0),
        helper.make_node('Add', ['lq', 'most'], ['image']),
    ]
    path = write_dynamic(tmp_path / 'a.onnx', 2**46, add_all[0])
    model = onnx.load(path)
    model.graph.node.append(add_all[1])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(MemoryError):
        load_restorer(path, CPU)(faces(1))
    assert capfd.readouterr().err == ''


def test_a_graph_that_fails_while_it_runs_is_one_message(tmp_path: Path) -> None:
    path = write_dynamic(tmp_path / 'a.onnx', 5, helper.make_node('Add', ['lq', 'many'], ['image']))
    with pytest.raises(UserError, match=r'a\.onnx fails in ONNX Runtime: ') as caught:
        load_restorer(path, CPU)(faces(1))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path = write_scaling(tmp_path / 'a.onnx')
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f'pip install {package}\\.'):
        load_restorer(path, CPU)


def test_a_gpu_that_onnx_runtime_cannot_use_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_scaling(tmp_path / 'a.onnx')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CPUExecutionProvider'])
    with pytest.raises(UserError, match='pip install onnxruntime-gpu'):
        load_restorer(path, torch.device('cuda', 0))
    assert load_restorer(path, torch.device('cuda', 0), fall_back=True).backend == 'ONNX Runtime on cpu'


def test_a_gpu_that_onnx_runtime_leaves_for_the_cpu_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does, without an exception, where onnxruntime-gpu is installed and CUDA is not."""
    path = write_scaling(tmp_path / 'a.onnx')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    asked = []
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CUDAExecutionProvider'])
    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda *_, providers: asked.append(providers[0]) or session)
    with pytest.raises(UserError, match='pip install onnxruntime-gpu'):
        load_restorer(path, torch.device('cuda', 1))
    assert load_restorer(path, torch.device('cuda', 1), fall_back=True).backend == 'ONNX Runtime on cpu'
    assert len(asked) == 2
    assert asked[0] == ('CUDAExecutionProvider', {'device_id': 1})
