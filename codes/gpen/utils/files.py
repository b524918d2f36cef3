"""Files that are written whole or not at all; relative paths that start at the project's root."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpen.errors import UserError, describe_os_error, find_os_error


def project_root() -> Path:
    """Return the folder that relative paths in an option file start from.

    It is the checkout of this package (``ROOT/codes/gpen``), or the working directory if the package is installed
    elsewhere.
    """
    root = Path(__file__).resolve().parents[3]
    return root if (root / 'codes' / 'gpen').is_dir() else Path.cwd()


def resolve_path(path: str | Path) -> Path:
    """Return an absolute path: ``~`` expanded, a relative path taken from :func:`project_root`."""
    return project_root() / expand_user(path)


def to_option_path(path: Path) -> str:
    """Return how an option file names an absolute path: from the root of a checkout of this project, if it is below."""
    root = project_root()
    is_checkout = (root / 'codes' / 'gpen').is_dir()
    return (path.relative_to(root) if is_checkout and path.is_relative_to(root) else path).as_posix()


def suggest_folder(taken: Path) -> Path:
    """Return a folder that is not there yet and has almost the same name: ``faces_2`` where ``faces`` is taken."""
    numbers = itertools.count(2)
    return next(path for number in numbers if not os.path.lexists(path := taken.with_name(f'{taken.name}_{number}')))


def expand_user(path: str | Path) -> Path:
    """Return a path with ``~`` expanded, or as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; a path that is too long, or in a folder that may not be read, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Tell whether there is such a folder; see :func:`is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def explain_writing(target: Path, outcome: str = 'nothing was changed') -> Iterator[None]:
    """Raise a UserError where the block cannot write ``target``, whichever library does the writing.

    Args:
        target: the file or folder, as the user knows it.
        outcome: a clause on what is there now.

    Raises:
        UserError: the disk is full, the folder is not writable and the like.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = find_os_error(error)
        if found is None:
            raise
        reason, advice = describe_os_error(found, 'Free some space or choose another folder')
        raise UserError(f'Cannot write {target}: {reason}. {advice}; {outcome}.') from error


def check_folder(folder: Path) -> None:
    """Make a folder where there is none; raise UserError unless files can be written in it."""
    if is_file(folder):
        raise UserError(f'{folder} is a file, and a folder is needed. Choose another; nothing was done.')
    with explain_writing(folder, 'nothing was done'):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


_NAME_BYTES = 200  # of the target's name in that of its temporary file, which has some more


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it to ``target`` when the block ends without an exception.

    The content is flushed to disk before the rename, so that after a crash ``target`` is either the old file or the
    new one, whole.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    with explain_writing(target):
        # An empty file of a new name, in the same folder so that it can be renamed; names have at most 255 bytes.
        start = os.fsdecode(os.fsencode(target.name)[:_NAME_BYTES])
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{start}.', suffix='.tmp', dir=target.parent)
        os.close(handle)
        temporary = Path(name)

        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # of an ordinary new file; mkstemp's are stricter
            flush_and_rename(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def flush_and_rename(path: Path, target: Path) -> None:
    """Rename a file, to a name in the same folder, when its content is on the disk."""
    with path.open('rb+') as stream:
        os.fsync(stream.fileno())
    path.replace(target)
    _flush_folder(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target`` as UTF-8, whole or not at all."""
    write_bytes(target, text.encode())


def write_bytes(target: Path, content: bytes) -> None:
    """Write ``content`` to ``target``, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_json(target: Path, content: Any) -> None:
    """Write plain values and dataclasses as strict JSON, whole or not at all; numbers that are not finite are null."""
    from pydantic_core import to_json

    write_text(target, to_json(content, indent=1, inf_nan_mode='null').decode() + '\n')


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source`` by a hard link, or a copy where links are not possible."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut; a no-op on Windows, which does so itself and cannot open folders."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    """Return the umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
