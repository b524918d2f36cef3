"""The weights that networks start from: pretrained ones, or those of a GAN prior."""

import logging
from typing import Any

from torch import nn

from gpen.archs.discriminator import GPENDiscriminator
from gpen.errors import UserError
from gpen.options.schema import PathOptions
from gpen.registry.published import find_meant_model
from gpen.utils.files import is_file, project_root, resolve_path
from gpen.weights.by_name import find_model
from gpen.weights.files import DISCRIMINATOR_WRAPPERS, WRAPPERS, load_weights
from gpen.weights.networks import MisfitError, fit_weights, infer_discriminator_config
from gpen.weights.prior import load_decoder, load_discriminator
from gpen.weights.unwrapping import DISCRIMINATOR

LOGGER = logging.getLogger('gpen')


def load_pretrained(network: nn.Module, paths: PathOptions, letter: str) -> None:
    """Load ``path.pretrain_network_LETTER``, if it is given; where weights need not fit, say what starts anew.

    Args:
        network: changed in place.
        paths: the options of ``path``.
        letter: ``g`` or ``d``.

    Raises:
        UserError: the file is missing or damaged, or its weights do not fit.
    """
    given = getattr(paths, f'pretrain_network_{letter}')
    if given is None:
        return
    path = find_model(given, project_root(), discriminator=letter == 'd')
    option, strict = f'network_{letter}', getattr(paths, f'strict_load_{letter}')

    wrappers = WRAPPERS if letter == 'g' else DISCRIMINATOR_WRAPPERS
    names = network.state_dict().__contains__
    state = load_weights(path, getattr(paths, f'param_key_{letter}'), wrappers, names)
    try:
        left_out = fit_weights(network, state, path, strict)
    except MisfitError as error:
        if strict or letter == 'g':  # a generator from scratch is no fine-tuning
            raise
        LOGGER.warning('%s: the discriminator starts anew. %s', option, error)
        return

    if left_out:
        LOGGER.warning('%s: weights of %s that did not fit: %s', option, path, left_out)


def complete_discriminator(options: dict[str, Any], paths: PathOptions, is_forecast: bool = False) -> dict[str, Any]:
    """Return the options of a discriminator, with the width read off its file where the options name none.

    Args:
        options: of the discriminator.
        paths: the options of ``path``.
        is_forecast: only what is known without a download is filled in, and the file need not be there.

    Raises:
        UserError: the file is missing or damaged.
    """
    wanted = [name for name in ('channel_multiplier', 'narrow') if options.get(name) is None]
    if options['type'] != GPENDiscriminator.__name__ or paths.pretrain_network_d is None or not wanted:
        return options
    given = paths.pretrain_network_d
    model = find_meant_model(given, resolve_path(given)) if is_forecast else None
    if model is not None:
        return {**options, **{name: model.width[name] for name in wanted if name in model.width}}
    if is_forecast and not is_file(resolve_path(given)):
        return options

    path = find_model(given, project_root(), discriminator=True)
    state = load_weights(path, paths.param_key_d, DISCRIMINATOR_WRAPPERS, DISCRIMINATOR)
    try:
        found = infer_discriminator_config(state)
    except UserError:  # load_pretrained says what the file is not
        return options
    return {**options, **{name: found[name] for name in wanted}}


def load_prior(net_g: nn.Module, net_d: nn.Module | None, paths: PathOptions) -> None:
    """Start the decoder, and the discriminator where its weights fit, from ``path.pretrain_prior``.

    Raises:
        UserError: the file is missing or damaged, or holds no prior that fits the decoder.
    """
    assert paths.pretrain_prior is not None
    path = find_model(paths.pretrain_prior, project_root())
    load_decoder(net_g, path)
    LOGGER.info('Prior: the decoder starts from %s.', path)

    # The discriminator's own file comes before the prior's.
    if net_d is None or paths.pretrain_network_d is not None:
        return
    loaded, words = load_discriminator(net_d, path)
    if loaded:
        LOGGER.info('Prior: the discriminator starts from %s.', words)
    else:
        LOGGER.warning('Prior: the discriminator starts anew: %s.', words)
