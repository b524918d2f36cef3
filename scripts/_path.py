"""Import this first: it makes the package under ``codes`` importable from a checkout that was never installed."""

import sys
from pathlib import Path

_CODES = str(Path(__file__).resolve().parents[1] / 'codes')

if _CODES not in sys.path:
    sys.path.insert(0, _CODES)
