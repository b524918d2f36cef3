"""The models to score: which files, how tables call them, and how they are loaded."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpen.archs import build_network
from gpen.errors import UserError
from gpen.options.blocks import Component
from gpen.options.checks import INPUT_NAME
from gpen.options.schema import Options
from gpen.restoration.base import Restorer
from gpen.restoration.loading import load_restorer
from gpen.weights.by_name import find_model
from gpen.weights.files import load_weights
from gpen.weights.networks import fit_weights


@dataclass(frozen=True)
class ModelFile:
    """The file of a model that is scored, as ``results.json`` lists it.

    Attributes:
        path: as it was given.
        sha256: of its content, in hexadecimal.
        bytes: its length.
        size: height and width of the output; None where it depends on the input.
        in_size: height and width of the input; None where any is taken.
        backend: what runs it.
    """

    path: str
    sha256: str
    bytes: int
    size: int | None
    in_size: int | None
    backend: str


class ModelShelf:
    """The models of a scoring run; one at a time is in memory.

    Args:
        paths: files of weights by the name of the model, one at least.
        network_g: the network that they belong to; None: a GPEN, whose size and width are read off each file.
        device: where they run.

    Attributes:
        files: the file of each model.
        size: height and width of their output; None where it depends on the input.
        in_size: height and width of their input; None where any is taken.

    Raises:
        UserError: a file is missing, damaged, or does not fit the network, or two models differ in size.
    """

    def __init__(self, paths: dict[str, Path], network_g: Component | None, device: torch.device) -> None:
        self._paths = paths
        self._network_g = network_g
        self._device = device
        self._loaded: tuple[str, Restorer] | None = None
        self.files = {name: self._inspect(name) for name in paths}

        # All models have the sizes of the first one.
        first, *others = self.files.items()
        self.size, self.in_size = first[1].size, first[1].in_size
        for name, file in others:
            if (file.size, file.in_size) != (self.size, self.in_size):
                raise UserError(
                    f'{name} makes images of {file.size} pixels out of {file.in_size}, but {first[0]} {self.size} out '
                    f'of {self.in_size}: their scores cannot be compared. Score them in runs of their own.'
                )

    def load(self, name: str) -> Restorer:
        """Return a model, read from its file unless it was the last one asked for."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # makes room first
            self._loaded = (name, load_model(self._paths[name], self._network_g, self._device))
        return self._loaded[1]

    def _inspect(self, name: str) -> ModelFile:
        """Load a model, which shows whether it can be used, and describe its file."""
        path = self._paths[name]
        model = self.load(name)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return ModelFile(str(path), digest, len(content), model.size or None, model.in_size or None, model.backend)


def load_model(path: Path, network_g: Component | None, device: torch.device) -> Restorer:
    """Load a model: GPEN and ONNX files as restore.py does, any other network as ``network_g`` says.

    Raises:
        UserError: no such file, or it does not fit.
    """
    if network_g is None or is_known_by_file(path, network_g):
        return load_restorer(path, device, fall_back=True)

    network = build_network(network_g.to_dict())
    fit_weights(network, load_weights(path, names=network.state_dict().__contains__), path)
    network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def run(lq: Tensor) -> Tensor:
        return network(lq.to(device))

    size = network_g.arguments.get('size') or 0
    in_size = network_g.arguments.get('in_size') or size
    return Restorer(run, size, in_size, f'PyTorch on {device.type}, fp32')


def is_known_by_file(path: Path, network_g: Component | None) -> bool:
    """Tell whether a file says which network it belongs to, as restore.py needs it: those of a GPEN and ONNX files."""
    return network_g is None or network_g.type == 'GPEN' or path.suffix.lower() == '.onnx'


def find_run_weights(options: Options) -> Path:
    """Return the weights of a training run to score: its best, else its latest.

    Raises:
        UserError: there are none.
    """
    folder = options.experiment_folder / 'models'
    for name in ('net_g_best.pth', 'net_g_latest.pth'):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f'There are no weights in {folder}. Train first, or give a file with --model FILE.')


def name_models(files: Sequence[str | Path]) -> dict[str, Path]:
    """Return names for files that were given without names: their stems.

    Where two are equal, the suffixes are added, and then as many folders in front as it takes.

    See :func:`gpen.weights.by_name.find_model` for what may be given.

    Raises:
        UserError: a file is not there, and cannot be downloaded.
    """
    found = {path.resolve(): path for path in map(find_model, files)}.values()  # each file once
    paths = {path.parent.resolve() / path.name: path for path in found}  # a link has its own name

    for depth in range(max(len(path.parts) for path in paths)):
        for has_suffix in (False, True):
            names = [_name(path, depth, has_suffix) for path in paths]
            if len(set(names)) == len(names) and INPUT_NAME not in names:
                return dict(zip(names, paths.values(), strict=True))

    return {f'{n}_{_name(path, 0, True)}': given for n, (path, given) in enumerate(paths.items(), start=1)}


def _name(path: Path, depth: int, has_suffix: bool) -> str:
    """Return the last ``depth`` folders and the name of a file, with only such characters as file names may have.

    The folder ``models`` of a run tells nothing, so that of the run takes its place.
    """
    folders = [part for part in path.parts[1:-1] if part != 'models']
    parts = [*folders[len(folders) - min(depth, len(folders)) :], path.name if has_suffix else path.stem]
    return re.sub(r'[^A-Za-z0-9._-]+', '-', '_'.join(parts)).lstrip('._-')[-120:] or 'model'
