"""How every command ends: exit status 2 and one message for a user's mistake, never a bare traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gpen.errors import UserError, explain_os_error


def run_command(body: Callable[[], int]) -> int:
    """Run a command's body and return its exit status: 2 after a :class:`UserError`, 130 after Ctrl-C."""
    try:
        return body()
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (UserError, OSError) as error:
        if not getattr(error, 'is_logged', False):
            message = explain_os_error(error) if isinstance(error, OSError) else error
            print(f'Error: {message}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        return 130
