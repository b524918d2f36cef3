"""Render a data set of portraits: ``python scripts/make_portraits.py --output datasets/quickstart``."""

import sys

import _path  # noqa: F401
from gpen.commands.make_portraits import main

if __name__ == '__main__':
    sys.exit(main())
