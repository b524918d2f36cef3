"""The exception type for users' mistakes, and sentences for errors of the operating system."""

import errno
import os


class UserError(Exception):
    """A mistake that the user can correct.

    The message says what is wrong, where (file, line or option path), and what to do.  Commands print it without a
    traceback and exit with status 2.

    Attributes:
        is_logged: the message was printed already, by this rank or another, and must not be printed again.
    """

    def __init__(self, message: str, is_logged: bool = False) -> None:
        super().__init__(message)
        self.is_logged = is_logged


_FULL = {
    getattr(errno, 'EDQUOT', errno.ENOSPC): ('the disk is full (your quota is used up)', 'Free some space of yours'),
    errno.ENOSPC: ('the disk is full', 'Free some space'),
    errno.ENAMETOOLONG: ('its name is too long', 'Shorten it'),
    errno.EFBIG: ('the file would be larger than this process may write', 'Raise the limit (ulimit -f)'),
}
"""What is wrong and what to do, by the number of the error, where it is no matter of the folder."""


def find_os_error(error: BaseException) -> OSError | None:
    """Return the error of the operating system that an exception is or tells of, or None.

    The writers of PyTorch, safetensors, LMDB and Arrow raise exceptions of their own, which have that of a full disk as
    their context, or name it in words.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and (link.errno in _FULL or (link is error and link.errno is not None)):
            return link
        for number in _FULL:
            if os.strerror(number) in str(link):
                return OSError(number, os.strerror(number))
        link = link.__cause__ or link.__context__
    return error if isinstance(error, OSError) else None


def describe_os_error(error: OSError, advice: str) -> tuple[str, str]:
    """Return a clause on what is wrong, and what to do: ``advice`` unless the disk is full."""
    return _FULL.get(error.errno or 0, (error.strerror or str(error), advice))


def explain_os_error(error: OSError) -> str:
    """Return a sentence about a full disk, a file without write permission and the like, and about what to do."""
    found = find_os_error(error) or error
    reason, hint = describe_os_error(found, 'Look at this file, and close what is using it')
    sentence = f'Cannot use {found.filename}: {reason}' if found.filename is not None else reason
    return f'{sentence[:1].upper()}{sentence[1:]}. {hint}, then run the command again; what was saved is whole.'
