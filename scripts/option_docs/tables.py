"""The options as tables for people: what stands between two marker comments in ``options/README.md``."""

import math
import re
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpen.errors import UserError
from gpen.options import blocks, schema, train
from gpen.options.components import signature_model
from gpen.options.io_backend import DatasetsBackend, PlainBackend
from gpen.options.types import LARGEST
from gpen.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    DEGRADATION_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
    Registry,
)

BEGIN = '<!-- The tables below are written by scripts/write_schema.py. -->'
END = '<!-- The tables above are written by scripts/write_schema.py. -->'
HEAD = '| option | type, range | default | meaning |\n|---|---|---|---|'
BASE_ROW = (
    '| `_base_` | text or list of text | none | Option files to inherit from, relative to this one; this file wins. |'
)
WORDS = {'integer': 'integer', 'number': 'number', 'string': 'text', 'boolean': 'true or false'}
LIMITS = {'minimum': '≥', 'exclusiveMinimum': '>', 'maximum': '≤', 'exclusiveMaximum': '<'}
LOSSES = (
    '`train.pixel_opt`, `perceptual_opt`, `gan_opt`, `identity_opt`, `feature_matching_opt`, `component_opt`, '
    '`losses.NAME`'
)

# The heading of each section, the block that it describes, and the registry of its types.
SECTIONS: list[tuple[str, type[BaseModel], Registry | None]] = [
    ('Top level', schema.Options, MODEL_REGISTRY),
    ('`datasets.train`, `datasets.val`', blocks.Dataset, DATASET_REGISTRY),
    ('`datasets.*.io_backend`: files', PlainBackend, None),
    ('`datasets.*.io_backend`: tables', DatasetsBackend, None),
    ('A step of `datasets.*.degradation` and `augment`', blocks.Degradation, DEGRADATION_REGISTRY),
    ('`network_g`, `network_d`', blocks.Component, ARCH_REGISTRY),
    ('`train`', train.Train, None),
    (LOSSES, blocks.Loss, LOSS_REGISTRY),
    ('`train.optim_g`, `train.optim_d`', blocks.Optimizer, OPTIMIZER_REGISTRY),
    ('`train.optim_*.param_groups.NAME`', blocks.ParamGroup, None),
    ('`train.scheduler`', blocks.Scheduler, SCHEDULER_REGISTRY),
    ('`train.augment_opt`', train.Augment, None),
    ('`train.ema_scheduler`', train.EmaScheduler, None),
    ('`train.early_stopping`', train.EarlyStopping, None),
    ('`val`', schema.Val, None),
    ('`val.metrics.NAME`', blocks.Metric, METRIC_REGISTRY),
    ('`logger`', schema.Logger, None),
    ('`logger.wandb`', schema.Wandb, None),
    ('`path`', schema.PathOptions, None),
    ('`dist_params`', schema.DistParams, None),
    ('Top level of a scoring file', schema.ScoringOptions, None),
    ('`val` of a scoring file', schema.Scoring, None),
]


def replace_tables(readme: str) -> str:
    """Return the text of ``options/README.md`` with current tables between the marker comments.

    Raises:
        UserError: the marker comments are not there, each once and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise UserError(f'options/README.md should hold the lines {BEGIN!r} and {END!r}, each once and in this order.')
    before, after = readme.partition(BEGIN)[0], readme.partition(END)[2]
    return f'{before}{BEGIN}\n\n{write_tables()}\n{END}{after}'


def write_tables() -> str:
    """Return all sections in Markdown: a heading and a table each."""
    return '\n'.join(f'### {heading}\n{_write_table(model, registry)}\n' for heading, model, registry in SECTIONS)


def _write_table(model: type[BaseModel], registry: Registry | None) -> str:
    rows = [HEAD, *([BASE_ROW] if issubclass(model, schema.Run) else []), *_write_rows(model)]

    # Each type has a row with its summary, and below it a row for each of its arguments.
    for name, definition in registry.definitions.items() if registry is not None else ():
        if registry is MODEL_REGISTRY:
            rows.append(f'| **`model_type: {name}`** | | | {_escape(definition.summary)} |')
        else:
            rows.append(f'| **`type: {name}`** | | | {_escape(definition.summary)} |')
            rows += _write_rows(signature_model(definition), without=frozenset(model.model_fields))
    return '\n'.join(rows)


def _write_rows(model: type[BaseModel], without: frozenset[str] = frozenset()) -> list[str]:
    nodes = model.model_json_schema().get('properties', {})
    rows = []
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        if name not in without:
            meaning = _escape(field.description or '')
            rows.append(f'| `{name}` | {_describe_type(nodes[name])} | {_describe_default(field)} | {meaning} |')
    return rows


def _escape(text: str) -> str:
    """Return a docstring's text as a cell of a Markdown table."""
    text = re.sub(r':\w+:`[\w.]*?(\w+)`', r'`\1`', text.replace('``', '`'))
    return ' '.join(re.sub(r'\\?\|', r'\|', text).split())


def _describe_default(field: FieldInfo) -> str:
    if field.is_required():
        return 'required'
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, blocks.Section) or (value is None and 'default' in (field.description or '').lower()):
        return ''  # the defaults of a block's options, or the meaning, say it
    return 'none' if value in (None, {}, []) else f'`{_format(value)}`'


def _format(value: Any) -> str:
    """Return a value as it is written in an option file."""
    if isinstance(value, blocks.Component):
        return _format(value.to_dict())
    if isinstance(value, dict):
        return f'{{{", ".join(f"{key}: {_format(item)}" for key, item in value.items())}}}'
    if isinstance(value, list | tuple):
        return f'[{", ".join(map(_format, value))}]'
    if isinstance(value, bool):
        return str(value).lower()
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _describe_type(node: dict[str, Any]) -> str:
    """Return a node of a JSON schema in words."""
    if 'anyOf' in node:
        return ' or '.join(_describe_type(member) for member in node['anyOf'] if member.get('type') != 'null')
    if 'enum' in node:
        return ', '.join(f'`{value}`' for value in node['enum'])
    if 'const' in node:
        return f'`{node["const"]}`'
    if node.get('format') == 'degradations':
        return 'a step or a list of steps'

    kind = node.get('type', 'object')
    if kind == 'array':
        what = 'pair' if node.get('maxItems') == 2 else 'list'
        return f'{what}: {_describe_type(node["items"])}'
    if kind == 'object':
        inner = node.get('additionalProperties')
        return f'NAME: {_describe_type(inner)}' if isinstance(inner, dict) else 'block'

    limits = [f'{sign} {node[key]:g}' for key, sign in LIMITS.items() if abs(node.get(key, math.inf)) < LARGEST]
    return f'{WORDS[kind]} {", ".join([*limits, node.get("format", "")])}'.rstrip(', ')
