"""Annotations for options: a type with its allowed range.

Constructors of networks, losses, datasets, metrics, schedulers and optimizers annotate their arguments with these (or
with plain ``int``, ``float``, ``bool``, ``str``, ``list[...]``, ``dict[...]``, ``Literal[...]``, ``... | None``), and
the option parser checks YAML values against them without importing torch.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional, Union  # noqa: F401 - annotations may hold all of them

from pydantic import AfterValidator, Field, WithJsonSchema

from gpen.utils.text import shorten, suggest


def _check_degradations(value: Any) -> Any:
    steps = value if isinstance(value, list) else [value]
    if steps and all(isinstance(step, dict) and isinstance(step.get('type'), str) for step in steps):
        return value
    raise ValueError('should be a degradation, such as {type: gfpgan}, or a list of them')


def _check_layers(weights: dict[str, float]) -> dict[str, float]:
    for name in weights:
        if name not in VGG_LAYERS:
            hint = suggest(name, VGG_LAYERS) or ' Name one such as conv5_4.'
            raise ValueError(f'{shorten(name)!r} is no layer of a VGG.{hint}')
    return weights


def _check_range(value: Sequence[float]) -> Sequence[float]:
    if value[0] > value[1]:
        raise ValueError('should be a range [lowest, highest]')
    return value


def _check_odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f'should be odd, such as {value - 1} or {value + 1}')
    return value


def _check_power_of_two(value: int) -> int:
    if value & (value - 1):
        below = 1 << (value.bit_length() - 1)
        raise ValueError(f'should be a power of two, such as {below} or {below * 2}')
    return value


LARGEST = 10**9
LARGEST_FLOAT = 1e30
"""Where a number has no limit of its own; float32 ends at 3e38, and ten times a learning rate has to fit it."""

VGG_LAYERS = [
    f'{kind}{block}_{number}'
    for block, count in enumerate((2, 2, 4, 4, 4), start=1)
    for number in range(1, count + 1)
    for kind in ('conv', 'relu')
] + [f'pool{block}' for block in range(1, 6)]
"""Names of the layers of VGG19, among which are those of the smaller ones."""

PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST_FLOAT, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Width = Annotated[int, Field(gt=0, le=8192)]
"""Channels of a layer."""
SmallInt = Annotated[int, Field(gt=0, le=64)]
Factor = Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
ImageSize = Annotated[
    int, Field(ge=8, le=4096, json_schema_extra={'format': 'power of two'}), AfterValidator(_check_power_of_two)
]
KernelShapes = Annotated[
    Sequence[
        Literal[
            'iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso', 'sinc', 'motion'
        ]
    ],
    Field(min_length=1),
]
OddInt = Annotated[int, Field(gt=0, le=255, json_schema_extra={'format': 'odd'}), AfterValidator(_check_odd)]
_TWO = Field(min_length=2, max_length=2)
Range = Annotated[Sequence[Annotated[float, Field(ge=0, le=10_000)]], _TWO, AfterValidator(_check_range)]
SignedRange = Annotated[Sequence[Annotated[float, Field(ge=-10_000, le=10_000)]], _TWO, AfterValidator(_check_range)]
ShareRange = Annotated[Sequence[Probability], _TWO, AfterValidator(_check_range)]
LengthRange = Annotated[Sequence[Annotated[float, Field(ge=0, le=255)]], _TWO, AfterValidator(_check_range)]
"""Lengths of kernels in pixels."""
EnlargingRange = Annotated[Sequence[Annotated[float, Field(ge=0, le=16)]], _TWO, AfterValidator(_check_range)]
"""Factors, larger above 1."""
ShrinkingRange = Annotated[Sequence[Annotated[float, Field(ge=0.0625, le=4096)]], _TWO, AfterValidator(_check_range)]
"""Factors, smaller above 1."""
QualityRange = Annotated[
    Sequence[Annotated[int, Field(ge=1, le=100)]], Field(min_length=2, max_length=2), AfterValidator(_check_range)
]
Degradations = Annotated[Any, AfterValidator(_check_degradations), WithJsonSchema({'format': 'degradations'})]
"""A step (a dict with ``type`` and its arguments) or a list of steps; checked in :mod:`gpen.options.components`."""
LayerWeights = Annotated[dict[str, NonNegativeFloat], AfterValidator(_check_layers)]
Scan = bool | Literal['full']
"""Whether a data set checks its files beforehand: ``full`` also decodes each image once."""
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
