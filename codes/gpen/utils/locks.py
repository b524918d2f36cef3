"""Locks on files: held by one process at a time, and given back however that process ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpen.errors import UserError


@contextmanager
def hold_lock(
    path: Path,
    in_use: str,
    unusable: Callable[[Exception], str],
    patience: float = 0,
    say_waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold a lock file while the block runs.

    Args:
        path: the lock file; its folder is made.
        in_use: what the user reads when another process holds it.
        unusable: what the user reads when the file cannot be made or locked, from that error.
        patience: how long to wait for another process, seconds.
        say_waiting: called before the wait.

    Raises:
        UserError: another process holds it, or it cannot be made or locked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_held(path):
            say_waiting()
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise UserError(in_use) from error
    except (OSError, NotImplementedError) as error:
        raise UserError(unusable(error)) from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a process of this machine holds a lock file; no where files cannot be locked."""
    from filelock import FileLock, Timeout

    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
