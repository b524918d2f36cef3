"""Joining the processes that ``torchrun`` started for one training."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from gpen.errors import UserError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, for instance while rank 0 validates or writes."""

_TRIAL = timedelta(seconds=3)
_PORT_KEY = 'gpen/port'
_VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
_COMMAND = 'torchrun --nproc_per_node N codes/train.py -opt FILE --launcher pytorch'


@contextmanager
def join_processes(launcher: str, auto_resume: bool) -> Iterator[None]:
    """Train together with the other processes in this block, or alone.

    Args:
        launcher: ``pytorch``: this is one of the processes that torchrun started; ``none``: the only one.
        auto_resume: whether the run continues where it was.

    Raises:
        UserError: the launcher does not fit how the program was started.
    """
    if launcher == 'none':
        if int(os.environ.get('WORLD_SIZE', '1')) > 1:
            raise UserError(f'torchrun started several processes, but --launcher pytorch is missing: {_COMMAND}')
        yield
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UserError(f'--launcher pytorch needs torchrun, which sets {", ".join(missing)}: {_COMMAND}')
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')) > 0 and not auto_resume:
        raise UserError(
            'torchrun started this training again, which would begin anew. '
            'Give --auto_resume, so that it continues, or leave --max_restarts out.'
        )
    import torch
    from torch import distributed as dist

    dist.init_process_group(
        'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo',
        store=_open_store(int(os.environ['RANK']), os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])),
        rank=int(os.environ['RANK']),
        world_size=int(os.environ['WORLD_SIZE']),
        timeout=PATIENCE,
    )
    yield
    dist.destroy_process_group()  # after an error, this could wait for processes that have ended


def _open_store(rank: int, host: str, port: int) -> Any:
    """Return the store through which the processes find each other.

    torchrun keeps its own store at ``MASTER_PORT`` over restarts, with the addresses of processes that were ended; a
    new start would try those (pytorch/pytorch#135712).  So rank 0 opens one for this start, and torchrun's says where.
    Its address may be an old one at first: the store there is gone, and the others ask again.
    """
    from torch.distributed import DistError, TCPStore

    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return TCPStore(host, port, is_master=rank == 0, timeout=PATIENCE)
    shared = TCPStore(host, port, is_master=False, timeout=PATIENCE)
    if rank == 0:
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        shared.set(_PORT_KEY, str(own.port))
        return own
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            store = TCPStore(host, int(shared.get(_PORT_KEY)), is_master=False, timeout=_TRIAL)
        except DistError:
            if time.monotonic() > deadline:
                raise
            continue
        store.set_timeout(PATIENCE)
        return store
