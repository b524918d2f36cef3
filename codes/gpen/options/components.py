"""Check ``type`` blocks against the signature of what they build, read from its source without importing it."""

import ast
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from gpen.errors import UserError
from gpen.options import types
from gpen.options.blocks import (
    Component,
    Dataset,
    Degradation,
    Loss,
    Metric,
    Optimizer,
    Scheduler,
    takes_default,
)
from gpen.options.problems import Problem, find_problems
from gpen.options.yaml_values import Key
from gpen.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    DEGRADATION_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
    Registry,
)
from gpen.registry.definitions import BUILTINS, Definition

PRIOR = 'prior'
ROLES = {
    'generator': ('is a generator', 'network_g'),
    PRIOR: ('is a generator', 'network_g'),
    'discriminator': ('is a discriminator', 'network_d'),
    'adversarial': ('is an adversarial loss', 'train.gan_opt'),
    'feature_matching': ('compares features', 'train.feature_matching_opt'),
    'components': ('judges facial components', 'train.component_opt'),
}
"""Of each role, what that means, and the option that it belongs to."""
ROLE_NEEDED = {
    'train.gan_opt': 'is no adversarial loss; use one such as GANLoss here',
    'train.feature_matching_opt': 'does not compare features; use FeatureMatchingLoss here',
    'train.component_opt': 'does not judge facial components; use ComponentLoss here',
}
KNOWN_TYPES = {*vars(types), *BUILTINS}
REGISTRIES: dict[type[Component], Registry] = {
    Component: ARCH_REGISTRY,  # network_g and network_d
    Dataset: DATASET_REGISTRY,
    Degradation: DEGRADATION_REGISTRY,
    Loss: LOSS_REGISTRY,
    Metric: METRIC_REGISTRY,
    Optimizer: OPTIMIZER_REGISTRY,
    Scheduler: SCHEDULER_REGISTRY,
}
"""The registry that the ``type`` of each kind of block belongs to."""


def list_components(block: Any, key: Key = ()) -> Iterator[tuple[Key, Component]]:
    """Yield the key path of each ``type`` block among the options of a run, and the block."""
    if isinstance(block, Component):
        yield key, block
    elif isinstance(block, BaseModel | dict):
        for name, inner in block.items() if isinstance(block, dict) else block:
            yield from list_components(inner, (*key, name))


def look_up(key: Key, name: str, registry: Registry) -> tuple[Definition | None, list[Problem]]:
    """Return what the name at an option stands for and takes, or None and what is wrong with the name."""
    try:
        definition = registry.find(name)
        return definition, [] if definition is not None else [Problem(key, registry.explain_missing(name))]
    except UserError as error:
        return None, [Problem(key, str(error))]


def find_definition(component: Component) -> Definition | None:
    """Return what a ``type`` block names and takes; None where that is not known, of which check_component speaks."""
    return look_up((), component.type, REGISTRIES[type(component)])[0]


def parameter_names(component: Component) -> set[str]:
    """Return the names of the arguments that a component is known to take."""
    definition = find_definition(component)
    return set(definition.defaults) if definition is not None else set()


@cache
def signature_model(definition: Definition) -> type[BaseModel]:
    """Return a pydantic model of a registered item's arguments, with their types, ranges and defaults.

    Annotations are the names of :mod:`gpen.options.types` and builtins, resolved there.
    """
    # The argument's name is an alias, since BaseModel has attributes of its own.
    fields: dict[str, Any] = {
        f'argument_{number}': (
            _known_annotation(parameter.annotation),
            Field(
                ... if parameter.required else parameter.default,
                alias=parameter.name,
                description=parameter.meaning or None,
            ),
        )
        for number, parameter in enumerate(definition.parameters)
    }

    config = ConfigDict(extra='allow' if definition.open_ended else 'forbid', strict=True)
    return create_model(definition.attribute, __config__=config, __module__='gpen.options.types', **fields)


def _known_annotation(annotation: str | None) -> str:
    """Return an annotation that can be resolved without importing its file; anything else allows any value."""
    if annotation is None:
        return 'Any'
    names = {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}
    return annotation if names <= KNOWN_TYPES else 'Any'


def check_role(key: Key, definition: Definition) -> str | None:
    """Return what is wrong with using a network or a loss at an option, or None.

    A network that declares no role is taken anywhere; a loss that declares none compares images.
    """
    option = '.'.join(str(part) for part in key)
    name, role = definition.name, definition.role
    if role is not None and role not in ROLES:
        return f'{name} declares the role {role!r}; it can be {", ".join(ROLES)}'
    what, home = ROLES[role] if role is not None else ('', option)
    if option in ROLE_NEEDED and (role is None or home != option):
        return f'{name} {ROLE_NEEDED[option]}'
    return f'{name} {what}; it belongs to {home}' if home != option else None


def check_component(key: Key, component: Component) -> list[Problem]:
    """Return what is wrong with a ``type`` block at an option: its name, its role, its arguments, blocks inside."""
    registry = REGISTRIES[type(component)]
    definition, problems = look_up((*key, 'type'), component.type, registry)
    if definition is None:
        return problems
    wrong_role = check_role(key, definition) if registry in (ARCH_REGISTRY, LOSS_REGISTRY) else None
    if wrong_role is not None:
        return [Problem((*key, 'type'), wrong_role)]
    return _check_arguments(key, component, definition)


def _check_arguments(key: Key, component: Component, definition: Definition) -> list[Problem]:
    model = signature_model(definition)
    if component.model_extra is not None:
        _take_defaults(component.model_extra, model)
    problems = find_problems(model, component.arguments, key, type(component).model_fields)
    wrong = {problem.key for problem in problems}
    for parameter in definition.parameters:
        nested = component.arguments.get(parameter.name)
        place = (*key, parameter.name)
        if nested is not None and place not in wrong and 'Degradations' in (parameter.annotation or ''):
            problems += check_degradations(nested, place)
    return problems


def _take_defaults(arguments: dict[str, Any], model: type[BaseModel]) -> None:
    """Take out each argument that is ``~`` where that means the default."""
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        if name in arguments and arguments[name] is None and takes_default(field):
            del arguments[name]


def check_degradations(options: Any, key: Key = ()) -> list[Problem]:
    """Return what is wrong with a degradation, or a list of them, at an option; ``~`` for a default is taken out."""
    listed = isinstance(options, list)
    problems: list[Problem] = []
    for n, step in enumerate(options if listed else [options]):
        place = (*key, n) if listed else key
        wrong = find_problems(Degradation, step, place)
        if not wrong:
            component = Degradation.model_validate(step)
            wrong = check_component(place, component)
            kept = {*component.arguments, *(component.model_fields_set & type(component).model_fields.keys())}
            for name in step.keys() - kept:
                del step[name]
        problems += wrong
    return problems
