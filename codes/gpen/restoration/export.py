"""Writing a trained generator to one file for other programs: ONNX, safetensors, or the published flat layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gpen import __version__
from gpen.data.image_io import read_image, resize, to_tensor
from gpen.data.storage import find_backend, open_storage
from gpen.errors import UserError
from gpen.restoration.export_onnx import external_path, write_onnx
from gpen.utils.files import atomic_path
from gpen.weights.files import write_file, write_safetensors
from gpen.weights.networks import load_generator

Format = Literal['onnx', 'safetensors', 'gpen']
SUFFIXES: dict[Format, str] = {'onnx': '.onnx', 'safetensors': '.safetensors', 'gpen': '.pth'}
MAX_FACES = 8


def export_generator(
    checkpoint: Path,
    kind: Format,
    output: Path | None = None,
    overwrite: bool = False,
    faces: Path | None = None,
    progress: Callable[[str], object] = len,
    half: bool = False,
) -> Path:
    """Write a generator (EMA weights first) in another format, whole or not at all.

    - ``onnx``: see :func:`gpen.restoration.export_onnx.write_onnx`.
    - ``safetensors``: float32, names as published; metadata ``format`` (pt), ``network_g`` (the options as JSON),
      ``version``, and ``sha256_of_tensors``, which is checked whenever the file is read here.
    - ``gpen``: a flat state dict as the published files are, to be read with ``weights_only=True``.

    All three can be given to :func:`gpen.restoration.loading.load_restorer`.

    Args:
        checkpoint: our files, published ones, BasicSR's or safetensors.
        kind: the format.
        output: where to; by default beside the checkpoint, see :func:`plan_output`.
        overwrite: replace a file that is there.
        faces: an image or a folder, to check ONNX with; images are resized to the network's input, at most
            :data:`MAX_FACES` of a folder are taken.
        progress: called with a sentence after each step.
        half: keep the weights of an ONNX file in float16.

    Returns:
        Where it was written.

    Raises:
        UserError: the checkpoint cannot be used, ``output`` is in the way or has another suffix, a package is missing,
            or ONNX Runtime computes something else than PyTorch.
    """
    output = plan_output(checkpoint, kind, output, overwrite, half)
    if half and kind != 'onnx':
        raise UserError(f'--half belongs to --format onnx; --format {kind} keeps the weights as they are.')
    if faces is not None and kind != 'onnx':
        raise UserError(
            f'--check belongs to --format onnx; the weights of --format {kind} are those of the checkpoint.'
        )

    network, config = load_generator(checkpoint)
    network.eval().requires_grad_(False)
    progress(f'{checkpoint}: {describe_network(config)}')

    if kind == 'onnx':
        write_onnx(network, config, output, _read_faces(faces, config['in_size']), progress, half)
    else:
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        _write_weights(output, state, config, kind)
    return output


def plan_output(checkpoint: Path, kind: Format, output: Path | None, overwrite: bool, half: bool = False) -> Path:
    """Return the path of the exported file: ``output``, or one beside the checkpoint with the suffix of the format.

    Raises:
        UserError: the checkpoint is an ONNX file or would be lost, another file is in the way, or the suffix is that of
            another format, by which the file would be read wrongly later.
    """
    suffix = SUFFIXES[kind]
    if checkpoint.suffix.lower() == '.onnx':
        raise UserError(f'{checkpoint} is exported already. Give the checkpoint that it was made from.')

    if output is None:
        output = checkpoint.with_name(name_output(checkpoint.name, kind, half))
    if output.suffix.lower() != suffix:
        raise UserError(f'--output {output}: a file of --format {kind} should end in {suffix}.')
    if output.resolve() == checkpoint.resolve():
        raise UserError(f'{output} is the checkpoint itself, which would be lost. Choose another --output.')
    if output.is_dir():
        raise UserError(f'--output {output} is a folder. Give the path of a file.')

    places = [output, external_path(output)] if kind == 'onnx' else [output]
    for place in places:
        if place.exists() and not overwrite:
            raise UserError(f'{place} is there already. Choose another --output, or replace it with --overwrite.')
    return output


def name_output(checkpoint: str, kind: Format, half: bool = False) -> str:
    """Return the default name of the exported file, from the checkpoint's.

    The published layout has the suffix of our own checkpoints, so its default name is ``NAME_gpen.pth``; that of an
    ONNX file with float16 weights is ``NAME_fp16.onnx``.
    """
    mark = '_gpen' if kind == 'gpen' else '_fp16' if half else ''
    return f'{Path(checkpoint).stem}{mark}{SUFFIXES[kind]}'


def describe_network(config: dict[str, Any]) -> str:
    """Return sizes and widths of a network in words, from its options."""
    size, in_size = config['size'], config['in_size']
    sizes = f'{size} x {size}' if size == in_size else f'{in_size} x {in_size} to {size} x {size}'
    return f'GPEN {sizes}, channel_multiplier {config["channel_multiplier"]}, narrow {config["narrow"]:g}'


def _write_weights(output: Path, state: dict[str, Tensor], config: dict[str, Any], kind: Format) -> None:
    """Write a state dict as safetensors, with the network's options as metadata, or as a PyTorch file without them."""
    from safetensors import SafetensorError

    with atomic_path(output) as temporary:
        if kind != 'safetensors':
            write_file(temporary, state)
            return
        metadata = {'format': 'pt', 'network_g': json.dumps(config), 'version': f'gpen-trainer {__version__}'}
        try:
            write_safetensors(temporary, state, metadata)
        except SafetensorError as error:  # how it reports a full disk, too
            raise OSError(str(error)) from error


def _read_faces(source: Path | None, size: int) -> list[Tensor]:
    """Return faces, each 1 x 3 x size x size: one image, or some spread evenly over a folder."""
    if source is None:
        return []

    if source.is_file():
        images = [read_image(source)]
    elif source.is_dir():
        storage = open_storage(source.absolute(), find_backend(source))
        keys = storage.keys()
        count = min(MAX_FACES, len(keys))
        chosen = [keys[index * len(keys) // count] for index in range(count)]
        images = [read_image(storage.read(key), storage.describe(key)) for key in chosen]
    else:
        raise UserError(f'--check {source}: there is no such file or folder. Give an image, or a folder of images.')

    if not images:
        raise UserError(f'--check {source}: there is no image in it. Give an image, or a folder of images.')
    return [to_tensor(resize(image, size))[None] for image in images]
