"""One photograph: find its faces, align and measure them; the results are kept, so that this is done once."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from pydantic import TypeAdapter

from gpen.data.file_check import check_complete
from gpen.data.image_io import resize, write_image
from gpen.data.pixels import DamagedFileError
from gpen.faces.alignment import align_face
from gpen.faces.face import Detector, Face
from gpen.faces.quality import estimate_pose, fingerprint, sharpness
from gpen.preparation.photos import Photo, UnusablePhotoError, read_photo
from gpen.preparation.settings import PreparationSettings, digest
from gpen.utils.files import write_text

Task = TypeVar('Task')
Result = TypeVar('Result')

TOO_SMALL = 'too small'
NOT_LARGEST = 'not the largest'
_RECORD_VERSION = 2


@dataclass(frozen=True)
class DetectorSource:
    """How a worker process builds its detector.

    Attributes:
        build: a function of a module, called with the other attributes.
        name: ``yunet``, ``retinaface`` or ``mtcnn``.
        weights: folder of its weights.
        min_face: the smallest face to look for, pixels.
    """

    build: Callable[..., Detector]
    name: str
    weights: Path | None
    min_face: int


@dataclass(frozen=True)
class FoundFace:
    """A face of a photograph; what was not measured is None.

    Attributes:
        box: left, top, right, bottom, pixels of the photograph.
        landmarks: five points (x, y): eyes, nose, corners of the mouth.
        score: the detector's certainty, 0 to 1.
        sharpness: see :func:`gpen.faces.quality.sharpness`.
        pose: yaw, pitch and roll, degrees.
        padding: share of the aligned face that lies outside of the photograph.
        scale: pixels of the aligned face for one of the photograph; above 1 it was enlarged.
        fingerprint: 64 bits that similar pictures have in common.
        problem: why it was not aligned: ``too small`` or ``not the largest``.
    """

    box: tuple[float, ...]
    landmarks: tuple[tuple[float, float], ...] | None = None
    score: float | None = None
    sharpness: float | None = None
    pose: tuple[float, float, float] | None = None
    padding: float | None = None
    scale: float | None = None
    fingerprint: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class PhotoRecord:
    """What a photograph gave.

    Attributes:
        key: the photograph's, see :class:`gpen.preparation.photos.Photo`.
        faces: its faces, the largest first.
        images: for each face the file of the aligned image, or None.
        skipped: why it cannot be used, or None.
    """

    key: str
    faces: tuple[FoundFace, ...] = ()
    images: tuple[Path | None, ...] = field(default=(), compare=False)
    skipped: str | None = None


@dataclass(frozen=True)
class PhotoTask:
    """One photograph, and what to do with it.

    Attributes:
        folder: where results are kept.
        detector: None where the images are aligned already.
    """

    photo: Photo
    folder: Path
    settings: PreparationSettings
    detector: DetectorSource | None

    @property
    def stem(self) -> Path:
        """Where its results go, without suffix; another path where the file or a setting that matters is another."""
        settings = self.settings
        matters = [settings.size, settings.largest_only, settings.min_face, settings.detectable, settings.max_pixels]
        name = digest(_RECORD_VERSION, self.photo.identity, self.detector and self.detector.name, matters)
        return self.folder / name[:2] / name


def process_photo(task: PhotoTask) -> PhotoRecord:
    """Return what a photograph gives, from an earlier run where that finished it.

    The aligned faces are written as PNG of ``settings.size``, then the record, each whole or not at all.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    known = _load(task)
    if known is not None:
        return known

    try:
        image = read_photo(task.photo.path, task.settings.max_pixels)
        found = _take_whole(image, task.settings.size) if task.detector is None else _find_faces(image, task)
    except UnusablePhotoError as error:
        return PhotoRecord(task.photo.key, skipped=str(error))

    # Images first: a record says that they are there.
    images = []
    for index, (_, aligned) in enumerate(found):
        images.append(_image_path(task, index) if aligned is not None else None)
        if aligned is not None:
            write_image(_image_path(task, index), aligned)

    faces = tuple(face for face, _ in found)
    write_text(_record_path(task), json.dumps({'key': task.photo.key, 'faces': [asdict(face) for face in faces]}))
    return PhotoRecord(task.photo.key, faces, tuple(images))


def _take_whole(image: np.ndarray, size: int) -> list[tuple[FoundFace, np.ndarray]]:
    """Return the one face of an image that is aligned already."""
    height, width = image.shape[:2]
    if height != width:
        raise UnusablePhotoError(f'it is {width} x {height}, not square: no aligned face')
    aligned = resize(image, size)
    face = FoundFace(
        box=(0.0, 0.0, float(width), float(height)),
        sharpness=float(sharpness(aligned)),
        padding=0.0,
        scale=size / width,
        fingerprint=int(fingerprint(aligned)),
    )
    return [(face, aligned)]


def _find_faces(image: np.ndarray, task: PhotoTask) -> list[tuple[FoundFace, np.ndarray | None]]:
    """Return the faces that a detector finds, those that may be kept with their aligned images."""
    assert task.detector is not None
    try:
        faces = get_detector(task.detector).detect(image)
    except (cv2.error, MemoryError) as error:
        height, width = image.shape[:2]
        raise UnusablePhotoError(f'no faces can be looked for in {width} x {height} pixels ({error})') from error
    return [_measure(image, face, index, task.settings) for index, face in enumerate(faces)]


def _measure(
    image: np.ndarray, face: Face, index: int, settings: PreparationSettings
) -> tuple[FoundFace, np.ndarray | None]:
    pose = estimate_pose(face.landmarks)
    known: dict[str, Any] = {
        'box': tuple(map(float, face.box)),
        'landmarks': tuple((float(x), float(y)) for x, y in face.landmarks),
        'score': float(face.score),
        'pose': (float(pose.yaw), float(pose.pitch), float(pose.roll)),
    }
    # Not even aligned: a crowd has hundreds of faces that are never used.
    if face.shorter_side < settings.min_face:
        return FoundFace(**known, problem=TOO_SMALL), None
    if settings.largest_only and index > 0:
        return FoundFace(**known, problem=NOT_LARGEST), None
    aligned = align_face(image, face.landmarks, settings.size)
    measured = FoundFace(
        **known,
        sharpness=float(sharpness(aligned.image)),
        padding=float(aligned.padding),
        scale=float(aligned.scale),
        fingerprint=int(fingerprint(aligned.image)),
    )
    return measured, aligned.image


def run_single_threaded(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task with one thread, so that results do not depend on the number of cores.

    What libraries print about damaged files is left out; the summary tells why files are skipped.
    """
    threads, torch_threads, level = cv2.getNumThreads(), torch.get_num_threads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='PIL')
            return function(task)
    finally:
        cv2.setNumThreads(threads)
        torch.set_num_threads(torch_threads)
        cv2.utils.logging.setLogLevel(level)


def is_whole(path: Path) -> bool:
    """Return whether an image of an earlier run is there and not cut off, as it may be after a power failure."""
    try:
        with path.open('rb') as stream:
            check_complete(stream)
    except (OSError, DamagedFileError):
        return False
    return True


@lru_cache(maxsize=1)
def get_detector(source: DetectorSource) -> Detector:
    """Return the process's detector; loading its weights takes longer than a photograph."""
    return source.build(source.name, weights=source.weights, min_face=source.min_face)


def _record_path(task: PhotoTask) -> Path:
    return task.stem.with_suffix('.json')


def _image_path(task: PhotoTask, index: int) -> Path:
    return task.stem.with_name(f'{task.stem.name}_{index}.png')


def _load(task: PhotoTask) -> PhotoRecord | None:
    """Return the record of an earlier run; None where there is none, or an image of it is gone or damaged."""
    try:
        content = json.loads(_record_path(task).read_text(encoding='utf-8'))
        faces = TypeAdapter(tuple[FoundFace, ...]).validate_python(content['faces'])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    images = tuple(None if face.problem is not None else _image_path(task, index) for index, face in enumerate(faces))
    if not all(path is None or is_whole(path) for path in images):
        return None
    return PhotoRecord(task.photo.key, faces, images)
