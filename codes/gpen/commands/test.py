"""``gpen-test`` / ``python codes/test.py``: score generators on pairs, with the LQ images for comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpen.commands._arguments import ArgumentParser, add_force_yml, add_mirror, add_option_file
from gpen.commands._run import run_command

if TYPE_CHECKING:
    from gpen.options import Options, ScoringOptions


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(
        description='Score trained generators on pairs of sharp and blurry images, with the blurry input beside them.',
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
    add_force_yml(parser, 'num_gpu=0 name=trial')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)

    def body() -> int:
        from gpen.options import parse_scoring_options

        options = parse_scoring_options(args.opt, args.force_yml, check_models=not args.model)
        score_and_report(options, args.model, args.output)
        return 0

    return run_command(body)


def score_and_report(given: Options | ScoringOptions, files: list[str], output: str | None) -> None:
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

    pictures: list[Path] = []
    with tqdm(total=scoring.total, unit='image', disable=None) as bar:

        def progress(count: int, what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update(count)

        for scored in scoring.run(progress):
            pictures += write_sheets(scored, folder, scores.is_single)
            scores.sets.append(replace(scored, sheets={}))
            write_results(scores, folder)

    for name, path in models.items():
        print(f'Weights: {path}' if len(models) == 1 else f'Weights of {name}: {path}')
    print(f'\n{format_tables(scores)}\n')
    print(f'Numbers: {folder / "results.json"}, {folder / "results.csv"}')
    for picture in pictures:
        print(f'Picture (input | restored | sharp): {picture}')
    for command in _list_next(options, next(iter(models.values()))):
        print(f'\n  {command}')


def _list_next(options: ScoringOptions, model: Path) -> list[str]:
    """Return commands to paste: a report, if the run was trained here, and restoring of the faces that were scored."""
    from gpen.utils.files import resolve_path
    from gpen.utils.typed import spell_command

    commands = []
    folder = options.experiment_folder
    if (folder / 'run.json').is_file():
        commands.append(spell_command('report', folder))

    roots = next(iter(options.datasets.values())).arguments
    faces = resolve_path(str(roots.get('dataroot_lq') or roots.get('dataroot_gt')))
    if faces.is_dir():
        where = ('--input', faces, '--output', folder / 'restored', '--aligned')
        commands.append(spell_command('restore', '--model', model, *where))
    return commands


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
