"""Check ``type`` blocks against the signature of what they build, read from its source without importing it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

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

LOSS_KEYS = ('pixel_opt', 'perceptual_opt', 'gan_opt', 'identity_opt', 'feature_matching_opt')


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


@cache
def signature_model(definition: Definition) -> type[BaseModel]:
    """Return a pydantic model of a registered item's arguments, with their types, ranges and defaults.

    Annotations are the names of :mod:`gpen.options.types` and builtins, resolved there.
    """
    fields: dict[str, Any] = {
        parameter.name: (
            _known_annotation(parameter.annotation),
            Field(... if parameter.required else parameter.default, description=parameter.meaning or None),
        )
        for parameter in definition.parameters
    }
    config = ConfigDict(extra='allow' if definition.open_ended else 'forbid', strict=True)
    return create_model(definition.name, __config__=config, __module__='gpen.options.types', **fields)


def _known_annotation(annotation: str | None) -> str:
    """Return an annotation that can be resolved without importing its file; anything else allows any value."""
    if annotation is None:
        return 'Any'
    nodes = list(ast.walk(ast.parse(annotation, mode='eval')))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    known = {*vars(types), *vars(builtins)}
    return annotation if names <= known and not any(isinstance(node, ast.Attribute) for node in nodes) else 'Any'


def check_role(key: Key, definition: Definition) -> str | None:
    """Return what is wrong with using a network or a loss at an option, or None."""
    if key == ('network_g',) and 'return_features' in definition.inputs:
        return f'{definition.name} is a discriminator; it belongs to network_d'
    if key == ('network_d',) and 'return_latents' in definition.inputs:
        return f'{definition.name} is a generator; it belongs to network_g'
    if key[:1] != ('train',) or not (key[1] in LOSS_KEYS or key[1] == 'losses'):
        return None
    adversarial = 'discriminator' in definition.methods
    matching = definition.inputs[:1] == ('fake_features',)
    if key[1] == 'gan_opt':
        return None if adversarial else f'{definition.name} is no adversarial loss; use one such as GANLoss here'
    if key[1] == 'feature_matching_opt':
        return None if matching else f'{definition.name} does not compare features; use FeatureMatchingLoss here'
    if adversarial:
        return f'{definition.name} is an adversarial loss; it belongs to train.gan_opt'
    if matching:
        return f'{definition.name} compares features; it belongs to train.feature_matching_opt'
    return None


def check_component(key: Key, component: Component, registry: Registry) -> list[Problem]:
    """Return what is wrong with a ``type`` block at an option: its name, its role, its arguments, blocks inside."""
    definition = registry.find(component.type)
    if definition is not None:
        wrong_role = check_role(key, definition)
        if wrong_role is not None:
            return [Problem((*key, 'type'), wrong_role)]
        return _check_arguments(key, component, definition)
    if not registry.exists(component.type):
        return [Problem((*key, 'type'), registry.explain_missing(component.type))]
    return [Problem((*key, name), message) for name, message in check_foreign_arguments(component, registry)]


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


def parameter_names(component: Component, registry: Registry) -> set[str]:
    """Return the names of the arguments that one of our own components takes (empty for BasicSR's)."""
    definition = registry.find(component.type)
    return {parameter.name for parameter in definition.parameters} if definition else set()


def check_foreign_arguments(component: Component, registry: Registry) -> list[tuple[str, str]]:
    """Check the arguments of a component that is BasicSR's; return (argument, message) pairs."""
    from gpen.registry import basicsr_bridge

    parameters, open_ended = basicsr_bridge.parameters_of(registry.get(component.type))
    names = {parameter.name for parameter in parameters}
    problems = (
        []
        if open_ended
        else [
            (name, f'{component.type} takes no such argument; it takes {", ".join(sorted(names))}')
            for name in component.arguments
            if name not in names
        ]
    )
    problems += [
        (parameter.name, f'{component.type} needs this argument')
        for parameter in parameters
        if parameter.required and parameter.name not in component.arguments
    ]
    return problems
