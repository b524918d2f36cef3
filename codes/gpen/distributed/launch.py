"""Joining the process group of a training that ``torchrun`` started."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from gpen.errors import UserError

PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others, for instance while rank 0 validates or writes."""

_TRIAL = timedelta(seconds=3)
_PORT_KEY = 'gpen/port'
_VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
_COMMAND = 'torchrun --nproc_per_node N codes/train.py -opt FILE --launcher pytorch'


@contextmanager
def join_processes(launcher: str, auto_resume: bool) -> Iterator[None]:
    """Be a member of the process group inside this block; a no-op for ``none``.

    Args:
        launcher: ``pytorch`` if torchrun started this process as one of several ranks; ``none`` if it trains alone.
        auto_resume: whether the run resumes from its last checkpoint.

    Raises:
        UserError: the launcher does not fit the way the program was started.
    """
    # Is this process what the launcher says?
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
    dist.destroy_process_group()  # not after an error, since this could wait for ranks that have ended


def _open_store(rank: int, host: str, port: int) -> Any:
    """Return the store through which the ranks find each other.

    torchrun keeps its own store at ``MASTER_PORT`` over restarts, with the addresses of ranks that have ended, and a
    restarted rank would try those (pytorch/pytorch#135712).  So rank 0 opens a new store at each start, and publishes
    its port in torchrun's store.  The others may read the port of an earlier start first; then nothing answers there,
    and they ask again.
    """
    from torch.distributed import DistError, TCPStore

    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return TCPStore(host, port, is_master=rank == 0, timeout=PATIENCE)

    # Rank 0 opens the store and publishes its port.
    shared = TCPStore(host, port, is_master=False, timeout=PATIENCE)
    if rank == 0:
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        shared.set(_PORT_KEY, str(own.port))
        return own

    # The others connect to it.
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
