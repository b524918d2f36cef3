"""Weight files of published networks: found on the disk, or downloaded and verified."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from gpen.errors import UserError
from gpen.utils.files import explain_writing, flush_and_rename, project_root, resolve_path, write_text
from gpen.utils.locks import hold_lock
from gpen.weights.files import load_weights
from gpen.weights.recognition import name_stranger, read_head
from gpen.weights.transfer import CHUNK, DownloadError, fetch, remove_parts, say

MIRROR = 'GPEN_MIRROR'
"""The environment variable with the address of a folder that holds the files, which is tried first."""

_HASH = re.compile(r'-([0-9a-f]{8,})\.')
_FOREVER = -1


class MissingWeightsError(UserError):
    """A published weight file is neither on the disk, nor could it be downloaded."""


class Published(NamedTuple):
    """What is known of a published file: bytes, and their SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


def find_weights(url: str, local: str | None, what: str, option: str, published: Published | None = None) -> Path:
    """Return the path of a weight file: the user's own, or what :func:`obtain` returns for ``url``.

    Args:
        url: the address of the published file.
        local: the path in the user's option, if any; a relative one starts at the project's root.
        what: the content of the file, for messages.
        option: the name of the option of ``local``, for messages.
        published: size and hash of the file at ``url``, if they are known.

    Raises:
        UserError: the file ``local`` does not exist, or as :func:`obtain`.
    """
    if local is None:
        filename = url.rpartition('/')[2]
        return obtain([url], filename, what, f'set {option} to where it lies', published=published)
    path = resolve_path(local)
    if not path.is_file():
        raise UserError(f'{option} names {path}, but there is no such file ({what}). Correct it or put the file there.')
    return path


def obtain(
    urls: Sequence[str],
    filename: str,
    what: str,
    advice: str,
    published: Published | None = None,
    terms: str | None = None,
) -> Path:
    """Return the path of a published file, which is downloaded if it is not on the disk.

    The places, in order: ``weights/FILENAME`` under the project's root; torch hub's cache; the server that the
    environment variable GPEN_MIRROR names; ``urls``.  What is downloaded goes to ``weights/FILENAME``, whole or not at
    all, and by one process at a time.

    A download is verified by its length, and by ``published`` where that is given; otherwise by the start of its
    SHA-256, where the file name ends in that, as torchvision's do (``vgg19-dcbb9e9d.pth``); otherwise it has to load as
    a dict of tensors, and its SHA-256 is kept beside it in ``FILENAME.sha256``, with which the file, and whatever is
    downloaded in its place, has to agree from then on.  Files that users put there are not checked.

    Args:
        urls: the addresses of the file; each is tried when those before it fail.
        filename: its name on the disk.
        what: its content, for messages.
        advice: what else the user can do where it cannot be had, after ``or``.
        published: size and hash of the file, if they are known.
        terms: of its licence, which the user reads before the download.

    Raises:
        MissingWeightsError: the download fails.
        UserError: the file has changed since its download, GPEN_MIRROR is no address, or the disk cannot be written.
    """
    found = find_on_disk(filename)
    if found is not None:
        _check_unchanged(found)
        return found

    addresses = [*_at_mirror(filename), *urls]
    target = project_root() / 'weights' / filename
    with hold_lock(
        target.parent / '.locks' / f'{filename}.lock',
        in_use=f'Another process is downloading {target}.',
        unusable=lambda error: f'Cannot write in {target.parent}: {error}. Put {filename} there, or {advice}.',
        patience=_FOREVER,
        say_waiting=lambda: say(f'Another process is downloading {target}; waiting for it.'),
    ):
        if target.is_file():
            return target
        if terms is not None:
            say(terms)
        failures = []
        for url in addresses:
            say(f'Downloading {what} from {url} to {target}')
            try:
                _download(url, target, published)
            except DownloadError as error:
                failures.append(f'{url} ({error})')
                if url != addresses[-1]:
                    say(f'That failed: {error}. The next address is tried.')
            else:
                return target

    raise MissingWeightsError(
        f'{what}: {filename} is not here and could not be downloaded from {", nor from ".join(failures)}. '
        f'Put the file at {target}, or {advice}. {MIRROR}=URL names another server that has it.'
    )


def find_in_folder(url: str, folder: Path | None, what: str, published: Published | None = None) -> Path:
    """Return the path of a weight file: in the folder of ``--weights``, or what :func:`find_weights` returns.

    The folder need not hold every network that a command runs.
    """
    own = None if folder is None else folder / url.rpartition('/')[2]
    return own if own is not None and own.is_file() else find_weights(url, None, what, '--weights', published)


def find_on_disk(url: str, folder: Path | None = None) -> Path | None:
    """Return where the file of an address or name is on the disk: in ``folder``, or in a place of :func:`obtain`."""
    filename = url.rpartition('/')[2]
    own = [] if folder is None else [folder / filename]
    places = (*own, project_root() / 'weights' / filename, Path(torch.hub.get_dir(), 'checkpoints', filename))
    return next((path for path in places if path.is_file()), None)


def find_url(model: str) -> str:
    """Return the address of torchvision's ImageNet weights of a network, such as ``vgg19``."""
    from torchvision.models import get_model_weights

    return get_model_weights(model)['IMAGENET1K_V1'].url


def is_git_lfs_pointer(path: Path) -> bool:
    """Return whether a file is what Git leaves in place of a large one where Git LFS is not installed."""
    with path.open('rb') as stream:
        return stream.read(24) == b'version https://git-lfs.'


def _at_mirror(filename: str) -> list[str]:
    """Return the address of a file at the user's mirror, if there is one."""
    mirror = os.environ.get(MIRROR, '').strip()
    if mirror and not re.match(r'(https?|file)://.', mirror):
        raise UserError(
            f'The mirror ({MIRROR} or --mirror) is {mirror}, which is no address. Give that of a folder, such as '
            'https://HOST/FOLDER or file:///FOLDER.'
        )
    return [f'{mirror.rstrip("/")}/{filename}'] if mirror else []


def _download(url: str, target: Path, published: Published | None) -> None:
    """Save ``url`` to ``target``; what is wrong is removed, and only what broke off stays, beside ``target``."""
    with explain_writing(target):
        part = fetch(url, target, None if published is None else published.size)
        try:
            _verify(part, target, published)
        except DownloadError:
            part.unlink()
            raise
        flush_and_rename(part, target)
        remove_parts(target)


# ---- checks


def _verify(part: Path, target: Path, published: Published | None) -> None:
    """Raise DownloadError where a file is not what it should be; keep its hash where none was known."""
    known = _HASH.search(target.name)
    record = _record_of(target)
    if published is not None:
        _check_size(part, published.size)
        _check_hash(part, published.sha256)
    elif known is not None:
        _check_hash(part, known[1])
    else:
        _check_loads(part)
        if record.is_file():
            _check_hash(part, _read_record(record), f' by {record}, which has that of the first download')
        else:
            write_text(record, f'{_hash(part)}  {target.name}\n')


def _check_size(path: Path, expected: int) -> None:
    received = path.stat().st_size
    if received == expected:
        return
    length = f'only {received}' if received < expected else f'more than {expected}'
    kind = ', a pointer of Git LFS,' if is_git_lfs_pointer(path) else ''
    raise DownloadError(f'{length} bytes came{kind} and it should have {expected}; it was removed')


def _check_hash(path: Path, expected: str, source: str = '') -> None:
    found = _hash(path)
    if not found.startswith(expected):
        raise DownloadError(
            f'the SHA-256 of what came is {found[:12]}..., but should start with {expected[:12]}{source}; it was '
            'removed'
        )


def _check_loads(path: Path) -> None:
    try:
        load_weights(path)
    except UserError as error:
        what = name_stranger(path, read_head(path))
        clause = '' if what is None else f' but {what.partition(". ")[0].removeprefix("is ").rstrip(".")}'
        raise DownloadError(f'what came is not a file of PyTorch weights{clause}; it was removed') from error


def _check_unchanged(path: Path) -> None:
    """Raise UserError where a file is not the one that was downloaded first."""
    record = _record_of(path)
    if not record.is_file():
        return
    found, expected = _hash(path), _read_record(record)
    if found != expected:
        raise UserError(
            f'{path} has changed since it was downloaded: its SHA-256 is {found[:12]}..., but {record.name} beside it '
            f'says {expected[:12]}.... Delete {path.name}, so that it is downloaded again, or {record.name}, if you '
            'put the file there yourself.'
        )


def _record_of(path: Path) -> Path:
    """Return the file with the SHA-256 of a downloaded one, as the command sha256sum writes and checks it."""
    return path.with_name(f'{path.name}.sha256')


def _read_record(record: Path) -> str:
    words = record.read_text(encoding='utf-8', errors='replace').split()
    return words[0].lower() if words else '(nothing)'


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
