"""Option file -> checked options."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from gpen.errors import UserError
from gpen.options import checks, remarks
from gpen.options.components import check_component, list_components, look_up
from gpen.options.problems import Problem, describe, find_problems, to_user_error
from gpen.options.schema import Options, Scoring, ScoringOptions
from gpen.options.yaml_reader import Document, apply_overrides, find_option_file, read_yaml
from gpen.options.yaml_values import Key
from gpen.registry import MODEL_REGISTRY

Parsed = TypeVar('Parsed', Options, ScoringOptions)
_OPTION_PATH = re.compile(r'[a-z_]+(\.[\w*-]+)+(?=[ :])')


@dataclass(frozen=True)
class ParsedOptions:
    """What an option file says.

    Attributes:
        options: the checked options, defaults filled in.
        warnings: sentences about what is legal but useless.
        text: the merged file as YAML, for logs.
        document: where each option stands.
    """

    options: Options
    warnings: list[str]
    text: str
    document: Document = field(repr=False, compare=False)

    def find_late_warnings(self, iterations_per_epoch: int) -> list[str]:
        """Return further sentences, once the length of an epoch is known."""
        problems = remarks.find_late_warnings(self.options, iterations_per_epoch)
        return [describe(self.document, problem) for problem in problems]

    @contextmanager
    def naming_lines(self) -> Iterator[None]:
        """Add file and line to an error of this block that begins with the path of an option."""
        try:
            yield
        except UserError as error:
            path = _OPTION_PATH.match(str(error))
            key = tuple(int(part) if part.isdecimal() else part for part in path[0].split('.')) if path else ()
            if error.is_logged or key[:1] not in self.document.places:
                raise
            raise UserError(f'{self.document.place(key)}: {error}') from error


def parse_options(
    path: str | Path,
    overrides: Sequence[str] = (),
    training: bool = True,
    phases: Sequence[str] | None = None,
    check_weights: bool = True,
) -> ParsedOptions:
    """Read an option file of a training run, apply ``--force_yml`` settings and check everything.

    Nothing heavy is imported, unless a name has to be looked up in BasicSR.

    Args:
        path: the file; a relative path is tried from the working directory, then from the project's root.
        overrides: settings of the form ``train:optim_g:lr=2e-4``.
        training: check what a training run needs, too.
        phases: the data sets whose folders must be there; default: train and val for training, otherwise val.
        check_weights: for training, the files under ``path`` must be there, too.

    Raises:
        UserError: one error that lists all that is wrong, each with file, line and option path.
    """
    document = _read(path, overrides)

    # A scoring file is known by what it has.
    if 'train' not in document.data and 'models' in document.data:
        raise UserError(
            f'{document.file} is an option file for scoring: it has models, and no train block. Use it with '
            'codes/test.py, or give a recipe from options/train.'
        )
    phases = phases or (('train', 'val') if training else ('val',))
    return _parse_training(document, training, phases, check_weights)


def parse_scoring_options(
    path: str | Path, overrides: Sequence[str] = (), check_models: bool = True
) -> ScoringOptions | Options:
    """Read the option file of a scoring run, or of a training run (one with a block ``train``), and check it.

    Nothing heavy is imported, unless a name has to be looked up in BasicSR.

    Args:
        path: see :func:`parse_options`.
        overrides: see :func:`parse_options`.
        check_models: files under ``models`` must be there, one at least; false where others take their place.

    Raises:
        UserError: as :func:`parse_options`.
    """
    document = _read(path, overrides)
    if 'train' in document.data:
        return _parse_training(document, training=False, phases=('val',)).options

    return _validate(document, ScoringOptions, lambda options: checks.find_scoring_errors(options, check_models))


def to_scoring_options(options: Options) -> ScoringOptions:
    """Return what scoring takes from the options of a training run: the set is ``datasets.val``, models are none.

    Raises:
        UserError: there is no ``datasets.val``, or no metric.
    """
    if options.datasets.val is None:
        raise UserError('datasets.val is missing in the option file: scoring needs pairs.')
    if not options.val.metrics:
        raise UserError(
            'val.metrics names no metric in the option file. Give one: --force_yml '
            '"val:metrics:psnr={type: calculate_psnr}".'
        )

    return ScoringOptions(
        name=options.name,
        num_gpu=options.num_gpu,
        manual_seed=options.manual_seed,
        path=options.path,
        network_g=options.network_g,
        datasets={'val': options.datasets.val},
        val=Scoring(metrics=options.val.metrics, num_pictures=options.val.num_pictures),
    )


def _read(path: str | Path, overrides: Sequence[str]) -> Document:
    document = read_yaml(find_option_file(path))
    apply_overrides(document, overrides)
    return document


def _parse_training(
    document: Document, training: bool, phases: Sequence[str], check_weights: bool = True
) -> ParsedOptions:
    options = _validate(document, Options, lambda options: checks.find_errors(options, training, phases, check_weights))
    warnings = [describe(document, problem) for problem in remarks.find_warnings(options)] if training else []
    text = yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True)
    return ParsedOptions(options, warnings, text, document)


def _check_blocks(options: Options | ScoringOptions, document: Document) -> list[Problem]:
    """Fill in what blocks take from each other; return what is wrong within blocks: names, arguments, two values."""
    problems = checks.unify_run_options(options) if isinstance(options, Options) else []
    problems += checks.fill_dataset_arguments(options)
    if isinstance(options, Options):
        problems += look_up(('model_type',), options.model_type, MODEL_REGISTRY)[1]
    for key, component in list_components(options):
        problems += check_component(key, component)

    # A size that the generator lacks, or that is wrong for it, is so for the data sets that take it from there: it is
    # said once.  When scoring, the files of weights may tell the size.
    wrong = {problem.key for problem in problems}
    if isinstance(options, ScoringOptions) or any(('network_g', name) in wrong for name in ('type', *checks.SIZES)):
        taken = {('datasets', phase, name) for phase in options.dataset_blocks for name in checks.SIZES}
        problems = [problem for problem in problems if problem.key not in taken or problem.key in document.places]
    return problems


def _validate(document: Document, model: type[Parsed], check_whole: Callable[[Parsed], Iterable[Problem]]) -> Parsed:
    """Return the document as checked options.

    Where the schema already complains, blocks that it complains about are left out: what remains may be valid enough to
    look further, so that all problems are shown together.

    Args:
        document: the file.
        model: its schema.
        check_whole: what is wrong between blocks, or missing.
    """
    # Types, ranges and names of the options themselves.
    problems = find_problems(model, document.data)
    if not problems:
        options: Parsed = model.model_validate(document.data)
        problems = [*_check_blocks(options, document), *check_whole(options)]
        if not problems:
            options.num_gpu = 'auto' if options.num_gpu is None else options.num_gpu
            return options
        raise to_user_error(document, problems)

    # What can be found in the blocks that are right.
    wrong = {problem.key for problem in problems}
    right = _without(document.data, wrong, ())
    if find_problems(model, right):
        raise to_user_error(document, problems)
    rest: Parsed = model.model_validate(right)
    whole: list[Problem] = [
        one for one in check_whole(rest) if one.key in document.places and not _is_caused_by(wrong, one)
    ]
    more = [*_check_blocks(rest, document), *whole]
    raise to_user_error(document, problems + [problem for problem in more if problem.key not in wrong])


def _is_caused_by(wrong: set[Key], problem: Problem) -> bool:
    """Tell whether a problem was found because options that are wrong were left out: it lies above, or names one."""
    words = set(re.findall(r'\w+', problem.message))
    return any(key[: len(problem.key)] == problem.key or key[-1] in words for key in wrong)


def _without(data: dict[str, object], keys: set[Key], prefix: Key) -> dict[str, object]:
    kept: dict[str, object] = {}
    for name, value in data.items():
        key = (*prefix, name)
        if key in keys:
            continue
        kept[name] = _without(value, keys, key) if isinstance(value, dict) else value
    return kept
