"""Degradations, which make LQ images out of GT images: steps joined in YAML, and the recipes of published papers."""

from gpen.data.degradations.compose import (
    Degrade,
    build_degradation,
    build_pair_degradation,
    try_degradation,
)

__all__ = ['Degrade', 'build_degradation', 'build_pair_degradation', 'try_degradation']
