"""The benchmark of a start: the scan of many pairs, and the command to its first step."""

import errno
import os
from pathlib import Path

import pytest

from benchmarks import startup
from benchmarks.startup import COMMAND, TORCH, Start


def test_pairs_are_hard_links_and_a_further_file_where_no_more_links_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if source.stat().st_nlink == 3:
            raise OSError(errno.EMLINK, 'Too many links')
        real(source, target)

    monkeypatch.setattr(os, 'link', link)
    startup.link_pairs(tmp_path, 7)
    for side in ('sharp', 'blurry'):
        files = list((tmp_path / side).iterdir())
        assert len(files) == 7
        assert len({path.stat().st_ino for path in files}) == 3
    start = startup.time_scan(tmp_path)  # none is damaged
    assert start.seconds > 0


def test_the_command_is_timed_up_to_its_first_step(option_file: Path, tmp_path: Path) -> None:
    begun = startup.time_code(startup.TIME_COMMAND, '-opt', str(option_file))
    assert begun.seconds > 0.1
    assert begun.processor_seconds > 0.1
    records = (tmp_path / 'experiments' / 'tiny' / 'metrics.jsonl').read_text()
    assert 'Training starts.' in records
    assert 'G_loss' not in records
    with pytest.raises(RuntimeError, match='no time was printed'):
        startup.time_code('import sys; sys.exit("failed")')


def test_the_tables_show_medians_and_what_the_command_adds_to_importing_torch() -> None:
    medians = {
        TORCH: Start.median_of([Start(2, 1), Start(3, 1), Start(90, 1)]),
        COMMAND: Start(4, 1.5),
        startup.FIRST_SCAN: Start(9, 8, 7),
        startup.CACHED_SCAN: Start.median_of([Start(1, 1, 2), Start(1, 1, 6)]),
    }
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in startup.format_starts(medians).splitlines()]
    assert rows[2:] == [[TORCH, '3.00', '1.00'], [COMMAND, '4.00', '1.50'], ['difference', '1.00', '0.50']]
    assert '1,000 pairs' in startup.format_scans(medians, 1000)
    assert startup.format_scans(medians, 1000).splitlines()[-1].split()[-2] == '4'
