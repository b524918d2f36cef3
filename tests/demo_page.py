"""A page for the tests: rendered portraits to drop on it, a tiny network, a server in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from conftest import ROOT
from gpen.archs.gpen import GPEN
from gpen.data.image_io import to_uint8
from gpen.utils.seeds import derive_generator
from portraits.render import render_portrait


@cache
def draw_portraits(count: int = 1, size: int = 256) -> np.ndarray:
    """Return people who do not exist, side by side: size x count * size x 3, uint8, RGB. MTCNN finds their faces."""
    portraits = [render_portrait(derive_generator(10, 'portrait', 0, index), size) for index in range(1, count + 1)]
    return to_uint8(np.hstack(portraits))


def encode(pixels: np.ndarray, suffix: str = '.png') -> bytes:
    """Return a file of RGB pixels (uint8 or uint16)."""
    data: bytes = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return data


def write_checkpoint(path: Path) -> Path:
    """Write a network of 64 x 64 with random weights."""
    torch.manual_seed(0)
    torch.save({'params_ema': GPEN(size=64, style_dim=16, n_mlp=2, narrow=0.05).state_dict()}, path)
    return path


class Demo:
    """``scripts/demo.py`` in a process of its own, with a folder of its own for temporary files.

    Args:
        folder: for its checkpoint, its temporary files and what it prints.
        arguments: more for the script.
    """

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.temporary = folder / 'temporary'
        self.work = folder / 'work'
        for made in (self.temporary, self.work):
            made.mkdir()
        self.log = folder / 'log.txt'
        environment = {**os.environ, 'TMPDIR': str(self.temporary), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
        command = [sys.executable, str(ROOT / 'scripts/demo.py'), '--model', str(write_checkpoint(folder / 'net.pth'))]
        command += ['--port', '0', '--detector', 'mtcnn', *(str(argument) for argument in arguments)]
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=self.work
            )
        assert self.process.stdout is not None
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith('http://'):
                break
        else:
            raise AssertionError(self.log.read_text())
        self.address = self.lines[-1]

    def files(self) -> list[Path]:
        """What is on the disk of it: uploads, results, anything."""
        return [path for root in (self.temporary, self.work) for path in root.rglob('*') if path.is_file()]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it; return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)
