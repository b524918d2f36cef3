"""Seconds per restored face: with the published code's formulas, our networks in PyTorch, and ONNX Runtime.

All restore the same random images on the CPU with the same number of threads.  They take turns, so that other programs
disturb them alike, and the median of the rounds counts.  The published formulas run in a process of their own, without
our setting of glibc's memory.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.machine import describe_machine, format_machine
from benchmarks.plain_step import Weights, restore
from benchmarks.tables import format_table, write_json
from gpen.archs.gpen import GPEN
from gpen.restoration.base import Restorer
from gpen.restoration.export import describe_network
from gpen.restoration.export_onnx import write_onnx
from gpen.restoration.loading import load_restorer
from gpen.utils.device import choose_device, explain_out_of_memory
from gpen.utils.seeds import derive_generator
from gpen.weights.networks import load_generator

CPU = torch.device('cpu')
PLAIN, OURS = 'published formulas', 'PyTorch, fp32'
# channel_multiplier and narrow of the published networks, up to 256 x 256 and above.
SMALL, LARGE = (1, 0.5), (2, 1.0)


def measure_restoring(args: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON file; return the exit status."""
    choose_device('cpu')  # sets threads and memory as restore.py does
    if args.threads:
        torch.set_num_threads(args.threads)

    # All back ends use the same weights.
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        model = Path(args.model).expanduser() if args.model else _write_random(Path(folder), args)
        exported = Path(folder) / 'exported.onnx'
        network, config = load_generator(model)
        differences = write_onnx(network.eval().requires_grad_(False), config, exported)
        restorers = {
            **find_plain(model, config, stack),
            OURS: load_restorer(model, CPU),
            'PyTorch, bf16': load_restorer(model, CPU, 'bf16'),
            'ONNX Runtime, fp32': load_restorer(exported, CPU),
        }
        with explain_out_of_memory('Lower --batch_sizes, --size or --narrow.'):
            times = time_restorers(restorers, args.batch_sizes, args.rounds)

    # Results.
    machine = describe_machine(('numpy', 'torch', 'onnxruntime', 'onnxruntime-gpu'))
    settings = {'model': args.model, 'network': describe_network(config), 'threads': torch.get_num_threads()}
    settings |= {'rounds': args.rounds, 'batch_sizes': args.batch_sizes}
    print(_describe(machine, settings, differences))
    print(f'\n{format_times(times)}')
    rows = [{'backend': name, 'batch_size': batch, 'seconds': list(taken)} for (name, batch), taken in times.items()]
    write_json(args.json, {'machine': machine, 'settings': settings, 'times': rows})
    return 0


def find_plain(model: Path, config: Mapping[str, Any], stack: ExitStack) -> dict[str, Restorer]:
    """Return a restorer with the published code's formulas, by name; none if the network is of another kind.

    Its process ends with ``stack``.
    """
    if not config['isconcat'] or config['in_size'] != config['size']:
        return {}
    settings = (model, torch.get_num_threads())
    pool = stack.enter_context(ProcessPoolExecutor(1, get_context('spawn'), _load_plain, settings))

    def run(lq: Tensor) -> Tensor:
        return torch.from_numpy(pool.submit(_restore_plainly, lq.numpy()).result())

    return {PLAIN: Restorer(run, config['size'], config['in_size'], PLAIN)}


_plain: list[Weights] = []  # the state of the pool's process


def _load_plain(model: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    network, _ = load_generator(model)
    _plain.append(Weights(dict(network.named_parameters()), depthwise=False))


@torch.no_grad()
def _restore_plainly(lq: np.ndarray) -> np.ndarray:
    restored: np.ndarray = restore(_plain[0], torch.from_numpy(lq)).numpy()
    return restored


def time_restorers(
    restorers: dict[str, Restorer], batch_sizes: Sequence[int], rounds: int
) -> dict[tuple[str, int], list[float]]:
    """Return seconds per face of each round, by back end and batch size."""
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for batch in batch_sizes for name in restorers}
    with tqdm(total=rounds * len(times) + len(restorers), desc='runs', disable=None) as progress:
        for name in restorers:
            _time_once(restorers[name], min(batch_sizes))  # warm-up
            progress.update()

        for number in range(rounds):
            for batch in batch_sizes:
                for name in list(restorers)[:: 1 if number % 2 else -1]:
                    times[name, batch].append(_time_once(restorers[name], batch) / batch)
                    progress.update()
    return times


def format_times(times: dict[tuple[str, int], list[float]]) -> str:
    """Return a table of medians: a line for each back end, which is compared with the first one."""
    batches = sorted({batch for _, batch in times})
    medians = {key: float(np.median(seconds)) for key, seconds in times.items()}
    header = ['seconds per face', *(text for batch in batches for text in (f'batch {batch}', 'times as fast'))]
    lines = [
        [name, *(cell for batch in batches for cell in _format_cells(medians, name, batch))]
        for name in dict.fromkeys(name for name, _ in times)
    ]
    return format_table([header, *lines])


def _format_cells(medians: dict[tuple[str, int], float], name: str, batch: int) -> tuple[str, str]:
    seconds = medians[name, batch]
    baseline = next(iter(medians))[0]
    return f'{seconds:.3g}', f'{medians[baseline, batch] / seconds:.2f}'


def _time_once(restorer: Restorer, batch: int) -> float:
    faces = _make_faces(batch, restorer.in_size)
    start = time.perf_counter()
    restorer(faces)
    return time.perf_counter() - start


def _make_faces(batch: int, size: int) -> Tensor:
    return torch.from_numpy(derive_generator(0, 'benchmark').uniform(-1, 1, (batch, 3, size, size))).float()


def _write_random(folder: Path, args: argparse.Namespace) -> Path:
    """Write a network with random weights, as wide as the published ones unless told otherwise."""
    multiplier, narrow = SMALL if args.size <= 256 else LARGE
    torch.manual_seed(0)
    network = GPEN(args.size, channel_multiplier=args.channel_multiplier or multiplier, narrow=args.narrow or narrow)
    path = folder / 'random weights.pth'
    torch.save(network.state_dict(), path)
    return path


def _describe(machine: dict[str, Any], settings: dict[str, Any], differences: Mapping[str, float]) -> str:
    """Return on what and how it was measured."""
    return '\n'.join(
        [
            format_machine(machine),
            f'{settings["network"]}, {settings["model"] or "random weights"}; {settings["threads"]} threads, in turns, '
            f'median of {settings["rounds"]} rounds, the clock on the wall.',
            f'Largest difference in 1/255: {max(differences.values()):.2g}.',
        ]
    )
