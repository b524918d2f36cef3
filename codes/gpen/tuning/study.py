"""What all trials of a search share: the recipe, their length, and the folder that everything goes to."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpen.errors import UserError
from gpen.options import parse_options
from gpen.options.checks import PRIOR_MODEL
from gpen.options.schema import Options
from gpen.options.yaml_reader import find_option_file
from gpen.runs.experiment import move_aside
from gpen.tuning.rates import Trial, format_rate
from gpen.tuning.trial_run import TrialRun, build_command, build_overrides, build_rates, name_of_psnr
from gpen.utils.files import write_text

SETTINGS_FILE = 'settings.json'
ENDING = 'lr_search'
EPOCHS = 2
LENGTHS = 200, 2000  # iterations of a trial at least, and at most, where none are given


@dataclass(frozen=True)
class Study:
    """What all trials of a search share.

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

    def build_run(self, trial: Trial) -> TrialRun:
        """Return the training run of a trial."""
        folder = self.folder / 'trials' / trial.name
        changes = [*self.user_overrides, *self.overrides, *build_rates(self.options, trial.rate, trial.rate_d)]
        command = build_command(self.option_file, changes, folder)
        return TrialRun(trial.label, command, folder, self.iterations, name_of_psnr(self.options))


def open_study(option_file: str, user_overrides: Sequence[str], iterations: int | None) -> Study:
    """Read the recipe and count its training data.

    Args:
        option_file: the recipe.
        user_overrides: ``--force_yml`` settings.
        iterations: length of a trial; None: two epochs, from 200 to 2,000.

    Raises:
        UserError: the recipe is wrong, or the training set too small.
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
    return Study(
        option_file=find_option_file(option_file).resolve(),
        options=options,
        user_overrides=tuple(user_overrides),
        overrides=tuple(build_overrides(options, length)),
        iterations=length,
        iterations_per_epoch=epoch,
        folder=options.experiment_folder.with_name(f'{options.name}_{ENDING}'),
    )


def claim_folder(study: Study, say: Callable[[str], None]) -> None:
    """Make the folder ready: keep it if it belongs to the same search, and move it aside if it does not.

    Args:
        study: the search.
        say: prints a line.
    """
    file = study.folder / SETTINGS_FILE
    content = {
        'options': study.options.model_dump(mode='json'),
        'overrides': list(study.overrides),
        'iterations': study.iterations,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    if file.is_file() and file.read_text(encoding='utf-8') == text:
        return
    moved_to = move_aside(study.folder)
    if moved_to is not None:
        say(f'The options have changed since the search in {study.folder}: that one is now {moved_to}.')
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

        # Parameter groups keep their share of the optimizer's rate.
        groups = [
            f'{group}: {{patterns: {its.patterns}, lr: {format_rate(its.lr * value / optimizer.lr)}}}'
            for group, its in optimizer.param_groups.items()
        ]
        if groups:
            words.append(f'param_groups: {{{", ".join(groups)}}}')
        lines.append(f'  {name}: {{{", ".join(words)}}}')
    return '\n'.join(lines)
