"""Change copies of good files at random, and see that each is used or refused in a sentence, and nothing else.

Each kind of file is one module here, named after the kind, with one function::

    def fuzz(generator: np.random.Generator, folder: Path) -> str

It makes one copy with a random change (see :func:`mutate`) in an empty folder, has the program use it, and returns what
came of it in a word or two, by which outcomes are counted.  A :class:`gpen.errors.UserError` that it lets through
counts as ``refused``.  Any other exception is a finding, and so is an endless message or one that takes too long.
"""

import importlib
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpen.errors import UserError
from gpen.utils.seeds import derive_generator

KINDS = sorted(path.stem for path in Path(__file__).parent.glob('*.py') if path.stem != '__init__')

_LONGEST_MESSAGE = 4000  # characters
_PATIENCE = 20.0  # seconds for one copy


@dataclass
class Tally:
    """What came of the copies: how many of each outcome, and a sentence for each finding."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def run(kind: str, copies: Iterable[int], seed: int, patience: float = _PATIENCE) -> Tally:
    """Try copies of one kind, by their numbers; each is a function of kind, seed and number alone."""
    fuzz = importlib.import_module(f'fuzzing.{kind}').fuzz
    tally = Tally()
    for number in copies:
        outcome, finding = _try_copy(fuzz, derive_generator(seed, kind, number), patience)
        tally.outcomes[outcome] += 1
        if finding:
            tally.findings.append(f'copy {number}: {finding}')
    return tally


def _try_copy(fuzz: Callable[..., str], generator: np.random.Generator, patience: float) -> tuple[str, str]:
    """Return the outcome of one copy, and what is wrong with it or ''."""
    started = time.monotonic()
    finding = ''
    try:
        with tempfile.TemporaryDirectory() as folder, _time_limit(2 * patience):
            outcome = fuzz(generator, Path(folder))
    except UserError as error:
        outcome = 'refused'
        if len(str(error)) > _LONGEST_MESSAGE:
            finding = f'a message of {len(str(error)):,} characters: {str(error)[:200]} ...'
    except Exception as error:  # noqa: BLE001  (any is a finding)
        outcome, finding = 'finding', f'{type(error).__name__}: {str(error)[:500]}'

    seconds = time.monotonic() - started
    if not finding and seconds > patience:
        finding = f'{outcome} after {seconds:.0f} s'
    return outcome, finding


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this block when it takes longer; a no-op where there is no such signal."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f'still busy after {seconds:.0f} s')

    if os.name != 'posix':
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Return a file's bytes with one to four random changes: bits, bytes, or stretches lost, repeated or made up."""
    content = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        start = int(generator.integers(0, max(1, len(content))))
        end = start + int(generator.integers(1, max(2, len(content) // 4)))
        change = generator.choice(['flip', 'set', 'cut', 'drop', 'repeat', 'zero', 'noise'])
        if change == 'flip' and content:
            content[start] ^= 1 << int(generator.integers(8))
        elif change == 'set' and content:
            content[start] = int(generator.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif change == 'cut':
            del content[start:]
        elif change == 'drop':
            del content[start:end]
        elif change == 'repeat':
            content[start:start] = content[start:end]
        elif change == 'zero':
            content[start:end] = bytes(len(content[start:end]))
        else:
            content[start:end] = generator.bytes(len(content[start:end]))
    return bytes(content)
