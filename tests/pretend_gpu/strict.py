"""Processes on the pretend GPU: where the host may not wait for it.

Commands are forked from a server that has imported this module, so that their training loops are watched, too.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gpen.training import loop, run

LIBRARY = ctypes.CDLL(os.environ['PRETEND_LIBRARY'])
MAY_WAIT = ('_report_gradients', '_report_skipped_steps', '_record_training', '_validate', 'save')
"""What the training loop calls now and then, to read what the GPU holds."""

torch.backends.cudnn.enabled = False  # cuDNN asks the hardware itself


@contextmanager
def waiting(allowed: bool) -> Iterator[None]:
    """Inside, a wait for the GPU or a copy from or to pageable memory is an error, unless it is allowed."""
    before = LIBRARY.pretend_strict(not allowed)
    try:
        yield
    finally:
        LIBRARY.pretend_strict(before)


def _watch(function: Callable[..., Any], may_wait: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        with waiting(allowed=may_wait):
            return function(*args, **kwargs)

    return watched


run.train = _watch(loop.train, may_wait=False)
for _name in MAY_WAIT:
    setattr(loop, _name, _watch(getattr(loop, _name), may_wait=True))
