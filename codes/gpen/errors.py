"""The one exception type for what a user can cause, and words for errors of the operating system."""

import errno


class UserError(Exception):
    """A mistake that the user can put right.

    The message says what is wrong, where (file, line or option path), and what to do.  Commands print it without a
    traceback and exit with status 2.

    Attributes:
        is_logged: it was said already, here or by another process, and is not to be printed again.
    """

    is_logged = False


def explain_os_error(error: OSError) -> str:
    """Return a sentence about a full disk, a file that may not be written, and the like, with what to do."""
    hint = 'Free some space' if error.errno == errno.ENOSPC else 'Look at this file, and close what is using it'
    return f'{error}. {hint}, then run the command again; what was saved is whole.'
