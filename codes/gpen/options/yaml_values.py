"""YAML text -> plain values, with the line of each, and limits to what an option file can be.

Read with PyYAML's safe loader, changed in these ways:

- ``1e-4`` is a number (plain PyYAML reads it as text), while ``0100``, ``1:30`` and ``2020-01-01`` are text (plain
  PyYAML reads them as 64, 90 and a date), so that nothing is read as another number than it looks like;
- tags other than those of text, numbers, true/false, lists and blocks are refused, and so is a key given twice;
- merge keys (``<<``) copy nothing, so that aliases cannot multiply without end.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from gpen.errors import UserError
from gpen.utils.text import shorten

Key = tuple[str | int, ...]
MAX_VALUES = 5_000
MAX_DEPTH = 50
MAX_TEXT = 4_096  # characters: the longest path that Linux knows

_TAG = 'tag:yaml.org,2002:'
# How values of each kind are written; a text that none of the first four matches is text.
_FORMS = {
    'null': re.compile(r'(?:~|null|Null|NULL|)$'),
    'bool': re.compile(r'(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$'),
    'int': re.compile(r'[-+]?(?:0b[01_]*[01]|0x[0-9a-fA-F_]*[0-9a-fA-F]|0|[1-9][0-9_]*)$'),
    'float': re.compile(
        r'[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?'
        r'|\.inf|\.Inf|\.INF|\.nan|\.NaN|\.NAN)$'
    ),
    'merge': re.compile('<<$'),
}
_NOUNS = {'null': 'empty', 'bool': 'true or false', 'int': 'a whole number', 'float': 'a number'}
_WHOLE_FLOAT = re.compile(r'[-+]?\d+(?:[eE]\+?\d+)?$')  # 5e3, or BasicSR's !!float 5000
_SMALLEST = 1e-37  # float32 has no smaller ones at full precision
_EXACT = 2**53  # up to here, a float holds every whole number


@dataclass(frozen=True)
class Place:
    """Where a value stands."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f'{self.file}:{self.line}'


class _Loader(yaml.SafeLoader):
    """Composes nodes, as many and as deep as an option file can have."""

    yaml_implicit_resolvers = {None: [(_TAG + kind, form) for kind, form in _FORMS.items()]}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.count = self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node and those in it."""
        self.count += 1
        self.depth += 1
        for number, limit, what in ((self.count, MAX_VALUES, 'values'), (self.depth, MAX_DEPTH, 'blocks in blocks')):
            if number > limit:
                problem = f'more than {limit:,} {what}; this is no option file'
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_yaml(text: str, file: str, has_lines: bool = True) -> tuple[Any, dict[Key, Place]]:
    """Return the value that a text holds, None where it is empty, and the place of every key path.

    Args:
        text: the text.
        file: where it stands, for messages.
        has_lines: whether messages say the line, too.

    Raises:
        UserError: not YAML, a tag, number or key that no option has, a key twice, or too much of it.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Place(file, mark.line + 1 if mark and has_lines else None)
        raise UserError(f'{where}: not valid YAML: {error.problem or error.context}.') from error
    except yaml.reader.ReaderError as error:
        where = Place(file, text[: error.position].count('\n') + 1 if has_lines else None)
        raise UserError(f'{where}: not valid YAML: it holds the character U+{error.character:04X}.') from error
    except yaml.YAMLError as error:
        raise UserError(f'{file}: not valid YAML: {" ".join(str(error).split())}.') from error
    except (ValueError, RecursionError) as error:  # \UFFFFFFFF, and brackets by the thousand
        raise UserError(f'{file}: not valid YAML: {error}.') from error

    builder = _Builder(file, has_lines)
    return builder.build(node, ()) if node is not None else None, builder.places


class _Builder:
    """Makes plain values of nodes and notes where they stand."""

    def __init__(self, file: str, has_lines: bool) -> None:
        self.file = file
        self.has_lines = has_lines
        self.places: dict[Key, Place] = {}
        self._entries: dict[int, dict[str, tuple[yaml.Node, yaml.Node]] | None] = {}  # by id of the block's node

    def build(self, node: yaml.Node, key: Key) -> Any:
        """Return the value of a node that stands at ``key``."""
        self.places.setdefault(key, self._place(node))
        if len(self.places) > MAX_VALUES or len(key) > MAX_DEPTH:
            what = f'{MAX_VALUES:,} values' if len(self.places) > MAX_VALUES else f'{MAX_DEPTH} blocks in blocks'
            raise self._error(node, f'more than {what} with what aliases repeat; this is no option file')

        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and (kind == 'str' or kind in _FORMS):
            return self._read_scalar(node, kind, key)
        if isinstance(node, yaml.SequenceNode) and kind == 'seq':
            return [self.build(item, (*key, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and kind == 'map':
            result = {}
            for name, (key_node, value_node) in self._list_entries(node, key).items():
                self.places[(*key, name)] = self._place(key_node)
                result[name] = self.build(value_node, (*key, name))
            return result
        tag = shorten(node.tag.replace(_TAG, '!!'))
        raise self._error(node, f'the tag {tag} is none of an option file. Write the value without it', key)

    def _list_entries(self, node: yaml.MappingNode, key: Key) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the entries of a block by name: those merged by ``<<`` first, then its own, which win."""
        known = self._entries.get(id(node), {})
        if known is None:
            raise self._error(node, '<< merges a block into itself. Remove that line', key)
        if known:
            return known

        self._entries[id(node)] = None  # while its entries are looked for
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f'{_TAG}merge':
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    if not isinstance(source, yaml.MappingNode):
                        raise self._error(key_node, '<< takes a block, or a list of blocks, such as <<: *NAME', key)
                    merged = self._list_entries(source, key) | merged
                continue

            name = self._read_name(key_node, key)
            if name in own:
                raise self._error(key_node, 'is given twice. Remove one of them', (*key, name))
            own[name] = key_node, value_node
        self._entries[id(node)] = merged | own
        return merged | own

    def _read_name(self, node: yaml.Node, key: Key) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, 'a list or a block is no key. Write "key: value" lines', key)
        if node.tag != f'{_TAG}str':
            raise self._error(node, f'the key {shorten(node.value)} is not text. Put it in quotes if it is meant so')
        return str(self._read_scalar(node, 'str', key))

    def _read_scalar(self, node: yaml.ScalarNode, kind: str, key: Key) -> Any:
        text: str = node.value
        if len(text) > MAX_TEXT:
            message = f'a text of {len(text):,} characters is no option; the longest has {MAX_TEXT:,}'
            raise self._error(node, message, key)
        if kind in ('str', 'merge'):
            if '\0' in text or any('\ud800' <= character <= '\udfff' for character in text):
                raise self._error(node, f'{shorten(repr(text))} holds a character that no file can be named by', key)
            return text

        # A tag such as !!bool may stand before anything.
        if not _FORMS[kind].match(text) and not (kind == 'float' and _FORMS['int'].match(text)):
            raise self._error(node, f'should be {_NOUNS[kind]}, not {shorten(repr(text))}', key)
        if kind == 'null':
            return None
        if kind == 'bool':
            return text.lower() in ('yes', 'true', 'on')
        return self._read_number(node, key)

    def _read_number(self, node: yaml.ScalarNode, key: Key) -> int | float:
        text = node.value.replace('_', '')
        if not _FORMS['int'].match(node.value):
            number = float(re.sub(r'\.(?=[inIN])', '', text))  # .inf and .nan
            if not math.isfinite(number):
                raise self._error(
                    node, f'the number {shorten(node.value)} is not finite, and no option takes that', key
                )
            if 0 < abs(number) < _SMALLEST:
                raise self._error(node, f'the number {shorten(node.value)} is too small for any option', key)
            return int(number) if _WHOLE_FLOAT.match(text) and abs(number) <= _EXACT else number

        whole = int(text, 0)
        if not -(2**63) <= whole < 2**63:
            raise self._error(node, f'the number {shorten(node.value)} is too large for any option', key)
        return whole

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1 if self.has_lines else None)

    def _error(self, node: yaml.Node, message: str, key: Key = ()) -> UserError:
        path = f'{shorten(".".join(map(str, key)))}: ' if key else ''
        return UserError(f'{self._place(node)}: {path}{message}.')
