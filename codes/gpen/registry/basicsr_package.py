"""The package ``basicsr`` itself: whether it is installed, what its source defines, and how it is imported."""

import importlib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

from gpen.errors import UserError

SHIM = 'torchvision.transforms.functional_tensor'


def is_installed() -> bool:
    """Tell whether ``basicsr`` is installed."""
    return importlib.util.find_spec('basicsr') is not None


def import_basicsr() -> None:
    """Import ``basicsr``, whatever version of torchvision there is.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        if importlib.util.find_spec(SHIM) is None:
            # BasicSR 1.4.2 imports a module that torchvision 0.17 removed; what it needs of it stands here now.
            sys.modules[SHIM] = importlib.import_module('torchvision.transforms.functional')
        importlib.import_module('basicsr')
    except (ImportError, AttributeError, RuntimeError, ValueError, TypeError, OSError, SyntaxError) as error:
        # Half of it is imported now; without this, the next try would fail for another, misleading reason.
        for name in [name for name in sys.modules if name.split('.')[0] == 'basicsr']:
            del sys.modules[name]
        raise UserError(
            f'basicsr is installed but cannot be imported ({type(error).__name__}: {error}). '
            'Repair it (pip install basicsr==1.4.2), or remove it and use only the names that this project defines.'
        ) from error


@cache
def _read_sources() -> str:
    """Return the source of BasicSR, nothing where it is not installed: looking a name up there spares its import."""
    spec = importlib.util.find_spec('basicsr')
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [path for folder in folders or [] for path in Path(folder).rglob('*.py')]
    return '\n'.join(path.read_text(encoding='utf-8', errors='replace') for path in paths)


def source_registers(name: str, registry_name: str) -> bool:
    """Tell whether BasicSR is installed and its source enters ``name`` in the registry."""
    if not (name.isidentifier() and is_installed()):
        return False
    pattern = rf'^@{registry_name}\.register\(.*\)\n(@.*\n)*(class|def) {name}\b'
    return re.search(pattern, _read_sources(), re.MULTILINE) is not None
