"""Images in, images out: which file goes where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from gpen.data.image_io import read_image, resize, to_tensor, write_image
from gpen.errors import UserError
from gpen.restoration.restorer import Restorer

SUFFIXES = {'.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff'}


def list_images(source: Path, output: Path) -> list[Path]:
    """Return the images of a folder (with its sub-folders, without ``output``), or the one image that ``source`` is.

    Raises:
        UserError: no such file or folder, or no image in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f'There is no file or folder {source}. Give images with --input.')
    if output.resolve() == source.resolve():
        raise UserError(
            f'--input and --output are both {source}; the originals would be lost. Choose another --output.'
        )
    found = [path for path in source.rglob('*') if path.suffix.lower() in SUFFIXES and path.is_file()]
    images = sorted(path for path in found if output.resolve() not in path.resolve().parents)
    if not images:
        raise UserError(f'There is no image in {source} ({", ".join(sorted(SUFFIXES))}).')
    return images


def plan_targets(source: Path, output: Path) -> dict[Path, Path]:
    """Return where each image of ``source`` goes.

    That is its name (sub-folders kept) with the suffix ``.png``, added to the old one where two would meet.

    Raises:
        UserError: there is no image, or an original would be overwritten.
    """
    images = list_images(source, output)
    root = source if source.is_dir() else source.parent
    count = Counter(image.with_suffix('') for image in images)
    targets = {
        image: output
        / image.relative_to(root).with_name(
            f'{image.stem}.png' if count[image.with_suffix('')] == 1 else f'{image.name}.png'
        )
        for image in images
    }
    if source.is_file() and targets[source].resolve() == source.resolve():
        raise UserError(f'{source} would be overwritten. Choose another --output.')
    return targets


def restore_images(
    restorer: Restorer,
    targets: dict[Path, Path],
    batch_size: int,
    progress: Callable[[list[Path]], object] = len,
) -> tuple[int, list[str]]:
    """Restore aligned faces and write each as PNG.

    Args:
        restorer: see :func:`gpen.restoration.restorer.load_restorer`.
        targets: see :func:`plan_targets`; images of one aligned face each, resized to the network's input.
        batch_size: faces at a time.
        progress: called with the images of each finished batch.

    Returns:
        How many were restored, and a sentence for each that could not be read.
    """
    images = list(targets)
    failures: list[str] = []
    for start in range(0, len(images), batch_size):
        chunk = images[start : start + batch_size]
        faces: list[tuple[Path, torch.Tensor]] = []
        for path in chunk:
            try:
                faces.append((path, to_tensor(resize(read_image(path), restorer.in_size))))
            except UserError as error:
                failures.append(str(error))
        if faces:
            restored = restorer(torch.stack([face for _, face in faces]))
            for (path, _), image in zip(faces, restored, strict=True):
                write_image(targets[path], image.permute(1, 2, 0).numpy())
        progress(chunk)
    return len(images) - len(failures), failures
