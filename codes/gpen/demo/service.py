"""From an upload to a result or to a sentence that says why there is none."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from threading import Lock

import torch

from gpen.data.file_check import MAX_PIXELS, DamagedFileError
from gpen.data.image_io import Picture, decode_picture
from gpen.demo.photo import Result, encode_preview
from gpen.demo.store import Store, Upload
from gpen.errors import UserError
from gpen.restoration.background import Enlarger
from gpen.restoration.photograph import PhotographRestorer
from gpen.utils.device import OUT_OF_MEMORY

SCALES = (1, 2)
MIN_FACE = 32
"""The smallest face to look for, pixels of the photograph."""

_LOG = logging.getLogger(__name__)
_MEMORY_WORDS = (*OUT_OF_MEMORY, 'insufficient memory', 'failed to allocate')  # OpenCV's and ONNX Runtime's


class RefusedError(Exception):
    """There is no result; the message is what the page says about it."""


@dataclass(frozen=True)
class Choice:
    """What the visitor asks for.

    Attributes:
        only_center: restore only the face nearest to the middle.
        scale: how much larger the photograph gets, 1 or 2.
    """

    only_center: bool = False
    scale: int = 1


@dataclass(frozen=True)
class About:
    """What the page tells about itself.

    Attributes:
        model: name, size and backend of the network, in words.
        max_bytes: the largest file that may be dropped.
    """

    model: str
    max_bytes: int

    @property
    def max_size(self) -> str:
        """The largest file in words, such as ``20 MB``."""
        return f'{self.max_bytes / 1e6:.3g} MB'


class Service:
    """Restores uploads, one at a time.

    Args:
        restorer: what restores photographs.
        store: where uploads and results are.
        max_pixels: the largest result.
    """

    def __init__(self, restorer: PhotographRestorer, store: Store, max_pixels: int = MAX_PIXELS) -> None:
        self.store = store
        self.max_pixels = max_pixels
        self._restorer = restorer
        self._lock = Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a photograph is being restored."""
        return self._lock.locked()

    def restore_upload(self, key: str, session: str, choice: Choice) -> tuple[str, Result]:
        """Restore an upload for a session; return the result and its key.

        Raises:
            RefusedError: it cannot be used, memory does not suffice, or something went wrong inside.
        """
        upload = self.store.take_upload(key)
        if upload is None:
            raise RefusedError('This photograph was forgotten before its turn came. Drop it again.')
        self.store.close(session)  # the last result makes room
        return self._keep(session, upload.name, upload, choice)

    def restore_again(self, session: str, choice: Choice) -> tuple[str, Result] | None:
        """Restore the photograph of a session in another way; None where it has none.

        Raises:
            RefusedError: as for :meth:`restore_upload`.
        """
        last = self.store.find_session(session)
        return None if last is None else self._keep(session, last.name, last.picture, choice)

    def _keep(self, session: str, name: str, source: Upload | Picture, choice: Choice) -> tuple[str, Result]:
        start = time.perf_counter()
        try:
            with self._lock:  # two at once would need twice the memory
                picture = self._decode(source) if isinstance(source, Upload) else source
                self._check_size(picture, choice)
                result = self._restore(name, picture, choice, start)
        except RefusedError:
            raise
        except UserError as error:
            _LOG.error('%s', error)
            raise RefusedError(str(error)) from error
        except Exception as error:
            if _is_out_of_memory(error):
                _free_memory()
                raise RefusedError('There is not enough memory for this photograph. Try a smaller one.') from error
            _LOG.exception('A photograph could not be restored.')
            raise RefusedError(
                'Something went wrong with this photograph. Its cause is in the log of the program that serves this '
                'page. Try another photograph.'
            ) from error
        return self.store.keep(session, result), result

    def _decode(self, upload: Upload) -> Picture:
        try:
            return decode_picture(upload.data, self.max_pixels)
        except DamagedFileError as error:
            raise RefusedError(
                f'{shorten(upload.name)} cannot be used: {error}. '
                'Drop another photograph, of a kind and size named below.'
            ) from error

    def _check_size(self, picture: Picture, choice: Choice) -> None:
        pixels = picture.image.shape[0] * picture.image.shape[1] * choice.scale**2
        if pixels > self.max_pixels:
            raise RefusedError(
                f'This photograph enlarged by {choice.scale} would have {format_pixels(pixels)}; '
                f'at most {format_pixels(self.max_pixels)} are allowed. Choose 1x and drop it again, or a smaller one.'
            )

    def _restore(self, name: str, picture: Picture, choice: Choice, start: float) -> Result:
        restorer = replace(self._restorer, only_center=choice.only_center, enlarger=Enlarger(choice.scale))
        [restoration] = restorer.restore([picture.image])
        before = encode_preview(restoration.background)
        after = encode_preview(restoration.compose()) if restoration.faces else before
        return Result(name, picture, restoration, before, after, time.perf_counter() - start)


def format_pixels(count: float) -> str:
    """Return a number of pixels in words, such as ``50 megapixels``."""
    return f'{count / 1e6:.3g} megapixels' if count >= 1e5 else f'{count:,.0f} pixels'


def shorten(name: str, length: int = 60) -> str:
    """Return a file's name, or its start and end where it is long."""
    half = length // 2
    return name if len(name) <= length else f'{name[:half]}…{name[-half:]}'


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error).lower() for words in _MEMORY_WORDS)


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
