"""Check ``type`` blocks against the signature of what they build, read from its source without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from gpen.errors import UserError
from gpen.options import types
from gpen.options.problems import Problem, from_pydantic
from gpen.options.schema import Component, Degradation, Options, ScoringOptions
from gpen.options.yaml_reader import Key
from gpen.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    DEGRADATION_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
    Definition,
    Registry,
)
from gpen.registry.definitions import BUILTINS

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
KNOWN_TYPES = {*types.__all__, *BUILTINS}
LOSS_KEYS = ('pixel_opt', 'perceptual_opt', 'gan_opt', 'identity_opt', 'feature_matching_opt', 'component_opt')


def list_components(options: Options | ScoringOptions) -> Iterator[tuple[Key, Component, Registry]]:
    """Yield the key path of each ``type`` block, the block, and the registry its name belongs to."""
    if options.network_g is not None:
        yield ('network_g',), options.network_g, ARCH_REGISTRY
    for phase, dataset in options.dataset_blocks.items():
        yield ('datasets', phase), dataset, DATASET_REGISTRY
    for name, metric in options.val.metrics.items():
        yield ('val', 'metrics', name), metric, METRIC_REGISTRY
    if isinstance(options, Options):
        yield from _list_training_components(options)


def _list_training_components(options: Options) -> Iterator[tuple[Key, Component, Registry]]:
    if options.network_d is not None:
        yield ('network_d',), options.network_d, ARCH_REGISTRY
    train = options.train
    yield ('train', 'optim_g'), train.optim_g, OPTIMIZER_REGISTRY
    yield ('train', 'optim_d'), train.optim_d, OPTIMIZER_REGISTRY
    if train.scheduler is not None:
        yield ('train', 'scheduler'), train.scheduler, SCHEDULER_REGISTRY
    for key in LOSS_KEYS:
        loss = getattr(train, key)
        if loss is not None:
            yield ('train', key), loss, LOSS_REGISTRY
    for name, loss in train.losses.items():
        yield ('train', 'losses', name), loss, LOSS_REGISTRY


def look_up(key: Key, name: str, registry: Registry) -> tuple[Definition | None, list[Problem]]:
    """Return what the name at an option stands for and takes, or None and what is wrong with the name."""
    try:
        definition = registry.find(name)
        return definition, [] if definition is not None else [Problem(key, registry.explain_missing(name))]
    except UserError as error:
        return None, [Problem(key, str(error))]


def find_definition(component: Component, registry: Registry) -> Definition | None:
    """Return what a ``type`` block names and takes; None where that is not known, of which check_component speaks."""
    return look_up((), component.type, registry)[0]


def parameter_names(component: Component, registry: Registry) -> set[str]:
    """Return the names of the arguments that a component is known to take."""
    definition = find_definition(component, registry)
    return {parameter.name for parameter in definition.parameters} if definition is not None else set()


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
    is_loss = key[:2] == ('train', 'losses') or (key[:1] == ('train',) and key[1] in LOSS_KEYS)
    if not is_loss and option not in ('network_g', 'network_d'):
        return None

    name, role = definition.name, definition.role
    if role is not None and role not in ROLES:
        return f'{name} declares the role {role!r}; it can be {", ".join(ROLES)}'
    what, home = ROLES[role] if role is not None else ('', option)
    if option in ROLE_NEEDED and (role is None or home != option):
        return f'{name} {ROLE_NEEDED[option]}'
    return f'{name} {what}; it belongs to {home}' if home != option else None


def check_component(key: Key, component: Component, registry: Registry) -> list[Problem]:
    """Return what is wrong with a ``type`` block at an option: its name, its role, its arguments, blocks inside."""
    definition, problems = look_up((*key, 'type'), component.type, registry)
    if definition is None:
        return problems
    wrong_role = check_role(key, definition)
    if wrong_role is not None:
        return [Problem((*key, 'type'), wrong_role)]
    return _check_arguments(key, component, definition)


def _check_arguments(key: Key, component: Component, definition: Definition) -> list[Problem]:
    model = signature_model(definition)
    problems = []
    try:
        model.model_validate(component.arguments)
    except ValidationError as error:
        problems = from_pydantic(error.errors(), model, key)
    wrong = {problem.key for problem in problems}
    for parameter in definition.parameters:
        nested = component.arguments.get(parameter.name)
        place = (*key, parameter.name)
        if nested is not None and place not in wrong and 'Degradations' in (parameter.annotation or ''):
            problems += check_degradations(nested, place)
    return problems


def check_degradations(options: Any, key: Key = ()) -> list[Problem]:
    """Return what is wrong with a degradation, or a list of them, at an option."""
    listed = isinstance(options, list)
    problems: list[Problem] = []
    for n, step in enumerate(options if listed else [options]):
        place = (*key, n) if listed else key
        try:
            component = Degradation.model_validate(step)
        except ValidationError as error:
            problems += from_pydantic(error.errors(), Degradation, place)
        else:
            problems += check_component(place, component, DEGRADATION_REGISTRY)
    return problems
