"""A table of the landmarks of faces that are aligned already, for ``landmarks`` of a data set."""

import csv
from contextlib import closing
from functools import partial
from pathlib import Path

from gpen.data.image_io import read_image
from gpen.data.landmarks import COLUMNS
from gpen.data.storage.disk import DiskStorage
from gpen.errors import UserError
from gpen.faces.face import split_by_size
from gpen.preparation.prepare import Say
from gpen.preparation.work import DetectorSource, get_detector, run_single_threaded
from gpen.utils.files import atomic_path
from gpen.utils.pool import Pool
from gpen.utils.text import list_names

Row = tuple[str, list[float] | str]
"""An image's key, and the coordinates in the order of the columns, or why there are none."""

NO_FACE = 'no face was found'


def write_landmark_table(folder: Path, output: Path, detector: DetectorSource, workers: int, say: Say) -> None:
    """Find the largest face of each image, and write its landmarks; see :class:`gpen.data.landmarks.Landmarks`.

    Args:
        folder: of images, in sub-folders too.
        output: the CSV file.
        detector: what finds faces.
        workers: processes, see :class:`gpen.utils.pool.Pool`.
        say: gets what the user should read: how many were found, which images have none, and which cannot be used.

    Raises:
        UserError: there are no images, no face is found at all, or the table cannot be written.
    """
    storage = DiskStorage(folder)
    keys = storage.keys()
    images = [(key, Path(storage.file_of(key))) for key in keys]
    if not images:
        raise UserError(f'There are no images in {folder}. Give the folder of the sharp faces.')
    find = partial(run_single_threaded, partial(_find_landmarks, detector))
    with Pool(workers) as pool, closing(pool.run(find, images, 'images')) as results:
        rows = sorted(results, key=lambda row: row[0])

    found = [(key, points) for key, points in rows if not isinstance(points, str)]
    unusable = [points for _, points in rows if isinstance(points, str) and points != NO_FACE]
    for reason in unusable:
        say(f'Skipped: {reason}')
    if not found:
        raise UserError(
            f'No face was found in the {len(rows) - len(unusable)} images of {folder}. Are these faces, '
            f'and larger than --min_face ({detector.min_face} pixels)?'
        )
    with atomic_path(output) as temporary, temporary.open('w', encoding='utf-8', newline='') as stream:
        table = csv.writer(stream, lineterminator='\n')
        table.writerow(['name', *COLUMNS])
        table.writerows([key, *points] for key, points in found)

    say(f'{len(found)} of {len(rows)} images have landmarks now: {output}')
    missing = [key for key, points in rows if points == NO_FACE]
    if missing:
        say(f'No face was found in {len(missing)}: {list_names(missing)}. Remove them, or add their rows by hand.')


def _find_landmarks(detector: DetectorSource, image: tuple[str, Path]) -> Row:
    key, path = image
    try:
        picture = read_image(path)
    except UserError as error:
        return key, str(error)
    faces, _ = split_by_size(get_detector(detector).detect(picture), detector.min_face)
    return key, [round(float(value), 2) for value in faces[0].landmarks.flatten()] if faces else NO_FACE
