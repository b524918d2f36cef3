"""From the ``degradation`` option to one function, and the steps that hold other steps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from gpen.data.degradations.draws import draw_index
from gpen.data.degradations.resampling import resample
from gpen.errors import UserError
from gpen.options.types import Degradations, NonNegativeFloat
from gpen.registry import DEGRADATION_REGISTRY

Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Takes and gives an image: H x W x 3, float32, RGB, [-1, 1]."""

DegradePair = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Takes a GT image; gives the LQ and the GT image of a pair."""
Function = TypeVar('Function', bound=Callable[..., Any])

_Step = tuple[Callable[..., np.ndarray], dict[str, Any], float]
"""A registered degradation, its arguments, and how often it is done."""

_TRIAL_SIZE = 16  # pixels


def build_degradation(options: Degradations) -> Degrade:
    """Return the function that an option such as ``{type: gfpgan}`` or a list of such steps describes.

    Its result has the size of its input and is clipped to [-1, 1]; it depends on the image and the generator alone.

    Args:
        options: one step or a list of them.  A step is ``type``, the name of a registered degradation, its arguments,
            and optionally ``probability``: how often the step is done at all.

    Raises:
        UserError: no degradation has this name.
    """
    # A partial and no closure, so that a data set can be pickled for spawned workers.
    return partial(_keep_size, build_steps(options))


def changes_both(list_steps: Callable[..., list[dict[str, Any]]]) -> Callable[[Function], Function]:
    """Mark a degradation that begins with steps on both images of a pair (a decorator, below the registry's).

    Args:
        list_steps: returns these steps for the arguments of the degradation.
    """

    def mark(function: Function) -> Function:
        vars(function)['list_shared_steps'] = list_steps
        return function

    return mark


def build_pair_degradation(options: Degradations) -> DegradePair:
    """Return the function that makes a pair: LQ and GT image from a GT image, as :func:`build_degradation`.

    The GT image of the pair is the given one, but for steps that a degradation does on both images, such as the greying
    of ``gpen``.

    Raises:
        UserError: no degradation has this name.
    """
    shared: list[dict[str, Any]] = []
    for step in _list_steps(options):
        list_steps = getattr(DEGRADATION_REGISTRY.get(step['type']), 'list_shared_steps', None)
        if list_steps is not None:
            arguments = {name: value for name, value in step.items() if name not in ('type', 'probability')}
            often = step.get('probability', 1.0)
            shared += [{**one, 'probability': one['probability'] * often} for one in list_steps(**arguments)]
    return partial(_degrade_pair, build_steps(shared) if shared else None, build_degradation(options))


def _degrade_pair(
    change_both: Degrade | None, degrade: Degrade, image: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    gt = image if change_both is None else change_both(image, generator)
    return degrade(gt, generator), gt


def try_degradation(options: Degradations) -> None:
    """Do each step once, also those within others; otherwise a rare one would fail in the middle of a run.

    Raises:
        UserError: no degradation has this name, or the arguments of one do not fit together.
    """
    for step in _list_steps(options):
        # The steps that this one holds.
        definition = DEGRADATION_REGISTRY.find(step['type'])
        for parameter in definition.parameters if definition is not None else ():
            if 'Degradations' in (parameter.annotation or '') and step.get(parameter.name) is not None:
                try_degradation(step[parameter.name])

        image = np.zeros((_TRIAL_SIZE, _TRIAL_SIZE, 3), np.float32)
        try:
            build_steps({**step, 'probability': 1.0})(image, np.random.Generator(np.random.PCG64(0)))
        except UserError as error:
            raise UserError(f'{step["type"]}: {error}') from error


def build_steps(options: Degradations) -> Degrade:
    """Return the steps as one function; what it gives may have another size and reach beyond [-1, 1]."""
    steps = []
    for step in _list_steps(options):
        arguments = dict(step)
        name, probability = arguments.pop('type'), arguments.pop('probability', 1.0)
        steps.append((DEGRADATION_REGISTRY.get(name), arguments, probability))
    return partial(_do_steps, steps)


def _list_steps(options: Degradations) -> list[dict[str, Any]]:
    return options if isinstance(options, list) else [options]


def _do_steps(steps: Sequence[_Step], image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    for function, arguments, probability in steps:
        if probability >= 1 or generator.random() < probability:
            image = function(image, generator, **arguments)
    return image


def _keep_size(degrade: Degrade, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Degrade an image, and bring the result back to its size and range."""
    height, width = image.shape[:2]
    result = resample(degrade(image, generator), height, width, 'bilinear').astype(np.float32, copy=False)
    # Fresh memory for a large image costs more than the clipping.
    own = result.flags.writeable and not np.may_share_memory(result, image)
    return np.clip(result, -1, 1, out=result if own else None)


@DEGRADATION_REGISTRY.register
def in_any_order(image: np.ndarray, generator: np.random.Generator, steps: Degradations) -> np.ndarray:
    """Do all ``steps`` in an order drawn anew for each image."""
    listed = _list_steps(steps)
    for index in generator.permutation(len(listed)):
        image = build_steps(listed[index])(image, generator)
    return image


@DEGRADATION_REGISTRY.register
def one_of(
    image: np.ndarray,
    generator: np.random.Generator,
    steps: Degradations,
    weights: list[NonNegativeFloat] | None = None,
) -> np.ndarray:
    """Do one of ``steps``, chosen with ``weights`` (default: equally often).

    Raises:
        UserError: there are not as many weights as steps, or they are all 0.
    """
    listed = _list_steps(steps)
    index = draw_index(generator, weights if weights is not None else [1.0] * len(listed), len(listed), 'weights')
    return build_steps(listed[index])(image, generator)
