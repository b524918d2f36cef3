"""Fixtures of the tests of data set preparation: a tree of photographs, and the command to run on it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import photographs
from gpen.commands import prepare_dataset
from gpen.preparation import prepare as preparing
from photographs import Prepare, draw_photo, save, words


@pytest.fixture(scope='session')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of photographs: 8 faces in 6, one without, two that cannot be used."""
    folder = tmp_path_factory.mktemp('photos')
    save(folder / 'anna' / '1.jpg', draw_photo(1), quality=95)
    save(folder / 'anna' / '2.png', draw_photo(2))
    save(folder / 'ben' / 'group.png', draw_photo(3, faces=3, width=400))
    turned = Image.Exif()
    turned[0x0112] = 6  # turned by a quarter, so that it is shown upright
    save(folder / 'ben' / 'turned.jpg', np.rot90(draw_photo(4)), exif=turned, quality=95)
    save(folder / 'cleo' / 'grey.tif', draw_photo(5).mean(axis=2).astype(np.uint8))
    cv2.imwrite(str(folder / 'cleo' / 'deep.png'), draw_photo(6).astype(np.uint16) * 257)
    save(folder / 'cleo' / 'empty.png', draw_photo(7, faces=0))
    (folder / 'cut.jpg').write_bytes((folder / 'anna' / '1.jpg').read_bytes()[:500])
    (folder / 'page\n1.jpg').write_bytes(b'<html>')
    return folder


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Run the command in this process, with the stand-in for a detector."""
    monkeypatch.setattr(preparing, 'find_detector', photographs.find_detector)

    def call(source: Path, output: Path, *more: object) -> int:
        return prepare_dataset.main([str(word) for word in words(source, output, *more)])

    return call


@pytest.fixture(scope='session')
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the photographs, made without interruption in one process."""
    output = tmp_path_factory.mktemp('finished') / 'set'
    status, printed = photographs.start(output.with_name('log'), *words(photos, output)).wait()
    assert status == 0, printed
    return output
