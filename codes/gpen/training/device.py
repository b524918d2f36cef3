"""What a training takes from the device it runs on: how it computes there."""

import torch

from gpen.distributed import ranks
from gpen.options import Options
from gpen.utils.arithmetic import set_arithmetic, warn_of_slow_bf16
from gpen.utils.device import select_device


def prepare_device(options: Options) -> tuple[torch.device, str, list[str]]:
    """Return the device of this rank, a sentence about it, and warnings; set how it computes as the options say.

    Raises:
        UserError: this machine has more ranks than GPUs.
    """
    set_arithmetic(options.train.tf32, options.deterministic)
    device, sentence = select_device(options.num_gpu, ranks.local_rank(), ranks.world_size())
    warning = warn_of_slow_bf16(device) if options.train.amp == 'bf16' else None
    return device, sentence, [warning] if warning is not None else []
