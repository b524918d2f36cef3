"""Loading a weight file into a network, and reading the options of a GPEN off its weights.

Files may be published ones, our own, BasicSR's or safetensors.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs.channels import base_channels, channel_counts
from gpen.archs.gpen import GPEN
from gpen.errors import UserError
from gpen.utils.text import format_shape, list_names
from gpen.weights.files import load_weights
from gpen.weights.unwrapping import GENERATOR


class MisfitError(UserError):
    """The weights in a file do not fit the network."""


@dataclass
class LeftOut:
    """Differences between the weights in a file and those of a network.

    Attributes:
        missing: keys of the network that the file does not have.
        unexpected: keys of the file that the network does not have.
        mismatched: keys of both whose shapes differ, with the file's shape and the network's.
        retyped: keys of both, of one shape, of which one holds floating point numbers and the other integers or truth
            values; with the file's type and the network's.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    retyped: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched or self.retyped)

    def __str__(self) -> str:
        """Name the first few of each kind, such as ``2 missing in the file (a, b); 1 of another shape (...)``."""
        shapes = [
            f'{key}: file {format_shape(theirs)}, network {format_shape(ours)}'
            for key, (theirs, ours) in self.mismatched.items()
        ]
        types = [f'{key}: file {theirs}, network {ours}' for key, (theirs, ours) in self.retyped.items()]
        kinds = {
            'missing in the file': self.missing,
            'unknown to the network': self.unexpected,
            'of another shape': shapes,
            'of another type': types,
        }
        return '; '.join(f'{len(names)} {kind} ({list_names(names)})' for kind, names in kinds.items() if names)


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, strict: bool = True) -> LeftOut:
    """Load weights that :func:`load_weights` read into a network.

    Args:
        network: its parameters are changed in place.
        state: the weights.
        path: the file that they come from, for messages.
        strict: all keys and shapes must agree; otherwise what fits is loaded, if that is most of the file.

    Returns:
        What was left out; nothing if ``strict``.

    Raises:
        MisfitError: the weights do not fit; the network is unchanged.
    """
    left_out = compare_weights(state, network.state_dict())
    unfit = {*left_out.unexpected, *left_out.mismatched, *left_out.retyped}
    fitting = {key: value for key, value in state.items() if key not in unfit}

    # Most must fit: two kinds of network may share a key by chance, and two widths share the weights without a width.
    related = len(left_out.unexpected) < len(state) / 2
    fits = len(fitting) > len(state) / 2
    if (strict and left_out) or not fits:
        advice = 'Change the options of the network' if related else 'Choose a file for this kind of network'
        loose = ', or set strict_load_g (or _d) to false to load what fits' if strict and fits else ''
        raise MisfitError(
            f'The weights in {path} do not fit {type(network).__name__}: {left_out}. '
            f'{_describe_gpen(state)}{advice}{loose}.'
        )

    network.load_state_dict(fitting, strict=strict)
    return left_out


def load_generator(path: str | Path) -> tuple[GPEN, dict[str, Any]]:
    """Build the GPEN generator of a weight file; its options are read off the weights, of which the EMA is preferred.

    Args:
        path: see :func:`load_weights`.

    Returns:
        The generator, and its options as returned by :func:`infer_gpen_config`.

    Raises:
        UserError: as :func:`load_weights`, or these are not the weights of a GPEN generator.
    """
    state = load_weights(path, names=GENERATOR)
    try:
        config = infer_gpen_config(state)
        network = GPEN(**{key: value for key, value in config.items() if key != 'type'})
    except UserError as error:
        raise UserError(f'{path}: {error}') from error

    fit_weights(network, state, path)
    return network, config


def infer_gpen_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the options of a GPEN generator off its weights.

    Args:
        state_dict: see :func:`load_weights`.

    Returns:
        Options for :func:`gpen.archs.build_network`: type, size, in_size, style_dim, n_mlp, channel_multiplier, narrow
        and isconcat.  Where several values give the same network, ``channel_multiplier`` is 2 if possible.

    Raises:
        UserError: these are not the weights of a GPEN generator.
    """
    try:
        decoder = infer_decoder_config(state_dict)
        # The encoder halves in_size down to 4 x 4, with one layer at each resolution.
        encoders = _count(state_dict, r'ecd\d+\.0\.\d+\.weight')
        if not encoders or state_dict['final_linear.0.weight'].shape[0] != decoder['style_dim']:
            raise KeyError('no encoder')
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        if state_dict and all(name.startswith('generator.') for name in state_dict):
            raise UserError(
                'These are the weights of a GAN prior, which makes faces out of noise and restores none. Train a GPEN '
                'that starts from it (path.pretrain_prior), and use that.'
            ) from error
        raise UserError(
            f'These are not the weights of a GPEN generator ({list_names(state_dict)}). Give the file of one, such as '
            'net_g_best.pth of a run.'
        ) from error
    return {'type': 'GPEN', 'size': decoder.pop('size'), 'in_size': 2 ** (encoders + 1), **decoder}


def infer_decoder_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the options of a decoder off its weights, whose names start with ``generator.``.

    Returns:
        size, style_dim, n_mlp, channel_multiplier, narrow and isconcat; see :func:`infer_gpen_config`.

    Raises:
        KeyError, IndexError, ValueError, ArithmeticError: these are not the weights of a decoder.
    """
    # Channel counts: O of the first convolution, 1 x O x I x 3 x 3, at each resolution.
    lowest = state_dict['generator.conv1.conv.weight'].shape[1]
    upsamplings = _count(state_dict, r'generator\.to_rgbs\.\d+\.bias')
    counts = {2 ** (i + 3): state_dict[f'generator.convs.{2 * i}.conv.weight'].shape[1] for i in range(upsamplings)}
    channel_multiplier, narrow = _infer_factors({4: lowest, **counts})
    style_dim = state_dict['generator.style.1.weight'].shape[0]
    n_mlp = _count(state_dict, r'generator\.style\.\d+\.weight')

    # A damaged file may claim a network that is larger than all memory: it has to hold as many values as its layers.
    held = sum(min(value.numel(), value.untyped_storage().nbytes() // value.itemsize) for value in state_dict.values())
    if held < max(n_mlp * style_dim**2, 9 * max(lowest, *counts.values()) ** 2):
        raise ValueError('fewer values than its shapes have')

    return {
        'size': 2 ** (upsamplings + 2),
        'style_dim': style_dim,
        'n_mlp': n_mlp,
        'channel_multiplier': channel_multiplier,
        'narrow': narrow,
        'isconcat': state_dict['generator.conv1.activate.bias'].shape[0] == 2 * lowest,
    }


def infer_discriminator_config(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the options of GPEN's discriminator off its weights.

    Returns:
        Options for :func:`gpen.archs.build_network`: type, size, channel_multiplier and narrow.  Where several values
        give the same network, ``channel_multiplier`` is 2 if possible.

    Raises:
        UserError: these are not the weights of such a discriminator.
    """
    try:
        # Channel counts: of the first convolution, O x 3 x 1 x 1, and of each block, which halves the resolution.
        blocks = _count(state_dict, r'convs\.\d+\.conv2\.1\.weight')
        counts = {2 ** (blocks + 2): state_dict['convs.0.0.weight'].shape[0]}
        counts |= {
            2 ** (blocks + 2 - n): state_dict[f'convs.{n}.conv2.1.weight'].shape[0] for n in range(1, blocks + 1)
        }
        channel_multiplier, narrow = _infer_factors(counts)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"These are not the weights of GPEN's discriminator ({list_names(state_dict)}). Choose another file."
        ) from error
    size = max(counts)
    return {'type': 'GPENDiscriminator', 'size': size, 'channel_multiplier': channel_multiplier, 'narrow': narrow}


def compare_weights(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> LeftOut:
    """Return the differences between the weights in a file and those of a network."""
    shapes = {key: (tuple(theirs[key].shape), tuple(ours[key].shape)) for key in ours if key in theirs}
    types = {key: (theirs[key].dtype, ours[key].dtype) for key, (their, our) in shapes.items() if their == our}
    return LeftOut(
        missing=[key for key in ours if key not in theirs],
        unexpected=[key for key in theirs if key not in ours],
        mismatched={key: (their, our) for key, (their, our) in shapes.items() if their != our},
        retyped={
            key: (str(their).removeprefix('torch.'), str(our).removeprefix('torch.'))
            for key, (their, our) in types.items()
            if _kind_of(their) != _kind_of(our)
        },
    )


def _kind_of(dtype: torch.dtype) -> str:
    """Return what a type holds: numbers of one kind may be converted into each other."""
    if dtype.is_floating_point or dtype.is_complex:
        return 'complex' if dtype.is_complex else 'floating point'
    return 'truth values' if dtype == torch.bool else 'integers'


def _describe_gpen(state: Mapping[str, Tensor]) -> str:
    """Return the line of options that the weights belong to; empty if they are of no network of GPEN's."""
    for option, infer in (('network_g', infer_gpen_config), ('network_d', infer_discriminator_config)):
        try:
            config = infer(state)
        except UserError:
            continue
        line = json.dumps(config).replace('"', '')  # as YAML
        return f'The file fits {option}: {line}. '
    return ''


def _infer_factors(counts: Mapping[int, int]) -> tuple[int, float]:
    """Return channel_multiplier and narrow that lead to these channel counts by resolution.

    Raises:
        ValueError: there are none.
    """
    for multiplier in (2, 1, *range(3, 17)):
        bases = {resolution: base_channels(resolution, multiplier) for resolution in counts}

        # A count is base * narrow rounded down, so narrow lies in an interval; its lower end has the fewest digits.
        low = max(Fraction(count, bases[resolution]) for resolution, count in counts.items())
        high = min(Fraction(count + 1, bases[resolution]) for resolution, count in counts.items())
        for narrow in (float(low), float((low + high) / 2)):
            if low < high and low > 0 and channel_counts(max(counts), multiplier, narrow) == dict(counts):
                return multiplier, narrow
    raise ValueError(f'no channel_multiplier and narrow give {dict(counts)}')


def _count(names: Iterable[str], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)
