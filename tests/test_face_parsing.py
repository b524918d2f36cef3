"""A parsed mask holds the face and its hair, softly, and nothing at the edges of the square."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gpen.errors import UserError
from gpen.faces.parsing import FILENAME, FaceParser, to_mask
from gpen.weights import downloads

pytest.importorskip('facexlib', reason='needs facexlib')


@pytest.mark.parametrize('size', [64, 512, 1024])
def test_a_mask_holds_face_hair_and_earrings_but_no_background_hat_or_clothes(size: int) -> None:
    labels = np.zeros((512, 512), np.int64)
    strips = {100: 1, 160: 13, 220: 14, 280: 15, 340: 18}  # skin, hair, hat, earring, clothes
    for top, label in strips.items():
        labels[top : top + 60, 100:400] = label
    mask = to_mask(labels, size)
    assert mask.shape == (size, size)
    assert mask.dtype == np.float32
    found = [mask[round((top + 30) * size / 512), size // 2] for top in strips]
    assert found == pytest.approx([1, 1, 0, 1, 0], abs=0.1)
    assert mask[size // 2, size // 20] < 0.01  # background


def test_a_mask_is_zero_at_the_edges_whatever_is_there_and_has_no_step() -> None:
    mask = to_mask(np.ones((512, 512), np.int64), 256)
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0
    labels = np.zeros((512, 512), np.int64)
    labels[:, 256:] = 1
    assert abs(np.diff(to_mask(labels, 256), axis=1)).max() < 0.06


def test_the_parser_takes_weights_of_its_layout_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facexlib.parsing.parsenet import ParseNet

    weights = tmp_path / 'weights'
    weights.mkdir()
    torch.save(ParseNet(in_size=512, out_size=512, parsing_ch=19).state_dict(), weights / FILENAME)

    def judge(self: ParseNet, images: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ARG001
        assert images.shape[1:] == (3, 512, 512)
        skin = images[:, :1]  # bright pixels are skin, dark ones background
        return torch.cat([torch.zeros_like(skin), skin, torch.full_like(skin, -9).expand(-1, 17, -1, -1)], dim=1), None

    monkeypatch.setattr(ParseNet, 'forward', judge)
    faces = torch.full((2, 3, 64, 64), -1.0)
    faces[1, :, :, 32:] = 1
    empty, half = FaceParser(weights)(faces)
    assert empty.max() == 0
    assert half.shape == (64, 64)
    assert half[32, 8] == pytest.approx(0, abs=0.01)
    assert half[32, 48] == pytest.approx(1, abs=0.01)

    monkeypatch.setattr(downloads, 'project_root', lambda: tmp_path)
    assert FaceParser(tmp_path / 'of another network')(faces)[0].max() == 0

    torch.save({'other.weight': torch.zeros(3)}, weights / FILENAME)
    with pytest.raises(UserError, match='does not hold the weights of ParseNet'):
        FaceParser(weights)
