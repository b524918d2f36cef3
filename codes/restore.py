"""Restore aligned faces: ``python codes/restore.py --model FILE --input DIR --output DIR``."""

import sys

from gpen.commands.restore import main

if __name__ == '__main__':
    sys.exit(main())
