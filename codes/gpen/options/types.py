"""Annotations for options: a type with its allowed range.

Constructors of networks, losses, datasets, metrics, schedulers and optimizers annotate their arguments with these (or
with plain ``int``, ``float``, ``bool``, ``str``, ``list[...]``, ``dict[...]``, ``Literal[...]``, ``... | None``), and
the option parser checks YAML values against them without importing torch.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional, Union  # noqa: F401 - annotations may hold all of them

from pydantic import AfterValidator, Field, WithJsonSchema


def _check_degradations(value: Any) -> Any:
    steps = value if isinstance(value, list) else [value]
    if steps and all(isinstance(step, dict) and isinstance(step.get('type'), str) for step in steps):
        return value
    raise ValueError('should be a degradation, such as {type: gfpgan}, or a list of them')


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


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
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
OddInt = Annotated[int, Field(gt=0, json_schema_extra={'format': 'odd'}), AfterValidator(_check_odd)]
Range = Annotated[Sequence[NonNegativeFloat], Field(min_length=2, max_length=2), AfterValidator(_check_range)]
SignedRange = Annotated[Sequence[FiniteFloat], Field(min_length=2, max_length=2), AfterValidator(_check_range)]
QualityRange = Annotated[
    Sequence[Annotated[int, Field(ge=1, le=100)]], Field(min_length=2, max_length=2), AfterValidator(_check_range)
]
Degradations = Annotated[Any, AfterValidator(_check_degradations), WithJsonSchema({'format': 'degradations'})]
"""A step (a dict with ``type`` and its arguments) or a list of steps; checked in :mod:`gpen.options.components`."""
Scan = bool | Literal['full']
"""Whether a data set checks its files beforehand: ``full`` also decodes each image once."""
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
