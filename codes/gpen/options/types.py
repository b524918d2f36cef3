"""Annotations for options: a type with its allowed range.

Constructors of networks, losses, datasets, metrics, schedulers and optimizers annotate their arguments with these (or
with plain ``int``, ``float``, ``bool``, ``str``, ``list[...]``, ``dict[...]``, ``Literal[...]``, ``... | None``), and
the option parser checks YAML values against them without importing torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AfterValidator, Field


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
ImageSize = Annotated[int, Field(ge=8, le=4096), AfterValidator(_check_power_of_two)]
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]

__all__ = [
    'Any',
    'Betas',
    'Decay',
    'FiniteFloat',
    'ImageSize',
    'Literal',
    'NonNegativeFloat',
    'NonNegativeInt',
    'Optional',
    'PositiveFloat',
    'PositiveInt',
    'Probability',
    'Union',
]
