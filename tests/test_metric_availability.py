"""Metrics whose weights or packages cannot be had: an error that says what to do, or left out where optional."""

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_options
from gpen.errors import UserError
from gpen.losses import identity as identity_loss
from gpen.metrics import ImageMetric, MetricNotAvailableError, build_metric, build_metrics
from gpen.metrics import degrees as degrees_module
from gpen.metrics import fid as fid_module
from gpen.metrics import identity as identity_metric
from gpen.metrics import landmarks as landmarks_module
from gpen.metrics import lpips as lpips_module
from gpen.options import Options
from gpen.options.blocks import Metric as MetricOptions
from gpen.registry import METRIC_REGISTRY
from gpen.training.setup import build_early_stopping, build_validation_metrics
from gpen.weights import downloads as weights
from gpen.weights.downloads import find_url


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without weights, on a machine without torch hub's cache or network."""
    monkeypatch.setattr(weights, 'project_root', lambda: tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(lpips_module, 'find_url', lambda model: f'file:///nowhere/{Path(find_url(model)).name}')
    monkeypatch.setattr(identity_metric, 'URL', f'file:///nowhere/{identity_loss.FILENAME}')
    for module in (fid_module, degrees_module, landmarks_module):
        monkeypatch.setattr(module, 'URL', f'file:///nowhere/{module.FILENAME}')
    return tmp_path


@pytest.mark.parametrize(
    ('name', 'filename', 'package'),
    [
        ('calculate_lpips', 'alexnet-owt-7be5be79.pth', 'torchmetrics'),
        ('calculate_identity', 'recognition_arcface_ir_se50.pth', 'facexlib'),
        ('calculate_fid', 'weights-inception-2015-12-05-6726825d.pth', 'torch_fidelity'),
        ('calculate_deg', 'arcface_resnet18.pth', 'torch'),
        ('calculate_lmd', 'alignment_WFLW_4HG.pth', 'facexlib'),
    ],
)
def test_missing_weights_name_the_file_its_url_and_its_place(
    no_weights: Path, name: str, filename: str, package: str
) -> None:
    pytest.importorskip(package)
    blocks = {'mine': MetricOptions(type=name)}
    with pytest.raises(UserError) as caught:
        build_metrics(blocks)
    message = str(caught.value)
    assert message.startswith('val.metrics.mine: ')
    assert f'file:///nowhere/{filename}' in message
    assert f'Put the file at {no_weights / "weights" / filename}, or set val.metrics.mine.weights' in message
    assert message.endswith('To go on without it, set val.metrics.mine.optional to true.')


@pytest.mark.parametrize(
    ('name', 'module', 'command'),
    [
        ('calculate_lpips', 'torchmetrics.functional.image.lpips', "pip install 'torchmetrics>=1.4'"),
        ('calculate_identity', 'facexlib.recognition.arcface_arch', "pip install 'facexlib>=0.3'"),
        ('calculate_fid', 'torch_fidelity.feature_extractor_inceptionv3', "pip install 'torch-fidelity>=0.3'"),
        ('calculate_lmd', 'facexlib.alignment.awing_arch', "pip install 'facexlib>=0.3'"),
        ('calculate_pyiqa', 'pyiqa', "pip install 'pyiqa>=0.1.10'"),
    ],
)
def test_a_missing_package_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MetricNotAvailableError) as caught:
        build_metric({'type': name, **({'name': 'musiq'} if name == 'calculate_pyiqa' else {})})
    assert f'Install it: {command}' in str(caught.value)
    assert caught.value.missing == f'the package {command.split(chr(39))[1].partition(">")[0]}'


def test_niqe_is_not_available_where_basicsr_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError('basicsr is installed but cannot be imported')

    METRIC_REGISTRY.get('calculate_niqe')  # finds its modules while they can be found
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: object())
    monkeypatch.setattr('gpen.registry.basicsr.BasicSR.get', fail)
    with pytest.raises(MetricNotAvailableError, match='NIQE: basicsr is installed but cannot be imported'):
        build_metric({'type': 'calculate_niqe'})


def test_niqe_without_basicsr_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    METRIC_REGISTRY.get('calculate_niqe')  # as above
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(MetricNotAvailableError, match=r"pip install 'basicsr==1\.4\.2'"):
        build_metric({'type': 'calculate_niqe'})


@pytest.mark.usefixtures('no_weights')
def test_an_optional_metric_that_cannot_be_had_is_left_out_with_its_reason() -> None:
    pytest.importorskip('facexlib')
    blocks = {
        'psnr': MetricOptions(type='calculate_psnr'),
        'identity': MetricOptions(type='calculate_identity', optional=True),
    }
    metrics, missing = build_metrics(blocks)
    assert list(metrics) == ['psnr']
    assert isinstance(metrics['psnr'], ImageMetric)
    assert missing['identity'].missing == 'recognition_arcface_ir_se50.pth'


def test_a_damaged_file_is_an_error_even_where_the_metric_is_optional(tmp_path: Path) -> None:
    pytest.importorskip('facexlib')
    path = tmp_path / 'damaged.pth'
    path.write_bytes(b'no weights')
    with pytest.raises(UserError, match=r'damaged\.pth is damaged'):
        build_metrics({'identity': MetricOptions.model_validate(_missing_block(str(path)))})


def _missing_block(path: str) -> dict[str, Any]:
    return {'type': 'calculate_identity', 'weights': path, 'optional': True}


def training_options(early_stopping: str) -> Options:
    options = tiny_options(Path('data'), Path('results'))
    options['train']['early_stopping'] = {'metric': early_stopping}
    options['val']['metrics'] = {'identity': _missing_block('/nowhere.pth'), 'ssim': {'type': 'calculate_ssim'}}
    return Options.model_validate(options)


def test_training_goes_on_without_an_optional_metric_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip('facexlib')
    options = training_options(early_stopping='ssim')
    with caplog.at_level(logging.WARNING, logger='gpen'):
        metrics = build_validation_metrics(options, torch.device('cpu'))
    assert list(metrics) == ['ssim']
    (record,) = caplog.records
    assert 'validation goes without val.metrics.identity, which is optional' in record.getMessage()
    assert '/nowhere.pth' in record.getMessage()
    early = build_early_stopping(options, metrics)
    assert early is not None
    assert early.metric == 'ssim'


def test_early_stopping_on_a_metric_that_cannot_be_had_is_an_error() -> None:
    pytest.importorskip('facexlib')
    with pytest.raises(UserError, match=r'early_stopping\.metric is identity, .* not available: .*/nowhere\.pth'):
        build_validation_metrics(training_options(early_stopping='identity'), torch.device('cpu'))
