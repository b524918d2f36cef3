"""From an uploaded file to the files that the page shows, or to a sentence that says why there are none."""

import errno
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch

from gpen.data.file_check import MAX_PIXELS
from gpen.data.image_io import Picture, decode_picture, write_image
from gpen.data.pixels import DamagedFileError
from gpen.demo.room import make_room
from gpen.errors import UserError
from gpen.restoration.background import Enlarger
from gpen.restoration.photograph import PhotographRestorer, Restoration
from gpen.utils.device import OUT_OF_MEMORY
from gpen.utils.text import count_things

SCALES = (1, 2)
MIN_FACE = 32
"""The smallest face to look for, pixels of the photograph."""

_PREVIEW_SIDE = 2000  # longer side of what is shown, pixels
_FACE_SIDE = 512
_MEMORY_WORDS = (*OUT_OF_MEMORY, 'insufficient memory', 'failed to allocate')  # OpenCV's and ONNX Runtime's
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What the visitor asks for.

    Attributes:
        only_center: restore only the face nearest to the middle.
        scale: how much larger the photograph gets, 1 or 2.
        strength: 0 (faces as they were) to 1 (as restored).
    """

    only_center: bool = False
    scale: int = 1
    strength: float = 1.0


@dataclass(frozen=True)
class Result:
    """A restored photograph: files in a folder of its own.

    Attributes:
        before: the photograph as JPEG, small enough to look at.
        after: the same, restored.
        faces: for each face, it before and after, side by side.
        download: the restored photograph as PNG, with the bits, colours and transparency of the upload.
        summary: how many faces, how large, how long it took.
        note: what the visitor should know beside that, or nothing.
    """

    before: Path
    after: Path
    faces: list[Path]
    download: Path
    summary: str
    note: str = ''


class Service:
    """Restores uploads, one at a time.

    Args:
        restorer: what restores photographs.
        folder: where results are written.
        max_pixels: the largest photograph, before and after it is enlarged.
    """

    def __init__(self, restorer: PhotographRestorer, folder: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels
        self._restorer = restorer
        self.folder = folder
        self._lock = Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a photograph is being restored."""
        return self._lock.locked()

    def restore(self, upload: Mapping[str, Any], choice: Choice) -> Result:
        """Restore an upload.

        Args:
            upload: as Gradio's browser side describes a file: ``path`` on this computer, and ``orig_name``, any text.
            choice: how.

        Raises:
            UserError: it cannot be used, memory does not suffice, or something went wrong inside.
        """
        start = time.perf_counter()
        name = str(upload.get('orig_name') or 'photograph')
        try:
            with self._lock:  # two at once would need twice the memory
                picture = self._decode(name, Path(str(upload.get('path'))))
                self._check_size(picture, choice)
                result = self._write(name, picture, self._restore(picture, choice), choice.strength, start)
                make_room(self.folder)  # a result is much larger than its upload at times
                return result
        except UserError:
            raise
        except Exception as error:
            raise UserError(_explain(error)) from error

    def _decode(self, name: str, path: Path) -> Picture:
        try:
            return decode_picture(path.read_bytes(), self.max_pixels)
        except FileNotFoundError as error:
            raise UserError('This photograph was forgotten already. Drop it again.') from error
        except DamagedFileError as error:
            raise UserError(
                f'{shorten(name)} cannot be used: {error}. '
                'Drop another photograph, of a kind and size that this page names.'
            ) from error

    def _check_size(self, picture: Picture, choice: Choice) -> None:
        if choice.scale not in SCALES or not 0 <= choice.strength <= 1:  # also where it is no number
            raise UserError('Choose a strength and a size that this page offers.')
        pixels = picture.image.shape[0] * picture.image.shape[1] * choice.scale**2
        if pixels > self.max_pixels:
            raise UserError(
                f'This photograph enlarged by {choice.scale} would have {format_pixels(pixels)}; '
                f'at most {format_pixels(self.max_pixels)} are allowed. Choose 1x, or drop a smaller one.'
            )

    def _restore(self, picture: Picture, choice: Choice) -> Restoration:
        restorer = replace(self._restorer, only_center=choice.only_center, enlarger=Enlarger(choice.scale))
        try:
            [restoration] = restorer.restore([picture.image], [picture.space])
        except UserError as error:
            _LOG.error('%s', error)  # the network is at fault, not the visitor
            raise
        return restoration

    def _write(self, name: str, picture: Picture, restoration: Restoration, strength: float, start: float) -> Result:
        # mkdtemp's names cannot be guessed, so nobody else finds the result.
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        composed = restoration.compose(strength)
        for stem, image in (('before', restoration.background), ('after', composed)):
            write_image(folder / f'{stem}.jpg', picture.space.to_srgb(shrink(image, _PREVIEW_SIDE)))
        download = folder / f'{clean_stem(name)}_restored.png'
        # Without EXIF, which tells strangers where and when.
        alpha = picture.fit_alpha(*composed.shape[:2])
        write_image(download, composed, picture.bits, alpha, replace(picture.metadata, exif=b''))

        faces = []
        for number, face in enumerate(restoration.faces, start=1):
            blended = face.before + strength * (face.after - face.before)
            faces.append(folder / f'face_{number}.jpg')
            write_image(faces[-1], np.hstack([shrink(face.before, _FACE_SIDE), shrink(blended, _FACE_SIDE)]))

        height, width = composed.shape[:2]
        found = count_things(len(faces), 'face') if faces else 'No face'
        if restoration.too_small:
            found += f' · {restoration.too_small} too small'
        summary = f'{found} · {width} × {height} pixels · {time.perf_counter() - start:.1f} s'
        return Result(folder / 'before.jpg', folder / 'after.jpg', faces, download, summary, _note(restoration))


def _note(restoration: Restoration) -> str:
    """Return what a visitor should know about faces that were not found, or are far larger than the network."""
    if not restoration.faces:
        done = 'shown as it is' if restoration.scale == 1 else f'only enlarged {restoration.scale} times'
        return (
            f'No face was found in this photograph, so it is {done}. Faces should be at least {MIN_FACE} pixels wide, '
            'and not seen from behind or far from the side.'
        )
    if not restoration.large:
        return ''
    size = len(restoration.large[0].after)
    side = max(face.ratio for face in restoration.large) * size
    return (
        f'The network knows faces of {size} pixels, and these have up to {side:.0f}: '
        f"detail finer than {size} pixels is the photograph's own, unrestored."
    )


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image (H x W x 3) with a longer side of at most ``side`` pixels."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def format_pixels(count: float) -> str:
    """Return a number of pixels in words, such as ``50 megapixels``."""
    return f'{count / 1e6:.3g} megapixels' if count >= 1e5 else f'{count:,.0f} pixels'


def shorten(name: str, length: int = 60) -> str:
    """Return a file's name, or its start and end where it is long."""
    half = length // 2
    return name if len(name) <= length else f'{name[:half]}…{name[-half:]}'


def clean_stem(name: str) -> str:
    """Return the stem of a stranger's file name as letters, digits, spaces and ``. ( ) - _``, never empty."""
    return shorten(re.sub(r'[^\w .()-]+', '_', PurePath(name).stem)).strip(' .') or 'photograph'


def _explain(error: Exception) -> str:
    """Return what the page says about an error that no visitor caused; log it where its cause must be found."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error).lower() for words in _MEMORY_WORDS
    ):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return 'There is not enough memory for this photograph. Try a smaller one.'

    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 'There is no room for another photograph at the moment. Try again in some minutes.'

    _LOG.error('A photograph could not be restored.', exc_info=error)
    return (
        'Something went wrong with this photograph. Its cause is in the log of the program that serves this page. '
        'Try another photograph.'
    )
