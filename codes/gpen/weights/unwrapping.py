"""Finding the weights of a network in whatever was saved around them.

Files keep weights under keys (``{'g_ema': {...}}``), under prefixes (``_orig_mod.net_g.conv1.weight``), or both, and
training frameworks invent more.  Here, keys and prefixes are one thing: each tensor has a path such as
``state_dict.net_g.module.conv1.weight``.  It ends in the network's own name of the weight, by which the beginning, what
was put around the network, is recognised.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

Names = Callable[[str], object]
"""Whether a name is that of a weight of the network that is looked for."""

GENERATOR: Names = re.compile(
    r'generator\.(style|input|conv1|to_rgb1|convs|to_rgbs)\..+|ecd\d+\..+|final_linear\.0\.(weight|bias)'
).fullmatch
DECODER: Names = re.compile(
    r'(generator\.)?(style\.\d+\.|input\.input|(conv1|convs\.\d+)\.(conv|noise|activate)\.|to_rgb1\.|to_rgbs\.).*'
).fullmatch
DISCRIMINATOR: Names = re.compile(
    r'convs\.0\.\d\.(weight|bias)|convs\.\d+\.(conv1|conv2|skip)\..+|final_conv\..+|final_linear\.\d\.(weight|bias)'
).fullmatch

_EMA = re.compile(r'ema(?![a-z])|smooth|averag|avg|swa(?![a-z])|shadow', re.IGNORECASE)
_PARALLEL = ('module.', '_orig_mod.')  # DataParallel, torch.compile
_DEEPEST = 12  # keys and dots in front of a weight's name
_DEEPEST_DICT = 8


def find_weights_of(content: Mapping[Any, Any], names: Names, prefer: Sequence[str] = ()) -> dict[str, Tensor] | None:
    """Return the weights of a network in the content of a file, by the network's own names.

    Of several copies, EMA weights come first, recognised by the words ema, smooth, average or shadow before the names;
    then the copy with the most weights; then those under a key that is preferred, and the least wrapped.

    Args:
        content: tensors in dicts at any depth, beside anything else.
        names: see :data:`Names`.
        prefer: keys of the preferred weights, the best first.

    Returns:
        All tensors under the same prefix, numbers such as step counters left out; None where no name is known.
    """
    tensors = dict(walk(content))
    votes: Counter[str] = Counter()
    for path in tensors:
        votes.update(path[:start] for start in _starts(path) if names(path[start:]))
    if not votes:
        return None

    most = max(votes.values())
    order = {key: rank for rank, key in enumerate(prefer)}

    def rank(prefix: str) -> tuple[bool, int, int, int]:
        is_average = _EMA.search(prefix) is not None and 2 * votes[prefix] >= most
        return not is_average, -votes[prefix], order.get(prefix.split('.')[0], len(order)), prefix.count('.')

    best = min(votes, key=rank)
    found = {path.removeprefix(best): value for path, value in tensors.items() if path.startswith(best)}
    return {name: value for name, value in found.items() if value.dim() or names(name)}


def find_weights(content: Mapping[Any, Any], prefer: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights in the content of a file by names as they stand there; empty where there are none.

    They are those under the first key of ``prefer`` that has some; or under the only key that has; or the content
    itself.  Prefixes that DataParallel and ``torch.compile`` put before all names are taken off.
    """
    for _ in range(_DEEPEST_DICT):
        inner = {str(key): value for key, value in content.items() if isinstance(value, Mapping) and any(walk(value))}
        chosen = next((key for key in prefer if key in inner), None)
        if chosen is None and len(inner) == 1 and not any(isinstance(value, Tensor) for value in content.values()):
            chosen = next(iter(inner))
        if chosen is None:
            break
        content = inner[chosen]

    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    while wrapper := next((prefix for prefix in _PARALLEL if _is_before_all(prefix, state)), None):
        state = {name.removeprefix(wrapper): value for name, value in state.items() if name.startswith(wrapper)}
    return state


def _is_before_all(prefix: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a prefix stands before the names of all tensors; numbers beside them, such as counters, do not matter."""
    names = [name for name, value in state.items() if value.dim()] or [*state]
    return bool(names) and all(name.startswith(prefix) for name in names)


def walk(content: Mapping[Any, Any], prefix: str = '', seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dicts by their keys, joined with dots; a dict that is there twice, once."""
    seen = {id(content)} if seen is None else seen
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f'{prefix}{key}', value
        elif isinstance(value, Mapping) and id(value) not in seen and prefix.count('.') < _DEEPEST:
            seen.add(id(value))
            yield from walk(value, f'{prefix}{key}.', seen)


def _starts(path: str) -> Iterator[int]:
    """Yield the places in a path at which a name may begin."""
    start = 0
    for _ in range(_DEEPEST):
        yield start
        start = path.find('.', start) + 1
        if not start:
            return
