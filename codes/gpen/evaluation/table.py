"""Scores as tables to read on a screen."""

import math
from collections.abc import Iterable, Mapping

from gpen.evaluation.results import ScoredSet, Scores
from gpen.options.checks import INPUT_NAME
from gpen.utils.text import count_things

INPUT = 'blurry input'
NOT_AVAILABLE = 'n/a'


def format_tables(scores: Scores) -> str:
    """Return a table per data set, and below them the missing metrics and notes on the numbers.

    One model on one set gives three rows: input, restored and their difference.  Otherwise each set has a row per model
    below the input, and the best number of each column is marked.
    """
    blocks = [_format_single(scores)] if scores.is_single else [_format_set(scores, one) for one in scores.sets]
    directions = _explain_directions(scores)
    if directions:
        blocks.append(directions)

    for name, error in scores.missing.items():
        blocks.append(f'{name.upper()} not available: {error.missing}\n  {error}')
    for scored in scores.sets:
        place = '' if scores.is_single else f'{scored.name}: '
        blocks += [f'Note: {place}{note}' for note in scored.notes]
    return '\n\n'.join(blocks)


def format_value(value: float, spec: str = '.4f') -> str:
    """Return a number with four digits after the point, or ``n/a`` for NaN."""
    return NOT_AVAILABLE if math.isnan(value) else format(value, spec)


def _format_single(scores: Scores) -> str:
    (scored,) = scores.sets
    before, after = (result.means for result in scored.results.values())
    _, label = scored.results
    rows = [
        (count_things(scored.images, 'image'), {name: name.upper() for name in scores.metrics}),
        (INPUT, {name: format_value(value) for name, value in before.items()}),
        (label, {name: format_value(value) for name, value in after.items()}),
        ('difference', {name: format_value(after[name] - before[name], '+.4f') for name in after}),
    ]
    return _align(rows, max(14, len(label) + 2), scores.metrics)


def _format_set(scores: Scores, scored: ScoredSet) -> str:
    means_of = {INPUT if name == INPUT_NAME else name: result.means for name, result in scored.results.items()}
    best = {name: _best([means[name] for means in means_of.values()], scores, name) for name in means_of[INPUT]}

    # A star or a space behind each number.
    rows = [(_title(scored), {name: f'{name.upper()} ' for name in scores.metrics})]
    for label, means in means_of.items():
        cells = {name: format_value(value) + ('*' if value == best[name] else ' ') for name, value in means.items()}
        rows.append((label, cells))
    width = max(14, *(len(label) + 2 for label in (*map(_title, scores.sets), *scores.models)))
    return _align(rows, width, scores.metrics, mark=' ')


def _align(rows: Iterable[tuple[str, Mapping[str, str]]], width: int, metrics: Iterable[str], mark: str = '') -> str:
    """Return rows of a label and a cell for each metric as lines; a missing cell is ``n/a``, followed by ``mark``."""
    columns = {name: max(10, len(name) + 2) + len(mark) for name in metrics}
    lines = (
        f'{label:<{width}}'
        + ''.join(f'{cells.get(name, NOT_AVAILABLE + mark):>{column}}' for name, column in columns.items())
        for label, cells in rows
    )
    return '\n'.join(line.rstrip() for line in lines)


def _title(scored: ScoredSet) -> str:
    return f'{scored.name}: {count_things(scored.images, "image")}'


def _best(values: list[float], scores: Scores, metric: str) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        return math.nan
    return max(numbers) if scores.metrics[metric]['higher_is_better'] else min(numbers)


def _explain_directions(scores: Scores) -> str:
    """Return which direction is better; empty for one model on one set if higher is better for all metrics."""
    available = {name: block for name, block in scores.metrics.items() if name not in scores.missing}
    higher = [name.upper() for name, block in available.items() if block['higher_is_better']]
    lower = [name.upper() for name, block in available.items() if not block['higher_is_better']]
    if scores.is_single and not lower:
        return ''
    clauses = [
        f'{word} is better: {", ".join(names)}' for word, names in (('higher', higher), ('lower', lower)) if names
    ]
    sentence = '; '.join(clauses) + ('' if scores.is_single else '; * best of its column')
    return sentence[0].upper() + sentence[1:] + '.'
