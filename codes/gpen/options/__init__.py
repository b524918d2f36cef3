"""Option files: YAML in BasicSR's style, checked to the last key before anything heavy is imported."""

from gpen.options.blocks import Component, Dataset
from gpen.options.parse import ParsedOptions, parse_options, parse_scoring_options, to_scoring_options
from gpen.options.schema import Options, ScoringOptions

__all__ = [
    'Component',
    'Dataset',
    'Options',
    'ParsedOptions',
    'ScoringOptions',
    'parse_options',
    'parse_scoring_options',
    'to_scoring_options',
]
