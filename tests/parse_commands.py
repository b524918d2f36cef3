"""Parses command lines as their scripts do, without running them: reads a JSON list from stdin, prints what fails.

A process of its own, because scripts change the environment of theirs.
"""

import argparse
import contextlib
import io
import json
import runpy
import sys
from typing import Any

parse_args = argparse.ArgumentParser.parse_args


class Parsed(BaseException):
    """The arguments are good; nothing between the parser and this program should catch it."""


def parse_only(self: argparse.ArgumentParser, *arguments: Any, **settings: Any) -> None:
    parse_args(self, *arguments, **settings)
    raise Parsed


def explain(script: str, arguments: list[str]) -> str | None:
    """Return what a script says about arguments that it does not take, or None."""
    sys.argv = [script, *arguments]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()) as shown:
            runpy.run_path(script, run_name='__main__')
    except Parsed:
        return None
    except SystemExit as stopped:
        if stopped.code == 0 and shown.getvalue():  # such as --list_models, which shows something and ends
            return None
    return printed.getvalue() or f'{script} did not parse its arguments'


if __name__ == '__main__':
    argparse.ArgumentParser.parse_args = parse_only  # type: ignore[assignment, method-assign]
    failures = {' '.join(command): explain(command[0], command[1:]) for command in json.load(sys.stdin)}
    sys.stdout.write(json.dumps({command: text for command, text in failures.items() if text}))
