"""Show a trained network on a page in the browser: ``python scripts/demo.py --model FILE``."""

import sys

import _path  # noqa: F401
from gpen.commands.demo import main

if __name__ == '__main__':
    sys.exit(main())
