"""Exported generators, run by ONNX Runtime.

A file may come from an untrusted source: its graph is checked before ONNX Runtime gets it, and nothing is read but the
file and data beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpen.archs.channels import LARGEST_SIZE, check_image_shape
from gpen.errors import UserError
from gpen.restoration.base import Restorer
from gpen.utils.device import is_out_of_memory
from gpen.utils.packages import import_onnxruntime, import_package
from gpen.utils.text import list_names

if TYPE_CHECKING:
    import onnx

INPUT = 'lq'
OUTPUT = 'image'


def load_onnx(path: Path, device: torch.device, fall_back: bool = False) -> Restorer:
    """Load a generator that ``scripts/export.py`` wrote as ONNX; its sizes are read off the graph.

    Args:
        path: the file.
        device: ``cuda`` needs the package onnxruntime-gpu; everything else runs on the CPU, with as many threads as
            PyTorch has.
        fall_back: run on the CPU where ONNX Runtime cannot use the GPU.

    Raises:
        UserError: the file is missing, damaged, or another kind of graph; it refers to data outside its folder; a
            package or the GPU is missing.
    """
    in_size, size = read_sizes(path)
    session = _open_session(path, device, fall_back)

    def run(lq: Tensor) -> Tensor:
        check_image_shape('generator', tuple(lq.shape), in_size)
        array = lq.detach().float().cpu().contiguous().numpy()
        try:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: array})[0])
        except Exception as error:  # ONNX Runtime has no narrower common type
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise UserError(
                f'{path} fails in ONNX Runtime: {first_line(error)}. Export the checkpoint again.'
            ) from error

    provider = session.get_providers()[0].removesuffix('ExecutionProvider').lower()
    return Restorer(run, size, in_size, f'ONNX Runtime on {provider}')


def import_onnx(name: str = 'onnx') -> Any:
    """Import onnx or onnxscript; UserError where it is not installed."""
    return import_package(name, f'ONNX files need the package {name}: pip install {name}.')


def read_sizes(path: Path) -> tuple[int, int]:
    """Return the side of the input and of the output in pixels, after checking the whole graph.

    Raises:
        UserError: the file is missing, damaged, or another kind of graph, or refers to data outside its folder.
    """
    graph = _read_model(path).graph
    weights = {weight.name for weight in graph.initializer}  # old files list them among the inputs
    inputs = [value for value in graph.input if value.name not in weights]
    in_size, size = _find_side(inputs, INPUT), _find_side(graph.output, OUTPUT)
    if in_size is None or size is None or not in_size <= size <= LARGEST_SIZE:
        raise UserError(
            f'{path} is not a generator that scripts/export.py wrote. It takes {_describe(inputs)} and gives '
            f'{_describe(graph.output)}; expected are {INPUT} (float32, batch x 3 x S x S) and {OUTPUT} (float32, '
            f'batch x 3 x T x T, T not below S, at most {LARGEST_SIZE}). Export a checkpoint with scripts/export.py.'
        )
    return in_size, size


def first_line(error: Exception) -> str:
    """Return the first line of a message, without the full stop at its end."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip('. ')


def _read_model(path: Path) -> onnx.ModelProto:
    """Return the graph without its external data, whose places are checked."""
    library = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        # The format is given, because some suffixes would choose a text format.
        model: onnx.ModelProto = library.load(path, format='protobuf', load_external_data=False)
    except FileNotFoundError as error:
        raise UserError(f'There is no file {path}. Check the path, or make it with scripts/export.py.') from error
    except OSError as error:
        raise UserError(f'Cannot read {path}: {error.strerror}. Give the path of a readable file.') from error
    except (DecodeError, ValueError) as error:
        raise _damaged(path) from error

    if not model.HasField('graph'):
        raise _damaged(path)
    for location in _find_locations(model):
        _check_location(path, location)
    return model


def _check_location(path: Path, location: str) -> None:
    """Raise UserError unless external data lies in the folder of the file ``path``."""
    folder = path.absolute().parent.resolve()
    data = folder / location
    # resolve() follows links as well, so that a link in the folder cannot lead out of it.
    if '\\' in location or Path(location).is_absolute() or '..' in data.parts or folder not in data.resolve().parents:
        raise UserError(
            f'{path} was not loaded: it wants to read {location!r}, outside its own folder. '
            'Use a file from a source that you trust.'
        )
    if not data.is_file():
        raise UserError(f'{path} needs the file {location!r} in its folder, which is not there. Copy both together.')


def _find_locations(message: Any) -> Iterator[str]:
    """Yield the paths of external data that the tensors in a protobuf message name, at any depth."""
    if message.DESCRIPTOR.name == 'TensorProto':
        yield from {entry.value for entry in message.external_data if entry.key == 'location'}
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if hasattr(value, 'DESCRIPTOR') else value:
                yield from _find_locations(child)


def _open_session(path: Path, device: torch.device, fall_back: bool) -> Any:
    """Return an onnxruntime.InferenceSession for a file that was checked."""
    onnxruntime = import_onnxruntime()
    providers: list[Any] = ['CPUExecutionProvider']
    if device.type == 'cuda' and 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        providers.insert(0, ('CUDAExecutionProvider', {'device_id': device.index or 0}))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has no narrower common type
        raise UserError(
            f'ONNX Runtime cannot load {path}: {first_line(error)}. Export the checkpoint again, or install a newer '
            'onnxruntime.'
        ) from error

    # ONNX Runtime falls back to the CPU silently.
    if device.type == 'cuda' and session.get_providers()[0] != 'CUDAExecutionProvider' and not fall_back:
        raise UserError(
            f'{path} cannot run on the GPU: ONNX Runtime has no working CUDA support here. Install it (pip uninstall '
            'onnxruntime, then pip install onnxruntime-gpu), or use --device cpu.'
        )
    return session


def _find_side(values: Iterable[Any], name: str) -> int | None:
    """Return the side of the one image, called ``name``: float32, N x 3 x side x side; None for other values."""
    values = list(values)
    if [value.name for value in values] != [name]:
        return None
    kind = values[0].type.tensor_type
    batch, *lengths = [dim.dim_value for dim in kind.shape.dim] or [0]  # 0: any
    if kind.elem_type != 1 or batch != 0 or len(lengths) != 3:  # 1: TensorProto.FLOAT
        return None
    channels, height, width = lengths
    return int(height) if channels == 3 and 0 < height == width else None


def _describe(values: Iterable[Any]) -> str:
    """Return names and shapes such as ``'x' (? x 3 x 512 x 512)``."""
    shapes = {value.name: [dim.dim_value or '?' for dim in value.type.tensor_type.shape.dim] for value in values}
    return list_names(f'{name!r} ({" x ".join(map(str, shape))})' for name, shape in shapes.items()) or 'nothing'


def _damaged(path: Path) -> UserError:
    return UserError(f'{path} is damaged, cut short or no ONNX file at all. Copy or export it again.')
