"""ONNX Runtime without its telemetry."""

from __future__ import annotations

import os
from typing import Any

from gpen.errors import UserError


def import_onnxruntime() -> Any:
    """Import onnxruntime.

    Recent versions send telemetry and write a file with an identifier of this computer, unless an environment variable
    forbids it before the import; ``ORT_DISABLE_TELEMETRY=0`` allows it.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')

    try:
        import onnxruntime
    except ImportError as error:
        raise UserError('This needs the package onnxruntime: pip install onnxruntime.') from error
    return onnxruntime
