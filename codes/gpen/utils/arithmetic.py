"""How a GPU computes float32: in TF32 or as IEEE 754 says, and whether always in the same order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_arithmetic(tf32: bool, deterministic: bool) -> None:
    """Say how all coming operations are computed; call it before CUDA starts.

    Matrix products are in IEEE float32 whatever is asked for: linear layers are a small part of a step.

    Args:
        tf32: convolutions in float32 use TF32 on GPUs that have it.
        deterministic: choose algorithms that give the same bits each time; where an operation has none, PyTorch warns.
    """
    torch.set_float32_matmul_precision('highest')
    _set_tf32(tf32)

    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports inductor
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        # cuBLAS reads it once, when it is first used.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        # Else each new tensor is filled before it is used, which costs time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def ieee_float32(is_needed: bool = True) -> Iterator[None]:
    """Compute convolutions in IEEE float32 and afterwards as before; a no-op unless ``is_needed``.

    Backward passes count too: what runs inside decides, not where the graph was built.
    """
    before = uses_tf32()
    if not (is_needed and before):
        yield
        return
    _set_tf32(False)
    try:
        yield
    finally:
        _set_tf32(before)


def uses_tf32() -> bool:
    """Return whether convolutions in float32 use TF32 on GPUs that have it."""
    if hasattr(torch.backends.cudnn, 'conv'):
        return bool(torch.backends.cudnn.conv.fp32_precision == 'tf32')
    return bool(torch.backends.cudnn.allow_tf32)


def _set_tf32(is_on: bool) -> None:
    # PyTorch before 2.9 knows this name alone, and reading it later, as inductor does, fails where the two disagree.
    torch.backends.cudnn.allow_tf32 = is_on
    if hasattr(torch.backends.cudnn, 'conv'):
        torch.backends.cudnn.conv.fp32_precision = 'tf32' if is_on else 'ieee'


def warn_of_slow_bf16(device: torch.device) -> str | None:
    """Return a sentence where bfloat16 is not worth while on a device: on GPUs before Ampere; else None."""
    if device.type != 'cuda' or torch.cuda.get_device_capability(device) >= (8, 0):
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return (
        f'train.amp: bf16 is slow on {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}): GPUs '
        'compute bfloat16 in tensor cores from 8.0 (Ampere) on. Use train.amp: fp16.'
    )
