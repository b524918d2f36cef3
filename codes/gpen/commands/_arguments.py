"""What command lines have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def within(kind: Callable[[str], Any], lowest: float, highest: float) -> Callable[[str], Any]:
    """Return an argparse type for a number (``int`` or ``float``) within limits."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            noun = 'whole number' if kind is int else 'number'
            raise argparse.ArgumentTypeError(f'{text!r} is not a {noun}') from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f'{text} is not between {lowest} and {highest:g}')
        return value

    return parse
