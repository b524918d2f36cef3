"""Scores as tables to read on a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gpen.evaluation.results import Findings, ScoredSet

INPUT = 'blurry input'
NOT_AVAILABLE = 'n/a'


def format_tables(findings: Findings) -> str:
    """Return a table per set, and below them what metrics are missing and what has to be said about the numbers.

    One model on one set gives three rows: input, restored and their difference.  Otherwise each set has a row per model
    below the input, and the best of each column is marked.
    """
    blocks = [_format_single(findings)] if findings.is_single else [_format_set(findings, one) for one in findings.sets]
    directions = _explain_directions(findings)
    if directions:
        blocks.append(directions)
    for name, error in findings.missing.items():
        blocks.append(f'{name.upper()} not available: {error.missing}\n  {error}')
    for scored in findings.sets:
        place = '' if findings.is_single else f'{scored.name}: '
        blocks += [f'Note: {place}{note}' for note in scored.notes]
    return '\n\n'.join(blocks)


def format_value(value: float) -> str:
    """Return a number with four digits behind the point."""
    return NOT_AVAILABLE if math.isnan(value) else f'{value:.4f}'


def _format_single(findings: Findings) -> str:
    (scored,) = findings.sets
    ((label, result),) = scored.restored.items()
    width = max(14, len(label) + 2)
    before, after = scored.lq.means, result.means
    difference = {name: after[name] - before[name] for name in after}
    signed = {name: NOT_AVAILABLE if math.isnan(value) else f'{value:+.4f}' for name, value in difference.items()}
    return '\n'.join(
        [
            _format_row(_count(scored), width, {name: name.upper() for name in findings.metrics}, findings),
            _format_row(INPUT, width, {name: format_value(value) for name, value in before.items()}, findings),
            _format_row(label, width, {name: format_value(value) for name, value in after.items()}, findings),
            _format_row('difference', width, signed, findings),
        ]
    )


def _format_set(findings: Findings, scored: ScoredSet) -> str:
    width = max(14, *(len(label) + 2 for label in (*map(_title, findings.sets), *findings.models)))
    rows = {INPUT: scored.lq.means, **{name: result.means for name, result in scored.restored.items()}}
    best = {name: _best([means[name] for means in rows.values()], findings, name) for name in scored.lq.means}
    lines = [_format_row(_title(scored), width, {name: f'{name.upper()} ' for name in findings.metrics}, findings)]
    for label, means in rows.items():
        cells = {name: format_value(value) + ('*' if value == best[name] else ' ') for name, value in means.items()}
        lines.append(_format_row(label, width, cells, findings))
    return '\n'.join(line.rstrip() for line in lines)


def _format_row(label: str, width: int, cells: Mapping[str, str], findings: Findings) -> str:
    marks = '' if findings.is_single else ' '  # where the others have a space or a star
    missing = NOT_AVAILABLE + marks
    return f'{label:<{width}}' + ''.join(
        f'{cells.get(name, missing):>{max(10, len(name) + 2) + len(marks)}}' for name in findings.metrics
    )


def _title(scored: ScoredSet) -> str:
    return f'{scored.name}: {_count(scored)}'


def _count(scored: ScoredSet) -> str:
    return f'{scored.images} image{"s" if scored.images != 1 else ""}'


def _best(values: list[float], findings: Findings, metric: str) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        return math.nan
    return max(numbers) if findings.metrics[metric]['higher_is_better'] else min(numbers)


def _explain_directions(findings: Findings) -> str:
    """Return which direction is better; nothing for one model on one set where more is always better."""
    available = {name: block for name, block in findings.metrics.items() if name not in findings.missing}
    higher = [name.upper() for name, block in available.items() if block['higher_is_better']]
    lower = [name.upper() for name, block in available.items() if not block['higher_is_better']]
    if findings.is_single and not lower:
        return ''
    parts = [f'{word} is better: {", ".join(names)}' for word, names in (('higher', higher), ('lower', lower)) if names]
    mark = '' if findings.is_single else '; * best of its column'
    sentence = '; '.join(parts) + mark
    return sentence[0].upper() + sentence[1:] + '.'
