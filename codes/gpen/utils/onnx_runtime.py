"""ONNX Runtime without its telemetry."""

from __future__ import annotations

import os
from typing import Any

from gpen.errors import UserError


def import_onnxruntime() -> Any:
    """Import onnxruntime.

    Recent versions report their use to their maker and leave a file with a number for this computer, unless they are
    told not to before they are imported; who wants that can set ``ORT_DISABLE_TELEMETRY=0``.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError('This needs the package onnxruntime: pip install onnxruntime.') from error
    return onnxruntime
