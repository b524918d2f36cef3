"""Draw what training will see: ``python scripts/preview_degradation.py -opt options/train/gpen_512_faces.yml``."""

import sys

import _path  # noqa: F401
from gpen.commands.preview_degradation import main

if __name__ == '__main__':
    sys.exit(main())
