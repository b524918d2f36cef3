"""``restore``: whole photographs, aligned faces, and what it says of what it cannot use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import processes
from command_line import Result
from conftest import SHARED, write_pairs
from gpen.commands.restore import main
from gpen.data.image_io import read_image, read_picture, write_image
from photographs import DotDetector, draw_photo, save


def restore_aligned(trained: Path, source: Path, output: Path, *more: str, model: Path | None = None) -> Result:
    model = model or trained.parent / 'experiments' / 'tiny' / 'models' / 'net_g_best.pth'
    arguments = ('--aligned', '--model', model, '--input', source, '--output', output, *more)
    return processes.run(output.with_suffix('.log'), *arguments, command='restore')


def test_restoring_a_folder_skips_a_broken_file_and_names_it(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 5, size=24)
    source, output = tmp_path / 'faces' / 'blurry', tmp_path / 'restored'
    (source / 'more').mkdir()
    (source / '004.png').rename(source / 'more' / '004.png')
    (source / 'notes.txt').write_text('no image')
    broken = source / '002.png'
    broken.write_bytes(broken.read_bytes()[:100])
    status, printed = restore_aligned(trained, source, output, '--batch_size', '2')
    assert status == 1, printed
    assert 'Error: 1 of 5 files failed: see above.' in printed
    assert f'Skipped: {broken} cannot be used: it is cut off' in printed
    assert f'4 aligned faces restored: {output}' in printed
    written = sorted(str(path.relative_to(output)) for path in output.rglob('*.png'))
    assert written == ['000.png', '001.png', '003.png', 'more/004.png']
    assert read_image(output / 'more' / '004.png').shape == (16, 16, 3)


def test_restoring_one_image_gives_the_same_whatever_the_batch(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 3)
    source = tmp_path / 'faces' / 'blurry'
    assert restore_aligned(trained, source, tmp_path / 'all')[0] == 0
    assert restore_aligned(trained, source / '001.png', tmp_path / 'one')[0] == 0
    one, together = (read_image(tmp_path / name / '001.png') for name in ('one', 'all'))
    assert abs(one - together).max() <= 2.01 / 255


def test_restoring_nothing_is_an_error(trained: Path, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    cases: list[tuple[Callable[[], Result], str]] = [
        (lambda: restore_aligned(trained, tmp_path / 'empty', tmp_path / 'out'), 'There is no image in'),
        (lambda: restore_aligned(trained, tmp_path / 'nowhere', tmp_path / 'out'), 'There is no file or folder'),
        (lambda: restore_aligned(trained, tmp_path / 'bad.png', tmp_path / 'out'), 'Skipped: '),
        (
            lambda: restore_aligned(trained, tmp_path, tmp_path / 'out', '--batch_size', '0'),
            'argument --batch_size: 0 is not between 1 and 1024',
        ),
        (lambda: restore_aligned(trained, tmp_path, tmp_path / 'out', model=tmp_path / 'no.pth'), 'no.pth'),
        (lambda: restore_aligned(trained, tmp_path, tmp_path / 'out', model=tmp_path / 'bad.png'), 'bad.png'),
    ]
    for command, message in cases:
        status, printed = command()
        assert status == 2, printed
        assert message in printed
        assert 'Traceback' not in printed


def test_originals_are_never_overwritten_and_results_never_restored_again(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 2)
    source = tmp_path / 'faces' / 'blurry'
    before = (source / '000.png').read_bytes()
    status, printed = restore_aligned(trained, source, source)
    assert (status, 'the originals would be lost' in printed) == (2, True)
    status, printed = restore_aligned(trained, source / '000.png', source)
    assert (status, 'would be overwritten' in printed) == (2, True)
    assert (source / '000.png').read_bytes() == before
    for _ in range(2):
        status, printed = restore_aligned(trained, source, source / 'restored')
        assert (status, '2 aligned faces restored' in printed) == (0, True)


def test_images_of_one_name_do_not_overwrite_each_other(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'faces', 1)
    source, output = tmp_path / 'faces' / 'blurry', tmp_path / 'restored'
    write_image(source / '000.jpg', read_image(source / '000.png'))
    assert restore_aligned(trained, source, output)[0] == 0
    assert sorted(path.name for path in output.iterdir()) == ['000.jpg.png', '000.png.png']


@pytest.fixture
def finds_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let faces be found by their five white dots."""

    def build_detector(name: str, weights: Path | None, min_face: int, device: str) -> DotDetector:
        assert (name, device) == ('dots', 'cpu')
        return DotDetector(min_face, weights)

    monkeypatch.setattr('gpen.faces.detection.choose_detector', lambda *_: ('dots', 'Faces have dots.'))
    monkeypatch.setattr('gpen.faces.detection.build_detector', build_detector)


def restore(trained: Path, source: Path, output: Path, *more: object) -> int:
    model = trained.parent / 'experiments' / 'tiny' / 'models' / 'net_g_best.pth'
    arguments = ['--model', model, '--input', source, '--output', output, '--device', 'cpu', *more]
    return main([str(argument) for argument in arguments])


@pytest.mark.usefixtures('finds_dots')
def test_whole_photographs_are_restored_and_those_without_a_face_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / 'photos', tmp_path / 'out'
    save(source / 'two.png', draw_photo(1, faces=2, width=400))
    save(source / 'empty.png', draw_photo(2, faces=0))
    assert restore(trained, source, output, '--upscale', 2, '--format', 'jpg', '--save_faces') == 0
    printed = capsys.readouterr().out
    assert 'The network restores 16 x 16 faces: PyTorch on cpu, fp32.' in printed
    assert 'Faces have dots.' in printed
    assert 'No face was found in 1 photograph, only enlarged 2 times: empty.png' in printed
    assert f'2 faces restored in 1 photograph: {output}' in printed
    assert read_picture(output / 'two.jpg').image.shape == (320, 800, 3)
    assert len(list((output / 'two_faces').iterdir())) == 4


@pytest.mark.usefixtures('finds_dots')
def test_results_that_are_there_can_be_left_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / 'photos', tmp_path / 'out'
    save(source / 'a.png', draw_photo(1))
    assert restore(trained, source, output, '--strength', 0) == 0
    assert (read_picture(output / 'a.png').image == read_picture(source / 'a.png').image).all()
    (output / 'a.png').write_bytes(b'mine')
    save(source / 'b.png', draw_photo(2))
    assert restore(trained, source, output, '--skip_existing') == 0
    assert '1 image left out, since the results are there.' in capsys.readouterr().out
    assert (output / 'a.png').read_bytes() == b'mine'
    assert restore(trained, source, output, '--skip_existing') == 0
    assert 'All 2 results are there' in capsys.readouterr().out


@pytest.mark.usefixtures('finds_dots')
def test_where_nothing_was_restored_the_command_says_what_there_is(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / 'photos', tmp_path / 'out'
    source.mkdir()
    (source / 'a.png').write_bytes(b'no image')
    assert restore(trained, source, output) == 2
    assert str(output) not in capsys.readouterr().out
    save(source / 'a.png', draw_photo(1, faces=0))
    assert restore(trained, source, output) == 0
    assert f'No face was restored; the photographs are in {output}' in capsys.readouterr().out


def test_options_for_photographs_are_no_options_for_aligned_faces(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (['--only_center'], ['--upscale', 2], ['--mask', 'parse'], ['--min_face', 10]):
        assert restore(trained, tmp_path, tmp_path / 'out', '--aligned', *words) == 2
        assert f'{words[0]} is for whole photographs and --aligned for cropped faces' in capsys.readouterr().err


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_gives_nearly_the_same(trained: Path, tmp_path: Path, precision: str) -> None:
    write_pairs(tmp_path / 'faces', 2)
    source = tmp_path / 'faces' / 'blurry'
    assert restore(trained, source, tmp_path / 'fp32', '--aligned') == 0
    assert restore(trained, source, tmp_path / precision, '--aligned', '--precision', precision) == 0
    for name in ('000.png', '001.png'):
        full, half = (read_image(tmp_path / kind / name) for kind in ('fp32', precision))
        assert 0 < abs(full - half).max() < 0.08


@pytest.mark.skipif(not (SHARED / 'reference').is_dir(), reason='needs ../shared/reference')
def test_a_published_file_needs_no_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = json.loads((SHARED / 'reference' / 'checkpoint_layout.json').read_text())['GPEN-BFR-256']
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(shape, generator=generator) * 0.5 if not key.endswith('kernel') else torch.ones(shape) / 16
        for key, shape in layout['generator'].items()
    }
    torch.save(state, tmp_path / 'GPEN-BFR-256.pth')
    write_pairs(tmp_path / 'faces', 1)
    arguments = ['--model', tmp_path / 'GPEN-BFR-256.pth', '--input', tmp_path / 'faces' / 'blurry']
    words = [str(argument) for argument in [*arguments, '--output', tmp_path / 'out', '--aligned']]
    assert main(words) == 0
    assert 'The network restores 256 x 256 faces' in capsys.readouterr().out
    assert read_image(tmp_path / 'out' / '000.png').shape == (256, 256, 3)
