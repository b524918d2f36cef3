"""A U-Net discriminator with spectral norm, by BasicSR's name: it judges each pixel, and its run continues exactly."""

import importlib.util
from pathlib import Path

import pytest

from command_line import fail, succeed
from comparing import assert_same_run, read_records

pytestmark = pytest.mark.skipif(importlib.util.find_spec('basicsr') is None, reason='basicsr is not installed')

UNET = 'network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}'


def test_it_trains_with_r1_and_a_killed_run_continues_bit_for_bit(option_file: Path, tmp_path: Path) -> None:
    folder, whole = option_file.parent / 'experiments' / 'tiny', tmp_path / 'whole'
    succeed(option_file, UNET)
    folder.rename(whole)
    succeed(option_file, UNET, 'train:total_epochs=2')
    succeed(option_file, UNET, flags=('--auto_resume',))
    assert_same_run(folder, whole)
    records = [record for record in read_records(folder) if record['phase'] == 'train']
    assert all(record['D_r1'] > 0 and 0 <= record['D_acc_real'] <= 1 for record in records)


def test_it_has_no_features_to_match(option_file: Path) -> None:
    matching = 'train:feature_matching_opt={type: FeatureMatchingLoss}'
    assert 'feature_matching_opt: needs a discriminator whose forward takes return_features' in fail(
        option_file, UNET, matching
    )
