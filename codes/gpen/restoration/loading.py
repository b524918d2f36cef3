"""Loading a trained generator for use, with PyTorch or ONNX Runtime; its size and width are read off its file."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gpen.archs.generator import set_memory_format
from gpen.archs.ops.layout import fastest_format
from gpen.errors import UserError
from gpen.restoration.base import Restorer
from gpen.restoration.onnx_backend import load_onnx
from gpen.utils.device import DTYPES
from gpen.utils.files import is_file
from gpen.weights.networks import load_generator
from gpen.weights.recognition import is_weights, read_head

Precision = Literal['fp32', 'bf16', 'fp16']


def load_restorer(path: Path, device: torch.device, precision: Precision = 'fp32', fall_back: bool = False) -> Restorer:
    """Load a generator: our files, published ones, BasicSR's, safetensors (EMA weights first), or exported as ONNX.

    The noise of a generator that enlarges (in_size below size) is fixed, so that results can be repeated.

    Args:
        path: the file; one with the suffix ``.onnx`` runs through ONNX Runtime, unless it holds weights.
        device: where it runs.
        precision: of the convolutions; ONNX files have their own.
        fall_back: run an ONNX file on the CPU where ONNX Runtime cannot use the GPU.

    Raises:
        UserError: no such file, not a GPEN generator, or a precision for an ONNX file.
    """
    if _is_onnx(path):
        if precision != 'fp32':
            raise UserError(f'--precision {precision} is for PyTorch; {path} has its own. Leave it out.')
        return load_onnx(path, device, fall_back)

    network, config = load_generator(path)
    network.fix_noise()
    network.fold_scales()
    network.to(device).eval().requires_grad_(False)
    memory_format = fastest_format(device)
    set_memory_format(network, memory_format)

    @torch.inference_mode()
    def run(lq: Tensor) -> Tensor:
        with torch.autocast(device.type, DTYPES.get(precision), enabled=precision != 'fp32'):
            return network(lq.to(device, memory_format=memory_format))

    return Restorer(run, config['size'], config['in_size'], f'PyTorch on {device.type}, {precision}')


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == '.onnx' and not (is_file(path) and is_weights(read_head(path)))
