"""``options.yml``: the options of a run as they were given and as they were resolved."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from gpen.options import ParsedOptions
from gpen.utils.files import write_text

OPTIONS_FILE = 'options.yml'

_HEADER = """\
# The options of this run with all defaults. It can be used again: python codes/train.py -opt THIS_FILE
# As they were given:
"""


def write_options(folder: Path, parsed: ParsedOptions) -> None:
    """Write the options to the folder of the run: as given in comments, and resolved as YAML that ``-opt`` takes."""
    given = ''.join(f'#   {line}\n' for line in parsed.text.splitlines())
    resolved = yaml.safe_dump(_to_plain(parsed.options), sort_keys=False, allow_unicode=True)
    write_text(folder / OPTIONS_FILE, f'{_HEADER}{given}\n{resolved}')


def _to_plain(value: Any) -> Any:
    """Return options as plain values; a field that is None because it was not given is left out."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: _to_plain(content)
            for name, content in value
            if not (content is None and name in fields and fields[name].default is None)
        }
    if isinstance(value, dict):
        return {name: _to_plain(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(content) for content in value]
    return value
