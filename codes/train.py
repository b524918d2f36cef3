"""Train from an option file: ``python codes/train.py -opt options/train/gpen_512.yml --auto_resume``."""

import sys

from gpen.commands.train import main

if __name__ == '__main__':
    sys.exit(main())
