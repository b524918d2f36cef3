"""What a training takes from the device it runs on: how it computes there, and in how many micro-batches."""

from typing import Any

import torch

from gpen.distributed import ranks
from gpen.errors import UserError
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


def settle_micro_batches(options: Options, device: torch.device, before: dict[str, Any] | None) -> str | None:
    """Put a number in the place of ``accumulate: auto``, the same on all ranks; return a sentence about it.

    The number becomes part of the options, and so of ``options.yml`` and of each training state, from which a run that
    continues takes it.

    Args:
        options: changed in place, where they say ``auto``.
        device: of this rank.
        before: the options of the run that continues; None for one that starts.
    """
    data = options.datasets.train
    if data is None or data.accumulate != 'auto':
        return None
    free = min(ranks.all_gather(_free_memory(device)))
    data.accumulate, sentence = ranks.on_main(lambda: _choose(options, free, before))
    return f'datasets.train.{sentence}'


def _free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU, or of a computer's memory for each of the ranks."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # for this alone, and its import takes a tenth of a second

    return int(psutil.virtual_memory().available) // ranks.world_size()


def _choose(options: Options, free: int, before: dict[str, Any] | None) -> tuple[int, str]:
    """Return the number of micro-batches and a sentence without its first words."""
    earlier = ((before or {}).get('datasets') or {}).get('train') or {}
    if isinstance(earlier.get('accumulate'), int) and earlier.get('batch_size_per_gpu') == options.batch_size:
        return earlier['accumulate'], f'accumulate: auto is {earlier["accumulate"]}, as before the interruption.'
    from gpen.memory.plan import choose_micro_batches  # its imports take a while

    try:
        return choose_micro_batches(options, free)
    except UserError as error:
        return 1, f'accumulate: auto is 1, since there is no forecast. {error}'
