"""``accumulate: auto``: as few micro-batches as fit the GPU's free memory, the same on all ranks and after a resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml

from command_line import succeed
from conftest import tiny_options, write_options
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.memory import plan
from gpen.memory.plan import choose_micro_batches
from gpen.options import Options, parse_options
from gpen.training.device import settle_micro_batches

CPU, GPU = torch.device('cpu'), torch.device('cuda', 0)


def options_of(batch: int = 4, accumulate: int | str = 'auto', size: int = 8, **train: Any) -> Options:
    options = tiny_options(Path('data'), Path('results'))
    options['datasets']['train'] |= {'batch_size_per_gpu': batch, 'accumulate': accumulate}
    options['train'] |= train
    for network in ('network_g', 'network_d'):
        options[network]['size'] = size
    return Options.model_validate(options)


@pytest.fixture
def gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may take all of the free memory."""
    monkeypatch.setattr(plan, 'usable_bytes', lambda free: free * plan.GIB)


# --- what is chosen


def rehearse_once() -> Any:
    """Return ``plan._rehearse`` for one set of options, which remembers what each number of micro-batches needs."""
    real, known = plan._rehearse, {}

    def rehearse(options: Options, count: int) -> Any:
        if count not in known:
            known[count] = real(options, count)
        return known[count]

    return rehearse


@pytest.mark.usefixtures('gib')
def test_as_few_micro_batches_are_chosen_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'compile', lambda _: pytest.fail('a forecast compiles nothing'))
    monkeypatch.setattr(plan, '_rehearse', rehearse_once())
    options = options_of(net_d_reg_every=1, compile=True)
    peaks = {count: plan._rehearse(options, count).total for count in (1, 2, 4)}
    assert peaks[1] > peaks[2] > peaks[4]
    assert choose_micro_batches(options, peaks[1])[0] == 1
    assert choose_micro_batches(options, peaks[1] - 1)[0] == 2
    count, sentence = choose_micro_batches(options, peaks[2] - 1)
    assert count == 4
    assert ', which fits the ' in sentence
    assert options.datasets.train is not None
    assert options.datasets.train.accumulate == 'auto'
    assert options.train.compile


@pytest.mark.usefixtures('gib')
@pytest.mark.parametrize('batch', [1, 3])
def test_where_nothing_fits_images_go_one_by_one_and_that_is_said(batch: int) -> None:
    count, sentence = choose_micro_batches(options_of(batch), 1000)
    assert count == batch
    assert ', which does not fit the ' in sentence


def test_a_forecast_exchanges_nothing_with_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_rank', lambda: 0)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda *_: pytest.fail('the other rank does not forecast'))
    assert choose_micro_batches(options_of(2), 2**40)[0] == 1


def test_auto_counts_as_one_piece_where_nothing_is_chosen_yet() -> None:
    assert options_of().micro_batches == 1
    assert options_of(accumulate=4).micro_batches == 4


# --- where it is put


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that are free on the GPU of each rank, and then those that the choice was made by."""
    values = [5 * 2**30, 3 * 2**30]
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda _: (values[0], 80 * 2**30))
    monkeypatch.setattr(ranks, 'all_gather', lambda value: [value, values[1]])

    def choose(options: Options, free_bytes: float) -> tuple[int, str]:  # noqa: ARG001
        values.append(int(free_bytes))
        return 2, 'accumulate: auto is 2.'

    monkeypatch.setattr(plan, 'choose_micro_batches', choose)
    return values


def test_all_ranks_have_the_number_for_the_gpu_with_the_least_free_memory(free: list[int]) -> None:
    options = options_of()
    assert settle_micro_batches(options, GPU, None) == 'datasets.train.accumulate: auto is 2.'
    assert options.micro_batches == 2
    assert free[2:] == [3 * 2**30]


def test_a_cpu_shares_the_computers_memory_between_its_ranks(free: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(available=4 * 2**30))
    monkeypatch.setattr(ranks, 'world_size', lambda: 2)
    monkeypatch.setattr(ranks, 'on_main', lambda choose: choose())
    settle_micro_batches(options_of(), CPU, None)
    assert free[2:] == [2 * 2**30]


def test_rank_0_chooses_for_all(free: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, 'on_main', lambda _: (8, 'accumulate: auto is 8.'))  # what rank 0 has sent
    options = options_of(8)
    settle_micro_batches(options, GPU, None)
    assert options.micro_batches == 8
    assert len(free) == 2  # this rank has made no forecast


def test_a_number_that_the_options_give_stays(free: list[int]) -> None:
    options = options_of(accumulate=4)
    assert settle_micro_batches(options, GPU, options_of(accumulate=2).model_dump()) is None
    assert options.micro_batches == 4
    assert len(free) == 2


def test_a_run_that_continues_takes_the_number_it_had_unless_its_batch_is_another(free: list[int]) -> None:
    for batch, expected in ((4, 4), (2, 2)):
        options = options_of(batch)
        sentence = settle_micro_batches(options, GPU, options_of(4, accumulate=4).model_dump(mode='json'))
        assert options.micro_batches == expected
        assert sentence is not None
        assert sentence.endswith('as before the interruption.') is (batch == 4)
    assert len(free) == 3


@pytest.mark.usefixtures('free')
def test_a_step_that_cannot_be_forecast_is_in_one_piece_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UserError('This step cannot be forecast.')

    monkeypatch.setattr(plan, 'choose_micro_batches', refuse)
    options = options_of()
    sentence = settle_micro_batches(options, GPU, None)
    assert sentence == (
        'datasets.train.accumulate: auto is 1, since there is no forecast. This step cannot be forecast.'
    )
    assert options.micro_batches == 1


# --- in a run


def test_a_run_says_and_keeps_what_was_chosen_and_continues_with_it(tiny_data: Path, tmp_path: Path) -> None:
    option_file = write_options(tmp_path / 'tiny.yml', tiny_options(tiny_data, tmp_path))
    succeed(option_file, 'train:total_epochs=1', 'datasets:train:accumulate=2')
    printed = succeed(option_file, 'train:total_epochs=2', 'datasets:train:accumulate=auto', flags=('--auto_resume',))
    assert 'datasets.train.accumulate: auto is 2, as before the interruption.' in printed
    assert 'Changed since then: datasets.train.accumulate' not in printed

    folder = tmp_path / 'experiments' / 'tiny'
    state = torch.load(folder / 'training_states' / '8.state', weights_only=True)
    assert state['options']['datasets']['train']['accumulate'] == 2
    written = yaml.safe_load((folder / 'options.yml').read_text())
    assert written['datasets']['train']['accumulate'] == 2

    # A new run
    printed = succeed(option_file, 'datasets:train:accumulate=auto', 'train:total_epochs=1', 'name=other')
    assert 'datasets.train.accumulate: auto is 1: by the forecast a step needs' in printed
    assert (
        yaml.safe_load((folder.with_name('other') / 'options.yml').read_text())['datasets']['train']['accumulate'] == 1
    )


def test_a_dry_run_says_it_too(option_file: Path) -> None:
    printed = succeed(option_file, 'datasets:train:accumulate=auto', flags=('--dry_run',))
    assert 'datasets.train.accumulate: auto is 1: by the forecast a step needs' in printed


def test_other_words_than_auto_are_refused(option_file: Path) -> None:
    assert parse_options(option_file, ['datasets:train:accumulate=auto']).options.micro_batches == 1
    with pytest.raises(UserError, match=r'datasets\.train\.accumulate'):
        parse_options(option_file, ['datasets:train:accumulate=automatic'])


def test_lpips_is_forecast_without_its_weights() -> None:
    pytest.importorskip('torchmetrics')
    plain, with_loss = (
        plan._rehearse(options_of(2, size=16, losses=losses), 1).weights
        for losses in ({}, {'lpips': {'type': 'LPIPSLoss'}})
    )
    assert with_loss - plain > 50 * 2**20  # the convolutions of VGG-16
