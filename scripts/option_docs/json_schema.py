"""The options as a JSON schema, so that editors complete and check option files."""

import json
from typing import Any

from pydantic import BaseModel

from gpen.options.blocks import Degradation
from gpen.options.components import signature_model
from gpen.options.schema import Options, ScoringOptions
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

# The file in options/, the options that it describes, and its title.
SCHEMAS: dict[str, tuple[type[BaseModel], str]] = {
    'schema.json': (Options, 'Options of a training run'),
    'schema_test.json': (ScoringOptions, 'Options of a scoring run'),
}
BLOCKS = {
    'Dataset': DATASET_REGISTRY,
    'Degradation': DEGRADATION_REGISTRY,
    'Loss': LOSS_REGISTRY,
    'Metric': METRIC_REGISTRY,
    'Network': ARCH_REGISTRY,
    'Optimizer': OPTIMIZER_REGISTRY,
    'Scheduler': SCHEDULER_REGISTRY,
}


def build_json_schema(file: str = 'schema.json') -> dict[str, Any]:
    """Return a JSON schema (draft 2020-12) of option files, one of :data:`SCHEMAS`.

    Nothing is required in it, since a file may inherit from others (``_base_``); the parser checks what is missing.
    """
    model, title = SCHEMAS[file]
    schema = model.model_json_schema()

    # What pydantic does not know of: inheritance, and steps that stand in arguments.
    definitions, properties = schema['$defs'], schema['properties']
    properties['_base_'] = {
        'description': 'Option files to inherit from, relative to this one; this file wins.',
        'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}],
    }
    definitions['Degradation'] = Degradation.model_json_schema()
    definitions['Network'] = definitions.pop('Component')
    _point_to_network(schema)

    # The arguments of each type.
    for name, registry in BLOCKS.items():
        if name in definitions:
            definitions[name] = _with_arguments(definitions[name], registry)
    if 'model_type' in properties:
        properties['model_type']['examples'] = sorted(MODEL_REGISTRY.definitions)
    _refer_to_degradations(schema)

    _drop_required(schema)
    schema['$schema'] = 'https://json-schema.org/draft/2020-12/schema'
    schema['title'] = title
    return schema


def dump_json_schema(file: str = 'schema.json') -> str:
    """Return the text of ``options/FILE``."""
    return json.dumps(build_json_schema(file), indent=1, ensure_ascii=False) + '\n'


def _with_arguments(block: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """Return a ``type`` block's schema with the arguments of each registered name; others (BasicSR's) are free."""
    own = {key: value for key, value in block['properties'].items() if key != 'type'}
    names = sorted(registry.definitions)

    rules = [
        {
            'if': {'properties': {'type': {'const': name}}, 'required': ['type']},
            'then': {
                'properties': {'type': {}, **_arguments(signature_model(registry.definitions[name])), **own},
                'additionalProperties': registry.definitions[name].open_ended,
            },
        }
        for name in names
    ]
    kind = {**block['properties']['type'], 'anyOf': [{'enum': names}, {'type': 'string'}]}
    return {**block, 'properties': {**own, 'type': kind}, 'allOf': rules}


def _arguments(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema()['properties'] if model.model_fields else {}
    return properties


def _point_to_network(node: Any) -> None:
    """Make the references to ``Component`` below ``node``, which are all to networks, say so."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _point_to_network(child)
    if isinstance(node, dict) and node.get('$ref') == '#/$defs/Component':
        node['$ref'] = '#/$defs/Network'


def _refer_to_degradations(node: Any) -> None:
    """Spell out what :data:`gpen.options.types.Degradations` marks: a step, or a list of steps."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _refer_to_degradations(child)
    if isinstance(node, dict) and node.get('format') == 'degradations':
        step = {'$ref': '#/$defs/Degradation'}
        node.pop('format')
        node['anyOf'] = [step, {'type': 'array', 'items': step, 'minItems': 1}]


def _drop_required(node: Any, inside_rule: bool = False) -> None:
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        _drop_required(child, key == 'if')
    if isinstance(node, dict) and not inside_rule and isinstance(node.get('required'), list):
        del node['required']
