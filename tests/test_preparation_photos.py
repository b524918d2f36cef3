"""Listing and reading photographs as they come: turned, grey, CMYK, deep, huge, broken."""

import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gpen.data.file_check import read_size
from gpen.data.pixels import DamagedFileError
from gpen.errors import UserError
from gpen.preparation.photos import UnusablePhotoError, list_photos, read_photo
from gpen.utils.text import printable

LIMIT = 1_000_000


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 8, 255 - x * 5], axis=2).astype(np.uint8)


def save(path: Path, picture: np.ndarray | Image.Image, **options: object) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_png_header(path: Path, width: int, height: int) -> Path:
    """Write a PNG whose header states a size; it holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', b'') + chunk(b'IEND', b''))
    return path


def error_of(image: np.ndarray, expected: np.ndarray) -> float:
    assert image.shape == expected.shape
    return float(np.abs((image + 1) * 127.5 - expected).mean())


def test_photographs_are_listed_by_path_whatever_their_suffix_and_hidden_ones_are_not(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    for name in ('b.JPG', 'a/c.png', 'a/b/d.webp', 'e.tiff', 'f.bmp', '.hidden.png', '.cache/g.png', 'a/.h.jpg'):
        save(tmp_path / name, pixels)
    (tmp_path / 'notes.txt').write_text('x')
    photos, skipped = list_photos(tmp_path)
    assert [photo.key for photo in photos] == ['a/b/d.webp', 'a/c.png', 'b.JPG', 'e.tiff', 'f.bmp']
    assert not skipped
    assert photos[1].size == (tmp_path / 'a/c.png').stat().st_size


@pytest.mark.skipif(sys.platform == 'win32', reason='needs symbolic links and FIFOs')
def test_links_are_followed_once_and_what_is_no_file_is_skipped_with_its_reason(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    save(tmp_path / 'in' / 'a.png', pixels)
    (tmp_path / 'in' / 'loop').symlink_to(tmp_path / 'in')
    save(tmp_path / 'elsewhere' / 'b.png', pixels)
    (tmp_path / 'in' / 'z').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'in' / 'dead.png').symlink_to(tmp_path / 'gone.png')
    os.mkfifo(tmp_path / 'in' / 'pipe.png')
    photos, skipped = list_photos(tmp_path / 'in')
    assert [photo.key for photo in photos] == ['a.png', 'z/b.png']
    assert sorted(skipped) == ['dead.png', 'pipe.png']
    assert 'cannot be read' in skipped['dead.png']
    assert skipped['pipe.png'] == 'it is no file'


def test_folder_that_is_missing_or_holds_no_photograph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='not a folder'):
        list_photos(tmp_path / 'none')
    (tmp_path / 'a.gif').write_bytes(b'x')
    with pytest.raises(UserError, match=r'no photographs .* of kinds that are not read \(1 \.gif\): a\.gif'):
        list_photos(tmp_path)


@pytest.mark.parametrize('suffix', ['.jpg', '.tif'])
def test_cmyk_photograph_has_its_colours(suffix: str, tmp_path: Path, pixels: np.ndarray) -> None:
    black = np.full((24, 40, 1), 40, np.uint8)
    picture = Image.fromarray(np.concatenate([pixels, black], axis=2), 'CMYK')
    path = save(tmp_path / f'a{suffix}', picture, **({'quality': 97} if suffix == '.jpg' else {}))
    if suffix == '.jpg':
        assert b'Adobe' in path.read_bytes()  # which means: inverted
    assert error_of(read_photo(path, LIMIT), np.asarray(picture.convert('RGB'), float)) < 3


def test_grey_deep_and_transparent_photographs_are_rgb(tmp_path: Path, pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    assert error_of(read_photo(save(tmp_path / 'l.jpg', grey, quality=97), LIMIT), np.dstack([grey] * 3)) < 2
    for suffix in ('.png', '.tif'):
        cv2.imwrite(str(tmp_path / f'deep{suffix}'), pixels[..., ::-1].astype(np.uint16) * 257)
        assert error_of(read_photo(tmp_path / f'deep{suffix}', LIMIT), pixels) < 0.01
    path = save(tmp_path / 'a.png', Image.fromarray(pixels).convert('RGBA'))
    assert error_of(read_photo(path, LIMIT), pixels) < 0.01


@pytest.mark.parametrize('suffix', ['.tif', '.webp', '.png'])
def test_first_of_several_pictures_in_a_file_is_read(suffix: str, tmp_path: Path, pixels: np.ndarray) -> None:
    more = {'lossless': True} if suffix == '.webp' else {}
    path = save(
        tmp_path / f'a{suffix}',
        pixels,
        save_all=True,
        append_images=[Image.fromarray(255 - pixels)],
        **more,
    )
    assert error_of(read_photo(path, LIMIT), pixels) < 1


def test_photograph_is_turned_as_its_camera_was(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / 'a.jpg', pixels, exif=exif, quality=97)
    assert error_of(read_photo(path, LIMIT), np.rot90(pixels, -1)) < 4


def test_huge_photograph_is_refused_by_its_header_with_its_size(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = write_png_header(tmp_path / 'a.png', 100_000, 90_000)  # 108 GB of pixels
    with pytest.raises(UnusablePhotoError, match=r'100000 x 90000; at most 120,000,000'):
        read_photo(path, 120_000_000)
    with pytest.raises(DamagedFileError, match='too many pixels'):
        read_size(BytesIO(path.read_bytes()))
    large = write_png_header(tmp_path / 'b.png', 12_000, 10_000)  # where Pillow begins to warn
    assert read_size(BytesIO(large.read_bytes())) == (12_000, 10_000)
    assert not recwarn.list


def test_limit_counts_the_pixels_of_one_photograph(tmp_path: Path, pixels: np.ndarray) -> None:
    path = save(tmp_path / 'a.png', pixels)
    assert read_photo(path, 24 * 40).shape == (24, 40, 3)
    with pytest.raises(UnusablePhotoError, match='40 x 24'):
        read_photo(path, 24 * 40 - 1)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'it is empty'),
        (b'<html>', 'it is a web page, which is not read'),
        (b'words', 'not an image'),
        (b'\xff\xd8\xff\xe0', 'cut off'),
        (None, 'cut off'),
    ],
)
def test_broken_photograph_has_a_reason(content: bytes | None, reason: str, tmp_path: Path, pixels: np.ndarray) -> None:
    path = save(tmp_path / 'a.jpg', pixels)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(UnusablePhotoError, match=reason):
        read_photo(path, LIMIT)
    with pytest.raises(UnusablePhotoError, match='cannot be read'):
        read_photo(tmp_path / 'gone.jpg', LIMIT)


@pytest.mark.filterwarnings('ignore:Tag data larger')
def test_any_changed_byte_of_a_header_is_a_reason_or_no_matter(tmp_path: Path, pixels: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    for kind in ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP'):
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        for _ in range(40):
            data = bytearray(stream.getvalue())
            data[int(generator.integers(len(data) if kind == 'TIFF' else 60))] ^= 1 << int(generator.integers(8))
            path = tmp_path / 'a.img'
            path.write_bytes(data)
            reason = 'it is read'
            try:
                assert read_photo(path, 5000).shape[2] == 3
            except UnusablePhotoError as error:
                reason = str(error)
            assert reason.startswith('it ')


def test_names_are_shown_without_line_breaks_and_bytes_that_are_no_text() -> None:
    assert printable('Zoë/面孔 1.png') == 'Zoë/面孔 1.png'
    assert printable('a\nb\udcff.png') == 'a\\nb\\udcff.png'
