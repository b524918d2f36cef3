"""How every command ends: exit status 2 and one message for a user's mistake, never a bare traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from gpen.errors import UserError


def run_command(body: Callable[[], int]) -> int:
    """Run a command's body and return its exit status: 2 after a :class:`UserError`, 130 after Ctrl-C."""
    try:
        return body()
    except UserError as error:
        if not getattr(error, 'is_logged', False):
            print(f'Error: {error}', file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a file that may not be written
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            return 141
        hint = 'Free some space' if error.errno == errno.ENOSPC else 'Look at this file, and close what is using it'
        print(f'Error: {error}. {hint}, then run the command again; what was saved is whole.', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        return 130
