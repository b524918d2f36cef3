"""The order of images in memory."""

import torch
from torch import Tensor


def fastest_format(device: torch.device, channels_last: bool | None = None) -> torch.memory_format:
    """Return the format in which networks are faster on ``device``, or the one that ``channels_last`` asks for.

    oneDNN on a CPU would reorder contiguous images in each convolution.
    """
    if channels_last is None:
        channels_last = device.type == 'cpu'
    return torch.channels_last if channels_last else torch.contiguous_format


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format of N x C x H x W: ``channels_last`` (NHWC), or ``contiguous_format`` for any other."""
    is_channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format
