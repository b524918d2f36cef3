"""What a search leaves behind: report.html, the same as report.png, the numbers as JSON, hparams for TensorBoard."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpen.reporting.page import Html, escape, render_page, table
from gpen.tuning.curves import Line
from gpen.tuning.judge import Judgement
from gpen.tuning.panels import Panel, draw_range_test, draw_search
from gpen.tuning.plan import Trial, is_at_edge
from gpen.tuning.range_test import Finding
from gpen.tuning.rates import format_rate
from gpen.tuning.search import Found, plain
from gpen.tuning.setting import Setting, recommend
from gpen.tuning.trial import Job
from gpen.utils.files import atomic_path, write_text

PAGE_FILE, PICTURE_FILE, SEARCH_FILE, RANGE_TEST_FILE = 'report.html', 'report.png', 'search.json', 'range_test.json'
HPARAMS_FOLDER = 'hparams'
HEADER = 'G rate', 'D rate', 'verdict', 'PSNR, dB', 'G loss, of its start', 'its change in 100 it.', 'in words'
CLASSES = {'good': 'good', 'too high': 'bad', 'could be higher': 'quiet'}


def describe_result(setting: Setting, found: Found) -> tuple[str, str | None]:
    """Return what a search says in a sentence or two, and the lines of YAML that it recommends, if any."""
    ranking = found.ranking
    edge = is_at_edge(found.judgements)
    if not ranking:
        lowest = min(trial.rate for trial in found.judgements)
        return f'All rates are too high, down to {format_rate(lowest)}. Search again with lower --rates.', None
    best = ranking[0]
    judgement = found.compared[best]
    psnr = '' if judgement.psnr is None else f' Its validation PSNR is {judgement.psnr:.2f} dB.'
    words = f'The best of {len(found.judgements)} trials is {best.label}.{psnr}'
    if len(ranking) > 1 and judgement.psnr is not None:
        near = [trial for trial in ranking[1:] if (found.compared[trial].psnr or -math.inf) > judgement.psnr - 0.1]
        if near:
            words += f' Within 0.1 dB of it: {"; ".join(trial.label for trial in near)}.'
    if judgement.note:
        words += f' {judgement.note}'
    if edge:
        words += f' No {edge} rate was tried beside it: search again with {edge} --rates to see whether one is better.'
    return words, recommend(setting.options, best.rate, best.rate_d)


def write_search(setting: Setting, found: Found) -> list[Path]:
    """Write the report of a search; return the files.

    Raises:
        UserError: the folder cannot be written to.
    """
    trials = sorted(found.judgements, key=lambda trial: (trial.ratio or 0, -trial.rate))
    curves = {trial: found.jobs[trial].read_curves() for trial in trials}
    judgements = found.compared
    words, lines = describe_result(setting, found)
    best = found.ranking[0] if found.ranking else None
    panels = draw_search(trials, curves, judgements, best)
    order = [*found.ranking, *(trial for trial in trials if trial not in found.ranking)]
    rows = [_list_row(trial, judgements[trial], trial == best) for trial in order]
    title = f'Learning rates for {setting.options.name}'
    overrides = list(setting.overrides)
    sections = [
        ('', _draw_summary(words, lines)),
        ('Verdicts', table(HEADER, rows)),
        ('Curves', _draw_panels(panels)),
        ('How it was done', _draw_method(setting, _describe_method(setting), overrides)),
    ]
    said = [words, *(lines.splitlines() if lines else []), '']
    said += [f'{trial.label}: {judgements[trial].sentence}' for trial in order]
    content = {
        'recipe': str(setting.option_file),
        'changed_by_user': list(setting.user_overrides),
        'changed_for_trials': overrides,
        'iterations': setting.iterations,
        'result': words,
        'recommended': {'yaml': lines, 'lr_g': best.rate, 'lr_d': best.rate_d} if best and lines else None,
        'trials': [
            {
                'name': trial.name,
                'lr_g': trial.rate,
                'lr_d': trial.rate_d,
                **plain(judgements[trial]),
                'curves': {
                    name: _to_pairs(getattr(curves[trial], name)) for name in ('generator', 'discriminator', 'psnr')
                },
            }
            for trial in order
        ],
    }
    _write_hparams(setting.folder / HPARAMS_FOLDER, found)
    return _write(setting.folder, title, sections, said, panels, SEARCH_FILE, content)


def write_range_test(setting: Setting, job: Job, finding: Finding, rate_d: float | None) -> list[Path]:
    """Write the report of a range test; return the files. ``rate_d`` belongs to the recommended rate."""
    curves = job.read_curves()
    lines = recommend(setting.options, finding.recommended, rate_d) if finding.recommended else None
    panels = draw_range_test(finding, curves)
    title = f'Learning-rate range test for {setting.options.name}'
    method = (
        f'One run of {setting.iterations} iterations, in which the rates of both networks rise exponentially (Smith '
        "2017). The recommended rate is where the generator's loss falls most by order of magnitude, but at most a "
        'tenth of where a loss rises fast or is not finite. What the search finds with trials is more reliable.'
    )
    sections = [
        ('', _draw_summary(finding.reason, lines)),
        ('Curves', _draw_panels(panels)),
        ('How it was done', _draw_method(setting, method, setting.overrides)),
    ]
    numbers = {name: value for name, value in asdict(finding).items() if name not in {'rates', 'losses'}}
    content = {
        'recipe': str(setting.option_file),
        'iterations': setting.iterations,
        **numbers,
        'yaml': lines,
        'curve': [[rate, loss] for rate, loss in zip(finding.rates, finding.losses, strict=True)],
    }
    said = [finding.reason, *(lines.splitlines() if lines else [])]
    return _write(setting.folder, title, sections, said, panels, RANGE_TEST_FILE, content)


def _write(
    folder: Path,
    title: str,
    sections: Sequence[tuple[str, str]],
    said: Sequence[str],
    panels: Sequence[Panel],
    name: str,
    content: dict[str, Any],
) -> list[Path]:
    from gpen.data.image_io import encode_image
    from gpen.tuning.picture import draw_picture

    picture = draw_picture(title, said, panels)
    write_text(folder / PAGE_FILE, render_page(title, sections))
    with atomic_path(folder / PICTURE_FILE) as temporary:
        temporary.write_bytes(encode_image(picture.astype('float32') / 127.5 - 1, '.png'))
    write_text(folder / name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    return [folder / PAGE_FILE, folder / PICTURE_FILE, folder / name]


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


def _draw_panels(panels: Sequence[Panel]) -> str:
    return f'<div class="charts">{"".join(panel.to_svg() for panel in panels)}</div>' if panels else ''


def _draw_method(setting: Setting, words: str, overrides: Sequence[str]) -> str:
    changed = [*setting.user_overrides, *overrides]
    return (
        f'<p>{escape(words)}</p><p>Recipe: <code>{escape(setting.option_file)}</code></p>'
        f'<details><summary>What is changed in it for a trial</summary><p><code>'
        f'{"<br>".join(escape(one) for one in changed)}</code></p></details>'
    )


def _describe_method(setting: Setting) -> str:
    return (
        f'Each trial is the training of the recipe from the start, {setting.iterations} iterations '
        f'({setting.iterations / setting.iterations_per_epoch:.1f} epochs), with the same data and seed, a warm-up of '
        'a tenth of that where the recipe has one, and constant rates after it. A loss that is not finite or rises '
        'fast is too high, and ends the trial; a loss that falls slowly could be higher. The rest is ranked by '
        'validation PSNR in steps of 0.05 dB, then by the slope of the loss. The coarse rates come first, then '
        'steps of 20 % around the best. Longer trainings may prefer somewhat lower rates than short trials.'
    )


def _to_pairs(line: Line) -> list[list[float | None]]:
    return [[x, y if math.isfinite(y) else None] for x, y in zip(line.x, line.y, strict=True)]


def _write_hparams(folder: Path, found: Found) -> None:
    """Write rates and results for the HParams tab of TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    for trial, judgement in found.compared.items():
        rates = {'lr_g': trial.rate, **({} if trial.rate_d is None else {'lr_d': trial.rate_d, 'ratio': trial.ratio})}
        results = {'hparam/g_loss_end_by_start': judgement.ratio, 'hparam/psnr': judgement.psnr}
        finite = {name: value for name, value in results.items() if value is not None and math.isfinite(value)}
        with SummaryWriter(str(folder / trial.name)) as writer:
            writer.add_hparams({**rates, 'verdict': judgement.verdict}, finite, run_name='.')
