"""SFace: the embedding of a face, wherever it is in a photograph, and files that hold something else."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gpen.errors import UserError
from gpen.faces.sface import FILENAME, SAME_PERSON, SFace, find_sface_on_disk
from gpen.weights import downloads
from recognizers import write_recognizer

LANDMARKS = np.array([[40, 50], [72, 50], [56, 70], [43, 88], [69, 88]], np.float32)


def draw_person(seed: int) -> np.ndarray:
    """A smooth picture of 112 x 112 pixels, as good as a face to the stand-in."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def recognizer(tmp_path: Path) -> SFace:
    write_recognizer(tmp_path)
    return SFace(tmp_path)


def test_the_same_face_is_known_again_wherever_and_however_large_it_is(recognizer: SFace) -> None:
    face = draw_person(1)
    first = recognizer.embed(face, LANDMARKS)
    assert (first.shape, first.dtype) == ((128,), np.float32)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)

    matrix = cv2.getRotationMatrix2D((55.5, 55.5), 25, 1.5)
    matrix[:, 2] += (60, 90)
    photograph = cv2.warpAffine(face, matrix, (250, 300), flags=cv2.INTER_CUBIC)
    moved = LANDMARKS @ matrix[:, :2].T + matrix[:, 2]
    assert first @ recognizer.embed(photograph, moved) > 0.99
    assert first @ recognizer.embed(photograph, LANDMARKS) < 0.9
    assert abs(first @ recognizer.embed(draw_person(2), LANDMARKS)) < SAME_PERSON


def test_colours_reach_the_network_as_red_green_blue(recognizer: SFace, tmp_path: Path) -> None:
    network = cv2.dnn.readNetFromONNX(str(tmp_path / FILENAME))
    red = np.zeros((1, 3, 112, 112), np.float32)
    red[:, 0] = 255
    network.setInput(red)
    expected = network.forward().reshape(128)
    # Far from the border, so that the crop is as red all over as the picture.
    found = recognizer.embed(np.full((400, 400, 3), (255, 0, 0), np.uint8), LANDMARKS + 144)
    assert found @ (expected / np.linalg.norm(expected)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('content', [b'', b'version https://git-lfs.github.com/spec/v1', b'<html>', None])
def test_a_file_that_is_not_sface_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        write_recognizer(tmp_path, length=64)
    else:
        (tmp_path / FILENAME).write_bytes(content)
    kind = 'a pointer of Git LFS' if content and content.startswith(b'version') else 'something else'
    with pytest.raises(UserError) as caught:
        SFace(tmp_path)
    assert f'{tmp_path / FILENAME} does not hold the face recognition network SFace, but {kind}' in str(caught.value)


def test_sface_is_found_on_the_disk_and_never_downloaded_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, 'project_root', lambda: tmp_path / 'project')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    assert find_sface_on_disk() is None
    assert find_sface_on_disk(tmp_path) is None
    usual = tmp_path / 'project' / 'weights' / FILENAME
    usual.parent.mkdir(parents=True)
    usual.touch()
    assert find_sface_on_disk(tmp_path) == usual
    (tmp_path / FILENAME).touch()
    assert find_sface_on_disk(tmp_path) == tmp_path / FILENAME
