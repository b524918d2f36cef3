"""What all trials of a search share: the recipe, their length, and the folder that everything goes to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.options import parse_options
from gpen.options.checks import PRIOR_MODEL
from gpen.options.schema import Options
from gpen.options.yaml_reader import find_option_file
from gpen.tuning.rates import format_rate
from gpen.tuning.trial import Job, build_command, build_overrides, build_rates, name_of_psnr
from gpen.utils.files import write_text

SETTINGS_FILE = 'settings.json'
EPOCHS = 2
LENGTHS = 200, 2000  # iterations of a trial at least, and at most, where none are given


@dataclass(frozen=True)
class Setting:
    """What all trials share.

    Attributes:
        option_file: the recipe.
        options: the recipe's options.
        user_overrides: what the user changes in it.
        overrides: what a trial changes besides, but for the rates.
        iterations: length of a trial.
        iterations_per_epoch: of the recipe.
        folder: where everything goes.
    """

    option_file: Path
    options: Options
    user_overrides: tuple[str, ...]
    overrides: tuple[str, ...]
    iterations: int
    iterations_per_epoch: int
    folder: Path

    @property
    def has_discriminator(self) -> bool:
        """Whether the recipe trains one."""
        gan = self.options.train.gan_opt
        return gan is not None and gan.is_on

    @property
    def runs(self) -> Path:
        """The folder of the trials' own folders."""
        return self.folder / 'trials'

    @property
    def psnr(self) -> str | None:
        """What the recipe calls the validation PSNR."""
        return name_of_psnr(self.options)

    def build_job(self, name: str, label: str, rate: float, rate_d: float | None, more: Sequence[str] = ()) -> Job:
        """Return a run with these rates; ``more`` changes further options."""
        rates = build_rates(self.options, rate, rate_d)
        folder = self.runs / name
        command = build_command(self.option_file, [*self.user_overrides, *self.overrides, *rates, *more], folder)
        return Job(label, command, folder, self.iterations, self.psnr)


def prepare(option_file: str, user_overrides: Sequence[str], iterations: int | None, ending: str) -> Setting:
    """Read the recipe and its training data.

    Args:
        option_file: the recipe.
        user_overrides: ``--force_yml`` settings.
        iterations: length of a trial; None: two epochs, from 200 to 2,000.
        ending: of the folder's name, after that of the run.

    Raises:
        UserError: what is wrong with the recipe, or too small a training set.
    """
    options = parse_options(option_file, user_overrides).options
    if options.model_type == PRIOR_MODEL:
        raise UserError(
            f'{option_file} trains a {PRIOR_MODEL}, whose losses are those of a game: they do not tell which rate is '
            'better. Look at its sample sheets, and search for the rates of the stage that starts from it.'
        )
    from gpen.training.setup import build_data  # imports torch

    assert options.datasets.train is not None
    batch = options.datasets.train.batch_size_per_gpu
    pairs = len(build_data('train', options.datasets.train))
    if pairs < batch:
        raise UserError(
            f'datasets.train has {pairs} pairs, which is less than a batch of {batch}: every step would see the same '
            'images, and tell nothing about a rate. Add images, or lower datasets.train.batch_size_per_gpu.'
        )
    epoch = math.ceil(pairs / batch)
    length = iterations or min(max(EPOCHS * epoch, LENGTHS[0]), LENGTHS[1])
    return Setting(
        option_file=find_option_file(option_file).resolve(),
        options=options,
        user_overrides=tuple(user_overrides),
        overrides=tuple(build_overrides(options, length)),
        iterations=length,
        iterations_per_epoch=epoch,
        folder=options.experiment_folder.with_name(f'{options.name}_{ending}'),
    )


def claim_folder(setting: Setting, say: Callable[[str], None], **more: Any) -> None:
    """Make the folder ready: keep it where it is of the same search, move it aside where it is not.

    Args:
        setting: of the search.
        say: prints a line.
        more: what else must be the same for its trials to be used.
    """
    from gpen.runs.experiment import move_aside

    file = setting.folder / SETTINGS_FILE
    content = {
        'options': setting.options.model_dump(mode='json'),
        'overrides': list(setting.overrides),
        'iterations': setting.iterations,
        **more,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    if file.is_file() and file.read_text(encoding='utf-8') == text:
        return
    moved_to = move_aside(setting.folder)
    if moved_to is not None:
        say(f'The options have changed since the search in {setting.folder}: that one is now {moved_to}.')
    write_text(file, text)


def recommend(options: Options, rate: float, rate_d: float | None) -> str:
    """Return the lines of YAML that set the rates, with the optimizers' other arguments."""
    import yaml

    lines = ['train:']
    for name, value in (('optim_g', rate), ('optim_d', rate_d)):
        if value is None:
            continue
        optimizer = getattr(options.train, name)
        block = optimizer.to_dict()
        words = [f'type: {block.pop("type")}', f'lr: {format_rate(value)}']
        block.pop('lr')
        for key, argument in block.items():
            text = yaml.safe_dump(argument, default_flow_style=True, width=1000).removesuffix('\n...\n').strip()
            words.append(f'{key}: {text}')
        groups = [
            f'{group}: {{patterns: {its.patterns}, lr: {format_rate(its.lr * value / optimizer.lr)}}}'
            for group, its in optimizer.param_groups.items()
        ]
        if groups:
            words.append(f'param_groups: {{{", ".join(groups)}}}')
        lines.append(f'  {name}: {{{", ".join(words)}}}')
    return '\n'.join(lines)
