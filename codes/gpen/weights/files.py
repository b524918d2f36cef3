"""Files of weights, read safely: only tensors and plain values are ever unpickled."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from gpen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Keys under which files keep a state dict, the first that is there is taken: EMA weights before raw ones.
WRAPPERS = ('params_ema', 'g_ema', 'params', 'g', 'd', 'state_dict', 'model')
DISCRIMINATOR_WRAPPERS = ('params', 'd', 'state_dict', 'model')
NAMES_SHOWN = 4


def load_weights(path: str | Path, param_key: str | None = None, prefer: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or from one that ``torch.save`` wrote.

    Args:
        path: the file.
        param_key: the key in the file that holds the state dict, such as ``'params_ema'``; None finds it.
        prefer: keys to look for, the first that is there is taken; without any of them the file itself is the state
            dict.

    Returns:
        Tensors on the CPU, names without the prefix ``module.`` of DataParallel.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or needs code to be run, or ``param_key`` is not in it.
    """
    from torch import Tensor

    path = Path(path)
    content = _read_safetensors(path) if path.suffix.lower() == '.safetensors' else read_torch_file(path)
    if not isinstance(content, Mapping):
        raise UserError(f'{path} holds a {type(content).__name__} instead of a dict of weights. Choose another file.')
    state = _unwrap(path, content, param_key, prefer)
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        found = f'entries that are no tensors ({list_names(strange)})' if strange else 'nothing'
        raise UserError(
            f'{path} does not hold the weights of a network: where they should be there is {found}. '
            'Choose another file, or name the key of the weights as param_key.'
        )
    wrapped = all(str(key).startswith('module.') for key in state)
    return {str(key).removeprefix('module.') if wrapped else str(key): state[key].detach() for key in state}


def read_torch_file(path: Path, mmap: bool = False) -> Any:
    """Return what ``torch.save`` wrote to ``path``, on the CPU.

    Args:
        path: the file.
        mmap: read tensors from the disk only when they are used; for the rest of a large file.

    Raises:
        UserError: the file is missing or damaged, or holds objects that would need code to be run.
    """
    import torch

    try:
        # StyleGAN2's training code saves its command line beside the weights: a plain holder of values.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f'Cannot read {path}: {error.strerror}. Give the path of a readable file.') from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes end in almost any exception
        code = re.search(r'GLOBAL ([\w.]+)', str(error)) if isinstance(error, UnpicklingError) else None
        if code:
            raise UserError(
                f'{path} was not loaded: it holds more than tensors ({code[1]}), and reading that could run code. '
                'Save the state dict alone (torch.save(network.state_dict(), path)) where the file comes from.'
            ) from error
        raise _damaged(path) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device='cpu')
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path) from error


def _missing(path: Path) -> UserError:
    return UserError(f'There is no file {path}. Check the path, or download the weights first.')


def _damaged(path: Path) -> UserError:
    return UserError(f'{path} is damaged, cut short or no checkpoint at all. Download or copy it again.')


def _unwrap(path: Path, content: Mapping[Any, Any], param_key: str | None, prefer: Iterable[str]) -> Mapping[Any, Any]:
    """Return the state dict inside ``content``."""
    keys = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    if param_key is None:
        return next((content[key] for key in prefer if key in keys), content)
    if param_key not in keys:
        there = f'It has: {", ".join(keys)}' if keys else 'It is a plain state dict, so leave param_key out'
        raise UserError(f'{path} has no weights under param_key {param_key!r}. {there}.')
    inner: Mapping[Any, Any] = content[param_key]
    return inner


def list_names(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:NAMES_SHOWN]) + (', ...' if len(names) > NAMES_SHOWN else '')
