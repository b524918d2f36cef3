"""Parameters by name patterns: groups with a learning rate each, and those that stay as they are."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from gpen.errors import UserError
from gpen.options.blocks import ParamGroup
from gpen.utils.text import list_names

Group = dict[str, Any]

NAME = 'group'
"""Key of a group's name in the optimizer; the parameters that no pattern matches have none."""
NAMES = 'names'
"""Key of the names of a group's parameters, in the order of the parameters."""


def freeze(network: nn.Module, patterns: Sequence[str], option: str) -> None:
    """Exclude the parameters that one of the patterns matches from learning.

    Args:
        network: its parameters are changed: those that match need no gradient any more.
        patterns: as in a shell (``fnmatch``): ``*`` stands for any characters, dots included.
        option: where the patterns stand in the option file.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for number, pattern in enumerate(patterns):
        _check_matches(pattern, names, f'{option}.{number}')

    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not _matches(name, patterns))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f'{option} freezes all {len(names)} parameters: nothing is left to train. Remove a pattern.')


def group_parameters(network: nn.Module, groups: Mapping[str, ParamGroup], option: str) -> list[Group]:
    """Assign the parameters that learn to groups; where several patterns match one, the first group has it.

    Args:
        network: parameters that need no gradient are left out.
        groups: by name.
        option: where they stand in the option file.

    Returns:
        Groups for an optimizer: first the parameters that no pattern matches, then the given groups in their order;
        those without any parameter that learns are left out.

    Raises:
        UserError: a pattern matches no parameter, or all those of a group belong to earlier ones.
    """
    # The group that each parameter belongs to
    everything = [name for name, _ in network.named_parameters()]
    owners: dict[str, str | None] = dict.fromkeys(everything)
    for group_name, group in groups.items():
        for number, pattern in enumerate(group.patterns):
            _check_matches(pattern, everything, f'{option}.{group_name}.patterns.{number}')
        free = [name for name in everything if owners[name] is None and _matches(name, group.patterns)]
        if not free:
            raise UserError(
                f'{option}.{group_name}: all parameters that its patterns match belong to earlier groups, so it has no '
                'effect. Put it before them, or remove it.'
            )
        owners.update(dict.fromkeys(free, group_name))

    # Groups as an optimizer takes them
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    found: list[Group] = []
    for owner in (None, *groups):
        names = [name for name in learning if owners[name] == owner]
        if names:
            label = {} if owner is None else {NAME: owner}
            found.append({'params': [learning[name] for name in names], NAMES: names, **label})
    return found


def name_parameters(groups: Iterable[Mapping[str, Any]]) -> dict[int, str] | None:
    """Return the names of the parameters by their number in an optimizer's state; None where a group has no names."""
    found: dict[int, str] = {}
    for group in groups:
        if NAMES not in group:
            return None
        found |= dict(zip(group['params'], group[NAMES], strict=True))
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_matches(pattern: str, names: Sequence[str], place: str) -> None:
    """Raise UserError, with the nearest names, unless a pattern matches one of ``names``."""
    if any(fnmatchcase(name, pattern) for name in names):
        return
    starts = list(dict.fromkeys(name.split('.')[0] for name in names))
    near = get_close_matches(pattern, names, n=4, cutoff=0.5)
    # A pattern is short, a name is long: its first word is compared, too.
    words = get_close_matches(pattern.split('.')[0].rstrip('*'), starts, n=4, cutoff=0.5)
    near = list(dict.fromkeys([*near, *(name for name in names if name.split('.')[0] in words)]))
    hint = f'Near it are: {list_names(near)}' if near else f'Names start with: {list_names(starts)}'
    raise UserError(f'{place}: {pattern!r} matches no parameter of the network. {hint}. Correct or remove it.')
