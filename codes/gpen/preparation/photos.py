"""The photographs: which there are, and reading one; what cannot be used is a reason, not an error."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpen.data.file_check import SUFFIXES, DamagedFileError, read_file, walk_images
from gpen.data.image_io import decode_picture
from gpen.errors import UserError


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


def list_photos(root: Path) -> tuple[list[Photo], dict[str, str]]:
    """Return the photographs below ``root`` in the order of their keys, and the reasons for which others are left out.

    Hidden files and folders are no photographs; links are followed, each folder once.

    Raises:
        UserError: no such folder, or no file with a suffix of an image.
    """
    if not root.is_dir():
        raise UserError(f'--input {root} is not a folder. Give the folder that holds the photographs.')
    photos, skipped = [], {}

    def note_folder(error: OSError) -> None:
        skipped[os.path.relpath(error.filename, root)] = f'the folder cannot be read ({error.strerror})'

    for key in walk_images(root, note_folder):
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
        raise UserError(f'--input {root} holds no photographs ({", ".join(SUFFIXES)}){explain(skipped)}.')
    return sorted(photos), skipped


def read_photo(path: Path, max_pixels: int) -> np.ndarray:
    """Return a photograph as it is displayed: H x W x 3, float32, RGB, [-1, 1].

    Raises:
        UnusablePhotoError: it cannot be read, is damaged, or has more than ``max_pixels`` pixels.
    """
    try:
        return decode_picture(read_file(path), max_pixels).image
    except DamagedFileError as error:
        raise UnusablePhotoError(str(error)) from error
    except OSError as error:
        raise UnusablePhotoError(f'it cannot be read ({error.strerror or error})') from error
    except MemoryError as error:
        raise UnusablePhotoError('it does not fit into the memory; see --max_pixels and --workers') from error


def printable(name: str) -> str:
    """Return a file name for the screen: line breaks, and bytes that are no text, are shown as escapes."""
    return ''.join(
        character if character.isprintable() else character.encode('unicode_escape').decode() for character in name
    )


def explain(reasons: dict[str, str], limit: int = 5) -> str:
    """Return ``: NAME: REASON; ... and 3 more`` for photographs that are left out; nothing where there are none."""
    if not reasons:
        return ''
    named = [f'{printable(key)}: {reason}' for key, reason in sorted(reasons.items())[:limit]]
    more = [f'... and {len(reasons) - limit} more'] if len(reasons) > limit else []
    return ': ' + '; '.join(named + more)
