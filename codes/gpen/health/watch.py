"""Asks the rules of :mod:`gpen.health.rules` while a training runs, and decides when a finding is reported."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpen.health.history import History
from gpen.health.rules import RULES, Rule
from gpen.options.schema import Options

CHECKS = 400  # at most, in a run: with a record per iteration, more would only cost time
CALM_CHECKS = 5  # checks in a row in which a rule is silent, until its finding counts as gone
REMINDERS = 4  # times in a run that a finding that stays is reported


@dataclass(frozen=True)
class Finding:
    """What a rule says about a run.

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
    """When a rule was last reported (None: its finding is gone), and for how many checks it has been silent since."""

    reported_at: int | None = None
    silent_checks: int = 0


class Health:
    """Watches a run by its records and reports each finding once when it begins.

    A finding is reported again if it comes back after some checks without it, or if it stays for a quarter of the run.
    The rules are asked after training records only, so that a run that resumes from its records so far reports the same
    findings as an uninterrupted one.

    Args:
        options: of the run.
        total_iterations: its last iteration.
        rate_at: returns the learning rates ``{'g': ..., 'd': ...}`` of an iteration.
        records: those of the run so far, when it resumes.
        rules: the rules to ask.
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
        """Add a record of ``metrics.jsonl``; return the findings to report now."""
        self._history.add(record)
        if record['phase'] != 'train' or self._history.train_records % self._interval:
            return []
        findings = []
        for rule, state in self._states.items():
            sentence = rule.check(self._history)
            if self._is_due(state, sentence is not None) and sentence is not None:
                findings.append(Finding(rule.name, rule.severity, sentence))
        return findings

    def _is_due(self, state: _State, has_finding: bool) -> bool:
        """Update the state of a rule after a check; return whether its finding is to be reported."""
        if not has_finding:
            state.silent_checks += 1
            if state.silent_checks >= CALM_CHECKS:
                state.reported_at = None
            return False

        state.silent_checks = 0
        now = self._history.iteration
        if state.reported_at is not None and now - state.reported_at < self._history.total_iterations / REMINDERS:
            return False
        state.reported_at = now
        return True
