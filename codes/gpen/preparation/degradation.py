"""The ``--degradation`` argument: a name, steps as in an option file, or a YAML file of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.options.components import check_degradations
from gpen.options.problems import Problem, to_user_error
from gpen.options.yaml_reader import parse_value, read_yaml
from gpen.utils.files import expand_user

_KEY = 'degradation'
_LARGE = 256  # pixels


def default_degradation(size: int) -> dict[str, Any]:
    """Return the degradation of a data set that names none: that of GPEN's published code from 256 pixels on.

    Smaller faces would not be known again after it.
    """
    return {'type': 'gpen' if size >= _LARGE else 'simple'}


def parse_degradation(text: str) -> Any:
    """Return a checked degradation as :func:`gpen.data.degradations.build_degradation` takes it.

    Args:
        text: a name such as ``gfpgan``; ``{type: gfpgan, ...}`` or a list of such steps; or a YAML file that holds one
            step or has it, or a list of them, under ``degradation``.

    Raises:
        UserError: no such file or name, or wrong arguments; all of them in one message.
    """
    if text.lower().endswith(('.yml', '.yaml')):
        return _read_file(expand_user(text))

    if not text.strip() or expand_user(text).is_dir():
        what = f'{text} is a folder' if text.strip() else 'it is empty'
        raise UserError(f"--degradation names no degradation: {what}. Give a name, '{{type: NAME}}' or a YAML file.")

    value = parse_value(text, '--degradation')
    options = {'type': value} if isinstance(value, str) else value
    problems = check_degradations(options, ('--degradation',))
    if problems:
        raise UserError('\n'.join(_describe(problem) for problem in problems))
    return options


def _read_file(path: Path) -> Any:
    document = read_yaml(path)
    named = _KEY in document.data
    options = document.data[_KEY] if named else document.data
    problems = check_degradations(options, (_KEY,))
    if problems:
        shown = problems if named else [replace(problem, key=problem.key[1:]) for problem in problems]
        raise to_user_error(document, shown)
    return options


def _describe(problem: Problem) -> str:
    return f'{".".join(str(part) for part in problem.key)}: {problem.message}'
