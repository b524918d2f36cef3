"""Weight files of published networks: found on the disk, or downloaded and verified."""

import hashlib
import http.client
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from gpen.errors import UserError
from gpen.utils.files import atomic_path, project_root, resolve_path
from gpen.weights.files import load_weights
from gpen.weights.recognition import name_stranger, read_head

TIMEOUT = 10.0  # seconds without a byte from the server
CHUNK = 1 << 20  # bytes
_HASH = re.compile(r'-([0-9a-f]{8,})\.')

LOGGER = logging.getLogger('gpen')


class MissingWeightsError(UserError):
    """A published weight file is neither on the disk, nor could it be downloaded."""


class Published(NamedTuple):
    """What is known of a published file: bytes, and their SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


def find_weights(url: str, local: str | None, what: str, option: str, published: Published | None = None) -> Path:
    """Return the path of a weight file, which is downloaded if it is not on the disk.

    The places, in order: ``local``; ``weights/FILENAME`` under the project's root, with the file name of ``url``; torch
    hub's cache; ``url``, which is saved to ``weights/FILENAME``, whole or not at all.

    The hash of a file on the disk is not checked, so that users can put their own in its place.  A download is verified
    by its length, and by ``published`` where that is given; otherwise by the start of its SHA-256, where the file name
    ends in that, as torchvision's do (``vgg19-dcbb9e9d.pth``); otherwise it has to load as a dict of tensors.

    Args:
        url: the address of the published file.
        local: the path in the user's option, if any; a relative one starts at the project's root.
        what: the content of the file, for messages.
        option: the name of the option of ``local``, for messages.
        published: size and hash of the file at ``url``, if they are known.

    Raises:
        UserError: the file ``local`` does not exist.
        MissingWeightsError: the download fails.
    """
    # The user's own file.
    if local is not None:
        path = resolve_path(local)
        if not path.is_file():
            raise UserError(
                f'{option} names {path}, but there is no such file ({what}). Correct it or put the file there.'
            )
        return path

    found = find_on_disk(url)
    if found is not None:
        return found

    filename = url.rpartition('/')[2]
    target = project_root() / 'weights' / filename
    LOGGER.info('Downloading %s (%s) to %s', what, url, target)
    try:
        _download(url, target, published)
    except _DownloadError as error:
        raise MissingWeightsError(
            f'{what}: {filename} is not here and could not be downloaded from {url} ({error}). '
            f'Put the file at {target}, or set {option} to where it lies.'
        ) from error
    return target


def find_on_disk(url: str) -> Path | None:
    """Return where the file of an address is on the disk, if it is in one of the places of :func:`find_weights`."""
    filename = url.rpartition('/')[2]
    places = (project_root() / 'weights' / filename, Path(torch.hub.get_dir(), 'checkpoints', filename))
    return next((path for path in places if path.is_file()), None)


def find_url(model: str) -> str:
    """Return the address of torchvision's ImageNet weights of a network, such as ``vgg19``."""
    from torchvision.models import get_model_weights

    return get_model_weights(model)['IMAGENET1K_V1'].url


class _DownloadError(Exception):
    """The reason why a download failed, in a few words."""


def _download(url: str, target: Path, published: Published | None) -> None:
    """Save ``url`` to ``target``; nothing is left there after a failure."""
    digest = hashlib.sha256()
    with atomic_path(target) as temporary:
        received = 0
        with temporary.open('wb') as stream:
            for chunk in _fetch(url):
                received += len(chunk)
                digest.update(chunk)
                stream.write(chunk)
                if published is not None and received > published.size:
                    break

        # Before atomic_path renames the file.
        known = _HASH.search(target.name)
        if published is not None:
            _check_size(temporary, received, published.size)
            _check_hash(digest.hexdigest(), published.sha256)
        elif known is not None:
            _check_hash(digest.hexdigest(), known[1])
        else:
            _check_loads(temporary)


def _fetch(url: str) -> Iterator[bytes]:
    """Yield the content of ``url``; network errors become a :class:`_DownloadError`, unlike errors of the disk."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            expected = response.headers.get('Content-Length')
            received = 0
            while chunk := response.read(CHUNK):
                received += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        raise _DownloadError(f'the server answered {error.code} {error.reason}') from error
    except urllib.error.URLError as error:
        raise _DownloadError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _DownloadError(str(error) or type(error).__name__) from error

    if expected is not None and received != int(expected):
        raise _DownloadError(f'the connection ended after {received} of {expected} bytes')


def _check_size(path: Path, received: int, expected: int) -> None:
    if received == expected:
        return
    length = f'only {received}' if received < expected else f'more than {expected}'
    kind = ', a pointer of Git LFS,' if is_git_lfs_pointer(path) else ''
    raise _DownloadError(f'{length} bytes came{kind} and it should have {expected}; it was removed')


def _check_hash(found: str, expected: str) -> None:
    if not found.startswith(expected):
        raise _DownloadError(
            f'the SHA-256 of what came is {found[:12]}..., but should start with {expected[:12]}; it was removed'
        )


def is_git_lfs_pointer(path: Path) -> bool:
    """Return whether a file is what Git leaves in place of a large one where Git LFS is not installed."""
    with path.open('rb') as stream:
        return stream.read(24) == b'version https://git-lfs.'


def _check_loads(path: Path) -> None:
    try:
        load_weights(path)
    except UserError as error:
        what = name_stranger(path, read_head(path))
        clause = '' if what is None else f' but {what.partition(". ")[0].removeprefix("is ").rstrip(".")}'
        raise _DownloadError(f'what came is not a file of PyTorch weights{clause}; it was removed') from error
