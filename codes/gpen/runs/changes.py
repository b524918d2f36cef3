"""What changed in the options since a checkpoint was saved."""

from __future__ import annotations

from typing import Any

from gpen.errors import UserError
from gpen.registry import ARCH_REGISTRY

UNUSABLE = ('network_g.', 'network_d.', 'model_type', 'train.optim_g.type', 'train.optim_d.type')


def compare_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line ``path: old -> new`` for every option that changed since a state was saved.

    Raises:
        UserError: one of them makes the state unusable (another network, model or optimizer).
    """
    old, new = flatten(_with_defaults(before)), flatten(_with_defaults(now))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    lines = {key: f'{key}: {_show(old.get(key))} -> {_show(new.get(key))}' for key in changed}
    unusable = [line for key, line in lines.items() if key.startswith(UNUSABLE)]
    if 'train.gan_opt.type' in lines and 'train.gan_opt.type' not in old:  # there is no trained discriminator
        unusable.append(lines['train.gan_opt.type'])
    if unusable:
        listing = '\n  '.join(unusable)
        raise UserError(
            f'The saved state does not fit the options any more:\n  {listing}\n'
            'Put them back, give the run another name, or start anew without --auto_resume.'
        )
    return list(lines.values())


def _with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with the defaults of both networks written out, so that writing one out is no change."""
    filled = dict(options)
    for name in ('network_g', 'network_d'):
        block = options.get(name)
        definition = ARCH_REGISTRY.find(block['type']) if block else None
        if block and definition is not None:
            defaults = {parameter.name: parameter.default for parameter in definition.parameters}
            filled[name] = {**defaults, **block}
    return filled


def flatten(data: Any, prefix: str = '') -> dict[str, Any]:
    """Return nested dicts as one dict with dotted keys; empty dicts and None leave no key."""
    if not isinstance(data, dict):
        return {} if data is None else {prefix: data}
    result: dict[str, Any] = {}
    for key, value in data.items():
        result |= flatten(value, f'{prefix}.{key}' if prefix else str(key))
    return result


def _show(value: Any) -> str:
    return 'not set' if value is None else repr(value)
