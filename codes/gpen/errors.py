"""The one exception type for what a user can cause."""


class UserError(Exception):
    """A mistake that the user can put right.

    The message says what is wrong, where (file, line or option path), and what to do.  Commands print it without a
    traceback and exit with status 2.
    """
