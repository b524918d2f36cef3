"""Running checks on the health of a training, with plain advice; the rules are in :mod:`gpen.health.rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpen.health.history import History
from gpen.health.rules import RULES, Rule
from gpen.options.schema import Options

CHECKS = 400  # at most so many in a run: with a record per iteration, more would only cost time
CALM_CHECKS = 5  # in a row without a word until a finding counts as gone
REMINDERS = 4  # in a run, of a finding that stays


@dataclass(frozen=True)
class Finding:
    """What a rule has to say.

    Attributes:
        name: of the rule.
        severity: ``warning`` where the run is being spoilt, ``note`` where it could do better.
        sentence: what was seen, and which option to change to what.
    """

    name: str
    severity: str
    sentence: str


@dataclass
class _State:
    said_at: int | None = None
    calm: int = 0


class Health:
    """Watches a run by its records and says each finding once when it begins.

    It is said again after it had gone away for some checks, or after a quarter of the run.  The rules are asked after
    training records, so that a run that is continued with the records so far finds the same as an unbroken one.

    Args:
        options: of the run.
        total_iterations: its last iteration.
        rate_at: the learning rates ``{'g': ..., 'd': ...}`` of an iteration.
        records: those of the run so far, when it is continued.
        rules: what to ask.
    """

    def __init__(
        self,
        options: Options,
        total_iterations: int,
        rate_at: Callable[[int], Mapping[str, float]],
        records: Iterable[Mapping[str, Any]] = (),
        rules: Iterable[Rule] = RULES,
    ) -> None:
        self._history = History(options, total_iterations, rate_at)
        self._interval = max(1, self._history.expected_records // CHECKS)  # training records between two checks
        self._states = {rule: _State() for rule in rules}
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> list[Finding]:
        """Take in a record of ``metrics.jsonl``; return what is to be said now."""
        self._history.add(record)
        if record['phase'] != 'train' or self._history.train_records % self._interval:
            return []
        findings = []
        for rule, state in self._states.items():
            sentence = rule.check(self._history)
            if self._is_due(state, sentence is not None) and sentence is not None:
                findings.append(Finding(rule.name, rule.severity, sentence))
        return findings

    def _is_due(self, state: _State, holds: bool) -> bool:
        if not holds:
            state.calm += 1
            if state.calm >= CALM_CHECKS:
                state.said_at = None
            return False
        state.calm = 0
        now = self._history.iteration
        if state.said_at is not None and now - state.said_at < self._history.total_iterations / REMINDERS:
            return False
        state.said_at = now
        return True
