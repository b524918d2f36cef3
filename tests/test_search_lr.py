"""The learning-rate search: trials are real trainings, stopped when they diverge, and none is done twice."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest
import yaml

import processes
from conftest import ROOT, run_code, tiny_options, write_options
from figures import read_figures, without_plotly
from gpen.commands import search_lr, train
from gpen.errors import UserError
from gpen.options import parse_options
from gpen.runs.recorder import read_metrics
from gpen.tuning import trial_run
from gpen.tuning.curves import SKIPPED, to_curves
from gpen.tuning.display import Display
from gpen.tuning.plan import Trial
from gpen.tuning.search import run_search
from gpen.tuning.study import open_study, recommend
from gpen.tuning.trial_pool import TrialPool, choose_devices
from gpen.tuning.trial_run import TrialRun, build_overrides, build_rates, run_trial

SCRIPT = 'scripts/search_lr.py'
ITERATIONS = 16


def never(*_: object) -> None:
    return None


class ForkedTraining:
    """Stands in for subprocess.Popen of a training: in a process that is forked from one that has imported PyTorch."""

    def __init__(self, command: tuple[str, ...], stdout: TextIO, env: dict[str, str], **_: object) -> None:
        words = command[command.index('-opt') :]
        self._process = processes.start(Path(stdout.name), *words, environment=env).process

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired('train', timeout or 0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


FORKED = SimpleNamespace(**{**vars(subprocess), 'Popen': ForkedTraining})


@pytest.fixture(scope='module')
def searched(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int], str]:
    """A search that was stopped after its first trial and continued; its folder, the first results, what it printed."""
    root = tmp_path_factory.mktemp('searched')
    options = tiny_options(tiny_data, root)
    options['logger']['use_tb_logger'] = False  # its import takes a second
    option_file = write_options(root / 'tiny.yml', options)
    arguments = [
        '-opt',
        option_file,
        '--rates',
        '3e-3',
        '2.8e-3',
        '--iterations',
        ITERATIONS,
        '--devices',
        'cpu',
        'cpu',
    ]
    folder = root / 'experiments' / 'tiny_lr_search'
    command = [sys.executable, str(ROOT / SCRIPT), *map(str, arguments)]
    with (root / 'first').open('w') as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ, start_new_session=True)
        deadline = time.monotonic() + 100
        while not list(folder.glob('trials/*/trial.json')) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
    printed = (root / 'first').read_text()
    assert status == 130, printed
    assert 'Continue with the same command' in printed
    done = {path: path.stat().st_mtime_ns for path in folder.glob('trials/*/trial.json')}
    with contextlib.redirect_stdout(io.StringIO()) as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_run, 'subprocess', FORKED)
        assert search_lr.main(list(map(str, arguments))) == 0
    return folder, done, stream.getvalue()


def test_a_search_that_was_stopped_goes_on_without_repeating_a_trial(searched) -> None:
    folder, done, _ = searched
    assert 1 <= len(done) < 3
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    results = [json.loads(path.read_text()) for path in folder.glob('trials/*/trial.json')]
    assert {result['lr_g'] for result in results} > {3e-3, 2.8e-3}  # and one beyond the edge
    assert all(result['lr_d'] == pytest.approx(4 * result['lr_g'], rel=5e-3) for result in results)
    assert all(result['psnr'] > 5 for result in results)


def test_every_trial_is_a_whole_training_with_its_rates_and_leaves_no_weights(searched) -> None:
    folder, _, _ = searched
    for path in folder.glob('trials/*/trial.json'):
        result = json.loads(path.read_text())
        records = [json.loads(line) for line in (path.parent / 'metrics.jsonl').read_text().splitlines()]
        train = [record for record in records if record['phase'] == 'train']
        assert [record['iter'] for record in train] == list(range(1, ITERATIONS + 1))
        assert train[-1]['lr_g'] == result['lr_g']
        assert train[-1]['lr_d'] == result['lr_d']
        assert not (path.parent / 'models').exists()


def test_the_report_says_the_same_on_the_page_and_in_json(searched) -> None:
    folder, _, printed = searched
    content = json.loads((folder / 'search.json').read_text())
    page = without_plotly((folder / 'report.html').read_text())
    assert len(content['trials']) == 3
    assert content['trials'][0]['lr_g'] == content['recommended']['lr_g']
    lines = yaml.safe_load(content['recommended']['yaml'].replace('e-', 'e-0'))
    assert float(lines['train']['optim_g']['lr']) == content['recommended']['lr_g']
    words = shlex.split(next(line for line in printed.splitlines() if line.startswith('  ') and 'train.py' in line))
    args = train.parse_arguments(words[2:])
    optimizer = parse_options(args.opt, args.force_yml).options.train.optim_g
    assert float(optimizer.arguments['lr']) == content['recommended']['lr_g']
    for text in (content['result'], *content['recommended']['yaml'].splitlines()):
        assert text in printed
        assert text in page
    assert 'http' not in page.replace('http-equiv', '')  # nothing is fetched
    assert len(read_figures(page)) == 4
    assert {path.name for path in (folder / 'hparams').iterdir()} == {trial['name'] for trial in content['trials']}


def test_other_options_start_a_search_anew_and_keep_the_old_one(searched) -> None:
    from gpen.tuning.study import claim_folder

    folder, _, _ = searched
    said: list[str] = []
    option_file = str(folder.parents[1] / 'tiny.yml')
    claim_folder(open_study(option_file, [], ITERATIONS), said.append)
    assert said == []
    claim_folder(open_study(option_file, [], ITERATIONS + 1), said.append)
    try:
        (archived,) = folder.parent.glob('tiny_lr_search_archived_*')
        assert str(archived) in said[0]
        assert not (folder / 'search.json').exists()
    finally:
        (folder / 'settings.json').unlink()
        folder.rmdir()
        archived.rename(folder)


def test_a_rate_that_diverges_is_stopped_early_and_judged_too_high(
    option_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_run, 'subprocess', FORKED)
    study = open_study(str(option_file), ['logger:use_tb_logger=false'], 2000)
    printed = io.StringIO()
    pool = TrialPool(study.folder, choose_devices(['cpu', 'cpu'], 0))
    result = run_search(study, pool, Display(printed), rates=[1e6])
    assert result.ranking == []
    assert {trial.rate for trial in result.judgements} == {1e6, 5e5}
    for trial, judgement in result.judgements.items():
        assert judgement.verdict == 'too high'
        assert 'not finite' in judgement.reason or 'rises fast' in judgement.reason
        assert max(result.runs[trial].read_curves().rates.x, default=0) < 1000
    assert f'{Trial(1e6, 4.0).label}: too high' in printed.getvalue()


def test_a_terminal_shows_a_table_that_texts_do_not_break(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    records = [
        {'iter': 4, 'phase': 'train', 'G_loss_pixel': 0.25, 'lr_g': 1e-3},
        {'iter': 4, 'phase': 'val', 'val/psnr': 21.236},
    ]
    curves = to_curves(records, 'psnr')
    trials = [
        SimpleNamespace(label=name, iterations=16, output=tmp_path, read_curves=lambda: curves) for name in ('[b]', 'D')
    ]
    stream = Terminal()
    with Display(stream) as display:
        for trial in trials:
            display.show(trial)
        display.say('said [red]between')
        display.show(trials[0], SimpleNamespace(sentence='good: falls'))
    printed = stream.getvalue()
    assert printed.count('said [red]between') == 1
    last = re.sub(r'\x1b\[[^A-Za-z]*[A-Za-z]', '', printed[printed.rindex('trial') :]).splitlines()
    assert [' '.join(line.split()) for line in last[:3]] == [
        'trial iterations G loss D loss PSNR verdict',
        '[b] 4/16 0.2500 21.24 good: falls',
        'D 0/16 running',
    ]


def python_run(folder: Path, code: str) -> TrialRun:
    """A run that runs some Python instead of training; its folder is in the variable ``folder``."""
    start = 'import sys, time, pathlib; folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)\n'
    return TrialRun('G 1e-3', (sys.executable, '-S', '-c', start + code, str(folder)), folder, 100, None)


RECORD = '{"iter": %d, "phase": "train", "G_loss_pixel": %g, "lr_g": 1e-3}\\n'


def test_a_trial_is_ended_by_sigterm_as_soon_as_its_loss_rises(tmp_path: Path) -> None:
    code = f"""
import signal
def note(*_): (folder / 'ended').touch(); sys.exit(143)
signal.signal(signal.SIGTERM, note)
with (folder / 'metrics.jsonl').open('w') as stream:
    for n, loss in enumerate([1.0, 0.5, 0.4, 1.9, 2.5, 3.0], 1):
        stream.write('{RECORD}' % (n, loss))
time.sleep(60)
"""
    from gpen.tuning.judge import find_too_high

    started = time.monotonic()
    assert run_trial(python_run(tmp_path / 'run', code), {}, lambda: False, find_too_high)
    assert time.monotonic() - started < 30
    assert (tmp_path / 'run' / 'ended').exists()


def test_a_trial_that_is_asked_to_stop_gives_nothing_to_judge(tmp_path: Path) -> None:
    run = python_run(tmp_path / 'run', 'time.sleep(60)')
    assert run_trial(run, {}, run.folder.exists, never) is False


def test_a_trial_that_fails_for_another_reason_says_its_own_words(tmp_path: Path) -> None:
    run = python_run(tmp_path / 'run', "print('Error: No space left.'); sys.exit(2)")
    with pytest.raises(UserError, match=r'G 1e-3 failed with status 2, and not because of its rate.*\nNo space left'):
        run_trial(run, {}, lambda: False, never)
    run = python_run(tmp_path / 'other', 'raise ValueError("what is this")')
    with pytest.raises(UserError, match='what is this'):
        run_trial(run, {}, lambda: False, never)


def test_each_device_runs_one_trial_at_a_time_and_one_failure_ends_all(tmp_path: Path) -> None:
    code = "import os; (folder / 'device').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    runs = [python_run(tmp_path / str(n), code) for n in range(4)]
    devices = TrialPool(tmp_path, [{'CUDA_VISIBLE_DEVICES': '5'}, {'CUDA_VISIBLE_DEVICES': '7'}])
    done = dict(devices.run_trials(runs, never, lambda: False))
    assert set(done) == set(runs)
    assert all(done.values())
    assert {(run.folder / 'device').read_text() for run in runs} == {'5', '7'}
    slow = python_run(tmp_path / 'slow', 'time.sleep(60)')
    started = time.monotonic()
    with pytest.raises(UserError, match='failed with status 3'):
        list(
            devices.run_trials(
                [slow, python_run(tmp_path / 'bad', 'time.sleep(0.5); sys.exit(3)')], never, lambda: False
            )
        )
    assert time.monotonic() - started < 30


def test_a_ray_cluster_runs_trials_stops_them_and_hands_on_what_failed(tmp_path: Path) -> None:
    pytest.importorskip('ray')
    code = "import os; (folder / 'parent').write_text(str(os.getppid()))"
    runs = [python_run(tmp_path / str(n), code) for n in range(2)]
    slow, bad = python_run(tmp_path / 'slow', 'time.sleep(60)'), python_run(tmp_path / 'bad', 'sys.exit(3)')
    with TrialPool(tmp_path, ray='local') as cluster:
        assert dict(cluster.run_trials(runs, never, lambda: False)) == dict.fromkeys(runs, True)
        assert str(os.getpid()) not in [(run.folder / 'parent').read_text() for run in runs]  # Ray started them

        started = time.monotonic()
        assert dict(cluster.run_trials([slow], never, slow.folder.exists)) == {slow: False}
        assert time.monotonic() - started < 50

        with pytest.raises(UserError, match='failed with status 3'):
            list(cluster.run_trials([bad], never, lambda: False))


def test_devices_are_those_that_the_user_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    assert choose_devices([], 'auto') == [{'CUDA_VISIBLE_DEVICES': '4'}, {'CUDA_VISIBLE_DEVICES': '6'}]
    assert choose_devices(['1'], 'auto') == [{'CUDA_VISIBLE_DEVICES': '6'}]
    assert choose_devices([], 0) == [{'CUDA_VISIBLE_DEVICES': ''}]
    with pytest.raises(UserError, match='finds 2 GPUs here'):
        choose_devices(['2'], 'auto')


def test_a_trial_changes_length_schedule_and_what_depends_on_it_and_nothing_else(option_file: Path) -> None:
    options = parse_options(option_file, ['train:net_d_iters=3', 'train:ema_decay=0.999']).options
    changed = parse_options(
        option_file, ['train:net_d_iters=3', 'train:ema_decay=0.999', *build_overrides(options, 600)]
    ).options
    assert changed.train.total_iter == 600
    assert changed.train.scheduler is None
    assert changed.train.warmup_iter == 60
    assert changed.train.ema_decay == pytest.approx(0.5 ** (1 / 60), rel=1e-4)
    assert changed.logger.print_freq == 12  # a multiple of net_d_iters
    assert list(changed.val.metrics) == ['psnr']
    assert changed.seed == options.seed
    for block in ('datasets', 'network_g', 'network_d'):
        assert getattr(changed, block) == getattr(options, block)
    no_warmup = build_overrides(parse_options(option_file, ['train:warmup_epochs=0']).options, 600)
    assert 'train:warmup_iter=0' in no_warmup


def test_the_recommended_lines_keep_the_other_arguments(option_file: Path) -> None:
    lines = recommend(parse_options(option_file).options, 1.2e-3, None)
    assert lines == 'train:\n  optim_g: {type: Adam, lr: 1.2e-3, betas: [0.9, 0.99]}'


def test_groups_of_parameters_keep_their_share_of_the_rate(option_file: Path) -> None:
    group = "train:optim_g:param_groups={encoder: {patterns: ['ecd*'], lr: 1e-2}}"
    options = parse_options(option_file, [group]).options  # five times the optimizer's 2e-3
    changed = parse_options(option_file, [group, *build_rates(options, 1e-4, 4e-4)]).options
    assert changed.train.optim_g.lr == 1e-4
    assert changed.train.optim_g.param_groups['encoder'].lr == pytest.approx(5e-4)
    assert changed.train.optim_g.param_groups['encoder'].patterns == ['ecd*']
    lines = yaml.safe_load(recommend(options, 1e-4, 4e-4))
    assert lines['train']['optim_g']['param_groups'] == {'encoder': {'patterns': ['ecd*'], 'lr': '5e-4'}}


def test_what_a_skipped_step_is_called_is_known(option_file: Path) -> None:
    status, printed = processes.run(
        option_file.parent / 'log', '-opt', option_file, '--force_yml', 'train:optim_g:lr=1e30'
    )
    assert status == 2, printed
    events = read_metrics(option_file.parent / 'experiments' / 'tiny' / 'metrics.jsonl')
    assert any(event['phase'] == 'event' and event['name'] == SKIPPED for event in events)
    assert to_curves(events).skipped > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['-opt', 'no_such.yml'], 'There is no option file no_such.yml'),
        (['-opt', 'x.yml', '--rates', '-1'], 'not between'),
        (['-opt', 'x.yml', '--rates', 'fast'], "'fast' is not a number"),
        (['-opt', 'x.yml', '--ray', 'local', '--devices', '0'], 'leave it out with --ray'),
    ],
)
def test_wrong_arguments_are_said_in_a_sentence(arguments: list[str], message: str) -> None:
    result = run_code(SCRIPT, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_training_set_below_a_batch_and_a_ratio_without_discriminator_are_refused(
    option_file: Path, tiny_data: Path
) -> None:
    folders = [f'datasets:{phase}:dataroot_gt={tiny_data / phase / "sharp"}' for phase in ('train', 'val')]
    with pytest.raises(UserError, match='has 7 pairs, which is less than a batch of 8'):
        open_study(str(option_file), ['datasets:train:batch_size_per_gpu=8'], None)
    with pytest.raises(UserError, match='do not tell which rate is better'):
        open_study('options/train/prior_quickstart.yml', folders, None)
    study = open_study(str(option_file), ['train:gan_opt=~', 'network_d=~'], None)
    assert study.iterations == 200
    with pytest.raises(UserError, match='trains no discriminator'):
        run_search(study, TrialPool(study.folder), Display(io.StringIO()), ratios=[2.0])


def test_help_comes_at_once() -> None:
    started = time.monotonic()
    result = run_code(SCRIPT, '--help')
    assert result.returncode == 0
    assert '--rates' in result.stdout
    assert time.monotonic() - started < 5
