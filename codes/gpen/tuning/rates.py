"""Learning rates as numbers of three digits, and as people write them."""

from __future__ import annotations


def round_rate(rate: float) -> float:
    """Return a rate with three significant digits."""
    return float(f'{rate:.2e}')


def format_rate(rate: float) -> str:
    """Return a rate as people write it: ``1e-3``, ``1.44e-4``."""
    digits, _, exponent = f'{rate:.2e}'.partition('e')
    return f'{digits.rstrip("0").rstrip(".")}e{int(exponent)}'
