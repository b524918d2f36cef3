"""Option file -> checked options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gpen.options import checks
from gpen.options.components import check_component, list_components
from gpen.options.problems import Problem, describe, from_pydantic, to_user_error
from gpen.options.schema import Options
from gpen.options.yaml_reader import Document, Key, apply_overrides, find_option_file, read_yaml
from gpen.registry import MODEL_REGISTRY


@dataclass(frozen=True)
class ParsedOptions:
    """What an option file says.

    Attributes:
        options: the checked options, defaults filled in.
        warnings: sentences about what is legal but useless.
        text: the merged file as YAML, for logs.
    """

    options: Options
    warnings: list[str]
    text: str


def parse_options(
    path: str | Path,
    overrides: Sequence[str] = (),
    training: bool = True,
    phases: Sequence[str] | None = None,
) -> ParsedOptions:
    """Read an option file, apply ``--force_yml`` settings and check everything.

    Nothing heavy is imported, unless a name has to be looked up in BasicSR.

    Args:
        path: the file; a relative path is tried from the working directory, then from the project's root.
        overrides: settings of the form ``train:optim_g:lr=2e-4``.
        training: check what a training run needs, too.
        phases: the data sets whose folders must be there; default: train and val for training, otherwise val.

    Raises:
        UserError: one error that lists all that is wrong, each with file, line and option path.
    """
    document = read_yaml(find_option_file(path))
    apply_overrides(document, overrides)
    try:
        options = Options.model_validate(document.data)
    except ValidationError as error:
        raise to_user_error(document, _salvage(document, error)) from None
    problems = checks.unify_run_options(options)
    problems += checks.fill_dataset_arguments(options)
    problems += _check_names_and_arguments(options, document)
    problems += checks.find_errors(options, training, phases or (('train', 'val') if training else ('val',)))
    if problems:
        raise to_user_error(document, problems)
    warnings = [describe(document, problem) for problem in checks.find_warnings(options)] if training else []
    return ParsedOptions(options, warnings, _dump(document))


def _check_names_and_arguments(options: Options, document: Document) -> list[Problem]:
    problems = []
    if not MODEL_REGISTRY.exists(options.model_type):
        problems.append(Problem(('model_type',), MODEL_REGISTRY.explain_missing(options.model_type)))
    for key, component, registry in list_components(options):
        problems += check_component(key, component, registry)
    # A size that is wrong for the network is wrong for the data set that took it from there: said once.
    return [problem for problem in problems if problem.key[-1] not in checks.FILLED or problem.key in document.places]


def _salvage(document: Document, error: ValidationError) -> list[Problem]:
    """Return what the schema found, and what can be found all the same about ``type`` blocks, to show all together.

    The blocks that the schema complains about are left out; what remains may be valid enough to look further.
    """
    problems = from_pydantic(error.errors(), Options)
    wrong = {problem.key for problem in problems}
    data = _without(document.data, wrong, ())
    try:
        options = Options.model_validate(data)
    except ValidationError:
        return problems
    checks.unify_run_options(options)
    more = checks.fill_dataset_arguments(options) + _check_names_and_arguments(options, document)
    more += [problem for problem in checks.find_errors(options) if problem.key in document.places]
    return problems + [problem for problem in more if problem.key not in wrong]


def _without(data: dict[str, object], keys: set[Key], prefix: Key) -> dict[str, object]:
    kept: dict[str, object] = {}
    for name, value in data.items():
        key = (*prefix, name)
        if key in keys:
            continue
        kept[name] = _without(value, keys, key) if isinstance(value, dict) else value
    return kept


def _dump(document: Document) -> str:
    import yaml

    return str(yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True))
