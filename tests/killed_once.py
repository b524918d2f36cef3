"""``codes/train.py``, of which torchrun's process 1 is killed in its 7th step, the first time that it is started."""

import os
import sys

import processes
from gpen.commands.train import main

if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
    processes.install_kill('step', 7)
sys.exit(main())
