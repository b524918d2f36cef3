"""What is wrong with an option file, in words: pydantic's findings and our own, each with its place."""

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gpen.errors import UserError
from gpen.options.yaml_reader import Document, Key
from gpen.utils.text import suggest

WORDS = {
    'int_type': 'should be a whole number',
    'int_from_float': 'should be a whole number',
    'float_type': 'should be a number',
    'bool_type': 'should be true or false',
    'string_type': 'should be text',
    'list_type': 'should be a list, such as [1, 2]',
    'sequence_str': 'should be a list, such as [1, 2]',
    'is_instance_of': 'should be a list, such as [1, 2]',
    'dict_type': 'should be a block of "key: value" lines',
    'model_type': 'should be a block of "key: value" lines',
    'model_attributes_type': 'should be a block of "key: value" lines',
    'missing': 'is missing',
    'finite_number': 'should be finite',
    'string_pattern_mismatch': 'should be letters, digits, ".", "_" and "-" alone',
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong (or, as a warning, useless) at one option."""

    key: Key
    message: str


def describe(document: Document, problem: Problem) -> str:
    """Return ``file:line: option.path: message``."""
    path = '.'.join(str(part) for part in problem.key)
    return f'{document.place(problem.key)}: {path}: {problem.message}'


def to_user_error(document: Document, problems: list[Problem]) -> UserError:
    """Return one error that lists all problems in the order in which they stand in the file."""
    unique = list(dict.fromkeys(problems))
    unique.sort(key=lambda problem: (document.place(problem.key).file, document.place(problem.key).line or 0))
    lines = [f'  {describe(document, problem)}' for problem in unique]
    count = '1 error' if len(lines) == 1 else f'{len(lines)} errors'
    return UserError('\n'.join([f'{document.file}: {count} in the options', *lines]))


def find_problems(model: type[BaseModel], data: Any, prefix: Key = ()) -> list[Problem]:
    """Return what ``model`` finds wrong with a block; ``prefix`` is where the block stands."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [_translate(detail, model, prefix) for detail in error.errors()]
    return []


def _is_union_member(part: str | int) -> bool:
    """Pydantic adds the tried member of a union to the location; that is no option."""
    return isinstance(part, str) and (part in {'int', 'float', 'str', 'bool'} or '[' in part)


def _translate(detail: ErrorDetails, model: type[BaseModel], prefix: Key) -> Problem:
    location = tuple(part for part in detail['loc'] if not _is_union_member(part))
    return Problem((*prefix, *location), _say(detail, location, model))


def _say(detail: ErrorDetails, location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    kind = detail['type']

    # What should be there.
    if kind == 'extra_forbidden':
        names = _field_names(model, location[:-1])
        hint = suggest(str(location[-1]), names) or f' Known here: {", ".join(sorted(names))}.'
        return f'there is no such option.{hint}'
    if kind == 'value_error':
        message = detail['msg'].removeprefix('Value error, ')
    elif kind in WORDS:
        message = WORDS[kind]
    else:
        message = detail['msg'].replace('Input should', 'should')

    # What is there instead.
    given: Any = detail.get('input')
    if kind == 'missing' or isinstance(given, dict):
        return message
    note = ' (write 1e-5 or 0.00001 without quotes)' if kind == 'float_type' and _looks_like_number(given) else ''
    return f'{message}, not {given!r}{note}'


def _looks_like_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _field_names(model: type[BaseModel], location: tuple[str | int, ...]) -> set[str]:
    """Return the option names of the block at ``location`` below ``model``."""
    for part in location:
        field = model.model_fields.get(str(part))
        model = (_find_model(field.annotation) if field is not None else None) or model
    return {field.alias or name for name, field in model.model_fields.items()}


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_find_model, get_args(annotation))), None)
