"""Resuming on several ranks: a checkpoint is sent without a second copy of its tensors, and freed once it is loaded."""

import gc
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import processes
from comparing import assert_same
from conftest import tiny_options, write_options
from gpen.distributed import ranks
from gpen.models.adversarial import AdversarialModel


def tensor_bytes() -> int:
    """Return the bytes of all tensors of this process; those that share memory count once."""
    storages = [value.untyped_storage() for value in gc.get_objects() if type(value) in (Tensor, torch.nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def state_bytes(model: AdversarialModel) -> int:
    """Return the bytes of the networks and of the state of their optimizers."""
    networks = [network for network in (model.net_g, model.net_g_ema, model.net_d) if network is not None]
    optimizers = [optimizer for optimizer in (model.optimizer_g, model.optimizer_d) if optimizer is not None]
    tensors = [value for network in networks for value in network.state_dict().values()]
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in [*tensors, *states])


def watch(file: Path) -> None:
    """Write how much memory tensors have while the checkpoint is loaded and afterwards, and what is sent pickled."""
    from torch import distributed as dist

    from gpen.training import run

    found = {'before': tensor_bytes(), 'pickled': 0}
    load, train, send = run.load_model, run.train, dist.broadcast_object_list

    def watched_load(model: AdversarialModel, checkpoint: Any) -> None:
        found['loading'] = tensor_bytes()
        load(model, checkpoint)
        rest = {name: value for name, value in checkpoint.state.items() if name != 'images'}  # small, compared later
        found['kept'] = str([checkpoint.networks, rest]).count('tensor(')

    def watched_train(training: Any) -> Any:
        found['loaded'], found['state'] = tensor_bytes(), state_bytes(training.setup.model)
        file.write_text(json.dumps(found))
        return train(training)

    def watched_send(objects: list[Any], src: int) -> None:
        send(objects, src=src)
        found['pickled'] = max(found['pickled'], *(len(value) for value in objects if isinstance(value, bytes)), 0)

    run.load_model, run.train, dist.broadcast_object_list = watched_load, watched_train, watched_send


def test_a_checkpoint_needs_its_size_once_while_it_is_loaded_and_nothing_afterwards(
    tiny_data: Path, tmp_path: Path
) -> None:
    options = tiny_options(tiny_data, tmp_path)
    options['datasets'].pop('val')
    options['network_g']['narrow'] = options['network_d']['narrow'] = 0.06
    option_file = write_options(tmp_path / 'tiny.yml', options)
    status, printed = processes.run(tmp_path / 'log', '-opt', option_file, '--force_yml', 'train:total_epochs=2')
    assert status == 0, printed

    special = {rank: {'prepare': partial(watch, tmp_path / f'{rank}.json')} for rank in range(2)}
    results = processes.run_together(tmp_path, '-opt', option_file, '--auto_resume', special=special)
    assert [status for status, _ in results] == [0, 0], results
    for rank in range(2):
        found = json.loads((tmp_path / f'{rank}.json').read_text())
        assert found['loading'] - found['before'] <= 2 * found['state']
        assert found['loaded'] - found['before'] <= 1.01 * found['state']
        assert found['kept'] == 0
        assert found['pickled'] < 0.1 * found['state']


def send_to_all(folder: Path, rank: int) -> None:
    """In a process of its own: receive tensors of several kinds from rank 0, and save them."""
    from torch import distributed as dist

    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    received = ranks.on_main(mixed_object)
    dist.destroy_process_group()
    torch.save(received, folder / f'{rank}.pt')


def mixed_object() -> dict[str, Any]:
    values = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)
    tensors = [values.to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8)]
    return {
        'kinds': [*tensors, values > 3, values.to(memory_format=torch.channels_last), values[:, :, 1]],
        'rest': ({'step': torch.tensor(7.0), 'names': ['a']}, None, torch.zeros(0)),
    }


def test_all_ranks_get_the_tensors_of_rank_0(tmp_path: Path) -> None:
    children = [processes.CONTEXT.Process(target=send_to_all, args=(tmp_path, rank)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    for rank in range(2):
        assert_same(torch.load(tmp_path / f'{rank}.pt'), mixed_object())
