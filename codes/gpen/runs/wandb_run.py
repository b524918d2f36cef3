"""``logger.wandb``: the records of a run in wandb, which reads them from the TensorBoard files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.options import Options
from gpen.runs.tensorboard import TENSORBOARD_FOLDER
from gpen.utils.packages import import_package


def import_wandb() -> Any:
    """Return the package.

    Raises:
        UserError: it is not installed.
    """
    advice = 'logger.wandb needs the package wandb: pip install wandb. Or remove that block.'
    package = import_package('wandb', advice)
    if not hasattr(package, 'init'):  # a folder of that name, such as wandb writes into the working directory
        raise UserError(advice)
    return package


class WandbRun:
    """A run of wandb, which goes on in wandb where the training run goes on.

    Args:
        options: of the training run, with ``logger.wandb.project``.
        folder: of the training run; wandb writes into it.
        known_id: the wandb run that it was before, where there is one.

    Attributes:
        id: of the wandb run.

    Raises:
        UserError: wandb is not installed, or cannot start.
    """

    def __init__(self, options: Options, folder: Path, known_id: str | None) -> None:
        assert options.logger.wandb is not None
        block, wandb = options.logger.wandb, import_wandb()
        self._folder = str(folder / TENSORBOARD_FOLDER)
        try:
            self._run = wandb.init(
                project=block.project,
                id=block.resume_id or known_id,
                resume='allow',
                name=options.name,
                config=options.model_dump(mode='json'),
                dir=str(folder),
                sync_tensorboard=True,
            )
        except wandb.Error as error:
            raise UserError(
                f'logger.wandb: wandb cannot start: {error}. Log in by wandb login, or keep the records on this '
                'machine: WANDB_MODE=offline.'
            ) from error
        self.id: str = self._run.id

    def watch(self) -> None:
        """Let wandb read the event files of the run that are made after its start.

        Its sync learns of a folder from TensorBoard's own writers alone, which it wraps; this says what they would say.
        """
        self._run._tensorboard_callback(self._folder, save=True, root_logdir=self._folder)

    def finish(self) -> None:
        """Wait until wandb has everything; a run that an exception ends has failed in wandb, too."""
        self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
