"""Films: what they keep, faces in every frame, and runs that are stopped and go on."""

import os
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpen.archs.gpen import GPEN
from gpen.commands import restore as command
from gpen.data import film as film_data
from gpen.data.film import open_film, read_frames
from gpen.restoration import film as films
from gpen.restoration.background import Enlarger
from gpen.restoration.base import Restorer
from gpen.restoration.folder import Outcome, plan_targets, restore_films
from gpen.restoration.photograph import PhotographRestorer
from photographs import DotDetector, draw_photo, save

av = pytest.importorskip('av')

SIZE = 16  # of the network
SIDE = 64  # of the frames
TIMES = (0, 40, 80, 140, 180, 230, 260, 300)  # milliseconds: the rate varies


def paint(lq: Tensor) -> Tensor:
    """Stand in for a network that makes every face green."""
    return torch.tensor((-1.0, 0.5, -1.0)).view(1, 3, 1, 1).expand(len(lq), 3, SIZE, SIZE)


def build(run: Callable[[Tensor], Tensor] = paint, **settings: Any) -> PhotographRestorer:
    return PhotographRestorer(
        Restorer(run, SIZE, SIZE, 'a stand-in'), DotDetector(10, None), keep_detail=False, **settings
    )


def draw(faces: int = 1) -> np.ndarray:
    return draw_photo(1, faces, height=SIDE, width=SIDE, radius=12)


def write_film(path: Path, images: Sequence[np.ndarray], sound: bool = False, turn: int = 0, slow: int = 1) -> Path:
    """Write a film that loses nothing of its images, but for their colours; of GIFs their colours, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_gif = path.suffix == '.gif'
    with av.open(str(path), 'w') as output:
        stream = output.add_stream('gif' if is_gif else 'libx264', rate=25, options={} if is_gif else {'crf': '1'})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = 'rgb8' if is_gif else 'yuv444p'
        stream.codec_context.time_base = Fraction(1, 1000)
        if turn:
            stream.set_display_rotation(turn)
        if sound:
            tone = output.add_stream('aac', rate=8000, layout='mono')
        for time, image in zip(TIMES, images, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24').reformat(
                format=stream.pix_fmt
            )
            frame.pts, frame.time_base = slow * time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for number in range(3 if sound else 0):
            wave = np.sin(np.arange(1024) / 3).astype(np.float32)[None]
            part = av.AudioFrame.from_ndarray(wave, format='fltp', layout='mono')
            part.sample_rate, part.pts, part.time_base = 8000, 1024 * number, Fraction(1, 8000)
            output.mux(tone.encode(part))
        if sound:
            output.mux(tone.encode(None))
    return path


def restore(
    source: Path, output: Path, restorer: PhotographRestorer | None = None, **settings: object
) -> tuple[Outcome, Path]:
    outcome = Outcome()
    targets = plan_targets(source, output, films=True)
    restore_films(restorer or build(), targets, settings, outcome, 1.0, 10**6, command._open_bar)
    return outcome, next(iter(targets.values()))


def read(path: Path) -> tuple[list[float], np.ndarray]:
    """Return the times and the pixels of the frames."""
    frames = list(read_frames(open_film(path)))
    return [frame.seconds for frame in frames], np.stack([frame.to_array()[..., :3] for frame in frames])


def read_sound(path: Path) -> list[tuple[bytes, float]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.pts is not None]
        return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets]


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.gif'])
def test_faces_are_restored_and_times_and_sound_kept(suffix: str, tmp_path: Path) -> None:
    sound = suffix != '.gif'
    source = write_film(tmp_path / 'in' / f'a{suffix}', [draw()] * 8, sound)
    outcome, target = restore(source, tmp_path / 'out')
    assert outcome.failures == []
    (result,) = outcome.films.values()
    assert (result.frames, result.faces, result.restored) == (8, 1, 8)

    (times, before), (kept, after) = read(source), read(target)
    assert times == pytest.approx([time / 1000 for time in TIMES], abs=1e-4)
    assert kept == pytest.approx(times, abs=1e-9)
    assert (read_sound(target) == read_sound(source)) if sound else True
    middle = after[:, SIDE // 2, SIDE // 2].astype(int)
    assert (middle[:, 1] > middle[:, 0] + 80).all()  # green
    assert np.abs(after[:, :4].astype(int) - before[:, :4]).mean() < 4
    assert [path.name for path in (tmp_path / 'out').iterdir()] == [f'a{suffix}']


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.avi'])
def test_the_stated_rate_is_kept(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / 'in' / f'a{suffix}'
    source.parent.mkdir()
    with av.open(str(source), 'w') as output:
        stream = output.add_stream('libvpx-vp9' if suffix == '.webm' else 'libx264', rate=25, options={'bf': '0'})
        stream.height = stream.width = SIDE
        stream.pix_fmt = 'yuv420p'
        for _ in range(4):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(draw(), format='rgb24')))
        output.mux(stream.encode(None))
    _, target = restore(source, tmp_path / 'out')
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate == 25


@pytest.mark.parametrize('turn', [90, 180, -90])
def test_a_turned_film_becomes_upright(turn: int, tmp_path: Path) -> None:
    upright = draw()
    upright[:8, :8] = 255
    source = write_film(tmp_path / 'a.mp4', [np.rot90(upright, -turn // 90)] * 2, turn=turn)
    outcome, target = restore(source, tmp_path / 'out')
    assert [film.faces for film in outcome.films.values()] == [1]
    image = read(target)[1][0]
    assert image[4, 4].min() > 200
    assert image[-4, -4].max() < 200
    with av.open(str(target)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_a_stopped_film_goes_on_and_is_the_same_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_data, 'STRETCH', 3)
    images = [np.roll(draw(), shift, axis=1) for shift in (0, 1, 2, 1, 0, 2, 1, 0)]
    source = write_film(tmp_path / 'a.mp4', images, True)
    _, whole = restore(source, tmp_path / 'whole', build(batch_size=2))

    # The third batch is the first of the second stretch.
    calls = []

    def stop(lq: Tensor) -> Tensor:
        calls.append(len(lq))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return paint(lq)

    with pytest.raises(KeyboardInterrupt):
        restore(source, tmp_path / 'out', build(stop, batch_size=2))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.mp4.parts']
    _, target = restore(source, tmp_path / 'out', build(stop, batch_size=2))
    assert sum(calls) == 8 + 2  # the batch that was stopped is done again, the first stretch is not
    assert target.read_bytes() == whole.read_bytes()
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.mp4']


def test_what_was_done_with_other_settings_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_film(tmp_path / 'a.mkv', [draw()] * 3)
    monkeypatch.setattr(films, 'join_segments', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    counts = []
    for model in ('one', 'one', 'other'):
        calls: list[int] = []

        def count(lq: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(len(lq))
            return paint(lq)

        with pytest.raises(KeyboardInterrupt):
            restore(source, tmp_path / 'out', build(count), model=model)
        counts.append(sum(calls))
    assert counts == [3, 0, 3]


def test_a_damaged_film_is_one_sentence_and_the_others_go_on(tmp_path: Path) -> None:
    good = write_film(tmp_path / 'in' / 'good.mkv', [draw()] * 8)
    whole = write_film(tmp_path / 'whole.mp4', [draw_photo(seed, 0, SIDE, SIDE) for seed in range(8)])
    (tmp_path / 'in' / 'cut.mp4').write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    slow = write_film(tmp_path / 'slow.mkv', [draw_photo(seed, 0, SIDE, SIDE) for seed in range(8)], slow=10)
    (tmp_path / 'in' / 'early.mkv').write_bytes(slow.read_bytes()[: slow.stat().st_size // 2])
    (tmp_path / 'in' / 'empty.mov').touch()
    (tmp_path / 'in' / 'list.avi').write_text('#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n')
    noise = bytearray(good.read_bytes())
    middle = np.random.default_rng(0).integers(0, 256, len(noise) // 2, np.uint8)
    noise[len(noise) // 3 : len(noise) // 3 + len(middle)] = middle.tobytes()
    (tmp_path / 'in' / 'noise.mkv').write_bytes(noise)

    outcome, _ = restore(tmp_path / 'in', tmp_path / 'out')
    assert [path.name for path in outcome.films] == ['good.mkv']
    names = ('cut.mp4', 'early.mkv', 'empty.mov', 'list.avi', 'noise.mkv')
    for failure, name in zip(outcome.failures, names, strict=True):
        assert f'{name} cannot be used: ' in failure
        assert failure.count(name) == 1
    assert [path.name for path in (tmp_path / 'out').iterdir() if path.is_file()] == ['good.mkv']


def test_a_film_that_is_enlarged_and_one_without_a_face(tmp_path: Path) -> None:
    source = write_film(tmp_path / 'in' / 'a.mp4', [draw(0)] * 2)
    outcome, target = restore(source, tmp_path / 'out')
    assert (list(outcome.faceless.values()), target.read_bytes()) == (['copied as it is'], source.read_bytes())
    outcome, target = restore(source, tmp_path / 'large', build(enlarger=Enlarger(2)))
    assert list(outcome.faceless.values()) == ['only enlarged 2 times']
    assert read(target)[1].shape == (2, 2 * SIDE, 2 * SIDE, 3)


def test_a_film_without_colours_stays_so_whatever_the_network_makes(tmp_path: Path) -> None:
    grey = np.repeat(draw().mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    _, target = restore(write_film(tmp_path / 'a.mp4', [grey] * 2), tmp_path / 'out')
    assert np.ptp(read(target)[1].astype(int), axis=3).max() <= 4


def test_frames_whose_pixels_are_guessed_are_counted(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    source = write_film(
        tmp_path / 'a.mp4', [np.maximum(draw(), noise.integers(0, 60, (SIDE, SIDE, 3), np.uint8)) for _ in range(8)]
    )
    with av.open(str(source)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][3]
        start, size = packet.pos, packet.size
    content = bytearray(source.read_bytes())
    content[start + size // 3 : start + size] = bytes(size - size // 3)
    source.write_bytes(content)
    outcome, _ = restore(source, tmp_path / 'out')
    assert re.fullmatch(r'what is damaged in \d of 8 frames', next(iter(outcome.losses)))


def test_faces_of_a_still_scene_rest(tmp_path: Path) -> None:
    """Followed and smoothed, they vary less than when each frame is a photograph of its own."""
    random = np.random.default_rng(0)
    source = write_film(tmp_path / 'a.mp4', [draw()] * 8)

    class Unsteady(DotDetector):
        def detect(self, image: np.ndarray) -> list[Any]:
            faces = super().detect(image)
            for face in faces:
                face.landmarks[:] += random.normal(0, 0.3, (5, 2))
            return faces

    def wave(lq: Tensor) -> Tensor:
        """Stand in for a network whose detail lies where the face is."""
        return (torch.arange(SIZE) * 1.5).sin().expand(len(lq), 3, SIZE, SIZE) * 0.5

    restorer = PhotographRestorer(Restorer(wave, SIZE, SIZE, 'a stand-in'), Unsteady(10, None), keep_detail=False)
    _, target = restore(source, tmp_path / 'out', restorer)
    followed = read(target)[1].astype(float)
    photos = [(image / np.float32(127.5) - 1).astype(np.float32) for image in read(source)[1]]
    alone = np.stack([(result.compose() + 1) * 127.5 for result in restorer.restore(photos)])
    assert followed.var(axis=0).mean() < 0.5 * alone.var(axis=0).mean()


def test_a_stopped_film_goes_on_from_another_folder_and_with_a_smaller_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'net.pth').touch()
    found = []
    for folder, batch in ((tmp_path, '8'), (tmp_path / 'below', '2')):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        path = Path(os.path.relpath(tmp_path / 'net.pth'))
        files = ['--model', str(path), '--background_model', str(path), '--weights', str(path.parent)]
        args = command.parse_arguments([*files, '--input', 'in', '--output', 'out', '--batch_size', batch])
        found.append(command._settings(args, path))
    assert found[0] == found[1]


def test_the_command_restores_films_beside_photographs_by_a_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('gpen.faces.detection.choose_detector', lambda *_: ('dots', 'Faces have dots.'))
    monkeypatch.setattr('gpen.faces.detection.build_detector', lambda *_: DotDetector(10, None))
    save(tmp_path / 'in' / 'a.png', draw())
    write_film(tmp_path / 'in' / 'a.mp4', [draw()] * 3)
    torch.save(GPEN(size=SIZE, style_dim=8, n_mlp=2, narrow=0.01).state_dict(), tmp_path / 'GPEN-BFR-512.pth')
    words = [
        *('--model', 'GPEN-BFR-512', '--input', tmp_path / 'in', '--output', tmp_path / 'out'),
        *('--device', 'cpu', '--min_face', 10, '--save_faces'),
    ]
    assert command.main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert 'a.mp4: 1 face followed and restored in 3 of 3 frames' in printed
    assert '1 face restored in 1 photograph' in printed
    assert '--save_faces is for photographs; the faces of 1 film are not written.' in printed
    assert command.main([str(word) for word in [*words, '--skip_existing']]) == 0
    assert 'All 2 results are there' in capsys.readouterr().out


def test_without_pyav_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    film = write_film(tmp_path / 'in' / 'a.mp4', [draw()])
    monkeypatch.setitem(sys.modules, 'av', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'av' else 1 / 0)
    for source in (film, film.parent):
        words = ['--model', 'm', '--input', str(source), '--output', str(tmp_path / 'out')]
        assert command.main(words) == 2
        assert "need the package PyAV: pip install '.[films]'" in capsys.readouterr().err
