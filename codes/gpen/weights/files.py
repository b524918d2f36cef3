"""Weight files: read safely, so that nothing but tensors and plain values is ever unpickled, and written."""

import hashlib
import logging
import re
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from gpen.errors import UserError, find_os_error
from gpen.utils.text import list_names, shorten
from gpen.weights.recognition import ZIP, is_safetensors, is_weights, name_stranger, read_head
from gpen.weights.unwrapping import Names, find_weights, find_weights_of

# Keys under which files keep a state dict, the preferred first: EMA weights before raw ones.
WRAPPERS = ('params_ema', 'g_ema', 'params', 'g', 'd', 'state_dict', 'model')
DISCRIMINATOR_WRAPPERS = ('params', 'd', 'state_dict', 'model')

_MOST_STRANGERS = 30  # kinds of objects beside the weights
_DIGEST = 'sha256_of_tensors'  # in the metadata of safetensors
_LARGEST_VIEW = 2**24  # values of a tensor that repeats the same ones

LOGGER = logging.getLogger('gpen')


def load_weights(
    path: str | Path, param_key: str | None = None, prefer: Sequence[str] = WRAPPERS, names: Names | None = None
) -> dict[str, Tensor]:
    """Read a state dict from a file in the format safetensors or of ``torch.save``, whatever was saved around it.

    Args:
        path: the file.
        param_key: the key of the state dict in the file, such as ``'params_ema'``; None finds it.
        prefer: keys to try in this order; if the file has none of them, it is the state dict itself.
        names: tells the names of the network's weights, by which they are found under any keys and prefixes, EMA
            weights first (:func:`gpen.weights.unwrapping.find_weights_of`).

    Returns:
        Tensors on the CPU by name.

    Raises:
        UserError: the file is missing, damaged or no weight file, has no ``param_key``, would have to run code, or
            holds tensors that are no weights (sparse, quantised, complex ones, some without values or with values that
            are not finite).
    """
    path = Path(path)
    content, strangers = _read(path, with_strangers=True)
    if isinstance(content, Mapping):
        inner = _choose(path, content, param_key)
        found = find_weights_of(inner, names, prefer) if names is not None else None
        state = found or find_weights(inner, prefer)
    else:
        state = {}

    # It has to hold tensors, dense and finite ones.
    if not state:
        raise _refuse(path, strangers) if strangers else _explain_without_weights(path, content)
    left_out = [name for name in strangers if not name.startswith('numpy.')]
    if left_out:
        LOGGER.warning('%s: what is no tensor was left out, unread: %s.', path, list_names(left_out))
    check_values(path, state)
    return {name: value.detach() for name, value in state.items()}


def read_file(path: Path, mmap: bool = False) -> Any:
    """Return the content of a file in the format safetensors or of ``torch.save``, on the CPU.

    The bytes of a file of ``torch.save`` are checked against the checksums that it carries.

    Args:
        path: the file.
        mmap: read each tensor from the disk when it is used, without checking it, for callers that need little of a
            large file of torch's.

    Raises:
        UserError: the file is missing or damaged, something else, or holds objects whose loading would run code.
    """
    return _read(path, mmap=mmap)[0]


def check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise UserError where a tensor is of a kind that no network here has, or has values that are not finite."""
    for name, value in state.items():
        strange = _name_kind(value)
        if strange is not None:
            raise UserError(
                f'{path} holds {strange} ({shorten(name, 80)}), which are no weights of a network here. Save dense '
                'tensors of floating point numbers where it comes from.'
            )

    spoilt = [name for name, value in state.items() if not is_finite(value)]
    if spoilt:
        raise UserError(
            f'{path} is spoilt: {len(spoilt)} of its {len(state)} tensors hold values that are not finite '
            f'({list_names(spoilt)}). Take an earlier checkpoint, or download the file again.'
        )


def is_finite(value: Tensor) -> bool:
    """Whether all values are finite as float32, in which networks hold them."""
    if not value.is_floating_point():
        return True
    return bool(torch.isfinite(value.float()).all())


# ---- reading


def _read(path: Path, mmap: bool = False, with_strangers: bool = False) -> tuple[Any, list[str]]:
    """Return the content of a file, and the names of the kinds of objects that were replaced by inert ones.

    Args:
        path: the file.
        mmap: see :func:`read_file`.
        with_strangers: read what is neither tensor nor plain value as inert objects, instead of refusing the file.
    """
    head = b''
    try:
        head = read_head(path)
        what = name_stranger(path, head)
        if what is not None:
            raise UserError(f'{path} {what}')
        if is_safetensors(head):
            return _load_safetensors(path), []
        if head.startswith(ZIP) and not mmap:
            _check_sums(path)
        return _load(path, mmap, with_strangers)
    except FileNotFoundError as error:
        raise UserError(f'There is no file {path}. Check the path, or download the weights first.') from error
    except (MemoryError, UserError):
        raise
    except Exception as error:  # damaged files raise almost any exception
        raise _explain(path, head, error) from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, checked against their digest where the file has one, as those of ours do."""
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    if _DIGEST in metadata and metadata[_DIGEST] != compute_digest(tensors):
        raise UserError(
            f'{path} is damaged: its tensors are not those that were written. Export, download or copy it again. (A '
            f'program that changes them on purpose has to leave out the metadata {_DIGEST}.)'
        )
    return tensors


def _load(path: Path, mmap: bool, with_strangers: bool) -> tuple[Any, list[str]]:
    """Unpickle a file of ``torch.save``; each time it needs another kind of object, try again with an inert one."""
    strangers: dict[str, Any] = {}
    while True:
        # StyleGAN2's training code saves its command line beside the weights, in a harmless Namespace.
        try:
            with torch.serialization.safe_globals([Namespace, *strangers.values()]), path.open('rb') as stream:
                # A stream, because torch chooses the format of a path by its suffix; it maps paths alone.
                source = path if mmap else stream
                return torch.load(source, map_location='cpu', weights_only=True, mmap=mmap), list(strangers)
        except UnpicklingError as error:
            name = _find_global(error)
            # A name that comes again is one that torch never replaces: of the modules os, sys and builtins.
            if name is None or name in strangers or not with_strangers or len(strangers) == _MOST_STRANGERS:
                if strangers:
                    raise _refuse(path, [*dict.fromkeys([*strangers, *filter(None, [name])])][::-1]) from error
                raise
            strangers[name] = _make_inert(name)


class _Inert(list[Any]):
    """What stands for an object of any class: it takes whatever a pickle gives it, and does nothing with it."""

    def __new__(cls, *_: Any, **__: Any) -> '_Inert':
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _make_inert(name: str) -> Any:
    """Return what ``safe_globals`` takes to read objects of a class as inert ones; a kind of dict becomes a dict."""
    module, _, word = name.rpartition('.')
    if word.lower().endswith('dict'):
        return OrderedDict, name
    return type(word, (_Inert,), {'__module__': module})


def _find_global(error: Exception) -> str | None:
    """Return the name of the class or function that a pickle needed and may not have."""
    found = re.search(r'GLOBAL ([\w.]+)', str(error)) if isinstance(error, UnpicklingError) else None
    return found[1] if found else None


def _check_sums(path: Path) -> None:
    """Raise UserError unless the bytes of each part of a zip are those that its checksum is of."""
    with zipfile.ZipFile(path) as archive:
        has_sums = any(part.CRC for part in archive.infolist())  # torch.serialization.set_crc32_options(False): none
        damaged = archive.testzip() if has_sums else None
    if damaged is not None:
        raise UserError(
            f'{path} is damaged: the bytes of {damaged} are not those that were written. Download or copy it again.'
        )


# ---- what is wrong


def _explain(path: Path, head: bytes, error: Exception) -> UserError:
    """Return what an exception of torch's or of safetensors means."""
    if isinstance(error, OSError) and error.strerror is not None:
        return UserError(f'Cannot read {path}: {error.strerror}. Give the path of a readable file.')
    if not is_weights(head):
        return UserError(
            f'{path} is damaged, cut short or no checkpoint at all: it does not begin as a file of torch.save or of '
            'safetensors does. Choose another file.'
        )
    code = _find_global(error)
    if code is not None:
        return _refuse(path, [code])
    reason = re.search(r'WeightsUnpickler error: (.*)', str(error))
    if reason is not None and head.startswith(ZIP):  # whose checksums are right
        return UserError(
            f'{path} is whole, but was not loaded: it was not saved as torch.save does by default ({reason[1]}). Save '
            'the state dict alone (torch.save(network.state_dict(), path)) where the file comes from.'
        )
    return UserError(f'{path} is damaged, cut short or no checkpoint at all. Download or copy it again.')


def _refuse(path: Path, strangers: Sequence[str]) -> UserError:
    return UserError(
        f'{path} was not loaded: it holds more than tensors ({list_names(strangers)}), and reading that could run '
        'code. Save the state dict alone (torch.save(network.state_dict(), path)) where the file comes from.'
    )


def _explain_without_weights(path: Path, content: Any) -> UserError:
    if not isinstance(content, Mapping):
        return UserError(f'{path} holds a {type(content).__name__} instead of a dict of weights. Choose another file.')
    found = f'entries that are no tensors ({list_names(map(str, content))})' if content else 'nothing'
    return UserError(
        f'{path} does not hold the weights of a network: where they should be there is {found}. '
        'Choose another file, or name the key of the weights as param_key.'
    )


def _choose(path: Path, content: Mapping[Any, Any], param_key: str | None) -> Mapping[Any, Any]:
    """Return the part of the content that ``param_key`` names, with dots between the keys; all of it for None."""
    chosen, rest = content, param_key or ''
    while rest:
        key = next((key for key in (rest, rest.partition('.')[0]) if isinstance(chosen.get(key), Mapping)), None)
        if key is None:
            keys = [str(key) for key, value in chosen.items() if isinstance(value, Mapping)]
            there = f'It has: {list_names(keys)}' if keys else 'It is a plain state dict, so leave param_key out'
            raise UserError(f'{path} has no weights under param_key {param_key!r}. {there}.')
        chosen, rest = chosen[key], rest[len(key) + 1 :]
    return chosen


def _name_kind(value: Tensor) -> str | None:
    """Return the kind of a tensor that no network here can take; None for an ordinary one."""
    kinds = {
        'tensors without values (of the device meta)': value.is_meta,
        'quantised tensors': value.is_quantized,
        'sparse tensors': value.layout != torch.strided or value.is_nested,
        'complex numbers': value.is_complex(),
    }
    if not any(kinds.values()):  # such as zeros(1).expand(10**6, 10**6)
        claims_more = value.numel() > max(_LARGEST_VIEW, value.untyped_storage().nbytes() // value.itemsize)
        kinds['tensors of more values than there are in the file'] = claims_more
    return next((kind for kind, applies in kinds.items() if applies), None)


def compute_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, kinds, shapes and bytes of dense tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}\n'.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors in the format safetensors, with their digest beside the metadata: the format has no checksums."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, {**metadata, _DIGEST: compute_digest(tensors)})


def write_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values as ``torch.save`` does.

    Raises:
        OSError: they cannot be written.
    """
    # Not the path: torch would write it by itself, and its error would not say what the operating system did.
    with path.open('wb') as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:
            # Its context is what the operating system said.
            raise find_os_error(error) or OSError(str(error.__context__ or error).partition('\n')[0]) from error
