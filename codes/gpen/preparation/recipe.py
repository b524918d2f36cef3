"""The recipe of a data set: an option file that trains on it as it is, without a line edited by hand."""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from gpen.options.yaml_reader import find_option_file, read_yaml
from gpen.preparation.settings import PreparationSettings
from gpen.preparation.summary import DATASET, MANIFEST
from gpen.utils.files import project_root, resolve_path, to_option_path, write_text
from gpen.utils.text import to_yaml

RECIPE = 'recipe.yml'

_FEW = 1000  # faces; with fewer, published weights are tuned where they are on the disk
_COMMENTS = 36  # column


class Base(NamedTuple):
    """A recipe of options/train that the data set's own inherits from.

    Attributes:
        name: of its file.
        passes: how often training sees each face, as far as ``least`` and ``most`` iterations allow.
        least: iterations.
        most: iterations; 0: the base's own length stays.
        weights: published weights that it starts from, without their suffix; None: it starts from scratch.
    """

    name: str
    passes: int = 0
    least: int = 0
    most: int = 0
    weights: str | None = None

    @property
    def path(self) -> Path:
        """Its file."""
        return find_option_file(f'options/train/{self.name}.yml').resolve()


_SMALL = Base('quickstart', passes=32, least=1600, most=200_000)
_FROM_NOTHING = {size: Base(f'gpen_{size}_best', passes=200, least=2000, most=800_000) for size in (256, 512, 1024)}
_TUNING = {256: Base('finetune_256', weights='GPEN-BFR-256'), 512: Base('finetune', weights='GPEN-BFR-512')}


def choose_base(size: int, faces: int) -> Base:
    """Return the recipe that fits images of ``size`` pixels, ``faces`` of them to train on."""
    tuning = _TUNING.get(size)
    if tuning is not None and faces <= _FEW and _find_weights(f'{tuning.weights}') is not None:
        return tuning
    return _SMALL if size < min(_FROM_NOTHING) else _FROM_NOTHING[min(size, max(_FROM_NOTHING))]


def write_recipe(settings: PreparationSettings) -> Path:
    """Write the recipe of a finished data set, unless there is one, which may have been changed; return its path.

    Raises:
        UserError: options/train is not there, or the recipe cannot be written.
    """
    target = settings.output / RECIPE
    if not target.exists():
        pairs = json.loads((settings.output / DATASET).read_text(encoding='utf-8'))['counts']['pairs']
        write_text(target, _format(settings, choose_base(settings.size, pairs['train']), pairs['train']))
    return target


def _format(settings: PreparationSettings, base: Base, faces: int) -> str:
    """Return the text of a recipe, with the comments that recipes have."""
    folder, name = settings.output, name_run(settings.output)
    steps = settings.degradation if isinstance(settings.degradation, list) else [settings.degradation]
    table = [] if settings.aligned else [f'    # landmarks: {_quote(folder / MANIFEST)}  # for train.component_opt']

    lines = [
        '# Trains on the faces of this folder. prepare_dataset.py wrote it once and leaves your changes alone.',
        _row(f'_base_: {_quote_base(base, folder)}', 'all that is not said here'),
        _row(f'name: {to_yaml(name)}', f'results go to experiments/{name}'),
        '',
        'datasets:',
        '  train:',
        _row(f'    name: {to_yaml(name)}', 'a name for logs'),
        _row('    type: DegradedFaceDataset', 'the blurry faces are made anew for every sample'),
        _row(f'    dataroot_gt: {_quote(folder / "train" / "sharp")}', 'folder of sharp faces'),
        _row('    io_backend: {type: disk}', 'image files'),
        _row('    use_hflip: true', 'mirror half of the faces at random'),
        _row(f'    degradation: {to_yaml(steps)}', 'as in train/blurry; a list replaces that of _base_'),
        *table,
        '  val:',
        _row(f'    name: {name}_val', 'a name for logs'),
        _row('    type: PairedImageDataset', 'held-out pairs'),
        _row(f'    dataroot_gt: {_quote(folder / "val" / "sharp")}', 'folder of sharp faces'),
        _row(f'    dataroot_lq: {_quote(folder / "val" / "blurry")}', 'folder of the same faces, degraded'),
        _row('    io_backend: {type: disk}', 'image files'),
        *_list_sizes(base, settings.size),
        *(_list_lengths(base, faces) if base.weights is None else _list_weights(base.weights)),
    ]
    return '\n'.join(lines) + '\n'


def _list_sizes(base: Base, size: int) -> list[str]:
    """Return the lines about networks where the base's have another size."""
    if read_yaml(base.path).data['network_g']['size'] == size:
        return []
    networks = ('network_g', 'network_d')
    return [line for name in networks for line in ('', f'{name}:', _row(f'  size: {size}', 'side of the images'))]


def _list_weights(name: str) -> list[str]:
    """Return the lines about published weights that training starts from."""
    generator, discriminator = _find_weights(name), _find_weights(f'{name}-D')
    assert generator is not None
    beside = '~' if discriminator is None else _quote(discriminator)
    return [
        *('', 'path:', _row(f'  pretrain_network_g: {_quote(generator)}', 'published weights')),
        _row(f'  pretrain_network_d: {beside}', 'the discriminator that belongs to them; ~: a new one'),
    ]


def _list_lengths(base: Base, faces: int) -> list[str]:
    """Return the lines about the length of the run, which the number of faces decides."""
    data = read_yaml(base.path).data
    batch = data['datasets']['train']['batch_size_per_gpu']
    total = min(max(base.least, base.passes * faces // batch), base.most)
    between = min(max(1, total // 1000) * 50, 5000)

    train = [_row(f'  total_iter: {total}', 'length of the run, iterations')]
    if data['train'].get('total_epochs') is not None:  # epochs of few faces are short, so iterations are counted
        train += [
            _row('  total_epochs: ~', 'as above'),
            _row('  warmup_epochs: 0', 'in iterations, too'),
            _row('  warmup_iter: 50', "from base_lr to each optimizer's lr"),
            _row(f'  scheduler: {{type: CosineAnnealingLR, T_max: {total}, eta_min: 1e-5}}', 'half a cosine'),
        ]
    return [
        *('', 'train:', *train),
        *('', 'val:', _row(f'  val_freq: {between}', 'iterations between validations')),
        *('', 'logger:', _row(f'  print_freq: {min(max(10, between // 5), 100)}', 'iterations between records')),
        _row(f'  save_checkpoint_freq: {between}', 'iterations between checkpoints'),
    ]


def _find_weights(name: str) -> Path | None:
    path = resolve_path(f'weights/{name}.pth')
    return path if path.is_file() else None


def name_run(folder: Path) -> str:
    """Return the folder's name with only such characters as the name of a run has."""
    return re.sub(r'[^\w.-]+', '_', folder.name).strip('._-')[:64] or 'faces'


def _quote_base(base: Base, folder: Path) -> str:
    """Return the base's path from the folder where both are in the same checkout, links resolved, else all of it."""
    root, real = project_root().resolve(), folder.resolve()
    is_near = base.path.is_relative_to(root) and real.is_relative_to(root)
    return to_yaml(Path(os.path.relpath(base.path, real)).as_posix() if is_near else str(base.path))


def _quote(path: Path) -> str:
    return to_yaml(to_option_path(path))


def _row(text: str, comment: str) -> str:
    return f'{text.ljust(_COMMENTS - 2)}  # {comment}'
