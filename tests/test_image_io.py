"""Reading and writing image files."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gpen.data.file_check import check_complete, read_size
from gpen.data.image_io import read_image, resize, to_array, to_tensor, to_uint8, write_image
from gpen.data.pixels import DamagedFileError
from gpen.errors import UserError

HEIGHT, WIDTH = 24, 40


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth H x W x 3 picture whose channels differ, so that lossy formats keep it and BGR would be noticed."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 6, y * 8, 255 - x * 5], axis=2).astype(np.uint8)


def encode(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def to_range(pixels: np.ndarray, top: float = 255) -> np.ndarray:
    return pixels / top * 2 - 1


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'BMP'])
def test_lossless_files_are_read_exactly_as_rgb_in_minus_one_to_one(kind: str, pixels: np.ndarray) -> None:
    image = read_image(encode(pixels, kind))
    assert image.dtype == np.float32
    assert image.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(image, to_range(pixels), atol=1e-6)
    assert image.max() <= 1
    assert image.min() >= -1


@pytest.mark.parametrize(('kind', 'options'), [('JPEG', {'quality': 95}), ('WEBP', {'quality': 95})])
def test_lossy_files_are_read_as_rgb(kind: str, options: dict[str, int], pixels: np.ndarray) -> None:
    assert np.abs(read_image(encode(pixels, kind, **options)) - to_range(pixels)).mean() < 0.04


def test_full_white_is_exactly_one_in_8_and_16_bits(tmp_path: Path) -> None:
    for bits in (8, 16):
        path = tmp_path / f'{bits}.png'
        write_image(path, np.ones((4, 4, 3), np.float32), bits)
        assert (read_image(path) == 1).all()


def test_16_bits_survive_writing_and_reading(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (6, 7, 3)).astype(np.float32)
    for suffix in ('.png', '.tif'):
        path = tmp_path / f'deep{suffix}'
        write_image(path, image, bits=16)
        assert np.abs(read_image(path) - image).max() < 1.1 / 65535
    write_image(tmp_path / 'flat.png', image, bits=8)
    assert 1.1 / 65535 < np.abs(read_image(tmp_path / 'flat.png') - image).max() < 1.1 / 255


def test_16_bit_grey_is_read_with_all_its_bits() -> None:
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 60
    image = read_image(encode(grey, 'PNG'))
    np.testing.assert_allclose(image, to_range(np.repeat(grey[..., None], 3, 2), 65535), atol=1e-6)


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA', 'P', '1'])
def test_grey_alpha_and_palette_become_three_channels(mode: str, pixels: np.ndarray) -> None:
    converted = Image.fromarray(pixels).convert(mode)
    expected = np.asarray(converted.convert('RGB'))
    np.testing.assert_allclose(read_image(encode(converted, 'PNG')), to_range(expected), atol=1e-6)


def test_alpha_is_dropped_and_colours_stay(pixels: np.ndarray) -> None:
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    np.testing.assert_allclose(
        read_image(encode(np.concatenate([pixels, alpha], 2), 'PNG')), to_range(pixels), atol=1e-6
    )


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_turns_the_picture_and_its_stated_size(orientation: int, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pixels, 'JPEG', exif=exif, quality=95)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation]
    image = read_image(data)
    assert np.abs(image - to_range(turn(pixels))).mean() < 0.04
    assert read_size(BytesIO(data)) == (image.shape[1], image.shape[0])


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF'])
def test_stated_size_and_decoded_size_agree_for_turned_pictures(kind: str, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(pixels, kind, exif=exif)
    height, width = read_image(data).shape[:2]
    assert read_size(BytesIO(data)) == (width, height)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP'])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 1.0])
def test_cut_off_file_is_an_error_that_names_it(
    kind: str, share: float, pixels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encode(pixels, kind)
    path = tmp_path / 'face.img'
    path.write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
    with pytest.raises(UserError, match=r'face\.img cannot be used: it is'):
        read_image(path)
    assert capfd.readouterr() == ('', '')


def test_jpeg_cut_behind_its_thumbnail_is_found_cut_off(pixels: np.ndarray) -> None:
    thumbnail = encode(pixels[::4, ::4], 'JPEG')
    data = encode(pixels, 'JPEG', comment=thumbnail)
    assert data.index(b'\xff\xd9') < len(data) - 2
    check_complete(BytesIO(data))
    with pytest.raises(DamagedFileError, match='cut off'):
        check_complete(BytesIO(data[:-2]))


def test_progressive_jpeg_is_whole_and_cut_off_when_cut(pixels: np.ndarray) -> None:
    data = encode(pixels, 'JPEG', progressive=True)
    assert read_size(BytesIO(data)) == (WIDTH, HEIGHT)
    with pytest.raises(DamagedFileError, match='cut off'):
        check_complete(BytesIO(data[: len(data) * 3 // 4]))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP'])
@pytest.mark.parametrize('extra', [1, 300_000])
def test_bytes_behind_the_image_are_no_damage(kind: str, extra: int, pixels: np.ndarray) -> None:
    data = encode(pixels, kind)
    assert (read_image(data + b'\x07' * extra) == read_image(data)).all()
    assert read_size(BytesIO(data + b'\x07' * extra)) == (WIDTH, HEIGHT)


def test_png_with_damaged_pixels_is_an_error(pixels: np.ndarray) -> None:
    data = bytearray(encode(pixels, 'PNG'))
    middle = data.index(b'IDAT') + 20
    data[middle] ^= 0xFF
    with pytest.raises(UserError, match=r'portrait\.png cannot be used: it is damaged'):
        read_image(bytes(data), 'portrait.png')


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'\x89PNG\r\n\x1a\n', b'\xff\xd8', b'RIFF'])
def test_what_is_no_image_is_an_error_that_names_it(content: bytes) -> None:
    with pytest.raises(UserError, match=r'page\.png cannot be used: it is'):
        read_image(content, 'page.png')


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'gone\.png cannot be read'):
        read_image(tmp_path / 'gone.png')


def test_size_of_a_large_png_is_read_without_decoding_it() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = struct.pack('>IIBBBBB', 5000, 3000, 8, 2, 0, 0, 0)
    data = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'no pixels') + chunk(b'IEND', b'')
    assert read_size(BytesIO(data)) == (5000, 3000)


@pytest.mark.parametrize('name', ['Zoë 面孔.png', 'sub/folder/Ж.jpg'])
def test_paths_that_are_not_ascii_work(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / name, np.full((16, 16, 3), 0.5, np.float32))
    np.testing.assert_allclose(read_image(tmp_path / name), 0.5, atol=0.02)
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_tensor_is_written_as_the_array_it_holds(tmp_path: Path, pixels: np.ndarray) -> None:
    image = to_range(pixels).astype(np.float32)
    write_image(tmp_path / 'tensor.png', to_tensor(image))
    assert (np.asarray(Image.open(tmp_path / 'tensor.png')) == pixels).all()


def test_values_beyond_the_range_are_clipped_when_written(tmp_path: Path) -> None:
    image = np.array([[[-3.0, 0.0, 3.0]]], np.float32)
    write_image(tmp_path / 'clip.png', image)
    assert np.asarray(Image.open(tmp_path / 'clip.png')).tolist() == [[[0, 128, 255]]]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'wide.jpg'
    write_image(path, np.zeros((8, 8, 3), np.float32))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r'wide\.jpg'):
        write_image(path, np.zeros((1, 70_000, 3), np.float32))  # JPEG ends at 65,535 pixels
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ['wide.jpg']


@pytest.mark.parametrize(('name', 'bits'), [('a.gif', 8), ('a', 8), ('a.jpg', 16), ('a.webp', 16), ('a.png', 12)])
def test_formats_that_cannot_be_written_are_refused(name: str, bits: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='Cannot write'):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.float32), bits)
    assert not list(tmp_path.iterdir())


def test_resize_averages_areas_to_shrink_and_stays_in_range_to_enlarge() -> None:
    image = np.random.default_rng(1).choice([-1.0, 1.0], (16, 16, 3)).astype(np.float32)
    small = resize(image, 4)
    np.testing.assert_allclose(small, image.reshape(4, 4, 4, 4, 3).mean((1, 3)), atol=1e-6)
    large = resize(image, 64)
    assert large.shape == (64, 64, 3)
    assert large.max() == 1
    assert large.min() == -1
    assert resize(image, 16) is image


def test_tensor_and_array_conversions_are_inverse_and_share_no_memory() -> None:
    image = np.random.default_rng(2).uniform(-1, 1, (5, 6, 3)).astype(np.float32)
    tensor = to_tensor(image[:, ::-1])
    assert tensor.shape == (3, 5, 6)
    assert tensor.is_contiguous()
    assert (to_array(tensor) == image[:, ::-1]).all()
    tensor.zero_()
    assert np.abs(image).max() > 0


def test_uint8_is_rounded_to_the_nearest_value_for_arrays_and_tensors() -> None:
    values = np.array([-1.5, -1, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 254.6 / 127.5 - 1, 1, 2], np.float32)
    expected = [0, 0, 0, 1, 255, 255, 255]
    assert to_uint8(values).tolist() == expected
    assert to_uint8(torch.from_numpy(values)).tolist() == expected
    every = np.arange(256) / 127.5 - 1
    assert to_uint8(every).tolist() == to_uint8(torch.from_numpy(every)).tolist() == list(range(256))
