"""Option files: YAML in BasicSR's style, checked to the last key before anything heavy is imported."""

from gpen.options.parse import ParsedOptions, parse_options
from gpen.options.schema import Component, Dataset, Options

__all__ = ['Component', 'Dataset', 'Options', 'ParsedOptions', 'parse_options']
