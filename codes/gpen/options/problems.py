"""What is wrong with an option file, in words: pydantic's findings and our own, each with its place."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gpen.errors import UserError
from gpen.options.yaml_reader import Document
from gpen.options.yaml_values import Key
from gpen.utils.text import shorten, suggest

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
    'finite_number': 'should be finite',
    'string_pattern_mismatch': 'should be letters, digits, ".", "_" and "-" alone, and begin with a letter or a digit',
}
_SHOWN = 50  # errors in one message
_LONGEST = 1_000  # characters of one error


@dataclass(frozen=True)
class Problem:
    """One thing wrong (or, as a warning, useless) at one option."""

    key: Key
    message: str


def describe(document: Document, problem: Problem) -> str:
    """Return ``file:line: option.path: message``."""
    path = '.'.join(str(part) for part in problem.key)
    return f'{document.place(problem.key)}: {shorten(path)}: {shorten(problem.message, _LONGEST)}'


def to_user_error(document: Document, problems: list[Problem]) -> UserError:
    """Return one error that lists all problems in the order in which they stand in the file."""
    unique = list(dict.fromkeys(problems))
    unique.sort(key=lambda problem: (document.place(problem.key).file, document.place(problem.key).line or 0))
    lines = [f'  {describe(document, problem)}' for problem in unique[:_SHOWN]]
    if len(unique) > _SHOWN:
        lines.append(f'  ... and {len(unique) - _SHOWN} more')
    count = '1 error' if len(unique) == 1 else f'{len(unique)} errors'
    return UserError('\n'.join([f'{document.file}: {count} in the options', *lines]))


def find_problems(model: type[BaseModel], data: Any, prefix: Key = (), others: Collection[str] = ()) -> list[Problem]:
    """Return what ``model`` finds wrong with a block.

    Args:
        model: what the block should be.
        data: what it is.
        prefix: where it stands.
        others: options of the block that are not in ``model``, to be listed where a name is unknown.
    """
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [_translate(detail, model, data, prefix, others) for detail in error.errors()]
    return []


def _translate(
    detail: ErrorDetails, model: type[BaseModel], data: Any, prefix: Key, others: Collection[str]
) -> Problem:
    location = tuple(_keep_options(detail, data))
    return Problem((*prefix, *location), _say(detail, location, model, others))


def _keep_options(detail: ErrorDetails, data: Any) -> Iterator[str | int]:
    """Yield the parts of a location that are options: pydantic adds the tried member of a union, and ``[key]``."""
    for number, part in enumerate(detail['loc'], start=1):
        is_there = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if is_there or (detail['type'] == 'missing' and number == len(detail['loc'])):
            yield part
            data = data[part] if is_there else None


def _say(detail: ErrorDetails, location: tuple[str | int, ...], model: type[BaseModel], others: Collection[str]) -> str:
    kind = detail['type']

    # What should be there.
    if kind == 'missing':
        field = _find_block(model, location[:-1]).get(str(location[-1]))
        what = f' ({field.description.rstrip(".")})' if field is not None and field.description else ''
        return f'is missing; give it{" ".join(what.splitlines())}'
    if kind == 'extra_forbidden':
        names = {*_find_block(model, location[:-1]), *(others if len(location) == 1 else ())}
        hint = suggest(str(location[-1]), names) or f' Known here: {", ".join(sorted(names))}.'
        return f'there is no such option.{hint}'
    if kind == 'value_error':
        message = detail['msg'].removeprefix('Value error, ')
    elif kind in WORDS:
        message = WORDS[kind]
    else:
        # Such as "List should have at least 2 items after validation, not 1".
        message = re.sub(r'^(Input|String|List|Tuple|Dictionary) should', 'should', detail['msg'])
        message = re.sub(r' after validation, not \d+$', '', message)

    # What is there instead.
    given: Any = detail.get('input')
    if isinstance(given, dict):
        return message
    shown = {None: 'null', True: 'true', False: 'false'}[given] if isinstance(given, bool | None) else repr(given)
    return f'{message}, not {shorten(shown)}{_advise(kind, given)}'


def _advise(kind: str, given: Any) -> str:
    """Return what to do about a value that YAML reads as text, or as no text, against what it looks like."""
    if kind in ('int_type', 'float_type') and isinstance(given, str) and given.lstrip('+-.')[:1].isdigit():
        return ' (write a number such as 100 or 1e-5: no quotes, colons or leading zeros)'
    if kind == 'string_type' and isinstance(given, bool | int | float):
        return ' (put it in quotes)'
    return ''


def _find_block(model: type[BaseModel], location: tuple[str | int, ...]) -> dict[str, FieldInfo]:
    """Return the options of the block at ``location`` below ``model``, by name."""
    for part in location:
        field = model.model_fields.get(str(part))
        model = (_find_model(field.annotation) if field is not None else None) or model
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_find_model, get_args(annotation))), None)
