"""Weight files, read safely: nothing but tensors and plain values is ever unpickled."""

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from gpen.errors import UserError
from gpen.utils.text import list_names

# Keys under which files keep a state dict, the preferred first: EMA weights before raw ones.
WRAPPERS = ('params_ema', 'g_ema', 'params', 'g', 'd', 'state_dict', 'model')
DISCRIMINATOR_WRAPPERS = ('params', 'd', 'state_dict', 'model')


def load_weights(path: str | Path, param_key: str | None = None, prefer: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or from one that ``torch.save`` wrote.

    Args:
        path: the file.
        param_key: the key of the state dict in the file, such as ``'params_ema'``; None finds it.
        prefer: keys to try in this order; if the file has none of them, it is the state dict itself.

    Returns:
        Tensors on the CPU by name, without the prefix ``module.`` of DataParallel.

    Raises:
        UserError: the file is missing, damaged or no weight file, has no ``param_key``, or would have to run code.
    """
    # Read the file, and take the state dict out of it.
    path = Path(path)
    content = read_file(path)
    if not isinstance(content, Mapping):
        raise UserError(f'{path} holds a {type(content).__name__} instead of a dict of weights. Choose another file.')
    state = _unwrap(path, content, param_key, prefer)

    # It has to hold tensors.
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        found = f'entries that are no tensors ({list_names(strange)})' if strange else 'nothing'
        raise UserError(
            f'{path} does not hold the weights of a network: where they should be there is {found}. '
            'Choose another file, or name the key of the weights as param_key.'
        )

    wrapped = all(str(key).startswith('module.') for key in state)
    return {str(key).removeprefix('module.') if wrapped else str(key): state[key].detach() for key in state}


def read_file(path: Path, mmap: bool = False) -> Any:
    """Return the content of a ``.safetensors`` file or of one that ``torch.save`` wrote, on the CPU.

    Args:
        path: the file.
        mmap: read each tensor from the disk when it is used, for callers that need little of a large file of torch's.

    Raises:
        UserError: the file is missing or damaged, or holds objects whose loading would run code.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == '.safetensors':
            return load_file(path)
        # StyleGAN2's training code saves its command line beside the weights, in a harmless Namespace.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise UserError(f'There is no file {path}. Check the path, or download the weights first.') from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f'Cannot read {path}: {error.strerror}. Give the path of a readable file.') from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise almost any exception
        code = re.search(r'GLOBAL ([\w.]+)', str(error)) if isinstance(error, UnpicklingError) else None
        if code:
            raise UserError(
                f'{path} was not loaded: it holds more than tensors ({code[1]}), and reading that could run code. '
                'Save the state dict alone (torch.save(network.state_dict(), path)) where the file comes from.'
            ) from error
        raise UserError(f'{path} is damaged, cut short or no checkpoint at all. Download or copy it again.') from error


def _unwrap(path: Path, content: Mapping[Any, Any], param_key: str | None, prefer: Iterable[str]) -> Mapping[Any, Any]:
    """Return the state dict inside ``content``."""
    keys = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    if param_key is None:
        return next((content[key] for key in prefer if key in keys), content)
    if param_key not in keys:
        there = f'It has: {", ".join(keys)}' if keys else 'It is a plain state dict, so leave param_key out'
        raise UserError(f'{path} has no weights under param_key {param_key!r}. {there}.')
    return content[param_key]
