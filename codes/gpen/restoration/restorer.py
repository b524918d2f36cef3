"""A trained generator ready for use, through PyTorch or ONNX Runtime; its shape is read off its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gpen.archs.checkpoints import load_generator
from gpen.errors import UserError

Precision = Literal['fp32', 'bf16', 'fp16']
_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class Restorer:
    """A generator ready for use.

    Attributes:
        run: N x 3 x in_size x in_size in [-1, 1] on the CPU to N x 3 x size x size, nominally [-1, 1].
        size: height and width of the output in pixels.
        in_size: height and width of the input in pixels.
        backend: what runs it, such as ``PyTorch on cpu, fp32``.
    """

    run: Callable[[Tensor], Tensor]
    size: int
    in_size: int
    backend: str

    def __call__(self, lq: Tensor) -> Tensor:
        """Restore N x 3 x in_size x in_size, float32, [-1, 1]; N x 3 x size x size, float32, clamped, on the CPU.

        Raises:
            UserError: the result has values that are no numbers.
        """
        restored = self.run(lq).float().cpu()
        if not torch.isfinite(restored).all():
            raise UserError(
                f'The network gave values that are no numbers ({self.backend}). Use --precision fp32 or bf16; '
                'if it stays, the weights are damaged.'
            )
        return restored.clamp(-1, 1)


def load_restorer(path: Path, device: torch.device, precision: Precision = 'fp32', fall_back: bool = False) -> Restorer:
    """Load a generator: our files, published ones, BasicSR's, safetensors (EMA weights first), or exported as ONNX.

    The noise of a generator that enlarges (in_size below size) is fixed, so that results can be repeated.

    Args:
        path: the file; one with the suffix ``.onnx`` runs through ONNX Runtime.
        device: where it runs.
        precision: of the convolutions; ONNX files have their own.
        fall_back: run an ONNX file on the CPU where ONNX Runtime cannot use the GPU.

    Raises:
        UserError: no such file, not a GPEN generator, or a precision for an ONNX file.
    """
    if path.suffix.lower() == '.onnx':
        if precision != 'fp32':
            raise UserError(f'--precision {precision} is for PyTorch; {path} has its own. Leave it out.')
        from gpen.restoration.onnx_backend import load_onnx

        return load_onnx(path, device, fall_back)
    network, config = load_generator(path)
    network.fix_noise()
    network.fold_scales()
    network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def run(lq: Tensor) -> Tensor:
        with torch.autocast(device.type, _DTYPES.get(precision), enabled=precision != 'fp32'):
            image: Tensor = network(lq.to(device))
        return image

    return Restorer(run, config['size'], config['in_size'], f'PyTorch on {device.type}, {precision}')
