"""The order of images in memory."""

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format of N x C x H x W: ``channels_last`` (NHWC), or ``contiguous_format`` for any other."""
    is_channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format
