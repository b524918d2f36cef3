"""How every command ends: exit status 2 and one message for a user's mistake, never a bare traceback."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gpen.errors import UserError, explain_os_error
from gpen.utils.command_line import spell
from gpen.utils.files import project_root


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
    except ModuleNotFoundError as error:
        if not _is_imported_here(error):
            raise
        print(f'Error: {_explain_missing_package(error)}', file=sys.stderr)
        outcome.status = 2
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        outcome.status = 130


def _is_imported_here(error: ModuleNotFoundError) -> bool:
    """Tell whether this program itself asked for the package, not one of its packages or a component of the user's."""
    asking = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return asking.is_relative_to(Path(__file__).parents[1]) and not (error.name or 'gpen').startswith('gpen')


def _explain_missing_package(error: ModuleNotFoundError) -> str:
    """Return what is missing in which Python, and what to do."""
    listed = project_root() / 'requirements.txt'
    what = f'-r {spell(listed)}' if listed.is_file() else '.'
    return (
        f'this Python has no package {error.name}: {sys.executable}. Use the environment where it is installed, or '
        f'install what is needed: {spell(sys.executable)} -m pip install {what}'
    )


def run_command(body: Callable[[], int]) -> int:
    """Run a command's body as :func:`handle_errors` does; return its exit status."""
    with handle_errors() as outcome:
        outcome.status = body()
    return outcome.status
