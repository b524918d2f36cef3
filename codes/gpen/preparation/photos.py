"""The photographs: which there are, and reading one; what cannot be used is a reason, not an error."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpen.data.file_check import SUFFIXES, read_file
from gpen.data.image_folder import describe_left_out, walk_images
from gpen.data.image_io import decode_picture
from gpen.data.pixels import DamagedFileError
from gpen.errors import UserError
from gpen.utils.text import printable


class UnusablePhotoError(ValueError):
    """A photograph is left out; the message is a clause that says why, such as ``it is cut off``."""


@dataclass(frozen=True, order=True)
class Photo:
    """A file that may be a photograph.

    Attributes:
        key: its path below the folder, with ``/``; a name that is not UTF-8 holds surrogates, as Python has it.
        path: where it is.
        size: bytes.
        changed: time of its last change, ns.
    """

    key: str
    path: Path
    size: int
    changed: int

    @property
    def identity(self) -> tuple[str, int, int]:
        """Another one where the file is another one."""
        return self.key, self.size, self.changed


def list_photos(root: Path, left_out: dict[str, str] | None = None) -> tuple[list[Photo], dict[str, str]]:
    """Return the photographs below ``root`` in the order of their keys, and the reasons for which others are left out.

    Links are followed, each folder once.

    Args:
        root: the folder.
        left_out: gets what is no photograph by its name, see :func:`gpen.data.image_folder.walk_images`.

    Raises:
        UserError: no such folder, or no file with a suffix of an image.
    """
    if not root.is_dir():
        raise UserError(f'--input {root} is not a folder. Give the folder that holds the photographs.')
    photos, skipped = [], {}

    def note_folder(error: OSError) -> None:
        skipped[os.path.relpath(error.filename, root)] = f'the folder cannot be read ({error.strerror})'

    left_out = {} if left_out is None else left_out
    for key in walk_images(root, note_folder, left_out.__setitem__):
        path = root / key
        try:
            status = path.stat()
        except OSError as error:
            skipped[key] = f'it cannot be read ({error.strerror})'
            continue
        if stat.S_ISREG(status.st_mode):
            photos.append(Photo(key, path, status.st_size, status.st_mtime_ns))
        else:
            skipped[key] = 'it is no file'
    if not photos:
        raise UserError(
            f'--input {root} holds no photographs ({", ".join(SUFFIXES)}){explain(skipped)}.'
            + ''.join(f' {sentence}' for sentence in describe_left_out(left_out))
        )
    return sorted(photos), skipped


def read_photo(path: Path, max_pixels: int) -> np.ndarray:
    """Return a photograph as it is displayed: H x W x 3, float32, sRGB, [-1, 1].

    Raises:
        UnusablePhotoError: it cannot be read, is damaged, or has more than ``max_pixels`` pixels.
    """
    try:
        picture = decode_picture(read_file(path), max_pixels)
        return picture.space.to_srgb(picture.image)
    except DamagedFileError as error:
        raise UnusablePhotoError(str(error)) from error
    except OSError as error:
        raise UnusablePhotoError(f'it cannot be read ({error.strerror or error})') from error
    except MemoryError as error:
        raise UnusablePhotoError('it does not fit into the memory; see --max_pixels and --workers') from error


def explain(reasons: dict[str, str], limit: int = 5) -> str:
    """Return ``: NAME: REASON; ... and 3 more`` for photographs that are left out; nothing where there are none."""
    if not reasons:
        return ''
    named = [f'{printable(key)}: {reason}' for key, reason in sorted(reasons.items())[:limit]]
    more = [f'... and {len(reasons) - limit} more'] if len(reasons) > limit else []
    return ': ' + '; '.join(named + more)
