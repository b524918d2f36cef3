"""The folder of a data set: empty, in progress, or finished; it changes from one state to the next as a whole.

All work is done in ``OUTPUT/.work``: the photographs' records in ``photos``, the data set itself in a folder whose name
depends on all that decides it.  When it is finished its parts are moved up, the record of its settings last, and
``.work`` is removed.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.preparation.contact_sheet import CONTACT_SHEET
from gpen.preparation.pairs import KINDS
from gpen.preparation.settings import digest
from gpen.preparation.splitting import SPLITS
from gpen.preparation.summary import DATASET, MANIFEST
from gpen.utils.command_line import spell
from gpen.utils.files import suggest_folder
from gpen.utils.locks import hold_lock

_PARTS = (*SPLITS, MANIFEST, CONTACT_SHEET, DATASET)
_WORK = '.work'
_LOCK = '.lock'


class OutputFolder:
    """The folder that a data set is made in.

    Args:
        folder: the folder; it need not exist.
        identity: what decides the data set: its settings and photographs, as JSON has them.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.photos = folder / _WORK / 'photos'
        self._identity = dict(identity)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this run alone; the lock goes with the process, however it ends.

        Raises:
            UserError: another run holds it, or it cannot be made.
        """
        path = self.folder / _LOCK
        with hold_lock(
            path,
            in_use=f'Another run is using {self.folder}. Wait for it, stop it, or choose another --output.',
            unusable=lambda error: f'Cannot write in or lock {self.folder}: {error}. Choose another --output.',
        ):
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    self.folder.rmdir()  # only where it is empty: nothing was done

    def is_finished(self) -> bool:
        """Return whether exactly this data set is there already; one that only has to be moved up is moved now.

        Raises:
            UserError: the folder holds another data set or other files, or files of this one are gone.
        """
        for stage in (self.folder / _WORK).glob('set-*'):
            if self._find_difference(stage / DATASET) == '':
                self.publish(stage)

        record = self.folder / DATASET
        if record.exists():
            difference = self._find_difference(record)
            if difference:
                raise UserError(f'{self.folder} holds a data set that was made {difference}. {self._advise()}')
            self._check_images(record)
            shutil.rmtree(self.folder / _WORK, ignore_errors=True)
            return True

        strangers = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith('.'))
        if strangers:
            own = self.folder / 'faces'
            raise UserError(
                f'{self.folder} holds files that do not belong to this data set, such as {strangers[0]}. '
                + self._advise(suggest_folder(own) if own.exists() else own)
            )
        return False

    def open_stage(self, *parts: Any) -> Path:
        """Return the folder to make the data set in; its name depends on ``parts`` as well, and its files are whole."""
        stage = self.folder / _WORK / f'set-{digest(self._identity, *parts)}'
        for leftover in stage.rglob('.*.tmp'):  # of a run that was killed
            leftover.unlink(missing_ok=True)
        return stage

    def publish(self, stage: Path) -> None:
        """Move a finished data set up and remove all else; if it is stopped in between, the next run calls it again.

        Raises:
            UserError: a part cannot be moved.
        """
        for part in _PARTS:
            try:
                if (stage / part).exists():
                    (stage / part).replace(self.folder / part)
            except OSError as error:
                raise UserError(f'Cannot move {stage / part} to {self.folder}: {error.strerror}.') from error
        shutil.rmtree(self.folder / _WORK, ignore_errors=True)

    def _find_difference(self, record: Path) -> str:
        """Return how the data set of a record differs from this one; nothing where it does not."""
        try:
            content = json.loads(record.read_text(encoding='utf-8'))
            settings, photographs = dict(content['settings']), content['photographs']
        except (OSError, ValueError, TypeError, KeyError):
            return 'by something else'

        wanted = self._identity['settings']
        other = [
            f'{name}: {json.dumps(settings.get(name))} there, {json.dumps(value)} here'
            for name, value in wanted.items()
            if settings.get(name) != value
        ]

        if other or settings.keys() != wanted.keys():
            return f'with other settings ({"; ".join(other)})'
        return '' if photographs == self._identity['photographs'] else 'from other photographs, or they have changed'

    def _check_images(self, record: Path) -> None:
        pairs = json.loads(record.read_text(encoding='utf-8'))['counts']['pairs']
        for split in SPLITS:
            for kind in KINDS:
                there = sum(1 for _ in (self.folder / split / kind).glob('*.png'))
                if there < pairs[split]:
                    raise UserError(
                        f'{self.folder / split / kind} holds {there} images of {pairs[split]}. To make them again: '
                        + self._advise()
                    )

    def _advise(self, other: Path | None = None) -> str:
        """Return the sentence that names another folder, by default one beside this that is not there yet."""
        return f'Give a folder that is empty or new: --output {spell(other or suggest_folder(self.folder))}'
