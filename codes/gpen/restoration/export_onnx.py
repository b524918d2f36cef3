"""A generator as an ONNX file, compared with PyTorch before it gets its name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpen import __version__
from gpen.archs.gpen import GPEN
from gpen.errors import UserError
from gpen.restoration.onnx_backend import INPUT, OUTPUT, first_line, import_onnx, load_onnx
from gpen.utils.files import atomic_path
from gpen.utils.packages import import_onnxruntime
from gpen.utils.seeds import derive_generator

if TYPE_CHECKING:
    import onnx

# Operators of this version are known to ONNX Runtime since 1.12 and to other programs of 2022.
OPSET = 17
_EXPORTED_OPSET = 18  # the lowest that PyTorch's exporter writes
IR_VERSION = 8  # of the file format, which belongs to both
LARGEST_DIFFERENCE = 1.0  # in 1/255 of the range of an image
BATCHES = (1, 3)
_LARGEST_BATCH = 2**16  # torch 2.5 and 2.6 want a bound
# Protocol buffers hold 2 GB; the graph around the weights takes far less than the rest.
LARGEST_FILE = 2**31 - 2**26
_SMALL = 1024  # bytes of a tensor that stays in the graph, where shape inference looks for it, and in float32
EPSILON = 1e-8  # under the square roots of modulation and of the mapping network
_HALF = '_float16'  # ends the names of weights that are kept in float16


def write_onnx(
    network: GPEN,
    config: dict[str, Any],
    target: Path,
    faces: Sequence[Tensor] = (),
    progress: Callable[[str], object] = len,
    half: bool = False,
) -> dict[str, float]:
    """Write a network as ONNX, and keep the file only if ONNX Runtime computes the same with it as PyTorch.

    The input is called ``input``, N x 3 x in_size x in_size, float32, RGB, [-1, 1], the output ``output``,
    N x 3 x size x size, not clamped, for any N.  The noise of a network that enlarges is fixed
    (:meth:`gpen.archs.gpen.GPEN.fix_noise`) and becomes constants.  The network's options are in the metadata.  Weights
    of more than 2 GB go to a file beside it, ``TARGET.data``.

    Args:
        network: on the CPU, for evaluation and without gradients; its noise is fixed.
        config: its options, see :func:`gpen.weights.networks.infer_gpen_config`.
        target: where to; replaced if it is there.
        faces: 1 x 3 x in_size x in_size each, to compare with, on top of a grey image and of random ones in batches of
            1 and 3.
        progress: called with a sentence after each step.
        half: keep the weights in float16, see :func:`halve_weights`.

    Returns:
        The largest difference to PyTorch for each kind of input, in 1/255 of the range [-1, 1].

    Raises:
        UserError: a package is missing, the disk is full, or a difference is above 1/255; nothing is written then.
    """
    onnx = import_onnx()
    import_onnx('onnxscript')
    import_onnxruntime()
    network.fix_noise()
    model = build_model(network, config)
    if half:
        halve_weights(model)
    data = external_path(target)

    is_large = sum(len(weight.raw_data) for weight in model.graph.initializer) > LARGEST_FILE

    # Write and check the file in a folder of its own, where it has the name that it gets in the end.
    with atomic_path(target) as graph_file, TemporaryDirectory(prefix='.', dir=target.parent) as name:
        folder = Path(name)
        graph = folder / target.name
        onnx.save_model(
            model, graph, 'protobuf', save_as_external_data=is_large, location=data.name, size_threshold=_SMALL
        )
        del model
        differences = check_model(graph, network, faces, progress, half)

        # The weights come first, so that no graph is ever without its data.
        if is_large:
            target.unlink(missing_ok=True)  # an old graph would be read with the new data if this were cut off here
            with atomic_path(data) as data_file:
                (folder / data.name).replace(data_file)
        graph.replace(graph_file)
    if not is_large:
        data.unlink(missing_ok=True)  # of a larger network that had this name
    return differences


def external_path(target: Path) -> Path:
    """Return the path of the weights that an ONNX file is too small to hold."""
    return target.with_name(f'{target.name}.data')


def build_model(network: GPEN, config: dict[str, Any]) -> onnx.ModelProto:
    """Return the network as ONNX: dynamic batch, weights in the graph, the options as metadata."""
    from onnx import helper

    # Export with a dynamic batch size.
    example = torch.zeros(2, 3, config['in_size'], config['in_size'])
    batch = {0: torch.export.Dim('batch', min=1, max=_LARGEST_BATCH)}
    try:
        with torch.no_grad(), _silence():
            # The strict tracer follows len(tensor), which the other one turns into the batch size of the example.
            program = torch.export.export(network, (example,), dynamic_shapes=(batch,), strict=True)
            names: dict[str, Any] = {'input_names': [INPUT], 'output_names': [OUTPUT]}
            exported = torch.onnx.export(
                program, (), dynamo=True, opset_version=_EXPORTED_OPSET, verbose=False, **names
            )
    except MemoryError:
        raise
    except Exception as error:  # old versions fail in many ways
        raise UserError(
            f'PyTorch {torch.__version__} cannot write this network as ONNX: {first_line(error)}. Use torch 2.6 or '
            'newer, with the newest onnxscript.'
        ) from error
    assert exported is not None  # only the older exporter returns None

    # The same network gives the same bytes, with its options as metadata.
    model: onnx.ModelProto = exported.model_proto
    lower_opset(model)
    restore_epsilons(model)
    _remove_traces(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = 'gpen-trainer', __version__
    properties = {'format': 'gpen', 'version': __version__, **config}
    helper.set_model_props(model, {key: str(value) for key, value in properties.items()})
    return model


def lower_opset(model: onnx.ModelProto) -> None:
    """Write a graph of opset 18 in the operators of :data:`OPSET`; it stays as it is if one has no counterpart there.

    Of the operators of a GPEN, only ReduceMean changed between the two: its axes were an attribute before.
    """
    from onnx import defs, helper, numpy_helper

    def is_the_same(node: onnx.NodeProto) -> bool:
        kind, domain = node.op_type, node.domain
        if not defs.has(kind, OPSET, domain):
            return False
        old, new = (defs.get_schema(kind, version, domain).since_version for version in (OPSET, _EXPORTED_OPSET))
        return old == new

    constants = {weight.name: weight for weight in model.graph.initializer}
    changed = [node for node in model.graph.node if not is_the_same(node)]
    if any(node.op_type != 'ReduceMean' or len(node.input) != 2 or node.input[1] not in constants for node in changed):
        return

    for node in changed:
        axes = numpy_helper.to_array(constants[node.input.pop()])
        kept = [attribute for attribute in node.attribute if attribute.name == 'keepdims']
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute('axes', axes.tolist())])
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid('', OPSET))


def restore_epsilons(model: onnx.ModelProto) -> None:
    """Add :data:`EPSILON` under each square root where it is missing: onnxscript takes it for zero and drops it.

    Without it, a grey image in a network whose biases are zero gives NaN.  A GPEN has no other square roots.
    """
    from onnx import helper, numpy_helper

    name = 'epsilon'
    sums = {node.output[0] for node in model.graph.node if node.op_type == 'Add'}
    nodes = []
    for node in model.graph.node:
        if node.op_type == 'Sqrt' and node.input[0] not in sums:
            total = f'{node.input[0]}_{name}'
            nodes.append(helper.make_node('Add', [node.input[0], name], [total], f'add_{total}'))
            node.input[0] = total
        nodes.append(node)
    if len(nodes) == len(model.graph.node):
        return

    model.graph.initializer.append(numpy_helper.from_array(np.array(EPSILON, np.float32), name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def halve_weights(model: onnx.ModelProto) -> None:
    """Keep the large weights of a graph in float16, which halves the file, and cast them to float32 in front of it.

    The graph computes in float32 as before, on every device, since activations are not bounded by float16's largest
    number.  ONNX Runtime casts once, when it loads the file.  A weight that float16 cannot hold stays in float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.raw_data) < _SMALL:
            continue
        values = numpy_helper.to_array(weight)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        casts.append(helper.make_node('Cast', [name + _HALF], [name], f'cast_{name}', to=TensorProto.FLOAT))
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + _HALF))

    # Nodes stand in the order of their work.
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check_model(
    path: Path,
    network: GPEN,
    faces: Sequence[Tensor],
    progress: Callable[[str], object] = len,
    half: bool = False,
) -> dict[str, float]:
    """Check a file with ONNX's checker, then compare ONNX Runtime with PyTorch on grey, on noise and on ``faces``.

    Raises:
        UserError: the file breaks ONNX's rules, or a difference is above :data:`LARGEST_DIFFERENCE`.
    """
    from onnx import checker

    try:
        checker.check_model(str(path))
    except checker.ValidationError as error:
        raise UserError(
            f"The exported graph breaks ONNX's rules: {error}. Use other versions of torch and onnx."
        ) from error

    # A grey image, in which a network without biases has zeros everywhere; random inputs of each batch size; faces.
    restorer = load_onnx(path, torch.device('cpu'))
    generator = derive_generator(0, 'export')
    shape = (3, network.in_size, network.in_size)
    inputs = {'grey input': [torch.zeros(1, *shape)]}
    for batch in BATCHES:
        noise = torch.from_numpy(generator.uniform(-1, 1, (batch, *shape))).float()
        inputs[f'random input, batch {batch}'] = [noise]
    if faces:
        inputs[f'{len(faces)} {"face" if len(faces) == 1 else "faces"}'] = list(faces)

    differences: dict[str, float] = {}
    for name, images in inputs.items():
        largest = float(torch.stack([_compare(restorer.run, network, image) for image in images]).max())
        progress(f'Largest difference between ONNX Runtime and PyTorch in 1/255, {name}: {largest:.2g}')
        # "not <=" is also true for NaN.
        if not largest <= LARGEST_DIFFERENCE:
            advice = 'Leave out --half' if half else 'Use other versions of onnxruntime and torch'
            raise UserError(
                f'ONNX Runtime and PyTorch differ by {largest:.3g}/255 ({name}), more than '
                f'{LARGEST_DIFFERENCE:g}/255; nothing was written. {advice}.'
            )
        differences[name] = largest
    return differences


@torch.inference_mode()
def _compare(run: Callable[[Tensor], Tensor], network: GPEN, lq: Tensor) -> Tensor:
    """Return the largest difference in 1/255 of the range [-1, 1], a scalar."""
    return (run(lq) - network(lq)).abs().max() * (255 / 2)


def _remove_traces(model: onnx.ModelProto) -> None:
    """Remove the source locations of all nodes, and name the free dimension ``batch``."""
    graph = model.graph
    for message in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        message.ClearField('metadata_props')
        message.ClearField('doc_string')
    graph.ClearField('value_info')  # shapes of intermediate results, which every program infers by itself
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = 'batch'


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's remarks off the screen; what matters is checked afterwards."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
