"""What a run works with: its length, when it validates and saves, and what it follows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_options, write_options
from gpen.data.paired_dataset import PairedImageDataset
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.options import Options, parse_options
from gpen.runs.changes import compare_options
from gpen.runs.log import LOGGER, RECORDED, RunLog
from gpen.training.setup import Setup, build_data, build_data_sets, build_setup
from tiny_model import CPU


def options_of(data: Path, folder: Path, **changes: Any) -> Options:
    """The tiny run: 7 pairs, 2 at a time, so 4 iterations an epoch; ``changes`` are blocks of options to add to."""
    options = tiny_options(data, folder)
    for block, values in changes.items():
        options[block] = {**options.get(block, {}), **values}
    return parse_options(write_options(folder / 'tiny.yml', options)).options


def setup_of(data: Path, folder: Path, **changes: Any) -> Setup:
    options = options_of(data, folder, **changes)
    return build_setup(options, CPU, build_data_sets(options))


def due(setup: Setup, what: str) -> list[int]:
    return [n for n in range(1, setup.total_iterations + 1) if getattr(setup, what)(n)]


def test_an_epoch_sees_each_pair_once_and_the_run_has_as_many_as_are_asked_for(tiny_data: Path, tmp_path: Path) -> None:
    setup = setup_of(tiny_data, tmp_path, train={'total_epochs': 3})
    assert (setup.iterations_per_epoch, setup.total_iterations) == (4, 12)
    assert [setup.epoch_of(n) for n in (0, 1, 4, 5, 8, 9, 12)] == [1, 1, 1, 2, 2, 3, 3]
    assert setup.options.batch_size == 2
    one_by_one = dataclasses.replace(setup, iterations_per_epoch=1)
    assert [one_by_one.epoch_of(n) for n in (0, 1, 2)] == [1, 1, 2]


def test_without_intervals_each_epoch_is_validated_and_saved(tiny_data: Path, tmp_path: Path) -> None:
    setup = setup_of(tiny_data, tmp_path, train={'total_epochs': 3})
    assert due(setup, 'validates_at') == due(setup, 'saves_at') == [4, 8, 12]


def test_intervals_count_iterations_and_the_last_one_is_always_due(tiny_data: Path, tmp_path: Path) -> None:
    setup = setup_of(
        tiny_data,
        tmp_path,
        train={'total_epochs': None, 'total_iter': 10},
        val={'val_freq': 3},
        logger={'save_checkpoint_freq': 7},
    )
    assert due(setup, 'validates_at') == [3, 6, 9, 10]
    assert due(setup, 'saves_at') == [7, 10]


def test_the_patience_counts_only_where_early_stopping_is_on(tiny_data: Path, tmp_path: Path) -> None:
    for enabled in (True, False):
        early = {'enabled': enabled, 'patience': 1, 'min_delta': 0.5, 'min_iter': 0}
        followed = setup_of(tiny_data, tmp_path, train={'early_stopping': early}).early_stopping
        assert followed is not None
        for iteration, value in enumerate((20.0, 20.4), start=1):
            assert followed.update(value, iteration)
        assert followed.should_stop == enabled


def test_without_validation_data_nothing_is_validated_or_followed(tiny_data: Path, tmp_path: Path) -> None:
    options = options_of(tiny_data, tmp_path)
    options.datasets.val = None
    setup = build_setup(options, CPU, build_data_sets(options))
    assert setup.val_loader is setup.early_stopping is None
    assert setup.metrics == {}
    assert due(setup, 'validates_at') == []
    assert due(setup, 'saves_at') == [4, 8, 12, 16]


def test_training_needs_data_and_errors_name_their_block(tiny_data: Path, tmp_path: Path) -> None:
    options = options_of(tiny_data, tmp_path)
    assert options.datasets.train is not None
    (tmp_path / 'empty').mkdir()
    options.datasets.train = options.datasets.train.model_copy(update={'dataroot_gt': str(tmp_path / 'empty')})
    with pytest.raises(UserError, match=r'^datasets\.train: .*empty'):
        build_data('train', options.datasets.train)
    options.datasets.train = None
    with pytest.raises(UserError, match=r'datasets\.train is missing'):
        build_data_sets(options)
    assert options.batch_size == 1


class OwnFaces(PairedImageDataset):
    """A data set of a user, which may hold more than names."""


@pytest.mark.parametrize(('rank', 'is_own', 'builds'), [(0, False, 1), (1, False, 0), (0, True, 1), (1, True, 1)])
def test_rank_0_alone_scans_and_sends_names_but_each_rank_builds_a_data_set_of_the_user(
    rank: int, is_own: bool, builds: int, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = OwnFaces if is_own else PairedImageDataset
    built: list[Any] = []

    def build(_phase: str, block: Any) -> Any:
        built.append(kind(block.dataroot_gt, block.dataroot_lq, 16))
        return built[-1]

    def on_main(body: Callable[[], Any]) -> Any:
        handed.append(body() if rank == 0 else sent)
        return handed[0]

    handed: list[Any] = []
    sent = None if is_own else 'what rank 0 sends'
    monkeypatch.setattr('gpen.training.setup.build_data', build)
    monkeypatch.setattr(ranks, 'on_main', on_main)
    options = options_of(tiny_data, tmp_path)
    options.datasets.val = None
    found = build_data_sets(options).train
    assert len(built) == builds
    assert (handed == [None]) == is_own
    assert found is (built[0] if built else sent)


# --- what changed since a checkpoint


def test_changed_options_are_listed_and_a_default_that_is_written_out_is_no_change() -> None:
    before = {'network_g': {'type': 'GPEN', 'size': 16}, 'train': {'lr': 1, 'gone': 2, 'same': [1]}}
    now = {
        'network_g': {'type': 'GPEN', 'size': 16, 'narrow': 1.0},
        'train': {'lr': 3, 'same': [1], 'new': {'a': True}},
    }
    assert compare_options(before, now) == [
        'train.gone: 2 -> not set',
        'train.lr: 1 -> 3',
        'train.new.a: not set -> True',
    ]


@pytest.mark.parametrize(
    ('path', 'old', 'new'),
    [
        ('network_g', {'type': 'GPEN', 'size': 16}, {'type': 'GPEN', 'size': 32}),
        ('network_d', {'type': 'GPENDiscriminator', 'size': 16}, {'type': 'GPENDiscriminator', 'size': 32}),
        ('model_type', 'GPENModel', 'GPENPriorModel'),
        ('train', {'optim_g': {'type': 'Adam'}}, {'optim_g': {'type': 'SGD'}}),
        ('train', {}, {'gan_opt': {'type': 'GANLoss'}}),
    ],
)
def test_a_checkpoint_of_other_networks_optimizers_or_without_a_discriminator_is_refused(
    path: str, old: Any, new: Any
) -> None:
    with pytest.raises(UserError, match='does not fit the options any more'):
        compare_options({path: old}, {path: new})


def test_networks_that_are_not_known_here_are_compared_as_they_stand() -> None:
    assert (
        compare_options({'network_g': {'type': 'gone.Net', 'a': 1}}, {'network_g': {'type': 'gone.Net', 'a': 1}}) == []
    )
    with pytest.raises(UserError, match=r'network_g\.a: 1 -> 2'):
        compare_options({'network_g': {'type': 'gone', 'a': 1}}, {'network_g': {'type': 'gone', 'a': 2}})


def test_a_discriminator_that_is_left_out_is_no_obstacle() -> None:
    assert compare_options({'train': {'gan_opt': {'type': 'GANLoss'}}}, {}) == [
        "train.gan_opt.type: 'GANLoss' -> not set"
    ]


# --- the log


@pytest.mark.parametrize('is_main', [True, False])
def test_the_log_has_what_came_before_its_folder_and_other_ranks_print_errors_alone(
    is_main: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warnings: list[str] = []
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers))
    with RunLog(is_main) as log:
        LOGGER.info('first')
        LOGGER.warning('early')
        log.write_to(tmp_path / 'run')
        log.record_warnings(warnings.append)
        LOGGER.warning('late')
        LOGGER.warning('said elsewhere', extra=RECORDED)
        LOGGER.error('broken')
    assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers) == before
    lines = (tmp_path / 'run' / 'train.log').read_text().splitlines()
    assert [line.split(' ', 2)[2] for line in lines] == [
        *('INFO first', 'WARNING early', 'WARNING late', 'WARNING said elsewhere', 'ERROR broken')
    ]
    assert warnings == ['early', 'late']
    printed = capsys.readouterr()
    said = (printed.out + printed.err).split('\n')
    assert [line for line in said if line] == (
        ['first', 'early', 'late', 'said elsewhere', 'broken'] if is_main else ['broken']
    )


@pytest.mark.parametrize(
    ('train', 'start'),
    [
        ({'warmup_epochs': 3, 'ema_scheduler': {'total_iter': 4}}, 12),  # epochs of 4 iterations: the warm-up ends last
        ({'warmup_epochs': 1, 'ema_scheduler': {'total_iter': 5}}, 5),
        ({'warmup_epochs': 1, 'ema_scheduler': {'total_iter': 1000}}, 20),  # half of the run
        ({'warmup_epochs': 3, 'early_stopping': {'min_iter': 2}}, 2),
    ],
)
def test_the_patience_counts_when_warm_up_and_ramp_are_over(
    tiny_data: Path, tmp_path: Path, train: dict[str, Any], start: int
) -> None:
    early = {'patience': 1, **train.pop('early_stopping', {})}
    setup = setup_of(tiny_data, tmp_path, train={**train, 'total_epochs': 10, 'early_stopping': early})
    assert (setup.iterations_per_epoch, setup.total_iterations) == (4, 40)
    followed = setup.early_stopping
    assert followed is not None
    followed.update(20.0, 1)
    followed.update(19.0, start - 1)
    assert not followed.should_stop
    followed.update(19.0, start)
    assert followed.should_stop
