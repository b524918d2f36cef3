"""Exported generators, run by ONNX Runtime.

A file may come from an untrusted source: its graph is checked before ONNX Runtime gets it, and nothing is read but the
file and data beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpen.archs.channels import LARGEST_SIZE, check_image_shape
from gpen.errors import UserError
from gpen.restoration.base import Restorer
from gpen.utils.device import is_out_of_memory
from gpen.utils.packages import import_onnxruntime, import_package
from gpen.utils.text import format_shape, list_names
from gpen.weights.recognition import name_stranger, read_head

if TYPE_CHECKING:
    import onnx

# The names in files that scripts/export.py writes are those of the published exporter: FaceFusion and ReActor feed an
# input of just this name.  Files are read by shapes, whatever their names are.
INPUT = 'input'
OUTPUT = 'output'

_FLOATS: dict[int, type[np.floating[Any]]] = {1: np.float32, 10: np.float16}  # by their number in TensorProto
_LARGEST_BATCH = 64  # that a graph may insist on


@dataclass(frozen=True)
class Image:
    """An input or output of a graph that is a batch of images: N x 3 x side x side.

    Attributes:
        name: in the graph.
        side: height and width in pixels; None where the graph does not tell.
        batch: the one N that it takes; None: any.
        dtype: of its values.
    """

    name: str
    side: int | None
    batch: int | None
    dtype: type[np.floating[Any]]


def load_onnx(path: Path, device: torch.device, fall_back: bool = False) -> Restorer:
    """Load a generator of ``scripts/export.py`` or of another exporter; names and sizes are read off the graph.

    Args:
        path: the file.
        device: ``cuda`` needs the package onnxruntime-gpu; everything else runs on the CPU, with as many threads as
            PyTorch has.
        fall_back: run on the CPU where ONNX Runtime cannot use the GPU.

    Raises:
        UserError: the file is missing, damaged, or another kind of graph; it refers to data outside its folder; a
            package or the GPU is missing.
    """
    given, taken = read_images(path)
    session = _open_session(path, device, fall_back)
    assert given.side is not None
    in_size = given.side

    def run_once(images: np.ndarray) -> np.ndarray:
        try:
            return session.run([taken.name], {given.name: images})[0]  # type: ignore[no-any-return]
        except Exception as error:  # ONNX Runtime has no narrower common type
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise UserError(
                f'{path} fails in ONNX Runtime: {first_line(error)}. Export the checkpoint again.'
            ) from error

    def run(lq: Tensor) -> Tensor:
        check_image_shape('generator', tuple(lq.shape), in_size)
        images = lq.detach().cpu().contiguous().numpy().astype(given.dtype)
        # Where the graph has one size of batch, the last one is filled up with black images.
        count = given.batch or max(1, len(images))
        parts = []
        for start in range(0, len(images), count):
            part = images[start : start + count]
            full = np.pad(part, ((0, count - len(part)), (0, 0), (0, 0), (0, 0))) if given.batch else part
            parts.append(run_once(full)[: len(part)])
        return torch.from_numpy(np.concatenate(parts)).float()

    size = taken.side or _measure(path, run, in_size)
    provider = session.get_providers()[0].removesuffix('ExecutionProvider').lower()
    return Restorer(run, size, in_size, f'ONNX Runtime on {provider}')


def import_onnx(name: str = 'onnx') -> Any:
    """Import onnx or onnxscript; UserError where it is not installed."""
    return import_package(name, f'ONNX files need the package {name}: pip install {name}.')


def read_images(path: Path) -> tuple[Image, Image]:
    """Return the image that goes in and the one that comes out, after checking the whole graph.

    Of several images that come out, the largest is the restored one.

    Raises:
        UserError: the file is missing, damaged, or another kind of graph, or refers to data outside its folder.
    """
    graph = _read_model(path).graph
    weights = {weight.name for weight in graph.initializer}  # old files list them among the inputs
    inputs = [value for value in graph.input if value.name not in weights]

    given = _find_image(inputs[0]) if len(inputs) == 1 else None
    outputs = [image for image in map(_find_image, graph.output) if image is not None]
    taken = max(outputs, key=lambda image: image.side or 0, default=None)
    if given is None or given.side is None or taken is None or not _is_size(taken.side or given.side, given.side):
        raise _explain_graph(path, _describe(inputs), _describe(graph.output))
    return given, taken


def _measure(path: Path, run: Callable[[Tensor], Tensor], in_size: int) -> int:
    """Return the side of the output of a graph that does not tell it, by running it once."""
    shape = tuple(run(torch.zeros(1, 3, in_size, in_size)).shape)
    if len(shape) != 4 or shape[:2] != (1, 3) or shape[2] != shape[3] or not _is_size(shape[2], in_size):
        raise _explain_graph(path, f'1 x 3 x {in_size} x {in_size}', format_shape(shape))
    return shape[2]


def _is_size(size: int, in_size: int) -> bool:
    return in_size <= size <= LARGEST_SIZE


def _explain_graph(path: Path, given: str, taken: str) -> UserError:
    return UserError(
        f'{path} is no generator that restores faces. It takes {given} and gives {taken}; expected are one input, '
        f'N x 3 x S x S, and an output, N x 3 x T x T, with T not below S and at most {LARGEST_SIZE}, both of floating '
        'point numbers. Export a checkpoint with scripts/export.py.'
    )


def first_line(error: Exception) -> str:
    """Return the first line of a message, without the full stop at its end."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip('. ')


def _read_model(path: Path) -> onnx.ModelProto:
    """Return the graph without its external data, whose places are checked."""
    library = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        read_head(path)  # which does not wait for a named pipe
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


def _find_image(value: Any) -> Image | None:
    """Return what is known of an input or output that is a batch of square images with 3 channels; None of others."""
    kind = value.type.tensor_type
    dims = [dim.dim_value for dim in kind.shape.dim] if kind.HasField('shape') else [0] * 4  # 0: any, or not known
    if kind.elem_type not in _FLOATS or len(dims) != 4 or min(dims) < 0:
        return None
    if dims[0] > _LARGEST_BATCH or dims[1] not in (0, 3) or dims[2] != dims[3]:
        return None
    return Image(value.name, dims[2] or None, dims[0] or None, _FLOATS[kind.elem_type])


def _describe(values: Iterable[Any]) -> str:
    """Return names and shapes such as ``'x' (? x 3 x 512 x 512)``."""
    shapes = {value.name: [dim.dim_value or '?' for dim in value.type.tensor_type.shape.dim] for value in values}
    return list_names(f'{name!r} ({" x ".join(map(str, shape))})' for name, shape in shapes.items()) or 'nothing'


def _damaged(path: Path) -> UserError:
    what = name_stranger(path, read_head(path))
    if what is not None and 'an ONNX file' not in what:
        return UserError(f'{path} {what}')
    return UserError(f'{path} is damaged, cut short or no ONNX file at all. Copy or export it again.')
