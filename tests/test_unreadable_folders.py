"""A folder among others that cannot be read is a part of the data, so it is refused or named."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpen.data.image_folder import UNREADABLE
from gpen.data.storage import find_backend, open_storage
from gpen.errors import UserError
from gpen.preparation.photos import list_photos
from gpen.restoration.folder import plan_targets


@pytest.fixture(params=[errno.EACCES, errno.EIO, errno.ESTALE], ids=['permission', 'disk', 'network'])
def locked(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside images that the operating system does not list (the tests may run as root, who reads all)."""
    for name in ('a.png', 'more/b.png', 'locked/c.png', 'a.parquet', 'locked/c.parquet'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    real, locked = os.scandir, tmp_path / 'locked'

    def scandir(path: Any = '.') -> Any:
        if os.fspath(path) == str(locked):
            raise OSError(request.param, os.strerror(request.param), str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    return locked


@pytest.mark.parametrize(
    'open_data',
    [
        open_storage,
        find_backend,
        lambda root: open_storage(root, {'type': 'datasets'}),
    ],
    ids=['disk', 'a storage of any kind', 'tables'],
)
def test_a_data_set_with_a_folder_that_cannot_be_read_is_refused(
    open_data: Callable[[Path], Any], locked: Path
) -> None:
    with pytest.raises(UserError) as caught:
        open_data(locked.parent)
    assert 'locked' in str(caught.value)
    assert 'Make' in str(caught.value)


def test_photographs_beside_a_folder_that_cannot_be_read_are_used_and_it_is_named(locked: Path) -> None:
    left_out: dict[str, str] = {}
    targets = plan_targets(locked.parent, locked.parent / 'out', left_out=left_out)
    assert sorted(path.name for path in targets) == ['a.png', 'b.png']
    assert left_out['locked'] == UNREADABLE
    photos, skipped = list_photos(locked.parent)
    assert [photo.key for photo in photos] == ['a.png', 'more/b.png']
    assert 'cannot be read' in skipped['locked']
