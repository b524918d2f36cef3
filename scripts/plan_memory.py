"""Forecast how much GPU memory training takes: ``python scripts/plan_memory.py -opt options/train/gpen_512.yml``."""

import sys

import _path  # noqa: F401
from gpen.commands.plan_memory import main

if __name__ == '__main__':
    sys.exit(main())
