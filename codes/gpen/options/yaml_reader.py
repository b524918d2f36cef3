"""Option files -> plain data: inheritance (``_base_``), ``--force_yml``, and the file and line of every value."""

import os.path
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from addict import Dict

from gpen.errors import UserError
from gpen.options.blocks import Dataset, Metric, Optimizer, Scheduler
from gpen.options.recipes import find_recipe, list_recipes, name_recipe
from gpen.options.yaml_values import MAX_DEPTH, Key, Place, parse_yaml
from gpen.utils.files import expand_user, is_file, project_root
from gpen.utils.text import shorten, suggest

MAX_BYTES = 250_000  # of an option file and all its bases
MAX_FILES = 50
RUN_NAMES = ('num_gpu', 'manual_seed')  # options of a run that may stand at the top level or under train
# Options of a block that do not depend on its type.
KEPT_KEYS = {name for block in (Dataset, Metric, Optimizer, Scheduler) for name in block.model_fields} - {'type'}


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


def find_option_file(path: str | Path) -> Path:
    """Return the option file's path: as given from the working directory or the project's root, else a recipe.

    Raises:
        UserError: there is no such file.
    """
    given = expand_user(path)
    for candidate in (given, project_root() / given):
        if is_file(candidate):
            return candidate
    recipe = find_recipe(given)
    if recipe is not None:
        return recipe
    near = suggest(given.stem, map(name_recipe, list_recipes()), form='-opt {}')
    raise UserError(
        f'There is no option file {shorten(str(given))}.{near} Recipes lie in options/train and options/test; '
        'give one with -opt FILE.'
    )


def read_yaml(path: Path) -> Document:
    """Read an option file, and those it names under ``_base_`` (relative to itself, later ones win, it wins over all).

    A block that names another ``type`` than its base replaces the arguments in the base's block; all other blocks are
    merged key by key.

    Raises:
        UserError: not readable, not YAML, an unsafe tag, a key twice, files that inherit from each other in a ring, or
            more of them than options fill.
    """
    return _Files().read(path, ())


class _Files:
    """The files that make up the options, counted: each base may name several, which do so, too."""

    def __init__(self) -> None:
        self.bytes = self.count = 0

    def read(self, path: Path, parents: tuple[Path, ...]) -> Document:
        """Return what a file and its bases say; ``parents`` are the files that led to it."""
        if path.resolve() in parents:
            raise UserError(f'{path}: _base_ leads back to this file. Remove one of the _base_ lines.')
        value, places = parse_yaml(self._read_text(path), str(path))
        if not isinstance(value, dict | None):
            raise UserError(
                f'{path}: an option file holds "key: value" lines, this one holds a {type(value).__name__}.'
            )
        document = Document(value or {}, places, str(path))

        # Its bases: the later one wins.
        merged = Document({}, {}, str(path))
        for base in _take_bases(document):
            base_path = path.parent / base
            if not is_file(base_path):
                raise UserError(f'{document.place(("_base_",))}: _base_: there is no file {shorten(str(base_path))}.')
            _merge_into(merged, self.read(_shorten_path(base_path), (*parents, path.resolve())))
        _merge_into(merged, document)
        return merged

    def _read_text(self, path: Path) -> str:
        try:
            self.bytes += path.stat().st_size
            self.count += 1
            if self.bytes > MAX_BYTES or self.count > MAX_FILES:
                raise UserError(
                    f'{path}: too much for options: with its _base_ files, an option file has at most {MAX_BYTES:,} '
                    f'bytes in {MAX_FILES} files. Give a recipe such as those in options/train.'
                )
            return path.read_text(encoding='utf-8')
        except OSError as error:
            raise UserError(f'Cannot read {path}: {error.strerror}. Give a file that you may read.') from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b'\n') + 1
            raise UserError(f'{path}:{line}: is no text in UTF-8. Save the file in this encoding.') from error


def _shorten_path(path: Path) -> Path:
    """Return the path of a file without ``..``, for messages, unless a link among its folders would lead elsewhere."""
    short = Path(os.path.normpath(path))
    return short if is_file(short) and short.samefile(path) else path


def _take_bases(document: Document) -> list[str]:
    """Remove ``_base_`` from a document; return the names of files in it."""
    bases = document.data.pop('_base_', [])
    names = [bases] if isinstance(bases, str) else bases
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    where = document.place(('_base_',))
    message = f'_base_ should be the name of an option file, or a list of names, not {shorten(repr(bases))}.'
    raise UserError(f'{where}: {message}')


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Apply ``--force_yml`` settings, ``key:key=VALUE`` or ``key.key=VALUE``; the value is parsed, never executed.

    A number picks an item of a list. Names with dots in them take the colons.

    Raises:
        UserError: a setting is not of that form.
    """
    changes = Document({}, {}, document.file)
    for setting in overrides:
        name, equals, text = setting.partition('=')
        keys = [part for part in name.strip().split(':' if ':' in name else '.') if part]
        source = f'--force_yml {shorten(setting)}'
        if len(keys) > MAX_DEPTH or any('\ud800' <= character <= '\udfff' for character in name):
            raise UserError(f'{source}: no option has such a name. Write it as messages do.')
        if not equals or not keys:
            raise UserError(f'{source}: write it as block:key=value, such as train:optim_g:lr=2e-4.')

        # As a file with that setting alone would say it.
        data = _nest(keys, parse_value(text, source), [changes.data, document.data], source)
        place = Place(f'--force_yml {shorten(name)}')
        places: dict[Key, Place] = {tuple(keys[: number + 1]): place for number in range(len(keys))}
        _merge_into(changes, Document(data, places, document.file))
    _merge_into(document, changes)


def parse_value(text: str, source: str) -> Any:
    """Return a value written as in an option file; ``source`` says in messages where it was given.

    Raises:
        UserError: not YAML, an unsafe tag, a key twice.
    """
    return parse_yaml(text, source, has_lines=False)[0]


def _nest(keys: list[str], value: Any, below: list[Any], source: str) -> Any:
    """Return a value in the blocks that ``keys`` name; ``below`` is what stands there so far, the newest first."""
    if not keys:
        return value
    first, *rest = keys
    known = next((data for data in below if data is not None), None)
    if not isinstance(known, list):
        inner = [data.get(first) if isinstance(data, dict) else None for data in below]
        return {first: _nest(rest, value, inner, source)}

    return _replace(known, keys, value, source)  # a list is given anew as a whole


def _replace(known: Any, keys: list[str], value: Any, source: str) -> Any:
    """Return what is known with another value at ``keys``."""
    if not keys:
        return value
    first, *rest = keys
    if not isinstance(known, list):
        block = known if isinstance(known, dict) else {}
        return {**block, first: _replace(block.get(first), rest, value, source)}

    if not (first.isdecimal() and int(first) < len(known)):
        raise UserError(f'{source}: {shorten(first)} is no item of that list, which has {len(known)} from 0 on.')
    number = int(first)
    return [*known[:number], _replace(known[number], rest, value, source), *known[number + 1 :]]


def _merge_into(base: Document, child: Document) -> None:
    _drop_other_places(base, child)
    for key in _drop_replaced_types(base.data, child.data, ()):
        base.places = {
            place: where for place, where in base.places.items() if place[: len(key)] != key or place[-1] in KEPT_KEYS
        }
    merged = Dict(base.data)
    merged.update(child.data)
    base.data = merged.to_dict()
    base.places.update(child.places)


def _drop_other_places(base: Document, child: Document) -> None:
    """Take out of ``base`` what may stand in two places and ``child`` gives in the other one."""
    for name in RUN_NAMES:
        for here, there in (((name,), ('train', name)), (('train', name), (name,))):
            if here in child.places and there not in child.places and there in base.places:
                del base.places[there]
                block = base.data if len(there) == 1 else base.data.get('train')
                if isinstance(block, dict):
                    block.pop(name, None)


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
