"""Bytes from an address to a file, continued where an earlier attempt broke off."""

import glob
import hashlib
import http.client
import logging
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

TIMEOUT = 10.0  # seconds without a byte from the server
CHUNK = 1 << 18  # bytes
PATIENCE = 3  # attempts in a row that bring nothing new
PAUSE = 1.0  # seconds before the next attempt

LOGGER = logging.getLogger('gpen')


class DownloadError(Exception):
    """The reason why a download failed, in a few words.

    Attributes:
        received: bytes that are on the disk, from where the next attempt continues.
    """

    def __init__(self, reason: str, received: int = 0) -> None:
        super().__init__(reason)
        self.received = received


def say(sentence: str) -> None:
    """Tell the user: in the log of a run where there is one, otherwise on the terminal."""
    if LOGGER.handlers:
        LOGGER.info(sentence)
    else:
        tqdm.write(sentence, file=sys.stderr)


def fetch(url: str, target: Path, most: int | None = None) -> Path:
    """Save what an address holds in a file beside ``target``, and return that file.

    Where the connection breaks off, now or in an earlier call, only the rest is asked for, as long as the address has
    the same file by its length and by its ETag or date.

    Args:
        url: with any scheme that urllib knows.
        target: the name that the caller gives the file once it is checked.
        most: stop after so many bytes and one more.

    Raises:
        DownloadError: the address does not answer or refuses, or the connection breaks off again and again.
    """
    furthest, patience = 0, PATIENCE
    while True:
        try:
            return _fetch_once(url, target, most)
        except DownloadError as error:
            patience = PATIENCE if error.received > furthest else patience - 1
            furthest = max(furthest, error.received)
            if not furthest or not patience:
                raise
            time.sleep(PAUSE)


def remove_parts(target: Path) -> None:
    """Remove what broken-off downloads of a file left beside it."""
    for part in target.parent.glob(f'{glob.escape(target.name)}.????????.part'):
        part.unlink(missing_ok=True)


def _fetch_once(url: str, target: Path, most: int | None) -> Path:
    """Ask for the file, or for the rest of it; a failure while bytes arrive tells how many are on the disk."""
    with _open(url) as reply:
        part, _, total = _identify(reply, url, target)
        here = part.stat().st_size if total is not None and part.is_file() else 0
        if here and here == total:  # the process ended before it could check the file
            return part
        if total is None or not 0 < here < total:
            return _save(reply, part, 0, total, most)

    with _open(url, here) as reply:
        same, start, total = _identify(reply, url, target)
        if start and (same, start) != (part, here):  # of another file by now, or not what was asked for
            part.unlink()
            return _fetch_once(url, target, most)
        if start:
            say(f'{here / 1e6:.1f} MB of it are here already; the download continues.')
        return _save(reply, same, start, total, most)


def _open(url: str, start: int = 0) -> Any:
    """Return the reply of an address, which is asked for the bytes from ``start`` on."""
    headers = {'User-Agent': 'gpen-trainer', **({'Range': f'bytes={start}-'} if start else {})}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        reason = ' '.join(str(error.reason).split())
        raise DownloadError(f'the server answered {error.code} {reason}') from error
    except urllib.error.URLError as error:
        raise DownloadError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(str(error) or type(error).__name__) from error


def _identify(reply: Any, url: str, target: Path) -> tuple[Path, int, int | None]:
    """Return the file for what comes, whose name stands for its source; the first byte; and the length of the whole."""
    span = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', reply.headers.get('Content-Range') or '')
    start, length = (int(span[1]), span[2]) if span else (0, reply.headers.get('Content-Length'))
    version = reply.headers.get('ETag') or reply.headers.get('Last-Modified')
    digest = hashlib.sha256(f'{url} {version} {length}'.encode()).hexdigest()[:8]
    part = target.with_name(f'{target.name}.{digest}.part')
    return part, start, None if length is None else int(length)


def _save(reply: Any, part: Path, start: int, total: int | None, most: int | None) -> Path:
    """Write the reply to a file, from byte ``start`` on; show a progress bar on a terminal."""
    received = start
    name = part.name.rsplit('.', 2)[0]
    bar = tqdm(total=total, initial=start, unit='B', unit_scale=True, desc=name, disable=None)
    with part.open('ab' if start else 'wb') as stream, bar:
        while most is None or received <= most:
            try:
                chunk = reply.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                raise _break_off(part, received, total, reason) from error
            if not chunk:
                break
            stream.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))

    if total is not None and received < total and (most is None or received <= most):
        raise _break_off(part, received, total, 'the connection ended')
    return part


def _break_off(part: Path, received: int, total: int | None, reason: str) -> DownloadError:
    """Return the error of a download that broke off; the next one can continue where the length is known."""
    if total is None:
        part.unlink()
        return DownloadError(f'{reason} after {received} bytes')
    return DownloadError(f'{reason} after {received} of {total} bytes', received)
