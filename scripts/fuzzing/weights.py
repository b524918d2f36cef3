"""Damaged and strange files of weights: each is read into networks as it should be, or refused in a sentence.

Half of the copies are good files with changed bytes, the others are whole files with strange content: tensors of other
kinds, shapes and values, unknown keys, wrappers at random, objects beside them.
"""

import logging
import pickle
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fuzzing import mutate
from gpen.archs import build_network
from gpen.errors import UserError
from gpen.restoration.onnx_backend import read_images
from gpen.weights.files import is_finite, load_weights
from gpen.weights.networks import fit_weights, load_generator
from gpen.weights.prior import load_decoder, load_discriminator

_WIDTH = {'size': 8, 'narrow': 1 / 64}
_GENERATOR = {'type': 'GPEN', 'style_dim': 4, 'n_mlp': 2, **_WIDTH}
_DISCRIMINATOR = {'type': 'GPENDiscriminator', **_WIDTH}
_KINDS = ('zip', 'legacy', 'safetensors', 'onnx')

Content = dict[str, Any]


def fuzz(generator: np.random.Generator, folder: Path) -> str:
    """Read a strange file in every way in which the program reads weights."""
    if generator.random() < 0.5:
        kind = str(generator.choice(_KINDS))
        path = folder / f'copy.{"onnx" if kind == "onnx" else "pth"}'
        path.write_bytes(mutate(_good_bytes(kind), generator))
    else:
        kind, path = 'content', folder / 'copy.pth'
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch, on kinds of tensors that it is giving up
            _save(path, _spoil(_wrap({**_good_content()}, generator), generator), generator)

    # Each way is tried; the first one gives the outcome its name.
    ways: list[Callable[[Path], object]] = [read_images]
    if kind != 'onnx':
        ways = [load_generator, _load_loosely, _load_prior, _load_critic]
    logging.disable(logging.WARNING)  # on objects beside the weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch, on old formats
            outcome, *_ = [_try(way, path, is_checked=kind == 'zip') for way in ways]
    finally:
        logging.disable(logging.NOTSET)
    return f'{kind}: {outcome}'


def _try(way: Callable[[Path], object], path: Path, is_checked: bool) -> str:
    """Read a file in one way; what was read has to be finite, and the original where the file has checksums."""
    try:
        found = way(path)
    except UserError as error:
        found, message = None, str(error)
    if found is None:
        assert str(path) in message, f'the file is not named: {message}'
        assert '\n' not in message, f'more than a line: {message}'
        return 'refused'
    network = found[0] if isinstance(found, tuple) else found
    if isinstance(network, nn.Module):
        state = network.state_dict()
        assert all(map(is_finite, state.values())), 'values that are not finite were loaded'
        expected = {name: value for name, value in _good_content()['params_ema'].items() if way is load_generator}
        assert not is_checked or all(torch.equal(state[name], value) for name, value in expected.items()), 'other bits'
    return 'read'


def _load_loosely(path: Path) -> str:
    network = build_network(_GENERATOR)
    fit_weights(network, load_weights(path, names=network.state_dict().__contains__), path, strict=False)
    return 'read'


def _load_prior(path: Path) -> nn.Module:
    network = build_network(_GENERATOR)
    load_decoder(network, path)
    return network


def _load_critic(path: Path) -> str:
    is_loaded, _ = load_discriminator(build_network(_DISCRIMINATOR), path)
    return 'loaded' if is_loaded else 'not there'


# ---- good files


@cache
def _good_content() -> Content:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, discriminator = build_network(_GENERATOR).state_dict(), build_network(_DISCRIMINATOR).state_dict()
    return {'params_ema': dict(generator), 'd': dict(discriminator), 'epoch': 3, 'loss': np.float64(0.5)}


@cache
def _good_bytes(kind: str) -> bytes:
    state = _good_content()['params_ema']
    if kind == 'safetensors':
        return to_safetensors(state)
    if kind == 'onnx':
        from onnx import helper

        values = [helper.make_tensor_value_info(name, 1, ['batch', 3, 8, 8]) for name in ('input', 'output')]
        graph = helper.make_graph(
            [helper.make_node('Identity', ['input'], ['output'])], 'graph', values[:1], values[1:]
        )
        return bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    stream = BytesIO()
    torch.save({'params_ema': state}, stream, _use_new_zipfile_serialization=kind == 'zip')
    return stream.getvalue()


# ---- strange content


def _wrap(content: Content, generator: np.random.Generator) -> Content:
    """Put prefixes before the names and keys around the weights, as training frameworks do."""
    words = ('module', '_orig_mod', 'net_g', 'generator_smooth', 'ema', 'state_dict', 'a b', '', 'model.x', '7')
    for _ in range(generator.integers(0, 4)):
        word = str(generator.choice(words))
        if generator.random() < 0.5:
            content = {word: content}
        else:
            content = {
                key: {f'{word}.{name}': inner for name, inner in value.items()} if isinstance(value, dict) else value
                for key, value in content.items()
            }
    return content


def _spoil(content: Content, generator: np.random.Generator) -> Content:
    """Change a few of the tensors and dicts at random."""
    for _ in range(generator.integers(0, 4)):
        place = _choose_dict(content, generator)
        key = list(place)[int(generator.integers(len(place)))] if place else 'x'
        change = int(generator.integers(5))
        if change == 0:
            place.pop(key, None)
        elif change == 1:
            place[_choose_key(generator)] = place.get(key)
        elif change == 2:
            place |= {f'extra.{n}': torch.zeros(()) for n in range(int(generator.integers(1, 300)))}
        elif change == 3:
            place[key] = _choose_object(place, generator)
        elif isinstance(place.get(key), Tensor) and place[key].numel() < 10**6:  # not one that claims 2**31 values
            place[key] = _change_tensor(place[key], generator)
    return content


def _choose_dict(content: Content, generator: np.random.Generator) -> Content:
    """Return a copy of one of the nested dicts, put in its place."""
    while inner := [key for key, value in content.items() if isinstance(value, dict) and value is not content]:
        key = inner[int(generator.integers(len(inner)))]
        content[key] = dict(content[key])
        content = content[key]
        if generator.random() < 0.3:
            break
    return content


def _choose_key(generator: np.random.Generator) -> Any:
    keys: list[Any] = [
        'd',
        'g_ema',
        'n_averaged',
        'a\nb',
        'x' * 5000,
        '.' * 3000,
        '',
        5,
        None,
        True,
        (1, 'a'),
        '\ud800',
    ]
    return keys[int(generator.integers(len(keys)))]


def _choose_object(content: Content, generator: np.random.Generator) -> Any:
    objects: list[Any] = [
        None, 'text', 1.5, [torch.ones(2)], {}, np.float32(1), np.zeros(3), Path('a'), Fraction(1, 2), content,
        SimpleNamespace(a=1), nn.Linear(2, 2), eval, pickle.Pickler, torch.float16, torch.Size([1]), b'bytes', {1, 2},
    ]  # fmt: skip
    return objects[int(generator.integers(len(objects)))]


def _change_tensor(value: Tensor, generator: np.random.Generator) -> Tensor:
    """Return a tensor of another kind, shape or content."""
    changes: list[Callable[[], Tensor]] = [
        lambda: value.flatten(),
        lambda: value[None],
        lambda: value.sum(),
        lambda: value.flatten()[:0],
        lambda: torch.zeros(1).expand(2**30, 2),
        lambda: value.to('meta'),
        lambda: value.to_sparse(),
        lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.full_like(value, float(generator.choice([np.nan, np.inf, -np.inf, 3e38]))),
        lambda: torch.full_like(value, 1e300, dtype=torch.float64),
        lambda: nn.Parameter(value),
        *(partial(value.to, kind) for kind in (torch.bool, torch.int8, torch.int64, torch.complex64)),
        *(partial(value.to, kind) for kind in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn)),
    ]
    return changes[int(generator.integers(len(changes)))]()


def _save(path: Path, content: Any, generator: np.random.Generator) -> None:
    try:
        torch.save(content, path, _use_new_zipfile_serialization=bool(generator.random() < 0.7))
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, UnicodeError):
        torch.save({'params': {}}, path)  # torch cannot write such a thing
