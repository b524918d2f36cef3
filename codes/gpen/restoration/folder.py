"""Restoring folders: where each result goes, and a record of what became of each image."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from gpen.data.file_check import MAX_PIXELS, SUFFIXES
from gpen.data.film import ADVICE, has_av, is_film
from gpen.data.image_folder import FOREIGN, UNREADABLE, describe_left_out, walk_images
from gpen.data.image_io import Picture, read_picture, resize, to_array, to_tensor, write_image
from gpen.errors import UserError
from gpen.faces.face import Face
from gpen.restoration.base import Restorer
from gpen.restoration.film import Bar, FilmResult, restore_film
from gpen.restoration.photograph import LARGE, PhotographRestorer, Restoration, Verdict
from gpen.utils.files import atomic_path

_CHUNK_PIXELS = 40_000_000  # of the photographs in memory at a time: half a GB as float32 RGB
_SUFFIXES_OF_16_BITS = ('.png', '.tif')
_SAME_FORMAT = {'.jpeg': '.jpg', '.jpe': '.jpg', '.jfif': '.jpg', '.tiff': '.tif'}
_OF_ONE = (UserError, cv2.error, MemoryError)  # what one photograph may be the cause of
_STOPPING = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC), errno.EROFS)

Result = TypeVar('Result')
Targets = dict[Path, Path]
Progress = Callable[[int], object]


@dataclass
class Outcome:
    """What became of the images of a folder.

    Attributes:
        restored: images with restored faces.
        faces: restored faces in them.
        too_small: faces that were found, but are smaller than the smallest one to restore.
        faceless: photographs without a face, and what was done with each, such as ``copied as it is``.
        failures: a sentence for each image that could not be used or written.
        losses: what results do not hold, a noun, with the images that had it.
        large: images with faces that are far larger than the network, with the longest side of these in pixels.
        films: what became of each film that could be used.
        verdicts: on the faces of each image and film, where they were judged: where each is, and the verdict.
        stopped: why the others were not even tried.
    """

    restored: int = 0
    faces: int = 0
    too_small: int = 0
    faceless: dict[Path, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    losses: dict[str, list[Path]] = field(default_factory=dict)
    large: dict[Path, float] = field(default_factory=dict)
    films: dict[Path, FilmResult] = field(default_factory=dict)
    verdicts: dict[Path, list[tuple[str, Verdict]]] = field(default_factory=dict)
    stopped: str | None = None


def plan_targets(
    source: Path,
    output: Path,
    suffix: str = '.png',
    left_out: dict[str, str] | None = None,
    films: bool = False,
) -> Targets:
    """Return the path of each image's result: sub-folders and names are kept, the suffix is replaced, but for films.

    Where two results would get the same name, the old suffix stays in front of the new one.

    Args:
        source: an image, or a folder of images.
        output: the folder for results.
        suffix: of the results.
        left_out: gets what is no photograph by its name, see :func:`gpen.data.image_folder.walk_images`.
        films: films are taken, too, and keep their suffix.

    Raises:
        UserError: there is no image, or an original would be overwritten.
    """
    images = _list_images(source, output, {} if left_out is None else left_out, films)
    root = source if source.is_dir() else source.parent
    count = Counter(image.with_suffix('') for image in images if not is_film(image))

    targets = {}
    for image in images:
        name = image.stem if count[image.with_suffix('')] == 1 else image.name
        name = image.name if is_film(image) else name + suffix
        targets[image] = output / image.relative_to(root).with_name(name)
        if os.path.realpath(targets[image]) == os.path.realpath(image):  # resolve() fails at a link to itself
            raise UserError(f'{image} would be overwritten. Choose another --output.')
    return targets


def _list_images(source: Path, output: Path, left_out: dict[str, str], films: bool) -> list[Path]:
    if not source.is_dir():
        if not source.exists():
            raise UserError(f'There is no file or folder {source}. Give images with --input.')
        return [source]
    if os.path.realpath(output) == os.path.realpath(source):
        raise UserError(
            f'--input and --output are both {source}; the originals would be lost. Choose another --output.'
        )
    made = Path(os.path.realpath(output))
    found: list[str] = []
    holds_source = Path(os.path.realpath(source)).is_relative_to(made)

    def is_result(path: Path) -> bool:
        return not holds_source and Path(os.path.realpath(path)).is_relative_to(made)

    def note(name: str, reason: str) -> None:
        if films and reason == FOREIGN and is_film(name):
            found.append(name)
        elif not is_result(source / name):
            left_out[name] = reason

    def note_folder(error: OSError) -> None:
        left_out[os.path.relpath(error.filename, source)] = UNREADABLE

    paths = sorted(source / name for name in (*walk_images(source, note_folder, note), *found))
    images = [path for path in paths if not is_result(path)]
    if not images:
        more = ''.join(f' {sentence.rstrip(".")}.' for sentence in explain_left_out(left_out))
        raise UserError(f'There is no image in {source} ({", ".join(SUFFIXES)}).{more}')
    return images


def explain_left_out(left_out: Mapping[str, str]) -> list[str]:
    """Return sentences on what was left out of a folder, and on what films need if that is missing."""
    missing = not has_av() and any(map(is_film, left_out))
    return [*describe_left_out(left_out), *([ADVICE] if missing else [])]


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

    def run(pictures: list[Picture]) -> Tensor:
        seen = [picture.space.to_srgb(picture.image) for picture in pictures]
        return restorer(torch.stack([to_tensor(resize(image, restorer.in_size)) for image in seen]))

    for chunk in _read(targets, batch_size, max_pixels, outcome, progress):
        for (path, picture), image in _run_each(run, chunk, outcome):
            before = resize(picture.image, restorer.size)
            after = picture.space.from_srgb(to_array(image))
            with _guard(path, outcome):
                _write(targets[path], before + strength * (after - before), picture, path, outcome)
                outcome.restored += 1
                outcome.faces += 1
                side = max(picture.image.shape[:2])
                if side >= LARGE * restorer.size:
                    outcome.large[path] = side

        progress(len(chunk))
        if outcome.stopped:
            break
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

    A photograph that cannot be used or written is a failure of its own; only a full disk ends the work.

    Args:
        restorer: what restores them.
        targets: see :func:`plan_targets`.
        strength: 0 (as they were) to 1 (as restored).
        save_faces: also write each face, aligned, before and after, into a folder ``NAME_faces`` beside the result.
        max_pixels: larger photographs, and larger results, are refused.
        progress: called with the number of photographs that are done.
    """
    outcome = Outcome()

    def run(pictures: list[Picture]) -> list[Restoration]:
        return restorer.restore([picture.image for picture in pictures], [picture.space for picture in pictures])

    limit = max_pixels // restorer.enlarger.scale**2
    for chunk in _read(targets, restorer.batch_size, limit, outcome, progress):
        for (path, picture), result in _run_each(run, chunk, outcome):
            outcome.too_small += result.too_small
            if result.verdicts:
                outcome.verdicts[path] = [(_place(verdict.face), verdict) for verdict in result.verdicts]
            with _guard(path, outcome):
                _finish(path, targets[path], picture, result, strength, outcome)
                if save_faces:
                    _write_faces(targets[path], result)
        progress(len(chunk))
        if outcome.stopped:
            break
    return outcome


def restore_films(
    restorer: PhotographRestorer,
    targets: Targets,
    settings: Mapping[str, object],
    outcome: Outcome,
    strength: float,
    max_pixels: int,
    bar: Bar,
) -> None:
    """Restore films, see :func:`gpen.restoration.film.restore_film`, and note what became of each.

    A film that cannot be used is a failure of its own, as a photograph is.
    """
    limit = max_pixels // restorer.enlarger.scale**2
    for path, target in targets.items():
        with _guard(path, outcome):
            result = restore_film(restorer, path, target, settings, strength, limit, bar)
            outcome.films[path] = result
            outcome.too_small += result.too_small
            for noun in result.losses:
                outcome.losses.setdefault(noun, []).append(path)
            if result.large:
                outcome.large[path] = result.large
            if result.verdicts:
                outcome.verdicts[path] = list(result.verdicts)
            if not result.faces:
                scale = restorer.enlarger.scale
                outcome.faceless[path] = 'copied as it is' if scale == 1 else f'only enlarged {scale} times'
        if outcome.stopped:
            return


def _place(face: Face) -> str:
    """Return where a face is in a photograph, in words."""
    left, top, right, bottom = (round(value) for value in face.box)
    return f'face of {right - left} x {bottom - top} pixels at {left}, {top}'


def _run_each(
    run: Callable[[list[Picture]], Iterable[Result]], chunk: list[tuple[Path, Picture]], outcome: Outcome
) -> Iterator[tuple[tuple[Path, Picture], Result]]:
    """Yield each image of a chunk that ``run`` can restore with its result; note the others."""
    try:
        yield from zip(chunk, run([picture for _, picture in chunk]), strict=True)
    except _OF_ONE as error:
        if len(chunk) == 1:
            outcome.failures.append(f'{chunk[0][0]} cannot be restored: {error}')
            return
        for single in chunk:  # which of them is it?
            yield from _run_each(run, [single], outcome)


def _finish(path: Path, target: Path, picture: Picture, result: Restoration, strength: float, outcome: Outcome) -> None:
    """Write a photograph, with its faces or without any."""
    if not result.faces:
        outcome.faceless[path] = _copy(path, target, result, picture, outcome)
        return
    _write(target, result.compose(strength), picture, path, outcome)
    outcome.restored += 1
    outcome.faces += len(result.faces)
    if result.large:
        outcome.large[path] = max(face.ratio * len(face.after) for face in result.large)


@contextmanager
def _guard(path: Path, outcome: Outcome) -> Iterator[None]:
    """Note what goes wrong with one image; a full disk stops all of them."""
    try:
        yield
    except _OF_ONE as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _STOPPING:
            outcome.stopped = str(error)
        else:
            named = str(path) in str(error)
            outcome.failures.append(str(error) if named else f'{path}: {error}')


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


def _write(target: Path, image: np.ndarray, picture: Picture, path: Path, outcome: Outcome) -> None:
    """Write a result with all that its format holds of the picture and its metadata; note what it does not hold."""
    suffix = target.suffix.lower()
    bits = picture.bits if suffix in _SUFFIXES_OF_16_BITS else 8
    write_image(target, image, bits, picture.fit_alpha(*image.shape[:2]), picture.metadata)
    for noun in picture.find_losses(suffix):
        outcome.losses.setdefault(noun, []).append(path)


def _copy(path: Path, target: Path, result: Restoration, picture: Picture, outcome: Outcome) -> str:
    """Write a photograph without a face, as the file itself where that serves; return in words what was done."""
    suffix = path.suffix.lower()
    if result.scale > 1 or _SAME_FORMAT.get(suffix, suffix) != target.suffix:
        _write(target, result.background, picture, path, outcome)
        return f'only enlarged {result.scale} times' if result.scale > 1 else f'only written as {target.suffix}'
    with atomic_path(target) as temporary:
        temporary.write_bytes(path.read_bytes())
    return 'copied as it is'


def _write_faces(target: Path, result: Restoration) -> None:
    folder = target.with_name(f'{target.stem}_faces')
    for number, face in enumerate(result.faces):
        for when, image in (('before', face.before), ('after', face.after)):
            write_image(folder / f'{number}_{when}.png', image)
