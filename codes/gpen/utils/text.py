"""Numbers, shapes and lists in words, for messages."""

import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_NAMES_SHOWN = 4
_LONGEST_NAME = 80
_TELLING = 3  # letters that may stand for a name
_LONGEST = 200  # characters of a value in a message
_MAX_PLAIN = 1e6  # from here on, a number is written with an exponent


def format_number(value: float, digits: int = 4) -> str:
    """Return a number for people: ``1,600``, ``0.0743``, ``2.9e-5``."""
    if not math.isfinite(value):
        return 'not finite'
    if abs(value) < _MAX_PLAIN and (value == int(value) or abs(value) >= 10**digits):
        return f'{value:,.0f}'
    return re.sub(r'e\+?(-?)0*', r'e\1', f'{value:,.{digits}g}')


def format_duration(seconds: float) -> str:
    """Return ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'


def format_shape(shape: Iterable[int]) -> str:
    """Return a tensor's shape, such as ``4 x 3 x 512 x 512``; ``scalar`` where it has no dimension."""
    return ' x '.join(str(length) for length in shape) or 'scalar'


def suggest(name: str, known: Iterable[str], cutoff: float = 0.6, form: str = '{}') -> str:
    """Return `` Did you mean 'x'?`` for the nearest of the known names, or the only one that holds it, or nothing.

    Capital and small letters are the same.

    Args:
        name: what was given.
        known: the names that there are.
        cutoff: how near it has to be, 0 to 1.
        form: how the name is shown, with ``{}`` for it.
    """
    others = {other.lower(): other for other in sorted(set(known) - {name})}
    holding = [other for other in others if len(name) >= _TELLING and name.lower() in other]
    near = get_close_matches(name.lower(), others, n=1, cutoff=cutoff) or (holding if len(holding) == 1 else [])
    return f' Did you mean {form.format(others[near[0]])!r}?' if near else ''


def list_names(names: Iterable[str]) -> str:
    """Return the first four names, such as ``a, b, c, d, ...``, each on one line and not longer than 80 characters."""
    names = list(names)
    shown = [shorten(name, _LONGEST_NAME) for name in names[:_NAMES_SHOWN]]
    return ', '.join(shown) + (', ...' if len(names) > _NAMES_SHOWN else '')


def shorten(text: str, length: int = _LONGEST) -> str:
    """Return a text for a message: on one line, a long one without its middle, with a ? for what cannot be printed.

    Args:
        text: of any length.
        length: the characters of it that are kept.
    """
    if len(text) > length:
        text = f'{text[: length * 2 // 3]} [... {len(text):,} characters ...] {text[len(text) - length // 3 :]}'
    return ''.join(character if character.isprintable() else '?' for character in re.sub(r'\s+', ' ', text))


def printable(name: str) -> str:
    """Return a file name for the screen: line breaks, and bytes that are no text, are shown as escapes."""
    return ''.join(
        character if character.isprintable() else character.encode('unicode_escape').decode() for character in name
    )


def count_things(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 face`` or ``3 faces``."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


def to_yaml(value: Any) -> str:
    """Return a value in one line of YAML."""
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text.removesuffix('...\n').rstrip('\n')
