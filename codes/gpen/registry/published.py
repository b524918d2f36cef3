"""The published GPEN models: their names, which options and command lines take, and where their files lie.

Source: the README of https://github.com/yangxy/GPEN, and for the addresses of ModelScope the page that it names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpen.utils.files import is_file, is_folder, project_root
from gpen.utils.text import suggest

LICENCE = 'The published GPEN weights are for academic and non-commercial use only (https://github.com/yangxy/GPEN).'
HUB = 'hf://'
HUB_FORM = re.compile(r'hf://(?!.*\.\.)(\w[\w.-]*/\w[\w.-]*)/([^/].*)')
"""The address of a file on the Hugging Face Hub: repository, and path of the file in it."""

_AUTHORS = 'https://public-vigen-video.oss-cn-shanghai.aliyuncs.com/robin/models'
_MIRROR_512 = 'https://github.com/vinthony/video-retalking/releases/download/v0.0.1/GPEN-BFR-512.pth'
_BYTES = 4  # of a parameter


@dataclass(frozen=True)
class PublishedModel:
    """A published file of weights.

    Attributes:
        name: as it is published.
        purpose: what the network does, in words.
        pixels: side of the images that it makes, or judges.
        parameters: of the network, from which the approximate size of the file follows.
        urls: where the file lies, in the order in which the addresses are tried.
        belongs_to: of a discriminator, the name of its generator.
        width: of a discriminator, its options channel_multiplier and narrow.
    """

    name: str
    purpose: str
    pixels: int
    parameters: int
    urls: tuple[str, ...]
    belongs_to: str | None = None
    width: Mapping[str, float] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        """The name of the file in ``weights/``."""
        return f'{self.name}.pth'

    @property
    def size(self) -> str:
        """The approximate size of the file in words."""
        return f'about {self.parameters * _BYTES / 1e6:.0f} MB'


def _model(name: str, purpose: str, pixels: int, parameters: int, *more_urls: str) -> tuple[str, PublishedModel]:
    """Return an entry of the table: a file at the authors' address, and perhaps at others."""
    return name, PublishedModel(name, purpose, pixels, parameters, (f'{_AUTHORS}/{name}.pth', *more_urls))


def _discriminator(
    generator: str, pixels: int, parameters: int, channel_multiplier: int, narrow: float
) -> tuple[str, PublishedModel]:
    """Return an entry for the discriminator of a generator, which is for training (path.pretrain_network_d)."""
    name = f'{generator}-D'
    purpose = f'discriminator of {generator}, for training'
    width = {'channel_multiplier': channel_multiplier, 'narrow': narrow}
    urls = (f'{_AUTHORS}/{name}.pth',)
    return name, PublishedModel(name, purpose, pixels, parameters, urls, belongs_to=generator, width=width)


def _on_modelscope(name: str, purpose: str, pixels: int, parameters: int, file: str) -> tuple[str, PublishedModel]:
    """Return an entry for a file on ModelScope, whose owner ``damo`` was renamed to ``iic``."""
    repository = 'cv_gpen_image-portrait-enhancement-hires/resolve/master'
    urls = tuple(f'https://www.modelscope.cn/models/{owner}/{repository}/{file}' for owner in ('damo', 'iic'))
    return name, PublishedModel(name, purpose, pixels, parameters, urls)


MODELS = dict(
    (
        _model('GPEN-BFR-256', 'restores faces', 256, 18_879_010),
        _model('GPEN-BFR-512', 'restores faces', 512, 71_005_223, _MIRROR_512),
        _on_modelscope('GPEN-BFR-1024', 'restores faces', 1024, 71_210_540, 'pytorch_model.pt'),
        _on_modelscope('GPEN-BFR-2048', 'restores faces', 2048, 71_294_769, 'pytorch_model-2048.pt'),
        _model('GPEN-Colorization-1024', 'colours grey faces (with --color)', 1024, 71_210_540),
        _model('GPEN-Inpainting-1024', 'fills holes in faces', 1024, 71_210_540),
        _discriminator('GPEN-BFR-256', 256, 6_002_977, channel_multiplier=1, narrow=0.5),
        _discriminator('GPEN-BFR-512', 512, 28_982_849, channel_multiplier=2, narrow=1),
    )
)


def look_up(given: str) -> PublishedModel | None:
    """Return the published model of a name, in capital or small letters, or None."""
    return next((model for name, model in MODELS.items() if name.lower() == given.lower()), None)


def find_meant_model(given: str, path: Path) -> PublishedModel | None:
    """Return the published model that a user's words stand for, unless a file of that name comes before it.

    Args:
        given: a path, the name of a published model, or an address on the Hugging Face Hub.
        path: where the file would be if it is a path.
    """
    model = look_up(given)
    return None if model is None or is_file(path) or is_file(path.with_name(model.filename)) else model


def explain_missing(given: str, path: Path, advice: str, discriminator: bool = False) -> str | None:
    """Return what is wrong where a user's words name no weights, and what to do; None where they name some.

    Nothing is read or downloaded.

    Args:
        given: a path, the name of a published model, or an address on the Hugging Face Hub.
        path: where the file would be if it is a path.
        advice: a sentence on what to do about a path that leads nowhere.
        discriminator: weights of a discriminator are wanted, not of a generator.
    """
    if given.startswith(HUB):
        return None if HUB_FORM.fullmatch(given) else f'the address {given} is not of the form hf://OWNER/REPO/FILE.'
    if is_file(path):
        return None

    model = look_up(given)
    if model is not None and discriminator == (model.belongs_to is not None):
        return None
    if model is not None and discriminator:
        return f'{model.name} is a generator. Its discriminator, if it is published, is called {model.name}-D.'
    if model is not None:
        return f'{model.name} is a discriminator, for path.pretrain_network_d. Its generator is {model.belongs_to}.'
    if is_folder(path):
        name = 'net_d_latest.pth' if discriminator else 'net_g_best.pth'
        return f'the path {path} is a folder. Give a file, such as models/{name} of a run.'
    return f'there is no file {path}{_find_meant(given, discriminator) or f". {advice}"}'


def _find_meant(given: str, discriminator: bool) -> str:
    """Return the end of a sentence about a file that is not there: which published model may have been meant."""
    names = {name.lower(): name for name, model in MODELS.items() if discriminator == (model.belongs_to is not None)}
    word = re.sub(r'\.(pth|pt|ckpt|safetensors)$', '', re.split(r'[/\\]', given)[-1], flags=re.IGNORECASE).lower()
    if word in names and word != given.lower():
        return f'. The name alone, {names[word]}, downloads the published model.'
    near = suggest(word, names.values())
    return f', and no published model of that name.{near}' if near else ''


def describe_models() -> Iterator[str]:
    """Yield lines for the terminal: name, size, purpose and addresses of each model, and the licence."""
    yield 'Published models, by name. They are downloaded to weights/ when they are used for the first time.'
    yield LICENCE
    for model in MODELS.values():
        here = ' (here already)' if is_file(project_root() / 'weights' / model.filename) else ''
        images = f'{model.pixels} x {model.pixels}'
        yield f'\n{model.name:24}{model.size:14}{images:13}{model.purpose}{here}'
        yield from (f'    {url}' for url in model.urls)
