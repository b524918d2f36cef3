"""How long a training takes from the command to its first step, and what the scan of many pairs adds to that.

Each measurement is taken in a process of its own.  Beside the seconds by the clock on the wall stands the processor
time, because other programs disturb it little.
"""

import argparse
import errno
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.machine import describe_machine, format_machine
from benchmarks.tables import format_table, write_json
from gpen.data.image_io import write_image
from gpen.data.paired_dataset import PairedImageDataset
from gpen.utils.files import project_root

FIRST_SCAN, CACHED_SCAN = 'first scan', 'cached scan'
TORCH, COMMAND = 'import torch', 'command to first step'
SIZE = 64  # pixels; that of the quick start
_TRAIN_PAIRS, _VAL_PAIRS = 400, 32  # as many as the quick start has
_RECIPE = 'options/train/quickstart.yml'
_STATUS = Path('/proc/self/status')

TIME_TORCH = 'import time, torch; print(time.time(), time.process_time())'
TIME_COMMAND = """
import sys, time
from gpen.commands.train import main
from gpen.models.gpen_model import GPENModel

def stop(*_):
    print(time.time(), time.process_time(), flush=True)
    raise KeyboardInterrupt

GPENModel.train_step = stop
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Start:
    """The cost of one part of a start.

    Attributes:
        seconds: by the clock on the wall.
        processor_seconds: of all threads of the process.
        mebibytes: growth of the process at its peak; None where that was not measured.
    """

    seconds: float
    processor_seconds: float
    mebibytes: float | None = None

    @classmethod
    def median_of(cls, starts: Sequence['Start']) -> 'Start':
        """Return the median of each number."""
        peaks = [start.mebibytes for start in starts if start.mebibytes is not None]
        return cls(
            median(start.seconds for start in starts),
            median(start.processor_seconds for start in starts),
            median(peaks) if peaks else None,
        )


def measure_startup(args: argparse.Namespace) -> int:
    """Measure, print the tables, and write the JSON file; return the exit status."""
    times: dict[str, list[Start]] = {name: [] for name in (FIRST_SCAN, CACHED_SCAN, TORCH, COMMAND)}
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.environ['XDG_CACHE_HOME'] = str(folder / 'cache')  # the user's own cache stays as it is
        link_pairs(folder / 'many', args.pairs)
        link_pairs(folder / 'train', _TRAIN_PAIRS)
        link_pairs(folder / 'val', _VAL_PAIRS)

        for _ in range(args.rounds):
            for cache in (folder / 'cache').glob('gpen/*'):
                cache.unlink()
            for kind in (FIRST_SCAN, CACHED_SCAN):
                with ProcessPoolExecutor(1, get_context('spawn')) as pool:
                    times[kind].append(pool.submit(time_scan, folder / 'many').result())
            times[TORCH].append(time_code(TIME_TORCH))
            times[COMMAND].append(time_code(TIME_COMMAND, *_arguments(folder)))

    machine = describe_machine(('torch', 'numpy'))
    medians = {kind: Start.median_of(starts) for kind, starts in times.items()}
    print(f'{format_machine(machine)}\n\n{format_scans(medians, args.pairs)}\n\n{format_starts(medians)}')
    settings = {'pairs': args.pairs, 'rounds': args.rounds}
    numbers = {kind: [asdict(start) for start in starts] for kind, starts in times.items()}
    write_json(args.json, {'machine': machine, 'settings': settings, 'times': numbers})
    return 0


def link_pairs(folder: Path, count: int) -> None:
    """Make ``count`` pairs in ``folder/{sharp,blurry}``: hard links, which take no space, to a few random images."""
    for side in ('sharp', 'blurry'):
        (folder / side).mkdir(parents=True)
        source = None
        for number in range(count):
            path = folder / side / f'{number:08d}.png'
            try:
                if source is not None:
                    os.link(source, path)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                source = None  # a file system allows so many links to a file
            if source is None:
                image = np.random.default_rng(number).uniform(-1, 1, (SIZE, SIZE, 3))
                write_image(path, image.astype(np.float32))
                source = path


def time_scan(folder: Path) -> Start:
    """Build the data set of a folder's pairs in this process."""
    memory = _read_memory('VmRSS')
    before = time.perf_counter(), time.process_time()
    PairedImageDataset(str(folder / 'sharp'), str(folder / 'blurry'), SIZE)
    after = time.perf_counter(), time.process_time()
    return Start(after[0] - before[0], after[1] - before[1], _read_memory('VmHWM') - memory)


def time_code(code: str, *arguments: str) -> Start:
    """Run code in a new interpreter until it prints the time of day and its processor time."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    begun = time.time()
    result = subprocess.run(
        [sys.executable, '-c', code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    lines = result.stdout.splitlines()
    if not lines or len(lines[-1].split()) != 2:
        raise RuntimeError(f'no time was printed:\n{result.stdout}{result.stderr}')
    ended, processor_seconds = map(float, lines[-1].split())
    return Start(ended - begun, processor_seconds)


def _arguments(folder: Path) -> list[str]:
    """Return the arguments of a training on the quick start's recipe whose data and results lie in ``folder``."""
    roots = [
        f'datasets:{phase}:dataroot_{image}={folder / phase / side}'
        for phase in ('train', 'val')
        for image, side in (('gt', 'sharp'), ('lq', 'blurry'))
    ]
    recipe = str(project_root() / _RECIPE)
    return ['-opt', recipe, '--force_yml', *roots, f'path:experiments_root={folder / "experiments"}']


def _read_memory(field: str) -> float:
    """Return a size of this process in MiB, such as VmRSS, or NaN where the system does not tell."""
    if not _STATUS.is_file():
        return float('nan')
    lines = dict(line.split(':', 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def format_scans(medians: dict[str, Start], pairs: int) -> str:
    """Return the table of the scans."""
    lines = [[f'{pairs:,} pairs', 'seconds', 'processor seconds', 'peak MiB']]
    for kind in (FIRST_SCAN, CACHED_SCAN):
        start = medians[kind]
        lines.append([kind, f'{start.seconds:.2f}', f'{start.processor_seconds:.2f}', f'{start.mebibytes:.0f}'])
    return format_table(lines)


def format_starts(medians: dict[str, Start]) -> str:
    """Return the table of the command beside ``import torch``."""
    lines = [['quick start', 'seconds', 'processor seconds']]
    for kind in (TORCH, COMMAND):
        lines.append([kind, f'{medians[kind].seconds:.2f}', f'{medians[kind].processor_seconds:.2f}'])
    more = [
        getattr(medians[COMMAND], name) - getattr(medians[TORCH], name) for name in ('seconds', 'processor_seconds')
    ]
    return format_table([*lines, ['difference', *(f'{number:.2f}' for number in more)]])
