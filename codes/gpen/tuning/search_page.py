"""What a search leaves behind: ``report.html``, the numbers as ``search.json``, hparams for TensorBoard."""

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from gpen.reporting.curves import Series, arrange, draw_curves
from gpen.reporting.page import Html, escape, render_page, table
from gpen.tuning.curves import Curves, Line
from gpen.tuning.judge import Judgement
from gpen.tuning.plan import is_at_edge
from gpen.tuning.rates import Trial, format_rate
from gpen.tuning.search import SearchResult
from gpen.tuning.study import Study, recommend
from gpen.utils.files import write_json, write_text

PAGE_FILE, SEARCH_FILE = 'report.html', 'search.json'
HPARAMS_FOLDER = 'hparams'
HEADER = 'G rate', 'D rate', 'verdict', 'PSNR, dB', 'G loss, of its start', 'its change in 100 it.', 'in words'
CLASSES = {'good': 'good', 'too high': 'bad', 'could be higher': 'quiet'}


def describe_result(study: Study, result: SearchResult) -> tuple[str, str | None]:
    """Return what a search says in a sentence or two, and the lines of YAML that it recommends, if any."""
    ranking, judgements = result.ranking, result.compared
    if not ranking:
        lowest = min(trial.rate for trial in judgements)
        return f'All rates are too high, down to {format_rate(lowest)}. Search again with lower --rates.', None

    best = ranking[0]
    psnr, note = judgements[best].psnr, judgements[best].note
    words = f'The best of {len(judgements)} trials is {best.label}.'
    if psnr is not None:
        words += f' Its validation PSNR is {psnr:.2f} dB.'
        near = [trial.label for trial in ranking[1:] if (judgements[trial].psnr or -math.inf) > psnr - 0.1]
        if near:
            words += f' Within 0.1 dB of it: {"; ".join(near)}.'
    if note:
        words += f' {note}'
    edge = is_at_edge(result.judgements)
    if edge:
        words += f' No {edge} rate was tried beside it: search again with {edge} --rates to see whether one is better.'
    return words, recommend(study.options, best.rate, best.rate_d)


def write_search(study: Study, result: SearchResult) -> list[Path]:
    """Write the page, the numbers and the hparams of a search; return the first two.

    Raises:
        UserError: the folder cannot be written to.
    """
    judgements, ranking = result.compared, result.ranking
    best = ranking[0] if ranking else None
    order = [*ranking, *(trial for trial in _sorted_by_rate(judgements) if trial not in ranking)]
    curves = {trial: result.runs[trial].read_curves() for trial in order}
    words, lines = describe_result(study, result)

    title = f'Learning rates for {study.options.name}'
    sections = [
        ('', _draw_summary(words, lines)),
        ('Verdicts', table(HEADER, [_list_row(trial, judgements[trial], trial == best) for trial in order])),
        ('Curves', arrange(_draw_charts(curves, judgements, best))),
        ('How it was done', _draw_method(study)),
    ]
    content = {
        'recipe': str(study.option_file),
        'changed_by_user': list(study.user_overrides),
        'changed_for_trials': list(study.overrides),
        'iterations': study.iterations,
        'result': words,
        'recommended': {'yaml': lines, 'lr_g': best.rate, 'lr_d': best.rate_d} if best else None,
        'trials': [_describe_trial(trial, judgements[trial], curves[trial]) for trial in order],
    }

    page, numbers = study.folder / PAGE_FILE, study.folder / SEARCH_FILE
    _write_hparams(study.folder / HPARAMS_FOLDER, result)
    write_text(page, render_page(title, sections))
    write_json(numbers, content)
    return [page, numbers]


def _sorted_by_rate(trials: Iterable[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: (trial.ratio or 0, -trial.rate))


def _draw_charts(curves: dict[Trial, Curves], judgements: dict[Trial, Judgement], best: Trial | None) -> list[str]:
    """Return the charts of a search that have something to show: losses and PSNR by iteration, PSNR by rate."""
    trials = _sorted_by_rate(curves)

    def draw(attribute: str, title: str, y_label: str, log_y: bool = False) -> str:
        lines: dict[int, Line] = {number: getattr(curves[trial], attribute) for number, trial in enumerate(trials)}
        series = [Series(trials[number].label, line.x, line.y, number) for number, line in lines.items() if line.y]
        return draw_curves(series, title, 'iteration', y_label, log_y=log_y) if series else ''

    is_adversarial = any(one.is_adversarial for one in curves.values())
    content = 'adversarial' if is_adversarial else 'without those against the discriminator'
    return [
        draw('generator', 'Generator loss', f'{content}, logarithmic', log_y=True),
        draw('discriminator', 'Discriminator loss', 'sharp + restored, logarithmic', log_y=True),
        draw('psnr', 'Validation PSNR', 'dB'),
        _draw_psnr_by_rate(trials, judgements, best),
    ]


def _draw_psnr_by_rate(trials: Sequence[Trial], judgements: dict[Trial, Judgement], best: Trial | None) -> str:
    """Return a chart with a curve for each ratio of the discriminator's rate to the generator's."""
    series = []
    for ratio in dict.fromkeys(trial.ratio for trial in trials):
        points = [(t.rate, judgements[t].psnr) for t in reversed(trials) if t.ratio == ratio]
        points = [point for point in points if point[1] is not None]
        if points:
            name = 'all trials' if ratio is None else f'D = {ratio:g} x G'
            series.append(Series(name, [rate for rate, _ in points], [psnr for _, psnr in points]))

    marks = [(best.rate, f'best: {format_rate(best.rate)}')] if best else []
    label = "generator's learning rate"
    return draw_curves(series, 'PSNR by rate', label, 'dB, last validation', log_x=True, marks=marks) if series else ''


def _describe_trial(trial: Trial, judgement: Judgement, curves: Curves) -> dict[str, object]:
    """Return a trial as ``search.json`` holds it."""
    lines = {name: getattr(curves, name) for name in ('generator', 'discriminator', 'psnr')}
    return {
        'name': trial.name,
        'lr_g': trial.rate,
        'lr_d': trial.rate_d,
        **asdict(judgement),
        'curves': {name: list(zip(line.x, line.y, strict=True)) for name, line in lines.items()},
    }


def _list_row(trial: Trial, judgement: Judgement, is_best: bool) -> list[object]:
    words = f'{judgement.verdict}{", best" if is_best else ""}'
    verdict = f'<span class="{CLASSES[judgement.verdict]}" style="white-space:nowrap">{words}</span>'
    return [
        format_rate(trial.rate),
        '–' if trial.rate_d is None else format_rate(trial.rate_d),
        Html(verdict),
        '–' if judgement.psnr is None else f'{judgement.psnr:.2f}',
        '–' if math.isnan(judgement.ratio) or judgement.is_too_high else f'{judgement.ratio:.0%}',
        '–' if judgement.is_too_high else f'{math.expm1(judgement.slope):+.1%}',
        f'{judgement.reason} {judgement.note}'.strip(),
    ]


def _draw_summary(words: str, lines: str | None) -> str:
    if lines is None:
        return f'<p class="note">{escape(words)}</p>'
    return f'<p>{escape(words)}</p><p>In the recipe:</p><pre class="card"><code>{escape(lines)}</code></pre>'


def _draw_method(study: Study) -> str:
    words = (
        f'Each trial is the training of the recipe from the start, {study.iterations} iterations '
        f'({study.iterations / study.iterations_per_epoch:.1f} epochs), with the same data and seed, a warm-up of '
        'a tenth of that where the recipe has one, and constant rates after it. A loss that is not finite or rises '
        'fast is too high, and ends the trial; a loss that falls slowly could be higher. The rest is ranked by '
        'validation PSNR in steps of 0.05 dB, then by the slope of the loss. The coarse rates come first, then '
        'steps of 20 % around the best. Longer trainings may prefer somewhat lower rates than short trials.'
    )
    changed = '<br>'.join(escape(one) for one in (*study.user_overrides, *study.overrides))
    return (
        f'<p>{escape(words)}</p><p>Recipe: <code>{escape(study.option_file)}</code></p>'
        f'<details><summary>What is changed in it for a trial</summary><p><code>{changed}</code></p></details>'
    )


def _write_hparams(folder: Path, result: SearchResult) -> None:
    """Write rates and results for the HParams tab of TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    for trial, judgement in result.compared.items():
        rates = {'lr_g': trial.rate, **({} if trial.rate_d is None else {'lr_d': trial.rate_d, 'ratio': trial.ratio})}
        results = {'hparam/g_loss_end_by_start': judgement.ratio, 'hparam/psnr': judgement.psnr}
        finite = {name: value for name, value in results.items() if value is not None and math.isfinite(value)}
        with SummaryWriter(str(folder / trial.name)) as writer:
            writer.add_hparams({**rates, 'verdict': judgement.verdict}, finite, run_name='.')
