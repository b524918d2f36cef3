"""``python -m gpen MODE``, where ``gpen`` is not on the PATH; ``torchrun -m gpen train``."""

import sys

from gpen.commands.main import main

if __name__ == '__main__':
    sys.exit(main())
