"""Write a report of training runs: ``python scripts/report.py experiments/NAME``."""

import sys

import _path  # noqa: F401
from gpen.commands.report import main

if __name__ == '__main__':
    sys.exit(main())
