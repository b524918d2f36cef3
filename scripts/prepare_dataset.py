"""Make a data set from photographs: ``python scripts/prepare_dataset.py --input PHOTOS --output datasets/faces``."""

import sys

import _path  # noqa: F401
from gpen.commands.prepare_dataset import main

if __name__ == '__main__':
    sys.exit(main())
