"""Write a trained generator in one file for other programs: ``python scripts/export.py --model FILE --format onnx``."""

import sys

import _path  # noqa: F401
from gpen.commands.export import main

if __name__ == '__main__':
    sys.exit(main())
