"""The page about one run, or about several side by side: its sections."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.options.checks import PRIOR_MODEL
from gpen.reporting.charts import draw_measures, draw_training, draw_validation
from gpen.reporting.page import Html, escape, render_page, table
from gpen.reporting.pictures import draw_pictures
from gpen.reporting.recorded_run import MEASURES, RecordedRun, read_runs
from gpen.runs.run_file import now
from gpen.utils.files import write_text
from gpen.utils.text import format_duration, format_number

_SHEETS, _SHEETS_OF_SEVERAL = 6, 3
_LONGEST = 200  # characters of an option's value
_MANY = 15  # with more differences than this, the table is folded
_MISSING = '–'
_CLASSES = {'failed': 'bad', 'ended without a word': 'bad', 'finished': 'good'}

Runs = Sequence[RecordedRun]


def write_report(folders: Sequence[str], output: Path | None = None) -> Path:
    """Write the report of the runs in ``folders``.

    Args:
        folders: of runs, such as ``experiments/NAME``; each counts once.
        output: an HTML file; by default ``report.html`` in the folder of the run, or for several runs in the folder
            that contains all of them, or else in the working directory.

    Returns:
        The file.

    Raises:
        UserError: a folder does not exist or is not the folder of a run, or the file cannot be written.
    """
    if output is not None and output.suffix.lower() not in ('.html', '.htm'):
        raise UserError(
            f'The report is an HTML file, but {output} has another suffix. Give a name such as report.html.'
        )

    runs = read_runs(folders)
    parents = {run.folder.parent for run in runs}
    folder = runs[0].folder if len(runs) == 1 else parents.pop() if len(parents) == 1 else Path.cwd()
    target = output or folder / 'report.html'
    write_text(target, draw_report(runs))
    return target


def draw_report(runs: Runs) -> str:
    """Return the page about one run or several."""
    is_single = len(runs) == 1
    overview = _draw_cards(runs[0]) if is_single else _draw_comparison(runs)
    notes = [note if is_single else f'{run.label}: {note}' for run in runs for note in run.notes]
    health = ('Health', _draw_health(runs))
    is_ill = any(run.records.get('health') for run in runs)

    sections = [
        ('', f'<p class="quiet">Report of {_format_time(now())}</p>{overview}{_draw_notes(notes)}'),
        *([health] if is_ill else []),
        ('What differs in the options', '' if is_single else _draw_differences(runs)),
        ('Validation', draw_validation(runs) or '<p class="quiet">Nothing was validated yet.</p>'),
        ('Training', draw_training(runs) or '<p class="quiet">Nothing was recorded yet.</p>'),
        ('Pictures through time', _draw_pictures(runs)),
        *([] if is_ill else [health]),
        ('Warnings', _draw_warnings(runs)),
        ('Options', _draw_options(runs)),
    ]
    return render_page(' · '.join(run.label for run in runs), sections)


# ---- the overview


def _draw_cards(run: RecordedRun) -> str:
    """Return the state of one run, its numbers as cards, and what it was trained on and with."""
    share = f'{run.iteration / run.total:.0%}' if run.total else ''
    cards = [('State', run.state, ''), ('Iterations', _format_done(run), share)]
    for key in run.scores:
        name, best = key.removeprefix('val/'), run.best(key)
        if best is not None:
            cards.append((f'Best {name}', format_number(best.value), f'at iteration {best.iteration:,}'))
        elif run.higher_is_better(key) is None:
            last = format_number(run.curve('val', key)[1][-1])
            cards.append((f'Last {name}', last, 'whether higher is better is not recorded'))

    speed, time, left = _list_times(run)
    cards += [('Speed', speed, 'median, without validation'), ('Time', time, _describe_start(run))]
    if run.is_unfinished:
        cards.append(('To go', left, 'of training, at the last speed'))
    drawn = ''.join(
        f'<div class="card"><span class="quiet">{escape(name)}</span>'
        f'<b class="{_CLASSES.get(value, "")}">{escape(value)}</b><span class="quiet">{escape(rest)}</span></div>'
        for name, value, rest in cards
    )
    setup = '<br>'.join(map(escape, _describe_setup(run)))
    return f'<p>{escape(_describe_state(run))}</p><div class="cards">{drawn}</div><p class="quiet">{setup}</p>'


def _draw_comparison(runs: Runs) -> str:
    """Return a table with a row for each run; the best value of each metric is highlighted."""
    keys = list(dict.fromkeys(key for run in runs for key in run.scores))
    rows = []
    for run in runs:
        scores = [cell for key in keys for cell in _compare(run, runs, key)]
        state = Html(f'<span class="{_CLASSES.get(run.state, "")}">{escape(run.state)}</span>')
        speed, time, left = _list_times(run)
        rows.append([run.label, state, _format_done(run), *scores, speed, time, left if run.is_unfinished else ''])

    names = [word for key in keys for word in (f'best {key.removeprefix("val/")}', 'at')]
    sentences = ''.join(f'<p class="quiet">{escape(run.label)}: {escape(_describe_state(run))}</p>' for run in runs)
    return table(['run', 'state', 'iterations', *names, 'speed', 'time', 'to go'], rows) + sentences


def _compare(run: RecordedRun, runs: Runs, key: str) -> tuple[object, str]:
    """Return two cells: the best value of a metric, with a star if no other run has a better one, and its iteration."""
    own = run.best(key)
    if own is None:
        return _MISSING, _MISSING
    values = [best.value for best in (other.best(key) for other in runs) if best is not None]
    wins = own.value == (max if run.higher_is_better(key) else min)(values)
    number = format_number(own.value)
    return Html(f'<span class="good">{escape(number)} ★</span>') if wins else number, f'{own.iteration:,}'


def _describe_state(run: RecordedRun) -> str:
    """Return a sentence on whether a run goes on, or why it ended."""
    done = f'{_format_done(run)} iterations are done'
    if run.is_running:
        left = run.seconds_left
        rest = 'the time left is not known yet' if left is None else f'about {format_duration(left)} of training left'
        return f'{done}; {rest}.'
    if run.file is None:
        return f'{done}. How the run ended is not recorded.'
    if run.file.status != 'running':
        return run.file.reason
    last = f'Its last sign of life is of {_format_time(run.file.updated)}.'
    return f'{done}. It was killed, ran out of memory or lost power, or it runs on another computer. {last}'


def _describe_start(run: RecordedRun) -> str:
    if run.file is None:
        return 'not recorded'
    count = run.file.resumes
    return f'from {_format_time(run.file.started)}' + (f', continued {count} time{"s" * (count > 1)}' if count else '')


def _describe_setup(run: RecordedRun) -> list[str]:
    """Return lines on the data, the length, the machine and the versions, as far as they are recorded."""
    file = run.file
    if file is None:
        return []
    processes = f' in {file.processes} processes' if file.processes > 1 else ''
    commit = f', commit {file.git_commit[:10]}' if file.git_commit else ''
    return [
        f'Data: {file.train_images} images to train on, {file.val_images} to validate on; batch of {file.batch_size}',
        f'Length: {file.total_iterations} iterations, {file.iterations_per_epoch} an epoch',
        f'Trained on {", ".join(file.devices)}{processes}',
        f'Version {file.version}{commit}, PyTorch {file.torch}, Python {file.python}',
    ]


# ---- the other sections


def _draw_differences(runs: Runs) -> str:
    unknown = [run.label for run in runs if not run.options]
    known = [run for run in runs if run.options]
    keys = sorted({key for run in known for key in run.options} - {'name'})
    values = {key: [run.options.get(key) for run in known] for key in keys}
    rows = [[_draw_key(key), *map(_format_option, row)] for key, row in values.items() if any(v != row[0] for v in row)]

    body = table(['option', *(run.label for run in known)], rows) if rows else ''
    if len(rows) > _MANY:
        body = _fold(f'{len(rows)} options differ', body)
    if not rows and len(known) > 1:
        body = '<p>None: all options are the same.</p>'
    return body + (f'<p class="quiet">Options unknown: {escape(", ".join(unknown))}.</p>' if unknown else '')


def _draw_pictures(runs: Runs) -> str:
    count = _SHEETS if len(runs) == 1 else _SHEETS_OF_SEVERAL
    parts = []
    for run in runs:
        body = draw_pictures(run.folder, run.iteration, count, run.options.get('model_type') != PRIOR_MODEL)
        parts.append(f'<h3>{escape(run.label)}</h3>{body}' if body and len(runs) > 1 else body)
    return ''.join(parts)


def _draw_health(runs: Runs) -> str:
    """Return what the health rules found, and what validation measured for them; nothing where they were off."""
    rows: list[list[object]] = []
    for run in runs:
        for record in run.records.get('health', []):
            kind = record.get('severity', '')
            mark = Html(f'<span class="{"bad" if kind == "warning" else "quiet"}">{escape(kind)}</span>')
            rows.append([run.label, f'{record["iter"]:,}', mark, record.get('sentence', _MISSING)])

    measures = draw_measures(runs)
    if rows:
        return _draw_by_run(runs, ['iteration', 'kind', 'finding'], rows) + measures
    checked = [run.label for run in runs if set(run.keys('val')) & set(MEASURES)]
    where = f' in {escape(", ".join(checked))}' if len(runs) > 1 else ''
    return f'<p>Nothing was found{where}.</p>{measures}' if checked else ''


def _draw_warnings(runs: Runs) -> str:
    rows = [[run.label, f'{iteration:,}', sentence] for run in runs for iteration, sentence in run.warnings]
    return _draw_by_run(runs, ['iteration', 'message'], rows) if rows else ''


def _draw_by_run(runs: Runs, header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose rows begin with the run, a column that is left out where there is one run."""
    start = 1 if len(runs) == 1 else 0
    return table(['run', *header][start:], [row[start:] for row in rows])


def _draw_options(runs: Runs) -> str:
    parts = []
    for run in runs:
        rows = [[_draw_key(key), _format_option(run.options[key])] for key in sorted(run.options)]
        if rows:
            words = run.label if len(runs) > 1 else f'All {len(rows)} options'
            parts.append(_fold(words, table(['option', 'value'], rows)))
    return ''.join(parts)


# ---- words


def _fold(words: str, body: str) -> str:
    return f'<details><summary>{escape(words)}</summary>{body}</details>'


def _draw_notes(notes: Sequence[str]) -> str:
    return ''.join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _draw_key(key: str) -> Html:
    """Return the name of an option, which may be broken between words."""
    return Html(f'<code>{escape(key).replace(".", ".<wbr>").replace("_", "_<wbr>")}</code>')


def _list_times(run: RecordedRun) -> tuple[str, str, str]:
    """Return the seconds per iteration, the time of training, and the time left."""
    speed = run.seconds_per_iteration
    seconds = (run.file.seconds if run.file else 0) or None
    time, left = (_MISSING if value is None else format_duration(value) for value in (seconds, run.seconds_left))
    return _MISSING if speed is None else f'{format_number(speed, 3)} s/it', time, left


def _format_done(run: RecordedRun) -> str:
    return f'{run.iteration:,} of {run.total:,}' if run.total else f'{run.iteration:,}'


def _format_time(time: str) -> str:
    """Return date and time to the minute of an ISO time."""
    return time[:16].replace('T', ' ')


def _format_option(value: Any) -> str:
    text = _MISSING if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'
