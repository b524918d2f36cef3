"""Faces that are left as they were: of a low score, or no longer the same person."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gpen.commands import restore as command
from gpen.data.image_io import read_picture
from gpen.errors import UserError
from gpen.faces import identity
from gpen.faces.face import Face
from gpen.faces.identity import build_comparison
from gpen.restoration.background import Enlarger
from gpen.restoration.base import Restorer
from gpen.restoration.folder import Outcome, plan_targets, restore_films, restore_photographs
from gpen.restoration.photograph import PhotographRestorer
from gpen.weights import downloads
from photographs import DotDetector, draw_photo, save
from recognizers import write_recognizer

SIZE = 64
CPU = torch.device('cpu')


class Doubtful(DotDetector):
    """Is less sure of faces on the right."""

    def detect(self, image: np.ndarray) -> list[Face]:
        return [
            Face(face.box, face.landmarks, 0.95 if face.box[0] < image.shape[1] / 2 else 0.75)
            for face in super().detect(image)
        ]


def swap_right(lq: Tensor) -> Tensor:
    """Stand in for a network that makes another person of the second face."""
    others = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    result = lq.clone()
    result[1:] = torch.nn.functional.interpolate(others, (SIZE, SIZE), mode='bicubic').clamp(-1, 1)
    return result


def restore(tmp_path: Path, **settings: object) -> tuple[Outcome, np.ndarray]:
    """Restore a photograph of two faces; return where it changed by much."""
    save(tmp_path / 'in' / 'two.png', draw_photo(1, faces=2, width=400))
    base = Restorer(lambda lq: (swap_right(lq) * 0.9).clamp(-1, 1), SIZE, SIZE, 'a stand-in')
    restorer = PhotographRestorer(base, Doubtful(20, None), **settings)  # type: ignore[arg-type]
    outcome = restore_photographs(restorer, plan_targets(tmp_path / 'in', tmp_path / 'out'))
    before, after = (read_picture(tmp_path / name / 'two.png').image for name in ('in', 'out'))
    return outcome, np.abs(after - before).max(axis=2)


def test_faces_of_a_low_score_are_left_to_the_bit_and_named(tmp_path: Path) -> None:
    outcome, changes = restore(tmp_path, min_quality=0.9)
    assert (outcome.faces, changes[:, 250:].max()) == (1, 0)
    assert changes[:, 60:140].max() > 0.05
    ((low_place, low), (_, high)) = outcome.verdicts[tmp_path / 'in' / 'two.png']
    assert (low.reason, high.reason) == ('its score is below 0.9', '')
    assert low_place.startswith('face of 81 x 81 pixels at 2')


@pytest.mark.parametrize('threshold', [-1.0, 0.5])
def test_a_face_that_became_another_person_is_listed_and_with_a_threshold_left_as_it_was(
    threshold: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recognizer(tmp_path)
    compare, sentence = build_comparison(tmp_path, CPU)
    assert sentence.startswith('Identity is judged by SFace')
    outcome, changes = restore(tmp_path, compare=compare, min_identity=threshold)
    assert changes[:, 60:140].max() > 0.05
    assert (changes[:, 250:].max() == 0) == (threshold > 0)
    same, other = (verdict for _, verdict in outcome.verdicts[tmp_path / 'in' / 'two.png'])
    assert same.identity > 0.9 > 0.5 > other.identity

    arguments = ['--model', 'm', '--input', 'in', '--output', 'out', '--keep_identity', str(threshold)]
    assert command._tell(command.parse_arguments(arguments), outcome, 1, 0, SIZE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f'score 0.95, identity {same.identity:.2f}, restored' in lines[0]
    done = 'left as it was, since its identity is below 0.5' if threshold > 0 else 'restored'
    assert lines[1].endswith(f'score 0.75, identity {other.identity:.2f}, {done}')


def test_a_photograph_whose_faces_were_all_left_out_is_copied_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, changes = restore(tmp_path, min_quality=0.99)
    assert (outcome.faces, changes.max()) == (0, 0)
    arguments = ['--model', 'm', '--input', 'in', '--output', 'out', '--min_quality', '0.99']
    assert command._tell(command.parse_arguments(arguments), outcome, 1, 0, SIZE) == 0
    assert 'No face was restored in 1 photograph, copied as it is: two.png' in capsys.readouterr().out


def test_a_face_of_a_film_is_judged_once_for_all_its_frames(tmp_path: Path) -> None:
    pytest.importorskip('av')
    from test_films import read, write_film

    images = [draw_photo(1, faces=2, width=400)] * 4
    source = write_film(tmp_path / 'in' / 'two.mp4', images)
    base = Restorer(lambda lq: torch.zeros_like(lq), SIZE, SIZE, 'a stand-in')
    outcome = Outcome()
    targets = plan_targets(tmp_path / 'in', tmp_path / 'out', films=True)
    enlarged = []
    enlarger = Enlarger(1, lambda photo: enlarged.append(1) or photo)  # type: ignore[func-returns-value]
    restorer = PhotographRestorer(base, Doubtful(20, None), keep_detail=False, min_quality=0.9, enlarger=enlarger)
    restore_films(restorer, targets, {}, outcome, 1.0, 10**6, command._open_bar)
    assert [film.faces for film in outcome.films.values()] == [1]
    assert len(enlarged) == len(images), 'the frames that are judged are not enlarged for it'
    verdicts = outcome.verdicts[source]
    assert {place for place, _ in verdicts} == {'face from 0:00.0 to 0:00.1'}
    assert sorted(verdict.reason for _, verdict in verdicts) == ['', 'its score is below 0.9']
    after, before = (read(path)[1].astype(int) for path in (targets[source], source))
    changes = np.abs(after - before).max(axis=(0, 3))
    assert changes[70:90, 90:110].max() > 60
    assert changes[:, 250:].mean() < 8


def test_arcface_is_taken_where_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec('facexlib') is None:
        pytest.skip('facexlib is not installed')
    (tmp_path / 'recognition_arcface_ir_se50.pth').touch()

    def embed(images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    class Network(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape == (2, 3, 112, 112)
            return embed(images)

    monkeypatch.setattr('gpen.losses.identity.load_arcface', lambda _: Network())
    compare, sentence = build_comparison(tmp_path, CPU)
    assert 'ArcFace' in sentence
    red, green = (np.full((SIZE, SIZE, 3), colour, np.float32) for colour in ((1, 0, 0), (0, 1, 0)))
    assert compare(red, red, np.zeros((5, 2))) == pytest.approx(1)
    assert compare(red, green, np.zeros((5, 2))) == pytest.approx(0)


def test_without_weights_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, '_find_arcface', lambda _: None)
    monkeypatch.setattr(downloads, 'project_root', lambda: tmp_path / 'project')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr('gpen.faces.sface.URL', 'file:///nowhere/face_recognition_sface_2021dec.onnx')
    with pytest.raises(UserError) as caught:
        build_comparison(None, CPU)
    assert 'SFace: face_recognition_sface_2021dec.onnx is not here and could not be downloaded' in str(caught.value)
    assert f'Put the file at {tmp_path / "project" / "weights"}' in str(caught.value)
