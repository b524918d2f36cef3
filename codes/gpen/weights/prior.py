"""Loading a GAN prior into the decoder of a network, and its discriminator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gpen.errors import UserError
from gpen.utils.text import list_names
from gpen.weights.files import DISCRIMINATOR_WRAPPERS, load_weights
from gpen.weights.networks import compare_weights, infer_decoder_config
from gpen.weights.unwrapping import DECODER, Names

PREFIX = 'generator.'


def load_decoder(network: nn.Module, path: Path) -> None:
    """Load a prior into the decoder of a network, the weights whose names start with ``generator.``

    Args:
        network: a GPEN or a GPENPrior.
        path: weights of a GPENPrior, of a GPEN (of which the decoder is used), or of StyleGAN2 in rosinality's layout,
            which fits a decoder with ``isconcat: false``.  EMA weights are preferred.

    Raises:
        UserError: the file cannot be read, holds no such weights, or weights of another size or width; the network is
            unchanged.
    """
    ours = {name: value for name, value in network.state_dict().items() if name.startswith(PREFIX)}
    if not ours:
        raise UserError(
            f'path.pretrain_prior: {type(network).__name__} has no decoder that a prior fits. Use a GPEN as network_g.'
        )

    theirs = _find_decoder(load_weights(path, names=DECODER), path)
    left_out = compare_weights(theirs, ours)
    if left_out:
        raise UserError(
            f'path.pretrain_prior: {path} {_explain_difference(theirs, ours) or f"does not fit: {left_out}"}.'
        )

    network.load_state_dict(theirs, strict=False)  # the prior has no weights for the encoder


def load_discriminator(network: nn.Module, path: Path) -> tuple[bool, str]:
    """Load the discriminator that a prior was trained with, if it can be found and fits.

    It is in the prior's own file under the key ``d``, or beside a file of ours: ``net_d_1000.pth`` or
    ``net_d_latest.pth`` for ``net_g_1000.pth``.

    Args:
        network: the discriminator; unchanged if no weights fit.
        path: the file of the prior.

    Returns:
        Whether weights were loaded, and the file that they came from or the reason why not.

    Raises:
        UserError: a file is damaged.
    """
    names = network.state_dict()
    found = _find_discriminator(path, names.__contains__)
    if found is None:
        return False, f'there is none in {path}, nor beside it'
    source, state = found

    left_out = compare_weights(state, names)
    if left_out:
        return False, f'that of {source} does not fit: {left_out}'
    network.load_state_dict(state)
    return True, str(source)


def _find_decoder(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights of the decoder in a state dict, under GPEN's names."""
    decoder = {name: value for name, value in state.items() if name.startswith(PREFIX)}
    if decoder:
        return decoder
    # rosinality's StyleGAN2 has the same names without the prefix, and fixed noise that GPEN does not use.
    if 'style.1.weight' in state and 'to_rgb1.bias' in state:
        return {PREFIX + name: value for name, value in state.items() if not name.startswith('noises.')}
    raise UserError(
        f'path.pretrain_prior: {path} holds no GAN prior ({list_names(state)}). Give the weights of a GPENPrior or a '
        "GPEN, or a StyleGAN2 checkpoint in rosinality's layout."
    )


def _find_discriminator(path: Path, names: Names) -> tuple[Path, dict[str, Tensor]] | None:
    """Return the file and the weights of the discriminator that belongs to a prior's file, or None."""
    # In the prior's own file: what has as good as all names of a discriminator.
    state = load_weights(path, prefer=DISCRIMINATOR_WRAPPERS, names=names)
    if sum(map(bool, map(names, state))) > len(state) / 2:
        return path, state

    # Beside it.
    if not path.name.startswith('net_g'):
        return None
    for name in (path.name.replace('net_g', 'net_d', 1), f'net_d_latest{path.suffix}'):
        beside = path.with_name(name)
        if beside.is_file():
            return beside, load_weights(beside, prefer=DISCRIMINATOR_WRAPPERS, names=names)
    return None


def _explain_difference(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str | None:
    """Return a sentence about the options in which two decoders differ, or None if they cannot be read off."""
    try:
        prior, network = infer_decoder_config(theirs), infer_decoder_config(ours)
    except (KeyError, IndexError, ValueError, ArithmeticError, UserError):
        return None

    different = {name: value for name, value in prior.items() if network[name] != value}
    if not different:
        return None

    settings = ', '.join(f'{name}: {_format(value)}' for name, value in different.items())
    present = ', '.join(f'{name}: {_format(network[name])}' for name in different)
    return (
        f'is a prior with {settings}, but network_g has {present}. Change these options of network_g, or train a prior '
        'with them'
    )


def _format(value: Any) -> str:
    """Write a value as YAML does."""
    return str(value).lower() if isinstance(value, bool) else f'{value:g}'
