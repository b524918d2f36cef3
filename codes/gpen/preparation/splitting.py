"""Train and validation splits that share no person."""

import re
from collections.abc import Iterable, Sequence
from math import floor

from gpen.errors import UserError
from gpen.preparation.selection import Entry, stable_number
from gpen.utils.seeds import derive_seed
from gpen.utils.text import printable

SPLITS = ('train', 'val')
Group = tuple[str, ...]


def group_photos(keys: Iterable[str], pattern: str | None) -> dict[str, Group]:
    """Return what each photograph's faces have in common with others of the same person.

    Args:
        keys: paths of the photographs.
        pattern: a regular expression that is searched in them; what its groups hold names the person.  None: each
            photograph shows another one.

    Raises:
        UserError: the pattern is wrong, has no group, or does not fit a path.
    """
    if pattern is None:
        return {key: (key,) for key in keys}

    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f'--split_by {pattern!r} is not a regular expression: {error}.') from error
    if regex.groups == 0:
        raise UserError(f"--split_by {pattern!r} has no group. Put what names the person in parentheses, as '^(\\d+)'.")

    people = {}
    for key in keys:
        match = regex.search(key)
        if match is None:
            raise UserError(
                f'--split_by {pattern!r} does not fit {printable(key)}. Change it, or move the photograph elsewhere.'
            )
        people[key] = tuple(group or '' for group in match.groups())
    return people


def split_groups(entries: Sequence[Entry], share: float, seed: int, split_by: str | None) -> None:
    """Give each kept face its split; ``share`` of the groups, at least one and not all, is in ``val``.

    A group's place depends on the seed and its name, so that photographs that are added later move few others.

    Raises:
        UserError: there is only one group.
    """
    groups = sorted({entry.group for entry in entries if entry.reason is None})
    if len(groups) < 2:
        advice = 'Check --split_by, whose groups name the person' if split_by is not None else 'Give more photographs'
        what = 'person' if split_by is not None else 'photograph'
        raise UserError(
            f'All faces that are kept are of only one {what}, but training and validation need one each. {advice}.'
        )

    order = sorted(groups, key=lambda group: (derive_seed(seed, 'split', stable_number('\0'.join(group), 0)), group))
    count = min(max(1, floor(share * len(groups) + 0.5)), len(groups) - 1)
    chosen = set(order[:count])
    for entry in entries:
        if entry.reason is None:
            entry.split = 'val' if entry.group in chosen else 'train'
