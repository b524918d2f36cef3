"""A stand-in for SFace's file, whose embedding tells pictures apart."""

from pathlib import Path

import numpy as np
import pytest

from gpen.faces import sface

_CELLS = 8  # per side, over which colours are averaged


def write_recognizer(folder: Path, length: int = 128) -> Path:
    """Write an ONNX file with SFace's input and name; its embedding mixes what is bright where, without the mean."""
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    node, real = onnx.helper.make_node, onnx.TensorProto.FLOAT
    rng = np.random.default_rng(0)
    arrays = {'grey': np.float32(127.5), 'mix': rng.normal(size=(3 * _CELLS**2, length)).astype(np.float32)}
    graph = onnx.helper.make_graph(
        [
            node('Sub', ['data', 'grey'], ['centred']),
            node('AveragePool', ['centred'], ['cells'], kernel_shape=[14, 14], strides=[14, 14]),
            node('Flatten', ['cells'], ['flat']),
            node('MatMul', ['flat', 'mix'], ['fc1']),
        ],
        'recognizer',
        [onnx.helper.make_tensor_value_info('data', real, [1, 3, 112, 112])],
        [onnx.helper.make_tensor_value_info('fc1', real, [1, length])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    path = folder / sface.FILENAME
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid('', 13)]), path)
    return path
