"""Checkpoints: written whole or not at all, found again, checked, pruned.

``models/`` holds ``net_g_ITER.pth``, ``net_d_ITER.pth``, ..., and the same file under the names ``..._latest.pth``,
``net_g_best.pth`` and ``net_g_best_METRIC.pth`` (hard links, where the file system has them);
``training_states/ITER.state`` holds the rest and is written last, so that a state never names a model file that is not
there.
"""

import filecmp
import hashlib
import operator
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpen.errors import UserError
from gpen.runs.sheets import SHEET_FOLDER
from gpen.runs.training_state import Checkpoint, Networks
from gpen.utils.files import atomic_path, link_or_copy
from gpen.weights.files import check_values, read_file, write_file
from gpen.weights.unwrapping import walk

_NUMBER = '(0|[1-9][0-9]*)'
_NUMBERED = re.compile(rf'net_(?:[a-z]+|d_components)_{_NUMBER}\.pth|{_NUMBER}\.state')


class CheckpointStore:
    """The checkpoints of one experiment folder.

    Args:
        folder: the experiment folder.
        keep_last: how many numbered checkpoints to keep.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self._folder = folder
        self.models = folder / 'models'
        self.states = folder / 'training_states'
        self._keep_last = keep_last

    def save(
        self,
        iteration: int,
        networks: Networks,
        state: dict[str, Any],
        best: Mapping[str, int],
        good_until: int | None = None,
    ) -> None:
        """Write a checkpoint, link the latest and best names, prune old ones.

        Args:
            iteration: the iteration that was just done.
            networks: contents of the model files by stem, such as ``net_g``.
            state: the rest.
            best: the iteration that each name of a best generator stands for, such as ``net_g_best``.
            good_until: the last iteration whose step was finite, default ``iteration``; the newest checkpoint up to
                there is kept.

        Raises:
            UserError: not writable or the disk is full; what was there before is untouched.
        """
        # The state comes last, so that it never names a model file that is not there.
        names = {stem: f'{stem}_{iteration}.pth' for stem in networks}
        for stem, content in networks.items():
            _save(self.models / names[stem], content)
        checksums = {stem: _checksum(self.models / name) for stem, name in names.items()}
        about = {'iteration': iteration, 'networks': names, 'checksums': checksums}
        _save(self.states / f'{iteration}.state', {**about, **state})

        self.link(iteration, list(networks), best)
        self.prune(iteration if good_until is None else good_until)

    def link(self, iteration: int, stems: list[str], best: Mapping[str, int]) -> None:
        """Make the latest names stand for ``iteration``, and each best name for its own, while that has a number."""
        for stem in stems:
            link_or_copy(self.models / f'{stem}_{iteration}.pth', self.models / f'{stem}_latest.pth')
        for name, best_iteration in best.items():
            numbered = self.models / f'net_g_{best_iteration}.pth'
            if numbered.exists():
                link_or_copy(numbered, self.models / f'{name}.pth')

    def prune(self, good_until: int) -> None:
        """Remove all but the last numbered checkpoints, and the newest up to ``good_until``.

        A state goes before the model files it names.
        """
        iterations = self.iterations()
        kept = {*iterations[-self._keep_last :], *[n for n in iterations if n <= good_until][-1:]}
        for iteration in set(iterations) - kept:
            (self.states / f'{iteration}.state').unlink(missing_ok=True)
        for path in self.models.glob('net_*_*.pth'):
            number = _iteration_of(path)
            if number is not None and number not in kept:
                path.unlink(missing_ok=True)

    def owns(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint lies in this experiment folder, by whatever path it was reached."""
        return checkpoint.path.resolve().parent == self.states.resolve()

    def adopt_best(self, checkpoint: Checkpoint) -> None:
        """Take over the best generator of the folder that a checkpoint comes from, if it has a number there."""
        best_iteration = checkpoint.early_stopping.get('best_iteration')
        best = checkpoint.path.resolve().parent.parent / 'models' / f'net_g_{best_iteration}.pth'
        if best.is_file():
            link_or_copy(best, self.models / 'net_g_best.pth')

    def clean_up(self, iteration: int) -> list[str]:
        """Remove what a save that was cut off left: temporary files, model files without a state.

        Checkpoints after ``iteration`` (damaged, or of a course that is not followed any more) are moved to
        ``superseded/``; their names are returned.
        """
        moved = []
        iterations = self.iterations()
        for folder in (self._folder, self.models, self.states, self._folder / SHEET_FOLDER):
            for path in folder.glob('.*.tmp'):
                path.unlink(missing_ok=True)

        for path in sorted([*self.models.glob('net_*_*.pth'), *self.states.glob('*.state')]):
            number = _iteration_of(path)
            if number is not None and number not in iterations:
                path.unlink()
            elif number is not None and number > iteration:
                self._supersede(path)
                moved.append(path.name)
        return moved

    def _supersede(self, path: Path) -> None:
        """Move a file to ``superseded/``; a best name goes where it stands for it and would be taken for another."""
        target = self._folder / 'superseded' / path.name
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        for best in self.models.glob('net_g_best*.pth') if path.name.startswith('net_g_') else ():
            if filecmp.cmp(best, target, shallow=False):
                best.unlink()

    def iterations(self) -> list[int]:
        """Return the iterations that have a state, in order."""
        numbers = (_iteration_of(path) for path in self.states.glob('*.state'))
        return sorted(number for number in numbers if number is not None)

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that is whole, and a sentence for each that was passed over or renamed.

        Raises:
            UserError: there are states, but none is whole.
        """
        damaged: list[str] = []
        for iteration in reversed(self.iterations()):
            path = self.states / f'{iteration}.state'
            try:
                return self.load(path), [f'Passed over: {sentence}' for sentence in damaged]
            except _MisnamedError as error:
                if not error.right.exists():
                    path.rename(error.right)
                    checkpoint, sentences = self.load_newest()
                    return checkpoint, [f'Renamed to {error.right.name}: {error}', *sentences]
                damaged.append(str(error))
            except UserError as error:
                damaged.append(str(error))

        if damaged:
            listing = '\n  '.join(damaged)
            raise UserError(f'No checkpoint in {self.states} is whole:\n  {listing}\nTrain anew without --auto_resume.')
        return None, []

    def load(self, path: Path) -> Checkpoint:
        """Load a state and the model files that it names.

        Raises:
            UserError: one of them is missing, damaged, that of another iteration, or holds values that are not finite.
        """
        state = _load(path)
        try:
            iteration = operator.index(state.pop('iteration'))
            names = {stem: Path(name).name for stem, name in dict(state.pop('networks')).items()}
            checksums = dict(state.pop('checksums', {}))  # none: of an earlier version
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'{path} is not a training state of this program.') from error
        if iteration < 0:
            raise UserError(f'{path} is not a training state of this program.')
        check_values(path, dict(walk(state)))
        if _iteration_of(path) not in (None, iteration):
            raise _MisnamedError(path, iteration)

        networks = {}
        for stem, name in names.items():
            file = path.parent.parent / 'models' / name
            networks[stem] = _load(file)
            check_values(file, dict(walk(networks[stem])))
            if stem in checksums and checksums[stem] != _checksum(file):
                raise UserError(f'{file} is not the file that {path} was saved with: it was replaced by another one.')
        return Checkpoint(path, iteration, networks, state)


class _MisnamedError(UserError):
    """A state has the name of another iteration; ``right`` is the name that it should have."""

    def __init__(self, path: Path, iteration: int) -> None:
        super().__init__(f'{path} holds the state after iteration {iteration}.')
        self.right = path.with_name(f'{iteration}.state')


def _iteration_of(path: Path) -> int | None:
    """Return the iteration of a numbered file of ours (``net_g_100.pth``, ``100.state``); None for users' own files."""
    match = _NUMBERED.fullmatch(path.name)
    return int(match[1] or match[2]) if match else None


def _save(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        write_file(temporary, content)


def _checksum(path: Path) -> str:
    """Return a checksum of a file of :func:`_save`, from those in its directory, which are quick to read."""
    with zipfile.ZipFile(path) as archive:
        content = [(item.filename, item.file_size, item.CRC) for item in archive.infolist()]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, every byte of which is checked against the checksums it carries."""
    if not path.exists():
        raise UserError(f'{path} is missing.')
    if not path.is_file():
        raise UserError(f'{path} is no file.')
    content = read_file(path)
    if not isinstance(content, dict):
        raise UserError(f'{path} is not a checkpoint of this program.')
    return content
