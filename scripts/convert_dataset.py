"""Copy images to another kind of storage: ``python scripts/convert_dataset.py --input FOLDER --output NAME.lmdb``."""

import sys

import _path  # noqa: F401
from gpen.commands.convert_dataset import main

if __name__ == '__main__':
    sys.exit(main())
