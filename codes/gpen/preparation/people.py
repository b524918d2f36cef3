"""One person in both splits: how many faces to validate on look like someone who is trained on."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from gpen.data.ffhq_square import ffhq_quad, matrix_to_face
from gpen.data.image_io import read_image, to_uint8
from gpen.errors import UserError
from gpen.faces.sface import FILENAME, SAME_PERSON, SFace, find_sface_on_disk
from gpen.preparation.selection import Entry
from gpen.preparation.settings import PreparationSettings
from gpen.preparation.work import FoundFace, run_single_threaded
from gpen.utils.pool import Pool

_SHOWN = 3  # pairs of faces that the screen shows
_ROWS = 1024  # faces that are compared with all others at a time
# Where the landmarks of an aligned face are, in sides of the image: means of aligned photographs.
_USUAL = np.array([[0.376, 0.473], [0.625, 0.473], [0.499, 0.610], [0.394, 0.734], [0.608, 0.735]])


@dataclass(frozen=True)
class Alike:
    """A face to validate on, and the one to train on that is most like it.

    Attributes:
        cosine: of their embeddings, -1 to 1.
        val: the name of the first.
        train: the name of the second.
    """

    cosine: float
    val: str
    train: str


@dataclass(frozen=True)
class _FaceTask:
    name: str
    image: Path
    face: FoundFace
    weights: Path  # folder


def find_recognizer(settings: PreparationSettings, say: Callable[[str], None]) -> Path | None:
    """Return the folder of SFace's file where it is on the disk and people are not named by ``split_by``."""
    path = find_sface_on_disk(settings.weights) if settings.split_by is None else None
    if path is None:
        return None
    try:
        SFace(path.parent)
    except UserError as error:
        say(f'People are not compared: {error}')
        return None
    return path.parent


def compare_splits(entries: Iterable[Entry], weights: Path, pool: Pool) -> list[Alike]:
    """Return the faces of ``val`` that SFace takes for someone in ``train``, the most alike first.

    Args:
        entries: all faces, those that are kept with their split.
        weights: the folder of SFace's file.
        pool: does the work.
    """
    kept = {entry.name: entry for entry in entries if entry.split is not None}
    tasks = [_FaceTask(name, entry.image, entry.face, weights) for name, entry in kept.items() if entry.image]
    with closing(pool.run(partial(run_single_threaded, _embed), tasks, 'people')) as results:
        embeddings = dict(results)

    train, val = (sorted(name for name, entry in kept.items() if entry.split == split) for split in ('train', 'val'))
    known = np.stack([embeddings[name] for name in train])  # N x 128
    alike = []
    for start in range(0, len(val), _ROWS):
        names = val[start : start + _ROWS]
        cosines = np.stack([embeddings[name] for name in names]) @ known.T
        nearest = cosines.argmax(axis=1)
        alike += [Alike(float(row[n]), name, train[n]) for row, n, name in zip(cosines, nearest, names, strict=True)]
    return sorted((one for one in alike if one.cosine >= SAME_PERSON), key=lambda one: (-one.cosine, one.val))


def describe_people(alike: Sequence[Alike] | None, faces: int) -> str:
    """Return sentences for the screen about a person who may be in both splits.

    Args:
        alike: what :func:`compare_splits` found; None: SFace is not here.
        faces: the number of faces to validate on.
    """
    start = 'Without --split_by, each photograph counts as another person, so one person may be in both splits'
    if alike is None:
        return f"{start}. Such people are counted where SFace's file is there: weights/{FILENAME}."
    if not alike:
        return f'{start}; SFace finds nobody who is.'
    pairs = ', '.join(f'{one.val} and {one.train} ({one.cosine:.2f})' for one in alike[:_SHOWN])
    return (
        f'{start}. SFace finds someone like them in train for {len(alike)} of the {faces} faces of val (cosine of '
        f'{SAME_PERSON} and more, which some of many strangers reach, too), such as {pairs}.'
    )


def _embed(task: _FaceTask) -> tuple[str, np.ndarray]:
    image = to_uint8(read_image(task.image))
    size = len(image)
    if task.face.landmarks is None:
        landmarks = _USUAL * size - 0.5
    else:
        points = np.array(task.face.landmarks)  # in the photograph
        matrix = matrix_to_face(ffhq_quad(points), size)
        landmarks = points @ matrix[:, :2].T + matrix[:, 2]
    return task.name, _get_network(task.weights).embed(image, landmarks)


@lru_cache(maxsize=1)
def _get_network(weights: Path) -> SFace:
    return SFace(weights)
