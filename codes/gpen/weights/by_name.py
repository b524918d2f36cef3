"""The file of weights that a user names: by its path, as a published model, or by its address on Hugging Face."""

from pathlib import Path

from gpen.errors import UserError
from gpen.registry.published import HUB, HUB_FORM, LICENCE, explain_missing, look_up
from gpen.utils.command_line import spell_command
from gpen.utils.files import expand_user, is_file, project_root
from gpen.utils.packages import import_package
from gpen.utils.text import shorten
from gpen.weights.downloads import MissingWeightsError, obtain
from gpen.weights.transfer import say


def find_model(given: str | Path, root: Path | None = None, discriminator: bool = False) -> Path:
    """Return the file that a user's words stand for, which is downloaded where need be, its licence being said first.

    A file comes before a published model of its name; ``NAME.pth`` in the same folder is that model.

    Args:
        given: a path, the name of a published model in any case, or ``hf://OWNER/REPO/FILE``.
        root: the folder that a relative path starts from; default: the working directory.
        discriminator: weights of a discriminator are wanted, not of a generator.

    Returns:
        The path of a file that is there.

    Raises:
        UserError: there is no such file or model, or it cannot be downloaded.
    """
    words = str(given)
    path = (root or Path()) / expand_user(words)
    problem = explain_missing(
        words, path, f'Check it; {spell_command("restore", "--list_models")} shows names to give.', discriminator
    )
    if problem is not None:
        raise UserError(f'{problem[:1].upper()}{problem[1:]}')
    if words.startswith(HUB):
        return _obtain_from_hub(words)

    model = look_up(words)
    if model is None:
        return path

    # A file of the user's, or the published one
    own = next((file for file in (path, path.with_name(model.filename)) if is_file(file)), None)
    if own is not None and own.resolve() != (project_root() / 'weights' / model.filename).resolve():
        say(f'{words}: the file {own} is used, not the published model of that name.')
        return own
    advice = f'give its path in place of the name {model.name}'
    return obtain(model.urls, model.filename, f'{model.name} ({model.size})', advice, terms=LICENCE)


def _obtain_from_hub(address: str) -> Path:
    """Return a file of the Hugging Face Hub: the copy in its cache, or one that is downloaded to there."""
    hub = import_package(
        'huggingface_hub', 'hf:// needs the package huggingface_hub: pip install huggingface_hub ({error}).'
    )
    form = HUB_FORM.fullmatch(address)
    assert form is not None
    repository, file = form.groups()
    cached = hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)

    say(f'Downloading {address}. Its licence is told at https://huggingface.co/{repository}.')
    try:
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # of its own, of the client for HTTP, and of the disk
        raise MissingWeightsError(
            f'{address} could not be downloaded: {shorten(str(error))} Correct the address, or set HF_ENDPOINT to a '
            'server that you can reach.'
        ) from error
