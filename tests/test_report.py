"""The report of runs: what it tells, that it needs nothing else, and what it makes of damaged or strange files."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT, run_code
from figures import list_legend, list_marks, read_figures, without_plotly
from gpen.errors import UserError
from gpen.reporting.recorded_run import read_run
from gpen.reporting.run_page import write_report

EVIL = '<script>alert("x")</script>'
FINISHED = {'status': 'finished', 'reason': 'Finished: all 400 iterations are done.'}


class Links(HTMLParser):
    """Collects what a page would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ('src', 'href', 'srcset', 'data', 'action', 'poster', 'xlink:href'):
                self.sources.append(value or '')
            if name.startswith('on'):
                self.handlers.append(name)


def make_records(count: int = 40, best_at: int = 30, **more: Any) -> list[dict[str, Any]]:
    """Return records of a run of ``count`` epochs of 10 iterations, whose PSNR is best in epoch ``best_at``."""
    records: list[dict[str, Any]] = []
    for epoch in range(1, count + 1):
        place = {'iter': 10 * epoch, 'epoch': epoch}
        losses = {'G_loss_pixel': 1 / epoch, 'D_loss_real': 0.6, 'D_loss_fake': 0.5, 'D_acc_real': 0.7, 'lr_g': 1e-3}
        records.append({**place, 'phase': 'train', **losses, 'seconds_per_iter': 0.25, **more})
        scores = {'val/psnr': 25 - abs(best_at - epoch) / 10, 'val/lpips': 0.2 + abs(best_at - epoch) / 100}
        records.append({**place, 'phase': 'val', **scores})
    return records


def write_run(folder: Path, records: list[dict[str, Any]], end: str = '', **changes: Any) -> Path:
    """Write the folder of a finished run; ``end`` comes after the last record, ``changes`` go to its ``run.json``."""
    folder.mkdir(parents=True)
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'metrics.jsonl').write_text(lines + end, encoding='utf-8')
    metrics = {'psnr': {'higher_is_better': True}, 'lpips': {'higher_is_better': False}}
    content = {
        **{'format': 1, 'name': folder.name, 'version': '9.9', 'torch': '2.14.1', 'python': '3.11.7'},
        **{'git_commit': None, 'command': ['codes/train.py'], 'devices': ['cpu: of a test, 2 threads'], 'processes': 1},
        **{'started': '2026-03-01T10:00:00', 'updated': '2026-03-01T10:05:00', 'ended': None, 'seconds': 300.0},
        **{'iteration': records[-1]['iter'] if records else 0, 'total_iterations': 400, 'iterations_per_epoch': 10},
        **{'resumes': 0, 'metrics': metrics, 'stopping_metric': 'psnr', 'train_images': 7, 'val_images': 3},
        **{'batch_size': 2, **FINISHED, **changes},
    }
    (folder / 'run.json').write_text(json.dumps(content), encoding='utf-8')
    return folder


def make_old(folder: Path) -> Path:
    """Make the folder of a run that of one made before there was a ``run.json``."""
    (folder / 'run.json').unlink()
    return folder


def report(*folders: Path, **settings: Any) -> str:
    """Return the report of runs without plotly's code, after looking whether a browser would fetch or run more."""
    page = without_plotly(write_report([str(folder) for folder in folders], **settings).read_text(encoding='utf-8'))
    links = Links(page)
    assert all(source.startswith(('#', 'data:image/')) for source in links.sources)
    assert links.tags.count('script') == (2 if read_figures(page) else 0)  # plotly, and the script that calls it
    assert not {'iframe', 'link', 'object', 'embed', 'base', 'form'} & set(links.tags)
    assert links.handlers == []
    assert 'url(' not in page
    assert '@import' not in page
    return page


def read_words(page: str) -> str:
    """Return the words of a page without tags and scripts."""
    page = re.sub('<script>.*?</script>|<noscript>.*?</noscript>', '', page, flags=re.DOTALL)
    return ' '.join(re.sub(r'<[^>]*>', ' ', page.split('</style>')[1].replace('<wbr>', '')).split())


def test_a_report_tells_how_a_run_went(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / 'first', make_records()))
    assert without_plotly((tmp_path / 'first' / 'report.html').read_text(encoding='utf-8')) == page
    words = read_words(page)
    assert 'Finished: all 400 iterations are done.' in words
    assert 'Iterations 400 of 400 100%' in words
    assert 'Best psnr 25 at iteration 300' in words
    assert 'Best lpips 0.2 at iteration 300' in words
    assert 'Speed 0.25 s/it' in words
    assert 'Time 5:00' in words
    assert 'To go' not in words
    for title in ('PSNR', 'LPIPS', 'G_loss_pixel', 'Discriminator loss', 'Discriminator accuracy', 'Learning rate'):
        assert title in words
    assert len(read_figures(page)) == 7  # and the speed
    assert 'Nothing was' not in words


def test_losses_of_facial_components_share_drawings(tmp_path: Path) -> None:
    losses = {f'{letter}_loss_component_{name}': 0.5 for letter in 'GD' for name in ('left_eye', 'right_eye', 'mouth')}
    norms = {'grad_norm_g': 1.0, 'grad_norm_d_components': 2.0}
    page = report(write_run(tmp_path / 'run', make_records(**losses, **norms)))
    words = read_words(page)
    assert 'Component losses' in words
    assert 'Component discriminators' in words
    assert len(read_figures(page)) == 7 + 3  # see above; with the gradient norms


@pytest.mark.parametrize(
    ('status', 'reason', 'state'),
    [
        ('stopped_early', 'Early stopping: psnr has not improved for 3 validations.', 'stopped early'),
        ('stopped', 'Stopped by SIGTERM after iteration 207.', 'stopped by a signal'),
        ('failed', 'The loss was not finite 10 times in a row.', 'failed'),
        ('running', '', 'ended without a word'),
    ],
)
def test_a_report_says_why_a_run_ended(tmp_path: Path, status: str, reason: str, state: str) -> None:
    iteration = 207 if 'SIGTERM' in reason else 200
    folder = write_run(tmp_path / 'run', make_records(20), status=status, reason=reason, iteration=iteration)
    words = read_words(report(folder))
    assert f'State {state}' in words
    assert reason in words
    if state == 'stopped early':
        assert 'To go' not in words
    else:
        left = '0:48' if 'SIGTERM' in reason else '0:50'  # of the 193 or 200 that are left, at 0.25 s each
        assert f'To go {left}' in words


@pytest.mark.parametrize('changes', [{'status': 'running', 'reason': ''}, {}])
def test_a_run_that_is_going_on_is_called_so(tmp_path: Path, changes: dict[str, str]) -> None:
    from gpen.runs.experiment import lock_experiment

    folder = write_run(tmp_path / 'run', make_records(20), **changes)
    with lock_experiment(folder):
        words = read_words(report(folder))
    assert 'State running' in words
    assert '200 of 400 iterations are done; about 0:50 of training left' in words
    after = 'ended without a word' if changes else 'finished'
    assert f'State {after}' in read_words(report(folder))


def test_several_runs_are_compared(tmp_path: Path) -> None:
    import torch

    first, second = write_run(tmp_path / 'a', make_records(best_at=30)), write_run(tmp_path / 'b', make_records(20, 5))
    for folder, rate in ((first, 1e-3), (second, 2e-3)):
        (folder / 'training_states').mkdir()
        options = {'name': folder.name, 'train': {'optim_g': {'lr': rate}, 'total_iter': 400}, 'manual_seed': 3}
        torch.save({'iteration': 200, 'options': options}, folder / 'training_states' / '200.state')
    page = report(first, second, first)
    assert without_plotly((tmp_path / 'report.html').read_text(encoding='utf-8')) == page
    differences = page.partition('<h2>What differs')[2].partition('<section')[0]
    assert re.findall(r'<code>(.*?)</code>', differences.replace('<wbr>', '')) == ['train.optim_g.lr']
    assert '0.001' in differences
    assert '0.002' in differences
    words = read_words(page)
    assert '25 ★ 300' in words  # PSNR of the first run
    assert '0.2 ★ 300' in words
    assert '25 ★ 50' in words  # the second one is as good
    figures = read_figures(page)
    assert [list_legend(figure) for figure in figures] == [['a', 'b']] * 8  # families are apart
    colours = {(trace['name'], trace['line']['color']) for figure in figures for trace in figure['data']}
    assert len(colours) == 2  # one for each run


def test_names_from_files_are_only_text(tmp_path: Path) -> None:
    records = make_records(3, **{EVIL: 0.5})
    records.append({'iter': 30, 'epoch': 3, 'phase': 'val', f'val/{EVIL}': 1.0})
    records.append({'iter': 30, 'epoch': 3, 'phase': 'health', 'message': EVIL, EVIL: EVIL})
    records.append({'iter': 30, 'epoch': 3, 'phase': 'event', 'name': EVIL, 'severity': 'error', 'sentence': EVIL})
    told = dict.fromkeys(('version', 'torch', 'python', 'git_commit', 'reason'), EVIL)
    metrics = {EVIL: {'higher_is_better': True}}
    folder = write_run(tmp_path / '<img src=x onerror=alert(1)>', records, **told, devices=[EVIL], metrics=metrics)
    (folder / 'options.yml').write_text(json.dumps({EVIL: EVIL}))
    page = report(folder)
    assert EVIL not in page
    assert page.count('&lt;script&gt;') > 5
    assert '<img' not in page


def test_a_line_that_is_being_written_is_passed_over_and_damaged_ones_are_counted(tmp_path: Path) -> None:
    from gpen.runs.experiment import lock_experiment

    run = write_run(tmp_path / 'a', make_records(3), end='{"iter": 40, "epo')
    assert 'One line of metrics.jsonl could not be read' in read_words(report(run))
    with lock_experiment(run):
        words = read_words(report(run))
    assert '30 of 400' in words
    assert 'could not be read' not in words
    damaged = '{"iter": 4\n[1]\n' + '{"iter": 50, "phase": "train", "x": 1' + '0' * 400 + '}\n'
    words = read_words(report(write_run(tmp_path / 'b', make_records(3), end=damaged)))
    assert '3 lines of metrics.jsonl could not be read' in words


def test_a_report_is_made_of_what_there_is(tmp_path: Path) -> None:
    records = [record for record in make_records(3) if record['phase'] == 'train']
    words = read_words(report(write_run(tmp_path / 'no validation', records)))
    assert 'Nothing was validated yet' in words
    assert 'neither options.yml nor a training state' in words
    empty = make_old(write_run(tmp_path / 'just started', []))
    words = read_words(report(empty))
    assert 'Nothing was recorded yet' in words
    assert 'Iterations 0 Speed –' in words
    both = read_words(report(empty, tmp_path / 'no validation'))
    assert 'Options unknown: just started, no validation' in both


def test_a_damaged_state_is_said_and_passed_over(tmp_path: Path) -> None:
    import torch

    folder = write_run(tmp_path / 'run', make_records(3))
    (folder / 'training_states').mkdir()
    torch.save({'options': {'manual_seed': 71}}, folder / 'training_states' / '9.state')
    (folder / 'training_states' / '10.state').write_bytes(b'PK\x03\x04 cut off')
    words = read_words(report(folder))
    assert '10.state' in words
    assert 'manual_seed 71' in words


def test_health_findings_and_warnings_are_shown(tmp_path: Path) -> None:
    finding = {'name': 'rate too high', 'severity': 'warning', 'sentence': 'Halve the rate.'}
    records = make_records(3)
    records.append({'iter': 20, 'epoch': 2, 'phase': 'health', **finding})
    records.append({'iter': 20, 'epoch': 2, 'phase': 'val', 'val/variety': 0.9, 'val/psnr': 20})
    odd = {'name': 'warning', 'severity': 'warning', 'sentence': 'Something odd\nin two lines.'}
    calm = {'name': 'resume', 'severity': 'info', 'sentence': 'All is well.'}
    records += [{'iter': iteration, 'epoch': 2, 'phase': 'event', **odd} for iteration in (10, 20)]
    records += [{'iter': 20, 'epoch': 2, 'phase': 'event', **calm}, {'iter': 20, 'phase': 'of a later version'}]
    words = read_words(report(write_run(tmp_path / 'run', records)))
    assert 'iteration kind finding 20 warning Halve the rate. Variety' in words
    assert 'iteration message 10 Something odd in two lines.' in words
    assert words.count('Something odd') == 1
    assert 'All is well' not in words
    assert words.count('Halve the rate.') == 1
    assert 'Best variety' not in words
    healthy = read_words(report(write_run(tmp_path / 'healthy', [r for r in records if r['phase'] != 'health'])))
    assert 'Nothing was found.' in healthy


def test_a_measure_is_a_metric_where_the_options_ask_for_it(tmp_path: Path) -> None:
    records = make_records(3)
    records.append({'iter': 30, 'epoch': 3, 'phase': 'val', 'val/sharpness': 0.7})
    metrics = {'psnr': {'higher_is_better': True}, 'sharpness': {'higher_is_better': True}}
    assert 'Best sharpness 0.7' in read_words(report(write_run(tmp_path / 'asked', records, metrics=metrics)))
    assert 'Best sharpness' not in read_words(report(write_run(tmp_path / 'not_asked', records)))


def test_defaults_that_one_run_wrote_out_are_no_difference(tmp_path: Path) -> None:
    import torch

    blocks = {'a': {'type': 'calculate_psnr'}, 'b': {'type': 'calculate_psnr', 'crop_border': 0}}
    for name, block in blocks.items():
        folder = write_run(tmp_path / name, make_records(3))
        (folder / 'training_states').mkdir()
        options = {'val': {'metrics': {'psnr': block}}}
        torch.save({'options': options}, folder / 'training_states' / '1.state')
    words = read_words(report(tmp_path / 'a', tmp_path / 'b'))
    assert 'None: all options are the same.' in words
    assert 'val.metrics.psnr.crop_border 0' in words


def test_folders_that_are_none_are_said_with_what_to_do(tmp_path: Path) -> None:
    write_run(tmp_path / 'runs' / 'good', make_records(2))
    with pytest.raises(UserError, match=r'There is no folder .*runs/bad\. Runs in .*runs: good\.'):
        write_report([str(tmp_path / 'runs' / 'bad')])
    with pytest.raises(UserError, match=r'is no folder of a run: it has no metrics\.jsonl\. Runs in .*runs: good\.'):
        write_report([str(tmp_path / 'runs')])
    records = tmp_path / 'runs' / 'good' / 'metrics.jsonl'
    before = records.read_text()
    with pytest.raises(UserError, match=r'HTML file.*another suffix'):
        write_report([str(tmp_path / 'runs' / 'good')], records)
    assert records.read_text() == before
    result = run_code('scripts/report.py', tmp_path / 'nothing')
    assert result.returncode == 2
    assert result.stderr.startswith('Error: There is no folder')


def test_a_continued_run_shows_its_time_and_where_it_was_continued(tmp_path: Path) -> None:
    records = make_records()
    for name, iteration in (('start', 0), ('resume', 200), ('resume', 200), ('resume', 310)):
        about = {'name': name, 'severity': 'info', 'sentence': 'From the newest state.'}
        records.append({'iter': iteration, 'epoch': 1, 'phase': 'event', **about})
    folder = write_run(tmp_path / 'run', records, resumes=3, seconds=210)
    assert read_run(folder, '').resumed_at == [200, 310]
    page = report(folder)
    assert 'Time 3:30 from 2026-03-01 10:00, continued 3 times' in read_words(page)
    drawings = read_figures(page)[2:]  # PSNR and LPIPS come first
    assert len(drawings) == 5
    assert all(list_marks(drawing) == ['continued'] * 2 for drawing in drawings)


def test_the_direction_of_a_metric_is_the_one_that_the_run_recorded(tmp_path: Path) -> None:
    values = (0.5, 0.2, 0.4)  # its name says nothing about a distance
    records = [{'iter': n, 'epoch': n, 'phase': 'val', 'val/edges': value} for n, value in enumerate(values, 1)]
    for higher, best in ((False, 'Best edges 0.2 at iteration 2'), (True, 'Best edges 0.5 at iteration 1')):
        folder = write_run(tmp_path / str(higher), records, metrics={'edges': {'higher_is_better': higher}})
        page = report(folder)
        assert best in read_words(page)
        assert best.split()[2] == list_marks(read_figures(page)[0])[0].removeprefix('best ')


def test_runs_made_before_there_was_a_run_file_still_open(tmp_path: Path) -> None:
    import torch

    records = [record | ({'val/edges': 0.3} if record['phase'] == 'val' else {}) for record in make_records(20)]
    folder = make_old(write_run(tmp_path / 'run', records))
    (folder / 'training_states').mkdir()
    torch.save({'options': {'train': {'total_iter': 400}}}, folder / 'training_states' / '200.state')
    page = report(folder)
    words = read_words(page)
    assert 'State not recorded' in words
    assert '200 of 400 iterations are done. How the run ended is not recorded.' in words
    assert 'Time – not recorded' in words
    assert 'Best psnr 24 at iteration 200' in words
    assert 'Best lpips 0.3 at iteration 200' in words
    assert 'Last edges 0.3 whether higher is better is not recorded' in words
    assert 'To go 0:50' in words
    marks = [mark for figure in read_figures(page) for mark in list_marks(figure)]
    assert [mark.split()[0] for mark in marks] == ['best'] * 2
    both = read_words(report(folder, write_run(tmp_path / 'new', records)))
    assert 'run not recorded 200 of 400 24 ★ 200 0.3 ★ 200 – – 0.25 s/it –' in both


@pytest.mark.parametrize('file', ['run.json', 'options.yml'])
def test_damaged_files_of_a_run_are_said_and_passed_over(tmp_path: Path, file: str) -> None:
    folder = write_run(tmp_path / 'run', make_records(3))
    (folder / file).write_bytes(b'{"name": [\xff')
    words = read_words(report(folder))
    assert re.search(rf'{file} (is damaged|could not be read)', words)
    assert 'Iterations 30' in words


def test_a_real_run_shows_its_pictures_and_options(trained: Path, tmp_path: Path) -> None:
    folder = trained.parent / 'experiments' / 'tiny'
    target = tmp_path / 'made' / 'page.html'
    result = run_code('scripts/report.py', folder, '--output', target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f'Written: {target}')
    page = without_plotly(target.read_text(encoding='utf-8'))
    words = read_words(page)
    assert 'State finished' in words
    assert 'train.net_d_reg_every 3' in words
    captions = re.findall(r'<figcaption>([^<]*)', page)
    assert captions == ['input', 'iteration 4', 'iteration 8', 'sharp']
    assert all(source.startswith(('#', 'data:image/png')) for source in Links(page).sources)


def test_picture_files_are_shown_whole_or_as_columns_through_time(tmp_path: Path) -> None:
    import cv2
    import torch

    folder = write_run(tmp_path / 'run', make_records(3))
    (folder / 'visualization').mkdir()
    for iteration in (10, 30, 50):  # the last one is of a course that was given up
        sheet = np.full((16, 48, 3), iteration, np.uint8)
        cv2.imwrite(str(folder / 'visualization' / f'{iteration}.png'), sheet)
    (folder / 'visualization' / '20.png').write_bytes(b'cut off')
    captions = re.findall(r'<figcaption>([^<]*)', report(folder))
    assert captions == ['input', 'iteration 10', 'iteration 30', 'sharp']
    (folder / 'training_states').mkdir()
    torch.save({'options': {'model_type': 'GPENPriorModel'}}, folder / 'training_states' / '30.state')
    assert re.findall(r'<figcaption>([^<]*)', report(folder)) == ['iteration 10', 'iteration 30']


def test_help_comes_without_importing_anything_heavy() -> None:
    command = [sys.executable, '-X', 'importtime', str(ROOT / 'scripts' / 'report.py'), '--help']
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '--output' in result.stdout
    imported = {line.rpartition('|')[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {'torch', 'numpy', 'cv2', 'tensorboard', 'pydantic', 'plotly'}
