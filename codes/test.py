"""Score trained weights: ``python codes/test.py -opt options/train/quickstart.yml``."""

import sys

from gpen.commands.test import main

if __name__ == '__main__':
    sys.exit(main())
