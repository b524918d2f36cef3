"""What the server of ``processes`` imports and reads once, so that no process that is forked from it has to."""

import tempfile
from pathlib import Path

import filelock  # noqa: F401
import PIL.Image
from tensorboard.backend.event_processing import event_file_loader  # noqa: F401
from torch.utils import tensorboard  # noqa: F401

import processes  # noqa: F401
from conftest import tiny_options, write_options
from gpen.commands import test, train  # noqa: F401
from gpen.data import landmarks, paired_dataset, scan_cache  # noqa: F401
from gpen.data.storage import disk, shards  # noqa: F401
from gpen.distributed import launch  # noqa: F401
from gpen.evaluation import score  # noqa: F401
from gpen.losses import pixel  # noqa: F401
from gpen.models import gpen_model  # noqa: F401
from gpen.options import parse_options
from gpen.training import run  # noqa: F401

PIL.Image.init()

# The registries read their source files at the first option file.  Nothing here may start a thread, as OpenCV does.
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    parse_options(write_options(folder / 'tiny.yml', tiny_options(folder, folder)), phases=('none',))
