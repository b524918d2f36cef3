"""The options of a run: from its newest state, or from TensorBoard, with the defaults of what they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpen import registry
from gpen.errors import UserError


def fill_defaults(options: Any) -> Any:
    """Return options where each ``type`` block has the defaults of what it names, so that writing one is no change."""
    if not isinstance(options, dict):
        return options
    filled = {key: fill_defaults(value) for key, value in options.items()}
    kind = options.get('type')
    registries = [item for item in vars(registry).values() if isinstance(item, registry.Registry)]
    definitions = [one.definitions.get(kind) for one in registries] if isinstance(kind, str) else []
    for definition in definitions:
        if definition is not None:
            defaults = {parameter.name: parameter.default for parameter in definition.parameters}
            filled = {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()} | filled
    return filled


def read_options(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Return the options of a run from its newest state, or else from TensorBoard; empty where neither tells.

    Args:
        folder: of the run.
        notes: what has to be said about them is added, in sentences.
    """
    from gpen.weights.files import read_torch_file

    states = [path for path in (folder / 'training_states').glob('*.state') if path.stem.isdecimal()]
    for path in sorted(states, key=lambda path: int(path.stem), reverse=True):
        try:
            content = read_torch_file(path, mmap=True)
        except UserError as error:
            notes.append(str(error))
            continue
        if isinstance(content, Mapping) and isinstance(content.get('options'), dict):
            options: dict[str, Any] = content['options']
            return options
    return _read_recorded_options(folder, notes)


def _read_recorded_options(folder: Path, notes: list[str]) -> dict[str, Any]:
    import yaml

    from gpen.reporting.pictures import read_options_text

    try:
        options = yaml.safe_load(read_options_text(folder) or '')
    except UserError as error:
        notes.append(str(error))
    except yaml.YAMLError:
        notes.append('The options that TensorBoard holds could not be read.')
    else:
        if isinstance(options, dict):
            notes.append('There is no training state: the options are those of the option file, without defaults.')
            return options
        notes.append('There is neither a training state nor a TensorBoard file that tells the options.')
    return {}
