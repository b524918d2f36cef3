"""Find learning rates for a recipe: ``python scripts/search_lr.py -opt options/train/gpen_512.yml``."""

import sys

import _path  # noqa: F401
from gpen.commands.search_lr import main

if __name__ == '__main__':
    sys.exit(main())
