"""Published models by name: in restore.py, test.py, export.py and recipes, their licence before the download."""

import functools
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import export
import processes
from command_line import run_here, succeed
from conftest import tiny_options, write_options, write_pairs
from file_server import FileServer, serve_files
from gpen.archs import build_network
from gpen.commands import demo, prepare_dataset, restore, search_lr, train
from gpen.data.image_io import read_image
from gpen.demo.service import Choice
from gpen.errors import UserError
from gpen.evaluation.models import name_models
from gpen.options import parse_options, parse_scoring_options
from gpen.registry import published
from gpen.registry.published import LICENCE, MODELS
from gpen.weights import by_name, downloads
from gpen.weights.by_name import find_model
from photographs import DotDetector, draw_photo, save
from tiny_model import build, equal, weights_of

pytestmark = pytest.mark.usefixtures('no_log')

NAME = 'GPEN-BFR-512'
FILE = f'{NAME}.pth'
SIZE = 16  # of the tiny networks


def pack(options: dict[str, Any], seed: int = 0) -> bytes:
    """The file of a network as it is published: a flat state dict."""
    torch.manual_seed(seed)
    stream = io.BytesIO()
    torch.save(build_network(options).state_dict(), stream)
    return stream.getvalue()


@pytest.fixture(scope='module')
def networks() -> dict[str, bytes]:
    """Tiny networks under the names of published ones."""
    options = tiny_options(Path(), Path())
    return {NAME: pack(options['network_g'], seed=5), f'{NAME}-D': pack(options['network_d'], seed=6)}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: dict[str, bytes]) -> Iterator[FileServer]:
    """The tiny networks at a server of this machine, which all published addresses lead to; an empty project."""
    root = tmp_path / 'project'
    root.mkdir()
    with serve_files() as files:
        for name, content in networks.items():
            files.publish(f'{name}.pth', content)
        for name, model in MODELS.items():
            monkeypatch.setitem(MODELS, name, replace(model, pixels=SIZE, urls=(f'{files.address}/{name}.pth',)))
        for module in (downloads, by_name, published):
            monkeypatch.setattr(module, 'project_root', lambda: root)
        monkeypatch.setattr('gpen.utils.files.project_root', lambda: root)
        monkeypatch.setattr('gpen.models.initial_weights.project_root', lambda: root)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
        monkeypatch.setenv('GPEN_MIRROR', '')
        monkeypatch.chdir(root)
        yield files


def restore_by_name(tmp_path: Path, name: str, *more: str) -> int:
    write_pairs(tmp_path / 'faces', 1)
    words = ['--model', name, '--input', str(tmp_path / 'faces' / 'blurry'), '--output', str(tmp_path / 'out')]
    return restore.main([*words, '--aligned', '--device', 'cpu', *more])


def test_restoring_by_name_says_the_licence_downloads_once_and_restores(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore_by_name(tmp_path, 'gpen-bfr-512') == 0
    assert read_image(tmp_path / 'out' / '000.png').shape == (16, 16, 3)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        LICENCE,
        f'Downloading {NAME} (about 284 MB) from {server.address}/{FILE} to {tmp_path / "project" / "weights" / FILE}',
    ]
    assert 'non-commercial use only' in LICENCE

    assert restore_by_name(tmp_path, NAME) == 0
    assert server.asked == [(FILE, 0)]
    assert 'licence' not in capsys.readouterr().err


def test_a_mirror_is_given_on_the_command_line(
    server: FileServer, tmp_path: Path, networks: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    server.publish(f'mirror/{FILE}', networks[NAME])
    assert restore_by_name(tmp_path, NAME, '--mirror', f'{server.address}/mirror') == 0
    assert server.asked == [(f'mirror/{FILE}', 0)]
    assert restore_by_name(tmp_path, 'GPEN-BFR-256', '--mirror', 'nowhere') == 2
    assert 'The mirror (GPEN_MIRROR or --mirror) is nowhere, which is no address.' in capsys.readouterr().err


@pytest.mark.parametrize('file', [NAME, FILE])
def test_a_file_of_that_name_comes_before_the_published_model(
    file: str, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'project' / file).write_bytes(b'mine')
    assert find_model(NAME) == Path(file)
    assert f'{NAME}: the file {file} is used, not the published model' in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('GPEN-BFR-521', "There is no file GPEN-BFR-521, and no published model of that name. Did you mean 'GPEN-BFR-"),
        ('gpen_inpainting', "Did you mean 'GPEN-Inpainting-1024'?"),
        ('there/gpen-bfr-512.pth', 'no file there/gpen-bfr-512.pth. The name alone, GPEN-BFR-512, downloads the'),
        ('GPEN-BFR-512-D', 'is a discriminator, for path.pretrain_network_d. Its generator is GPEN-BFR-512.'),
        ('.', 'The path . is a folder. Give a file, such as models/net_g_best.pth of a run.'),
        ('my.pth', 'restore.py --list_models shows names to give.'),
        ('hf://owner/file', 'The address hf://owner/file is not of the form hf://OWNER/REPO/FILE.'),
        ('hf://owner/repo/../../file', 'is not of the form hf://OWNER/REPO/FILE.'),
    ],
)
def test_a_name_that_is_none_says_what_may_be_meant(
    given: str, message: str, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore_by_name(tmp_path, given) == 2
    assert message in capsys.readouterr().err
    assert server.asked == []


def test_the_list_shows_names_sizes_terms_and_addresses(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'project' / 'weights').mkdir()
    (tmp_path / 'project' / 'weights' / FILE).touch()
    with pytest.raises(SystemExit, match='0'):
        restore.main(['--list_models'])
    printed = capsys.readouterr().out
    assert LICENCE in printed
    for name, model in MODELS.items():
        line = re.search(
            rf'^{name} +about \d+ MB +{SIZE} x {SIZE} +.*\n    {server.address}/{name}\.pth$', printed, re.MULTILINE
        )
        assert line is not None
        assert ('(here already)' in line[0]) == (name == NAME)
        assert model.size in line[0]


def test_the_published_addresses_are_those_of_the_authors() -> None:
    for name, model in MODELS.items():
        on_modelscope = name in ('GPEN-BFR-1024', 'GPEN-BFR-2048')
        host = 'www.modelscope.cn' if on_modelscope else 'public-vigen-video.oss-cn-shanghai.aliyuncs.com'
        assert model.urls[0].startswith(f'https://{host}/')
        assert on_modelscope or model.urls[0].endswith(f'/robin/models/{name}.pth')


# ---- the other commands


def test_a_recipe_takes_names_and_its_check_downloads_nothing(server: FileServer, option_file: Path) -> None:
    good = [f'path:pretrain_network_g={NAME}', 'path:pretrain_network_d=gpen-bfr-512-d']
    assert parse_options(option_file, good).options.path.pretrain_network_g == NAME
    assert parse_options(option_file, ['path:pretrain_network_g=hf://owner/repo/net.pth'])
    for wrong, message in (
        (f'path:pretrain_network_g={NAME}-D', f'{NAME}-D is a discriminator, for path.pretrain_network_d. Its gener'),
        (f'path:pretrain_network_d={NAME}', f'{NAME} is a generator. Its discriminator, if it is published, is call'),
        ('path:pretrain_network_d=GPEN-BFR-512-E', "Did you mean 'GPEN-BFR-512-D'?"),
        ('path:pretrain_prior=GPEN-BFR-1025', "Did you mean 'GPEN-BFR-1024'?"),
        (f'path:resume_state={NAME}', f'there is no file .*{NAME}. Put it there, or change this line.'),
    ):
        with pytest.raises(UserError, match=message):
            parse_options(option_file, [wrong])
    assert server.asked == []


def test_a_published_model_of_another_size_is_refused_before_it_is_downloaded(
    server: FileServer, option_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, model in MODELS.items():
        monkeypatch.setitem(MODELS, name, replace(model, pixels=512))
    for option, given, block in (
        ('pretrain_network_g', NAME, 'network_g'),
        ('pretrain_prior', 'gpen-bfr-512', 'network_g'),
        ('pretrain_network_d', f'{NAME}-D', 'network_d'),
    ):
        message = f'path.{option}: {MODELS[NAME].name}(-D)? is a network of 512 pixels, and {block}.size is {SIZE}'
        with pytest.raises(UserError, match=message):
            parse_options(option_file, [f'path:{option}={given}'])

    # What fits is loaded, and a file of that name is looked at
    assert parse_options(option_file, [f'path:pretrain_network_g={NAME}', 'path:strict_load_g=false'])
    (tmp_path / 'project' / FILE).touch()
    assert parse_options(option_file, [f'path:pretrain_network_g={NAME}'])
    assert server.asked == []


def test_networks_start_from_published_weights_by_name(server: FileServer) -> None:
    fresh = build()
    model = build(path={'pretrain_network_g': NAME, 'pretrain_network_d': f'{NAME}-D'})
    torch.manual_seed(5)
    assert equal(weights_of(model.net_g), weights_of(build_network(model.options.network_g.to_dict())))
    assert not equal(weights_of(model.net_d), weights_of(fresh.net_d))
    assert server.asked == [(FILE, 0), (f'{NAME}-D.pth', 0)]
    prior = build(path={'pretrain_prior': NAME})
    assert torch.equal(prior.net_g.generator.input.input, model.net_g.generator.input.input)


def test_a_dry_run_says_the_licence_before_it_downloads(server: FileServer, option_file: Path) -> None:
    printed = succeed(option_file, f'path:pretrain_network_g={NAME}', flags=('--dry_run',), runner=run_here)
    assert 0 <= printed.index(LICENCE) < printed.index(f'Downloading {NAME}') < printed.index('The options are good')
    assert server.asked == [(FILE, 0)]


def move_project(root: Path) -> None:
    """Let weights go to another folder, in a process that the tests start, and published models be tiny."""
    for name, model in MODELS.items():
        MODELS[name] = replace(model, pixels=SIZE)
    for module in (downloads, by_name):
        module.project_root = lambda: root  # type: ignore[attr-defined]


def test_of_two_ranks_only_one_downloads(server: FileServer, tiny_data: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    options['path'] |= {'pretrain_network_g': NAME, 'pretrain_network_d': f'{NAME}-D'}
    file = write_options(tmp_path / 'tiny.yml', options)
    prepare = functools.partial(move_project, tmp_path / 'project')
    results = processes.run_together(
        tmp_path, '-opt', file, '--dry_run',
        special={rank: {'prepare': prepare} for rank in range(2)},
        environment={'GPEN_MIRROR': server.address},
    )  # fmt: skip
    assert [status for status, _ in results] == [0, 0], results
    assert server.asked == [(FILE, 0), (f'{NAME}-D.pth', 0)]
    assert [LICENCE in printed for _, printed in results] == [True, False]


def test_scoring_takes_names(server: FileServer, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / 'project' / 'own.pth').touch()
    named = name_models([NAME, 'own.pth'])
    assert named == {NAME: tmp_path / 'project' / 'weights' / FILE, 'own': Path('own.pth')}
    options = {
        'name': 'score', 'models': {'theirs': NAME}, 'num_gpu': 0,
        'datasets': {'pairs': tiny_options(tiny_data, tmp_path)['datasets']['val'] | {'size': 16}},
        'val': {'metrics': {'psnr': {'type': 'calculate_psnr'}}},
        'path': {'experiments_root': str(tmp_path / 'experiments')},
    }  # fmt: skip
    file = write_options(tmp_path / 'score.yml', options)
    printed = succeed(file, command='test', runner=run_here)
    assert f'Weights: {tmp_path / "project" / "weights" / FILE}' in printed
    assert server.asked == [(FILE, 0)]
    with pytest.raises(UserError, match=r"models\.theirs: .* Did you mean 'GPEN-BFR-512'\?"):
        parse_scoring_options(file, ['models:theirs=GPEN-BFR-521'])


def test_export_takes_a_name(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / 'out.safetensors'
    assert export.main(['--model', NAME, '--format', 'safetensors', '--output', str(target)]) == 0
    assert target.is_file()
    assert server.asked == [(FILE, 0)]


def test_what_is_exported_from_the_hub_goes_to_this_folder_not_into_its_cache(
    networks: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / 'cache' / 'deep' / 'net.pth'
    cached.parent.mkdir(parents=True)
    cached.write_bytes(networks[NAME])
    monkeypatch.setattr(by_name, '_obtain_from_hub', lambda _: cached)
    assert export.main(['--model', 'hf://owner/repo/deep/net.pth', '--format', 'gpen']) == 0
    assert (tmp_path / 'net_gpen.pth').is_file()
    assert [path.name for path in cached.parent.iterdir()] == ['net.pth']


def test_the_page_takes_a_name(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('gpen.faces.detection.choose_detector', lambda *_: ('dots', 'Faces have dots.'))
    monkeypatch.setattr('gpen.faces.detection.build_detector', lambda *_: DotDetector(32, None))
    _, network = demo.build_service(demo.parse_arguments(['--model', NAME, '--device', 'cpu']), tmp_path)
    assert network.startswith(f'{FILE}: faces of 16 x 16 pixels')
    assert server.asked == [(FILE, 0)]


@pytest.mark.usefixtures('server')
def test_the_page_colours_grey_photographs_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('gpen.faces.detection.choose_detector', lambda *_: ('dots', 'Faces have dots.'))
    monkeypatch.setattr('gpen.faces.detection.build_detector', lambda *_: DotDetector(32, None))
    save(tmp_path / 'grey.png', draw_photo(1)[..., [0, 0, 0]])
    for words, is_coloured in ([], False), (['--color'], True):
        args = demo.parse_arguments(['--model', NAME, '--device', 'cpu', *words])
        service, _ = demo.build_service(args, tmp_path)
        restored = read_image(service.restore({'path': tmp_path / 'grey.png'}, Choice()).download)
        assert (np.ptp(restored, axis=2).max() > 0.1) == is_coloured


@pytest.mark.parametrize('command', [train, search_lr, prepare_dataset, restore])
def test_commands_that_download_take_a_mirror(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('GPEN_MIRROR', 'https://before')
    needed = ['-opt', 'x.yml'] if command in (train, search_lr) else ['--input', 'in', '--output', 'out']
    model = ['--model', 'net.pth'] if command is restore else []
    command.parse_arguments([*needed, *model, '--mirror', 'https://here/weights'])
    assert os.environ['GPEN_MIRROR'] == 'https://here/weights'


# ---- the Hugging Face Hub


def test_the_hub_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match='hf:// needs the package huggingface_hub: pip install huggingface_hub'):
        find_model('hf://owner/repo/net.pth')


def test_a_file_of_the_hub_is_downloaded_to_its_cache(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    constants = pytest.importorskip('huggingface_hub.constants', reason='huggingface_hub is not installed')
    monkeypatch.setattr(constants, 'ENDPOINT', server.address)
    template = server.address + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    server.publish('owner/repo/resolve/main/deep/net.pth', b'weights' * 100)

    for _ in range(2):
        path = find_model('hf://owner/repo/deep/net.pth')
        assert path.read_bytes() == b'weights' * 100
        assert tmp_path / 'hub' in path.parents
    said = capsys.readouterr().err
    assert said.count('Its licence is told at https://huggingface.co/owner/repo.') == 1
    with pytest.raises(UserError, match=r'hf://owner/repo/none\.pth could not be downloaded: .*HF_ENDPOINT'):
        find_model('hf://owner/repo/none.pth')
