"""The report of one run, or of several beside each other: the sections of the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.options.checks import PRIOR_MODEL
from gpen.reporting.charts import draw_measures, draw_training, draw_validation
from gpen.reporting.page import Html, escape, render_page, table
from gpen.reporting.pictures import find_samples
from gpen.reporting.points import format_number
from gpen.reporting.run import MEASURES, RunRecords, read_runs
from gpen.reporting.run_log import EARLY, FAILED, FINISHED, STOPPED
from gpen.reporting.samples import draw_samples

_SHEETS, _SHEETS_OF_SEVERAL = 6, 3
_LONGEST = 200  # characters of an option's value
_MANY = 15  # differences, from which the table is folded
_MISSING = '–'


def write_report(folders: Sequence[str], output: Path | None = None) -> Path:
    """Write the report of the runs in ``folders``.

    Args:
        folders: of runs, such as ``experiments/NAME``; each counts once.
        output: an HTML file; by default ``report.html`` in the folder of the run, or for several runs in the folder
            that they all lie in, or else in the working directory.

    Returns:
        The file.

    Raises:
        UserError: a folder is not there or is none of a run, or the file cannot be written.
    """
    from gpen.utils.files import write_text

    if output is not None and output.suffix.lower() not in ('.html', '.htm'):
        raise UserError(
            f'The report is an HTML file, but {output} has another suffix. Give a name such as report.html.'
        )
    runs = read_runs(folders)
    target = output or _choose_place(runs)
    write_text(target, draw_report(runs))
    return target


def draw_report(runs: Sequence[RunRecords]) -> str:
    """Return the page about one run or several."""
    is_single = len(runs) == 1
    title = runs[0].label if is_single else ' · '.join(run.label for run in runs)
    made = f'<p class="quiet">Report of {_format_time(datetime.now())}</p>'
    overview = _draw_cards(runs[0]) if is_single else _draw_comparison(runs)
    health = ('Health', _draw_health(runs))
    is_ill = any(run.records.get('health') for run in runs)
    sections = [
        ('', made + overview + _draw_notes(runs)),
        *([health] if is_ill else []),
        ('What differs in the options', '' if is_single else _draw_differences(runs)),
        ('Validation', draw_validation(runs) or '<p class="quiet">Nothing was validated yet.</p>'),
        ('Training', draw_training(runs) or '<p class="quiet">Nothing was recorded yet.</p>'),
        ('Pictures through time', _draw_pictures(runs)),
        *([] if is_ill else [health]),
        ('Warnings in the log', _draw_warnings(runs)),
        ('Options', _draw_options(runs)),
    ]
    return render_page(title, sections)


def describe_state(run: RunRecords) -> tuple[str, str]:
    """Return whether a run goes on, or why it ended: a word or two, and a sentence."""
    if run.is_running:
        return 'running', f'{_format_done(run)} are done; {_describe_left(run)}.'
    words = {FINISHED: 'finished', EARLY: 'stopped early', STOPPED: 'stopped by a signal', FAILED: 'failed'}
    if run.log.ending in words:
        return words[run.log.ending], run.log.sentence
    last = f' Its log ends at {_format_time(run.log.last)}.' if run.log.last else ''
    return 'ended without a word', (
        f'{_format_done(run)} are done. It was killed, ran out of memory or lost power, '
        f'or it runs on another computer.{last}'
    )


def _choose_place(runs: Sequence[RunRecords]) -> Path:
    if len(runs) == 1:
        return runs[0].folder / 'report.html'
    parents = {run.folder.parent for run in runs}
    return (parents.pop() if len(parents) == 1 else Path.cwd()) / 'report.html'


def _draw_cards(run: RunRecords) -> str:
    state, sentence = describe_state(run)
    share = f'{run.iteration / run.total:.0%}' if run.total else ''
    cards = [('State', state, ''), ('Iterations', _format_done(run, ''), share)]
    for key in run.scores:
        best = run.best(key)
        if best is not None:
            name = f'Best {key.removeprefix("val/")}'
            cards.append((name, format_number(best.value), f'at iteration {best.iteration:,}'))
    cards.append(('Speed', _format_speed(run), 'median, without validation'))
    cards.append(('Time', _format_seconds(run.log.seconds or None), _describe_start(run)))
    if _is_unfinished(run):
        cards.append(('To go', _format_seconds(run.seconds_left), 'of training, at the last speed'))
    drawn = ''.join(
        f'<div class="card"><span class="quiet">{escape(name)}</span><b class="{_class_of(value)}">{escape(value)}</b>'
        f'<span class="quiet">{escape(rest)}</span></div>'
        for name, value, rest in cards
    )
    about = f'<p class="quiet">{"<br>".join(map(escape, run.log.about.splitlines()))}</p>' if run.log.about else ''
    return f'<p>{escape(sentence)}</p><div class="cards">{drawn}</div>{about}'


def _draw_comparison(runs: Sequence[RunRecords]) -> str:
    """Return a table with a line for each run; the best of each metric stands out."""
    keys = list(dict.fromkeys(key for run in runs for key in run.scores))
    best = {key: [run.best(key) for run in runs] for key in keys}
    rows = []
    for number, run in enumerate(runs):
        state, _ = describe_state(run)
        values: list[object] = []
        for key in keys:
            own = best[key][number]
            known = [one.value for one in best[key] if one is not None]
            wins = own is not None and own.value == (max if run.higher_is_better(key) else min)(known)
            values += [_format_best(own.value, wins), f'{own.iteration:,}'] if own is not None else [_MISSING] * 2
        word = Html(f'<span class="{_class_of(state)}">{escape(state)}</span>')
        left = _format_seconds(run.seconds_left) if _is_unfinished(run) else ''
        speed, time = _format_speed(run), _format_seconds(run.log.seconds or None)
        rows.append([run.label, word, _format_done(run, ''), *values, speed, time, left])
    names = [word for key in keys for word in (f'best {key.removeprefix("val/")}', 'at')]
    sentences = ''.join(f'<p class="quiet">{escape(run.label)}: {escape(describe_state(run)[1])}</p>' for run in runs)
    return table(['run', 'state', 'iterations', *names, 'speed', 'time', 'to go'], rows) + sentences


def _format_best(value: float, wins: bool) -> object:
    number = format_number(value)
    return Html(f'<span class="good">{escape(number)} ★</span>') if wins else number


def _draw_differences(runs: Sequence[RunRecords]) -> str:
    unknown = [run.label for run in runs if not run.options]
    known = [run for run in runs if run.options]
    keys = sorted({key for run in known for key in run.options} - {'name'})
    rows = [
        [_draw_key(key), *(_format_option(run.options.get(key)) for run in known)]
        for key in keys
        if any(run.options.get(key) != known[0].options.get(key) for run in known)
    ]
    body = table(['option', *(run.label for run in known)], rows) if rows else ''
    if len(rows) > _MANY:
        body = f'<details><summary>{len(rows)} options differ</summary>{body}</details>'
    if not rows and len(known) > 1:
        body = '<p>None: all options are the same.</p>'
    words = f'<p class="quiet">Options unknown: {escape(", ".join(unknown))}.</p>' if unknown else ''
    return body + words


def _draw_pictures(runs: Sequence[RunRecords]) -> str:
    parts = []
    for run in runs:
        try:
            count = _SHEETS if len(runs) == 1 else _SHEETS_OF_SEVERAL
            restores = run.options.get('model_type') != PRIOR_MODEL
            body = draw_samples(find_samples(run.folder, run.iteration, count, restores))
        except UserError as error:
            body = f'<p class="quiet">{escape(error)}</p>'
        parts.append((f'<h3>{escape(run.label)}</h3>' if len(runs) > 1 else '') + body)
    return ''.join(parts)


def _draw_health(runs: Sequence[RunRecords]) -> str:
    """Return what the health checks found, and what they measured; nothing where they were off."""
    rows = [
        [run.label, f'{record["iter"]:,}', _mark(record.get('severity', '')), record.get('sentence', _MISSING)]
        for run in runs
        for record in run.records.get('health', [])
    ]
    measures = draw_measures(runs)
    if rows:
        return _without_single(runs, ['run', 'iteration', 'kind', 'finding'], rows) + measures
    checked = [run.label for run in runs if set(run.keys('val')) & set(MEASURES)]
    where = f' in {escape(", ".join(checked))}' if len(runs) > 1 else ''
    return f'<p>Nothing was found{where}.</p>{measures}' if checked else ''


def _mark(severity: object) -> Html:
    return Html(f'<span class="{"bad" if severity == "warning" else "quiet"}">{escape(severity)}</span>')


def _without_single(runs: Sequence[RunRecords], header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose first column, the run, is left out where there is one."""
    start = 1 if len(runs) == 1 else 0
    return table(header[start:], [row[start:] for row in rows])


def _draw_warnings(runs: Sequence[RunRecords]) -> str:
    rows = [[run.label, _format_time(time), words] for run in runs for time, words in run.log.warnings]
    return _without_single(runs, ['run', 'time', 'message'], rows) if rows else ''


def _draw_options(runs: Sequence[RunRecords]) -> str:
    parts = []
    for run in runs:
        rows = [[_draw_key(key), _format_option(run.options[key])] for key in sorted(run.options)]
        if rows:
            words = escape(run.label) if len(runs) > 1 else f'All {len(rows)} options'
            parts.append(f'<details><summary>{words}</summary>{table(["option", "value"], rows)}</details>')
    return ''.join(parts)


def _draw_key(key: str) -> Html:
    """Return the name of an option, which may be broken between words."""
    return Html(f'<code>{escape(key).replace(".", ".<wbr>").replace("_", "_<wbr>")}</code>')


def _draw_notes(runs: Sequence[RunRecords]) -> str:
    notes = [f'{run.label}: {note}' if len(runs) > 1 else note for run in runs for note in run.notes]
    return ''.join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _class_of(state: str) -> str:
    return 'bad' if state in ('failed', 'ended without a word') else 'good' if state == 'finished' else ''


def _is_unfinished(run: RunRecords) -> bool:
    has_stopped = run.log.ending in (FINISHED, EARLY) and not run.is_running
    return not has_stopped and run.total is not None and run.iteration < run.total


def _describe_left(run: RunRecords) -> str:
    left = run.seconds_left
    return 'the time left is not known yet' if left is None else f'about {_format_seconds(left)} of training left'


def _describe_start(run: RunRecords) -> str:
    start = f'from {_format_time(run.log.first)}' if run.log.first else ''
    count = len(run.log.continued)
    return start + (f', continued {count} time{"s" * (count > 1)}' if count else '')


def _format_done(run: RunRecords, unit: str = ' iterations') -> str:
    return (f'{run.iteration:,} of {run.total:,}' if run.total else f'{run.iteration:,}') + unit


def _format_speed(run: RunRecords) -> str:
    speed = run.seconds_per_iteration
    return _MISSING if speed is None else f'{format_number(speed, 3)} s/it'


def _format_seconds(seconds: float | None) -> str:
    from gpen.utils.text import format_duration

    return _MISSING if seconds is None else format_duration(seconds)


def _format_time(time: datetime) -> str:
    return f'{time:%Y-%m-%d %H:%M}'


def _format_option(value: Any) -> str:
    text = _MISSING if value is None else _format_value(value)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
