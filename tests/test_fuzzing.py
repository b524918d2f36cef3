"""Copies of good files with random changes are used or refused in a sentence: a few of each kind, with fixed seeds."""

import pytest

import fuzzing

COPIES: dict[str, int] = {'options': 150}
"""Of the kinds that take longer, fewer than the default of 30."""


@pytest.mark.parametrize('kind', fuzzing.KINDS)
def test_changed_copies_are_used_or_refused_in_a_sentence(kind: str) -> None:
    tally = fuzzing.run(kind, range(COPIES.get(kind, 30)), seed=0)
    assert tally.findings == []
    assert len(tally.outcomes) > 1, 'no change made a difference, or each was the end'
