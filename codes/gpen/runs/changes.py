"""What changed in the options since a checkpoint was saved."""

from typing import Any

from gpen.errors import UserError
from gpen.options.components import REGISTRIES

UNUSABLE = ('network_g.', 'network_d.', 'model_type', 'train.optim_g.type', 'train.optim_d.type')


def compare_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line ``path: old -> new`` for every option that changed since a state was saved.

    Raises:
        UserError: one of them makes the state unusable (another network, model or optimizer).
    """
    old, new = (flatten(fill_defaults(options, outside=True)) for options in (before, now))
    given = {*flatten(before), *flatten(now)}
    changed = [key for key in sorted(given) if old.get(key) != new.get(key)]
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


def fill_defaults(options: Any, outside: bool = False) -> Any:
    """Return options with the defaults of each ``type`` block, so that writing one out is no difference.

    Args:
        options: as in an option file.
        outside: whether to import outside components (dotted names) for their defaults; else their blocks stay as they
            are.
    """
    if not isinstance(options, dict):
        return options
    filled = {key: fill_defaults(value, outside) for key, value in options.items()}

    kind = options.get('type')
    if isinstance(kind, str) and (outside or '.' not in kind):
        # Those of BasicSR are left out: finding them would import it.
        found = [one.find(kind) if '.' in kind else one.definitions.get(kind) for one in REGISTRIES.values()]
        for definition in filter(None, found):
            defaults = definition.defaults.items()
            filled = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults} | filled
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
