"""Whether a restored face is still the same person: the cosine of two embeddings of a face recognition network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gpen.data.image_io import to_tensor, to_uint8
from gpen.faces.sface import SAME_PERSON, SFace, find_sface

Compare = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Takes a face before and after, aligned (S x S x 3, float32, RGB, [-1, 1]), and its landmarks there (5 x 2).

Returns the cosine of their embeddings, in [-1, 1]: 1 for the same image, about 0 for other people.
"""


def build_comparison(weights: Path | None, device: torch.device) -> tuple[Compare, str]:
    """Return what compares faces, and which network that is, in a sentence for logs.

    It is ArcFace where its weights are on the disk and facexlib is installed, otherwise SFace, which is downloaded if
    need be.

    Args:
        weights: a folder that holds the networks' weights.
        device: where ArcFace runs.

    Raises:
        UserError: there are no weights of either and they cannot be downloaded, or they do not fit.
    """
    path = _find_arcface(weights)
    if path is not None:
        return _load_arcface(path, device), f'Identity is judged by ArcFace, whose weights are {path}.'
    network = SFace(weights)
    same = f'it takes faces from {SAME_PERSON} on for one person'
    return _use_sface(network), f'Identity is judged by SFace, whose network is {find_sface(weights)}; {same}.'


def _find_arcface(weights: Path | None) -> Path | None:
    from importlib.util import find_spec

    from gpen.losses.identity import URL
    from gpen.weights.downloads import find_on_disk

    return find_on_disk(URL, weights) if find_spec('facexlib') is not None else None


def _load_arcface(path: Path, device: torch.device) -> Compare:
    from gpen.losses.identity import crop_face, load_arcface

    network = load_arcface(path).to(device)

    @torch.inference_mode()
    def compare(before: np.ndarray, after: np.ndarray, landmarks: np.ndarray) -> float:  # noqa: ARG001
        pair = torch.stack([to_tensor(before), to_tensor(after)]).to(device)
        one, other = network(crop_face(pair)).double()
        return float(torch.nn.functional.cosine_similarity(one, other, dim=0))

    return compare


def _use_sface(network: SFace) -> Compare:
    def compare(before: np.ndarray, after: np.ndarray, landmarks: np.ndarray) -> float:
        one, other = (network.embed(to_uint8(image), landmarks) for image in (before, after))
        return float(one @ other)

    return compare
