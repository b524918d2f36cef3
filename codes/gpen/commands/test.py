"""``gpen-test`` / ``python codes/test.py``: score generators on test sets, with the LQ images for comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpen.commands._arguments import ArgumentParser, add_force_yml, add_mirror, add_option_file
from gpen.commands._run import run_command
from gpen.utils.files import expand_user
from gpen.utils.text import shorten

if TYPE_CHECKING:
    from gpen.evaluation.score import Scoring
    from gpen.options import Options, ScoringOptions


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(
        description='Score trained generators on blurry faces, with sharp ones or without, the input beside them.',
    )
    add_option_file(
        parser,
        'option file: of a scoring run, such as options/test/gpen_512.yml, or of a training run, which is scored on '
        'its datasets.val',
    )
    parser.add_argument(
        '--model',
        nargs='+',
        default=[],
        metavar='FILE',
        help="weights to score in place of the file's, or names of published models; of a training run, default: its "
        'best, else its latest',
    )
    add_mirror(parser)
    parser.add_argument('--output', metavar='DIR', help='where results go; default: experiments/NAME/results')
    parser.add_argument(
        '--save_fid_stats',
        type=_npz,
        metavar='FILE.npz',
        help='also write the statistics of val.metrics.fid.reference, a folder, so that FILE.npz can take its place',
    )
    add_force_yml(parser, 'num_gpu=0 name=trial')
    return parser.parse_args(arguments)


def _npz(text: str) -> Path:
    if not text.lower().endswith('.npz'):
        raise argparse.ArgumentTypeError(f'{shorten(text)!r} should end in .npz')
    return expand_user(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    def body() -> int:
        from gpen.options import parse_scoring_options

        options = parse_scoring_options(args.opt, args.force_yml, check_models=not args.model)
        score_and_report(options, args.model, args.output, args.save_fid_stats)
        return 0

    return run_command(body)


def score_and_report(
    given: Options | ScoringOptions, files: list[str], output: str | None, fid_stats: Path | None = None
) -> None:
    """Score, print tables and write results; the results so far are on disk after each data set."""
    from tqdm import tqdm

    from gpen.evaluation.results import write_results, write_sheets
    from gpen.evaluation.score import Scoring
    from gpen.evaluation.table import format_tables
    from gpen.options.remarks import find_data_warnings
    from gpen.utils.device import select_device

    # Build everything first, so that mistakes show at once.
    options, models = _choose_models(given, files)
    for problem in find_data_warnings(options):
        print(f'Warning: {".".join(map(str, problem.key))}: {problem.message}')
    device, _ = select_device(options.num_gpu)
    scoring = Scoring(options, models, device)
    folder = Path(output) if output else options.experiment_folder / 'results'
    scores = scoring.describe()
    if fid_stats is not None:
        _save_fid_stats(scoring, fid_stats)

    pictures: list[str] = []
    with tqdm(total=scoring.total, unit='image', disable=None) as bar:

        def progress(count: int, what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update(count)

        for scored in scoring.run(progress):
            shown = 'input | restored | sharp' if scored.has_gt else 'input | restored'
            pictures += [f'Picture ({shown}): {path}' for path in write_sheets(scored, folder, scores.is_single)]
            scores.sets.append(replace(scored, sheets={}))
            write_results(scores, folder)

    for name, path in models.items():
        print(f'Weights: {path}' if len(models) == 1 else f'Weights of {name}: {path}')
    print(f'\n{format_tables(scores)}\n')
    print(f'Numbers: {folder / "results.json"}, {folder / "results.csv"}')
    for picture in pictures:
        print(picture)
    commands = _list_next(options, next(iter(models.values())))
    if commands:
        print('\nNext:', *(f'  {command}' for command in commands), sep='\n')


def _list_next(options: ScoringOptions, model: Path) -> list[str]:
    """Return commands to paste: a report, if the run was trained here, and restoring of the faces that were scored."""
    from gpen.training.lines import spell_restoring
    from gpen.utils.command_line import spell_command

    commands = []
    folder = options.experiment_folder
    if (folder / 'run.json').is_file():
        commands.append(spell_command('report', folder))
    first = next(iter(options.datasets.values()))
    return commands + spell_restoring(model, options.network_g, first, folder / 'restored')


def _save_fid_stats(scoring: Scoring, path: Path) -> None:
    """Write the statistics of the images that FID compares with, before anything is scored."""
    from gpen.metrics.frechet import save_statistics

    fid = scoring.find_fid_reference()
    statistics = fid.measure_reference()
    save_statistics(statistics, path)
    count = '' if statistics.count is None else f'{statistics.count:,} images of '
    print(f'Statistics of {count}{fid.reference}: {path} (val.metrics.fid.reference takes this file)')


def _choose_models(given: Options | ScoringOptions, files: list[str]) -> tuple[ScoringOptions, dict[str, Path]]:
    """Return the options of the scoring run, and the files to score: those of the command line or of the options."""
    from gpen.evaluation.models import find_run_weights, name_models
    from gpen.options import ScoringOptions, to_scoring_options
    from gpen.utils.files import project_root
    from gpen.weights.by_name import find_model

    if not isinstance(given, ScoringOptions):
        return to_scoring_options(given), name_models(files or [find_run_weights(given)])
    if files:
        return given, name_models(files)
    return given, {name: find_model(file, project_root()) for name, file in given.models.items()}
