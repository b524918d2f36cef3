"""YAML files -> plain data, with the file and line of every value.

Read with PyYAML's safe loader, changed in three ways: ``1e-4`` is a number (plain PyYAML reads it as text), a key given
twice is an error (plain PyYAML takes the last one silently), and every value's line is remembered for messages.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from addict import Dict

from gpen.errors import UserError
from gpen.options.blocks import Dataset, Metric, Optimizer, Scheduler
from gpen.utils.files import project_root

Key = tuple[str | int, ...]
MAX_VALUES = 20_000
FLOAT = re.compile(r'^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$')
WHOLE_NUMBER = re.compile(r'^[-+]?\d+([eE]\+?\d+)?$')  # as a float: 5e3, or BasicSR's !!float 5000
# Options of a block that do not depend on its type.
KEPT_KEYS = {name for block in (Dataset, Metric, Optimizer, Scheduler) for name in block.model_fields} - {'type'}


@dataclass(frozen=True)
class Place:
    """Where a value stands."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f'{self.file}:{self.line}'


@dataclass
class Document:
    """The data of one option file (its bases and overrides merged in) and the place of every key path."""

    data: dict[str, Any]
    places: dict[Key, Place]
    file: str

    def place(self, key: Key) -> Place:
        """Return the place of ``key``, or of the nearest enclosing block that is in a file."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return Place(self.file)


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver('tag:yaml.org,2002:float', FLOAT, list('-+.0123456789'))


def find_option_file(path: str | Path) -> Path:
    """Return the option file's path: as given from the working directory, else from the project's root.

    Raises:
        UserError: there is no such file.
    """
    given = Path(path).expanduser()
    for candidate in (given, project_root() / given):
        if candidate.is_file():
            return candidate
    raise UserError(
        f'There is no option file {given}. Recipes lie in options/train and options/test; give one with -opt FILE.'
    )


def read_yaml(path: Path, _parents: tuple[Path, ...] = ()) -> Document:
    """Read an option file, and those it names under ``_base_`` (relative to itself, later ones win, it wins over all).

    A block that names another ``type`` than its base replaces the arguments in the base's block; all other blocks are
    merged key by key.

    Raises:
        UserError: not readable, not YAML, an unsafe tag, a key twice, or files that inherit from each other in a ring.
    """
    if path.resolve() in _parents:
        raise UserError(f'{path}: _base_ leads back to this file. Remove one of the _base_ lines.')
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'Cannot read {path}: {error}. Give a text file in UTF-8.') from error

    # The names of its bases.
    value, places = _parse(text, str(path))
    if not isinstance(value, dict | None):
        raise UserError(f'{path}: an option file holds "key: value" lines, this one holds a {type(value).__name__}.')
    document = Document(value or {}, places, str(path))
    bases = document.data.pop('_base_', [])
    merged = Document({}, {}, str(path))
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        where = document.place(('_base_',))
        raise UserError(f'{where}: _base_ should be the name of an option file, or a list of names, not {bases!r}.')

    # The later one wins.
    for base in names:
        base_path = path.parent / base
        if not base_path.is_file():
            raise UserError(f'{document.place(("_base_",))}: _base_: there is no file {base_path}.')
        _merge_into(merged, read_yaml(base_path, (*_parents, path.resolve())))
    _merge_into(merged, document)
    return merged


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Apply ``--force_yml`` settings, each ``key:key:key=VALUE``; the value is parsed as YAML, never executed.

    Raises:
        UserError: a setting is not of that form.
    """
    changes = Document({}, {}, document.file)
    for setting in overrides:
        name, equals, text = setting.partition('=')
        keys = [part for part in name.strip().split(':') if part]
        if not equals or not keys:
            raise UserError(f'--force_yml {setting}: write it as block:key=value, such as train:optim_g:lr=2e-4.')

        # As a file with that setting alone would say it.
        value = parse_value(text, f'--force_yml {setting}')
        data: Any = value
        for key in reversed(keys):
            data = {key: data}
        places = {tuple(keys[: n + 1]): Place(f'--force_yml {name}') for n in range(len(keys))}
        _merge_into(changes, Document(data, cast('dict[Key, Place]', places), document.file))
    _merge_into(document, changes)


def parse_value(text: str, source: str) -> Any:
    """Return a value written as in an option file; ``source`` says in messages where it was given.

    Raises:
        UserError: not YAML, an unsafe tag, a key twice.
    """
    return _parse(text, source)[0]


def _parse(text: str, file: str) -> tuple[Any, dict[Key, Place]]:
    """Return the value in a text, and the place of every key path."""
    places: dict[Key, Place] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return _build(loader, node, (), file, places) if node is not None else None, places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Place(file, mark.line + 1 if mark else None)
        raise UserError(f'{where}: not valid YAML: {error.problem or error.context}.') from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f'{file}: not valid YAML: {error}.') from error


def _build(loader: _Loader, node: yaml.Node, key: Key, file: str, places: dict[Key, Place]) -> Any:
    places.setdefault(key, Place(file, node.start_mark.line + 1))
    if len(places) > MAX_VALUES:
        raise UserError(f'{file}: more than {MAX_VALUES} values; this is no option file.')
    if isinstance(node, yaml.MappingNode) and node.tag == 'tag:yaml.org,2002:map':
        _check_keys(loader, node, key, file)
        loader.flatten_mapping(node)  # keys merged by << come first, so that own keys win
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = loader.construct_object(key_node)
            places[(*key, name)] = Place(file, key_node.start_mark.line + 1)
            result[name] = _build(loader, value_node, (*key, name), file, places)
        return result
    if isinstance(node, yaml.SequenceNode) and node.tag == 'tag:yaml.org,2002:seq':
        return [_build(loader, item, (*key, n), file, places) for n, item in enumerate(node.value)]
    if node.tag == 'tag:yaml.org,2002:float' and WHOLE_NUMBER.match(node.value):
        return int(float(node.value))
    return loader.construct_object(node)


def _check_keys(loader: _Loader, node: yaml.MappingNode, key: Key, file: str) -> None:
    """Refuse keys that are not text, and a key that stands twice in one block."""
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == 'tag:yaml.org,2002:merge':
            continue
        name = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(name, str):
            raise UserError(f'{file}:{line}: the key {name!r} is not text. Put it in quotes if it is meant so.')
        if name in seen:
            raise UserError(f'{file}:{line}: {".".join(map(str, (*key, name)))} is given twice. Remove one of them.')
        seen.add(name)


def _merge_into(base: Document, child: Document) -> None:
    for key in _drop_replaced_types(base.data, child.data, ()):
        base.places = {
            place: where for place, where in base.places.items() if place[: len(key)] != key or place[-1] in KEPT_KEYS
        }
    merged = Dict(base.data)
    merged.update(child.data)
    base.data = merged.to_dict()
    base.places.update(child.places)


def _drop_replaced_types(base: dict[str, Any], child: dict[str, Any], key: Key) -> list[Key]:
    """Empty the blocks of ``base`` for which ``child`` names another ``type``; return their key paths.

    Options that do not depend on the type stay.
    """
    dropped: list[Key] = []
    for name, value in child.items():
        below = base.get(name)
        if not isinstance(value, dict) or not isinstance(below, dict):
            continue

        if 'type' in value and 'type' in below and value['type'] != below['type']:
            base[name] = {kept: below[kept] for kept in KEPT_KEYS if kept in below}
            dropped.append((*key, name))
        else:
            dropped += _drop_replaced_types(below, value, (*key, name))
    return dropped
