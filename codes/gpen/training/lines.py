"""What training says while it goes on: a line per record, a row per validation, and what to do at the end."""

from collections.abc import Collection, Mapping
from pathlib import Path

from gpen.evaluation.models import is_known_by_file
from gpen.models.adversarial import LOSS
from gpen.options import Options
from gpen.options.blocks import Component, Dataset
from gpen.utils.command_line import spell_command
from gpen.utils.files import resolve_path
from gpen.utils.text import format_duration

WIDTH = 120  # columns
_ROW = 'validation'
_NUMBER = 10  # columns of a metric, at least


def describe_record(
    place: tuple[int, int, int, int], values: Mapping[str, float], rates: Mapping[str, float], seconds: float
) -> str:
    """Return a line of at most 120 columns; all numbers of a record are in ``metrics.jsonl`` and TensorBoard.

    Args:
        place: epoch, epochs, iteration, iterations.
        values: the means since the last record, by tag.
        rates: the learning rates by tag.
        seconds: of an iteration.
    """
    epoch, epochs, iteration, total = place
    start = f'epoch {epoch:>{len(str(epochs))}}/{epochs}  iter {iteration:>{len(str(total))}}/{total}'
    left = format_duration(seconds * (total - iteration))
    end = f'lr {"/".join(f"{rate:.3g}" for rate in rates.values())}  {seconds:.3f} s/it  {left} left'

    # The generator's losses by name, the discriminator's as their sum
    losses = [f'{tag.removeprefix(LOSS)} {value:.3g}' for tag, value in values.items() if tag.startswith(LOSS)]
    parts = [values[tag] for tag in ('D_loss_real', 'D_loss_fake') if tag in values]
    d_loss = f'D {sum(parts):.3g}' if parts else ''

    def build(shown: int) -> str:
        g_losses = ' '.join(['G', *losses[:shown], *(['...'] if shown < len(losses) else [])]) if losses else ''
        return '  '.join(part for part in (start, g_losses, d_loss, end) if part)

    fitting = (line for shown in range(len(losses), -1, -1) if len(line := build(shown)) <= WIDTH)
    return next(fitting, build(0)[:WIDTH])


class ValidationTable:
    """A table with a row per validation, which grows between the lines of the records.

    Args:
        metrics: the names of its columns; those for which there is no room are left to ``metrics.jsonl``.
        epochs: of the run.
        iterations: of the run.
    """

    def __init__(self, metrics: Collection[str], epochs: int, iterations: int) -> None:
        self._places = {'epoch': max(5, len(str(epochs))), 'iter': max(4, len(str(iterations)))}
        self._columns: dict[str, int] = {}
        room = WIDTH - len(_ROW) - sum(2 + width for width in self._places.values())
        for name in metrics:
            width = max(_NUMBER, len(name) + 1)
            if room < 2 + width:
                break
            self._columns[name] = width
            room -= 2 + width
        self._has_header = False

    def add(self, epoch: int, iteration: int, means: Mapping[str, float], best: Collection[str]) -> list[str]:
        """Return the lines to print: the header before the first row, and the row; a star marks the best so far."""
        header = (
            [] if self._has_header else [self._align('epoch', 'iter', {name: f'{name} ' for name in self._columns})]
        )
        self._has_header = True
        cells = dict.fromkeys(self._columns, '- ')
        for name in self._columns.keys() & means.keys():
            cells[name] = f'{means[name]:.4f}{"*" if name in best else " "}'
        return [*header, self._align(str(epoch), str(iteration), cells)]

    def _align(self, epoch: str, iteration: str, cells: Mapping[str, str]) -> str:
        places = zip((epoch, iteration), self._places.values(), strict=True)
        columns = [f'{text:>{width}}' for text, width in places]
        columns += [f'{cells[name]:>{width}}' for name, width in self._columns.items()]
        return '  '.join([_ROW, *columns]).rstrip()


def list_next_commands(options: Options, folder: Path, weights: Path, restores: bool) -> list[str]:
    """Return commands to paste after training: score, restore and report.

    Args:
        options: of the run.
        folder: of the run.
        weights: the best ones.
        restores: the generator takes LQ images.
    """
    commands = []
    if restores:
        if options.datasets.val is not None and options.val.metrics:
            commands.append(spell_command('test', '-opt', folder / 'options.yml'))
        commands += spell_restoring(weights, options.network_g, options.datasets.val, folder / 'restored')
    return [*commands, spell_command('report', folder)]


def spell_restoring(weights: Path, network_g: Component | None, val: Dataset | None, output: Path) -> list[str]:
    """Return the command to paste that restores; none for networks that restore.py does not know.

    Args:
        weights: of the network.
        network_g: see :func:`gpen.evaluation.models.load_model`.
        val: a set whose LQ images are restored, where they are image files.
        output: where results go.
    """
    if not is_known_by_file(weights, network_g):
        return []
    return [spell_command('restore', '--model', weights, *_choose_input(val, output))]


def _choose_input(val: Dataset | None, output: Path) -> list[str | Path]:
    """Return arguments of the restore command: the LQ images of a set, else photographs of the user's."""
    block = {} if val is None else val.to_dict()
    given, backend = block.get('dataroot_lq'), block.get('io_backend') or {}
    if isinstance(given, str) and backend.get('type', 'disk') == 'disk' and resolve_path(given).is_dir():
        return ['--input', resolve_path(given), '--output', output, '--aligned']

    # What learnt to colour faces would leave grey photographs grey.
    steps = block.get('degradation') or []
    greys = {'type': 'grayscale'} in (steps if isinstance(steps, list) else [steps])
    return ['--input', 'PHOTOS', '--output', output, *(['--color'] if greys else [])]
