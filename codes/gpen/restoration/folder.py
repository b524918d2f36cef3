"""Restoring folders: where each result goes, and a record of what became of each image."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from gpen.data.file_check import MAX_PIXELS, SUFFIXES, walk_images
from gpen.data.image_io import Picture, read_picture, resize, to_array, to_tensor, write_image
from gpen.errors import UserError
from gpen.restoration.base import Restorer
from gpen.restoration.photograph import PhotographRestorer, Restoration
from gpen.utils.files import atomic_path

_CHUNK_PIXELS = 40_000_000  # of the photographs in memory at a time: half a GB as float32 RGB
_SUFFIXES_OF_16_BITS = ('.png', '.tif')
_SAME_FORMAT = {'.jpeg': '.jpg', '.tiff': '.tif'}

Targets = dict[Path, Path]
Progress = Callable[[int], object]


@dataclass
class Outcome:
    """What became of the images of a folder.

    Attributes:
        restored: images with restored faces.
        faces: restored faces in them.
        faceless: photographs without a face, which were copied.
        failures: a sentence for each image that could not be used.
    """

    restored: int = 0
    faces: int = 0
    faceless: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def plan_targets(source: Path, output: Path, suffix: str = '.png') -> Targets:
    """Return the path of each image's result: sub-folders and names are kept, the suffix is replaced.

    Where two results would get the same name, the old suffix stays in front of the new one.

    Args:
        source: an image, or a folder of images.
        output: the folder for results.
        suffix: of the results.

    Raises:
        UserError: there is no image, or an original would be overwritten.
    """
    images = _list_images(source, output)
    root = source if source.is_dir() else source.parent
    count = Counter(image.with_suffix('') for image in images)

    targets = {}
    for image in images:
        name = image.stem if count[image.with_suffix('')] == 1 else image.name
        targets[image] = output / image.relative_to(root).with_name(name + suffix)
        if os.path.realpath(targets[image]) == os.path.realpath(image):  # resolve() fails at a link to itself
            raise UserError(f'{image} would be overwritten. Choose another --output.')
    return targets


def _list_images(source: Path, output: Path) -> list[Path]:
    if not source.is_dir():
        if not source.exists():
            raise UserError(f'There is no file or folder {source}. Give images with --input.')
        return [source]
    if os.path.realpath(output) == os.path.realpath(source):
        raise UserError(
            f'--input and --output are both {source}; the originals would be lost. Choose another --output.'
        )
    paths = sorted(source / name for name in walk_images(source))
    made = Path(os.path.realpath(output))
    images = [path for path in paths if made not in Path(os.path.realpath(path)).parents]
    if not images:
        raise UserError(f'There is no image in {source} ({", ".join(SUFFIXES)}).')
    return images


def restore_faces(
    restorer: Restorer,
    targets: Targets,
    batch_size: int,
    strength: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = int,
) -> Outcome:
    """Restore images of one aligned face each.

    Args:
        restorer: see :func:`gpen.restoration.loading.load_restorer`.
        targets: see :func:`plan_targets`; the images are resized to the network's input.
        batch_size: faces at a time.
        strength: 0 (as they were) to 1 (as restored).
        max_pixels: larger images are refused.
        progress: called with the number of images that are done.
    """
    outcome = Outcome()
    for chunk in _read(targets, batch_size, max_pixels, outcome, progress):
        lq = torch.stack([to_tensor(resize(picture.image, restorer.in_size)) for _, picture in chunk])
        for (path, picture), image in zip(chunk, restorer(lq), strict=True):
            before = resize(picture.image, restorer.size)
            _write(targets[path], before + strength * (to_array(image) - before), picture.bits)

        outcome.restored += len(chunk)
        outcome.faces += len(chunk)
        progress(len(chunk))
    return outcome


def restore_photographs(
    restorer: PhotographRestorer,
    targets: Targets,
    strength: float = 1.0,
    save_faces: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = int,
) -> Outcome:
    """Restore whole photographs; those without a face are copied (enlarged, if that was asked for).

    Args:
        restorer: what restores them.
        targets: see :func:`plan_targets`.
        strength: 0 (as they were) to 1 (as restored).
        save_faces: also write each face, aligned, before and after, into a folder ``NAME_faces`` beside the result.
        max_pixels: larger photographs, and larger results, are refused.
        progress: called with the number of photographs that are done.
    """
    outcome = Outcome()
    limit = max_pixels // restorer.enlarger.scale**2
    for chunk in _read(targets, restorer.batch_size, limit, outcome, progress):
        results = restorer.restore([picture.image for _, picture in chunk])
        for (path, picture), result in zip(chunk, results, strict=True):
            target = targets[path]

            if result.faces:
                _write(target, result.compose(strength), picture.bits)
                outcome.restored += 1
                outcome.faces += len(result.faces)
            else:
                outcome.faceless.append(path)
                _copy(path, target, result.background, picture)

            if save_faces:
                _write_faces(target, result)
        progress(len(chunk))
    return outcome


def _read(
    targets: Targets, count: int, max_pixels: int, outcome: Outcome, progress: Progress
) -> Iterator[list[tuple[Path, Picture]]]:
    """Yield images in chunks of at most ``count`` and a bounded number of pixels; note those that cannot be used."""
    chunk: list[tuple[Path, Picture]] = []
    pixels = 0
    for path in targets:
        try:
            picture = read_picture(path, max_pixels)
        except UserError as error:
            outcome.failures.append(str(error))
            progress(1)
            continue

        chunk.append((path, picture))
        pixels += picture.image.shape[0] * picture.image.shape[1]
        if len(chunk) >= count or pixels >= _CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _write(target: Path, image: np.ndarray, bits: int) -> None:
    write_image(target, image, bits if target.suffix.lower() in _SUFFIXES_OF_16_BITS else 8)


def _copy(path: Path, target: Path, image: np.ndarray, picture: Picture) -> None:
    """Copy the file itself where its format stays and it was not enlarged."""
    suffix = path.suffix.lower()
    if image is not picture.image or _SAME_FORMAT.get(suffix, suffix) != target.suffix:
        _write(target, image, picture.bits)
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(path.read_bytes())


def _write_faces(target: Path, result: Restoration) -> None:
    folder = target.with_name(f'{target.stem}_faces')
    for number, face in enumerate(result.faces):
        for when, image in (('before', face.before), ('after', face.after)):
            write_image(folder / f'{number}_{when}.png', image)
