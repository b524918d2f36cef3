"""How every command ends: exit status 2 and one message for a user's mistake, never a bare traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from gpen.errors import UserError, explain_os_error


@dataclass
class Outcome:
    """The exit status of a command."""

    status: int = 0


@contextmanager
def handle_errors() -> Iterator[Outcome]:
    """Run a command in this block, which sets the status; it is 2 after a :class:`UserError`, 130 after Ctrl-C."""
    outcome = Outcome()
    try:
        yield outcome
    except BrokenPipeError:
        sys.stderr.close()
        outcome.status = 141
    except (UserError, OSError) as error:
        if not getattr(error, 'is_logged', False):
            message = explain_os_error(error) if isinstance(error, OSError) else error
            with suppress(OSError):  # a terminal that is gone, or a full disk
                print(f'Error: {message}', file=sys.stderr)
        outcome.status = 2
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        outcome.status = 130


def run_command(body: Callable[[], int]) -> int:
    """Run a command's body as :func:`handle_errors` does; return its exit status."""
    with handle_errors() as outcome:
        outcome.status = body()
    return outcome.status
