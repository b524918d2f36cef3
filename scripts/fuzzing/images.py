"""Damaged images: what the full scan before training lets pass can be read, and neither ends in a traceback."""

from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from fuzzing import mutate
from gpen.data.file_check import read_size
from gpen.data.image_io import check_pixels, read_image
from gpen.data.pixels import DamagedFileError
from gpen.errors import UserError

_SUFFIXES = ('.png', '.jpg', '.webp', '.tif', '.bmp')


def fuzz(generator: np.random.Generator, folder: Path) -> str:
    """Read a damaged image as the scan, the full scan and training do."""
    suffix = str(generator.choice(_SUFFIXES))
    path = folder / f'copy{suffix}'
    path.write_bytes(mutate(_encode(suffix), generator))

    try:
        read_size(BytesIO(path.read_bytes()))
    except DamagedFileError:
        return f'{suffix} refused by the scan'
    try:
        check_pixels(path.read_bytes())
    except DamagedFileError:
        return f'{suffix} refused by the full scan'

    try:
        image = read_image(path)
    except UserError as error:
        raise AssertionError(f'the full scan let this pass: {error}') from error
    assert np.isfinite(image).all()
    assert abs(image).max() <= 1
    return f'{suffix} read'


@cache
def _encode(suffix: str) -> bytes:
    """Return a good file: a smooth picture with some noise, 48 x 40."""
    generator = np.random.default_rng(0)
    smooth = cv2.resize(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8), (48, 40))
    noisy = np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(suffix, noisy)[1])
