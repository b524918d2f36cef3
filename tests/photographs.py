"""Photographs to prepare a data set from, drawn so that a stand-in for a face detector finds their faces."""

import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import processes
from gpen.commands import prepare_dataset
from gpen.faces.face import Face
from gpen.preparation import prepare as preparing
from gpen.preparation.settings import PreparationSettings
from gpen.preparation.work import DetectorSource
from gpen.utils.pool import Pool

Prepare = Callable[..., int]
FACES = 8  # in the photographs of the fixture
# Where the eyes, the nose and the corners of the mouth are, from the middle of a face, in its radius.
POINTS = np.array([[-0.4, -0.3], [0.4, -0.3], [0.0, 0.1], [-0.3, 0.5], [0.3, 0.5]])


def draw_photo(seed: int, faces: int = 1, height: int = 160, width: int = 200, radius: int = 40) -> np.ndarray:
    """Return H x W x 3, uint8: dark discs with five white dots, side by side before a background of soft blobs."""
    generator = np.random.default_rng(seed)
    blobs = generator.integers(90, 170, (height // 20, width // 20, 3), dtype=np.uint8)
    picture = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC).clip(85, 180)
    for number in range(faces):
        middle = np.array([width * (2 * number + 1) / (2 * faces), height / 2])
        cv2.circle(picture, tuple(int(v) for v in middle), radius, (20, 20, 20), -1)
        for point in middle + POINTS * radius:
            cv2.circle(picture, tuple(int(v) for v in point), max(2, radius // 12), (255, 255, 255), -1)
    return picture


@dataclass
class DotDetector:
    """Finds dark discs with five white dots, and writes its process into a file with each call."""

    min_face: int
    log: Path | None

    def detect(self, image: np.ndarray) -> list[Face]:
        if self.log is not None:
            with self.log.open('a') as stream:
                stream.write(f'{os.getpid()}\n')
        grey = ((image.mean(axis=2) + 1) * 127.5).astype(np.uint8)
        dots = (grey > 210).astype(np.uint8)
        around = cv2.morphologyEx(((grey < 60) | (dots > 0)).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5)))
        count, _, discs, _ = cv2.connectedComponentsWithStats(around)
        found = [face for n in range(1, count) if (face := self._look_at(dots, *discs[n][:4])) is not None]
        return sorted(found, key=lambda face: -(face.box[2] - face.box[0]))

    def _look_at(self, dots: np.ndarray, left: int, top: int, width: int, height: int) -> Face | None:
        inside = dots[top : top + height, left : left + width]
        count, _, _, middles = cv2.connectedComponentsWithStats(inside)
        if count != 6 or min(width, height) < self.min_face:
            return None
        points = sorted((middles[1:] + np.array([left, top])).tolist(), key=lambda point: point[1])
        eyes, mouth = sorted(points[:2]), sorted(points[3:])
        box = float(left), float(top), float(left + width), float(top + height)
        return Face(box, np.array([*eyes, points[2], *mouth], np.float32), 0.99)


def build_detector(name: str, weights: Path | None, min_face: int) -> DotDetector:
    """Stand in for the function of this name; the folder of the weights holds the file of calls."""
    assert name == 'dots'
    return DotDetector(min_face, None if weights is None else weights / 'calls')


def find_detector(settings: PreparationSettings, say: Any) -> DetectorSource:
    """Stand in for the choice of a detector."""
    say('Faces are found by their dots.')
    return DetectorSource(build_detector, 'dots', settings.weights, settings.detectable)


def words(source: Path, output: Path, *more: object) -> list[object]:
    basic = ['--input', source, '--output', output, '--size', 32, '--min_face', 30, '--duplicates', -1]
    return [*basic, '--workers', 1, '--val_share', 0.3, *more]


def save(path: Path, picture: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def read_manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / 'manifest.csv').open(newline='', encoding='utf-8', errors='surrogateescape') as stream:
        return list(csv.DictReader(stream))


def count_calls(log: Path) -> int:
    return len(log.read_text().splitlines())


def are_gone(processes: set[int]) -> bool:
    """Wait until none of these processes is there, but no longer than a few seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not any(Path(f'/proc/{process}').exists() for process in processes):
            return True
        time.sleep(0.1)
    return False


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, hidden ones too, without the folder's own path, which the recipe holds."""
    files = (path for path in folder.rglob('*') if path.is_file())
    own = os.fsencode(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes().replace(own, b'FOLDER') for path in files}


def start(log: Path, *arguments: object, stop: tuple[str, int, signal.Signals] | None = None) -> processes.Command:
    """Start the command in a process of its own, with the stand-in.

    ``stop``, such as ``('photos', 3, SIGKILL)``, sends it a signal when the third photograph is done.
    """
    words = [str(argument) for argument in arguments]
    process = processes.CONTEXT.Process(target=_run, args=(log, words, stop))
    process.start()
    return processes.Command(process, log)


def _run(log: Path, arguments: list[str], stop: tuple[str, int, signal.Signals] | None) -> None:
    with log.open('w', encoding='utf-8') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = os.fdopen(1, 'w', encoding='utf-8')
    sys.stderr = os.fdopen(2, 'w', encoding='utf-8', buffering=1)
    preparing.find_detector = find_detector
    if stop is not None:
        install_stop(*stop)
    sys.exit(prepare_dataset.main(arguments))


def install_stop(title: str, count: int, number: signal.Signals) -> None:
    """Send this process a signal when ``count`` tasks of a stage are done."""
    real = Pool.run

    def run_until(self: Pool, function: Any, tasks: Any, stage: str) -> Iterator[Any]:
        for done, result in enumerate(real(self, function, tasks, stage), start=1):
            yield result
            if stage == title and done == count:
                os.kill(os.getpid(), number)

    Pool.run = run_until  # type: ignore[assignment]


def kill_worker(task: Any) -> None:  # noqa: ARG001
    """End the process that works on a task, as the system does when memory is short."""
    processes.kill()
