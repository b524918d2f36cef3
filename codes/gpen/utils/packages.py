"""Packages that only some features need, imported where they are used."""

import importlib
import os
from typing import Any

from gpen.errors import UserError


def import_package(module: str, advice: str) -> Any:
    """Import and return a module of a package that may be missing.

    Args:
        module: its dotted name.
        advice: the message where it cannot be imported; ``{error}`` stands for the reason.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(advice.format(error=error)) from error


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry.

    Recent versions send telemetry and write a file with an identifier of this computer, unless an environment variable
    forbids it before the import; ``ORT_DISABLE_TELEMETRY=0`` allows it.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    return import_package('onnxruntime', 'This needs the package onnxruntime: pip install onnxruntime.')
