"""The exception type for users' mistakes, and sentences for errors of the operating system."""

import errno


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


def explain_os_error(error: OSError) -> str:
    """Return a sentence about a full disk, a file without write permission and the like, and about what to do."""
    hint = 'Free some space' if error.errno == errno.ENOSPC else 'Look at this file, and close what is using it'
    return f'{error}. {hint}, then run the command again; what was saved is whole.'
