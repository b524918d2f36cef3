"""Photographs as they come: kinds that are read or named, colours, transparency, and what results keep of them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from gpen.data import heif
from gpen.data.file_check import read_size
from gpen.data.image_folder import FOREIGN, HIDDEN, KEPT_BY_SYSTEM, describe_left_out, walk_images
from gpen.data.image_io import decode_picture, encode_image, read_image, write_image
from gpen.data.metadata import Metadata
from gpen.data.pixels import DamagedFileError
from gpen.errors import UserError
from photograph_files import encode, encode_tiff, make_profile

HEIGHT, WIDTH = 24, 40
needs_avif = pytest.mark.skipif(not features.check('avif'), reason='needs a Pillow with AVIF')


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth H x W x 3 picture whose channels differ."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 6, y * 8, 255 - x * 5], axis=2).astype(np.uint8)


@pytest.fixture
def rgba(pixels: np.ndarray) -> np.ndarray:
    """The same, from transparent to opaque."""
    return np.dstack([pixels, np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))])


def levels(image: np.ndarray) -> np.ndarray:
    return (image + 1) * 127.5


@pytest.mark.parametrize(
    ('folder', 'reason'),
    [
        *((name, KEPT_BY_SYSTEM) for name in ('@eaDir', '#recycle', '$RECYCLE.BIN', '__MACOSX', 'lost+found')),
        *((name, KEPT_BY_SYSTEM) for name in ('@Recently-Snapshot', 'Mine Previews.lrdata', 'a/b/@EADIR')),
        *((name, HIDDEN) for name in ('.thumbnails', '.@__thumb', '.picasaoriginals', '.Trash-1000')),
    ],
)
def test_thumbnails_that_systems_keep_are_no_photographs_and_are_named(
    folder: str, reason: str, tmp_path: Path
) -> None:
    for name in ('a.jpg', f'{folder}/b.jpg', f'{folder}/c/d.jpg', 'holiday/e.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    left_out: dict[str, str] = {}
    assert sorted(walk_images(tmp_path, pytest.fail, left_out.__setitem__)) == ['a.jpg', 'holiday/e.jpg']
    assert left_out == {f'{folder}/': reason}
    [sentence] = describe_left_out(left_out)
    assert f'{folder}/' in sentence


def test_every_file_of_a_folder_is_read_or_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    suffixes = ['.jpg', '.JPEG', '.jfif', '.heic', '.AVIF', '.gif', '.mp4', '.mov', '.cr2', '.nef', '.psd', '.txt', '']
    names = set()
    for number in range(200):
        folder = '/'.join(generator.choice(['a', '@home', 'b c', '.d', '@eaDir'], generator.integers(3)))
        name = f'{folder}/{generator.choice(["", "."])}{number}{generator.choice(suffixes)}'.lstrip('/')
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'')
        names.add(name)
    left_out: dict[str, str] = {}
    found = set(walk_images(tmp_path, pytest.fail, left_out.__setitem__))
    assert not found & set(left_out)
    for name in names - found:
        assert name in left_out or any(name.startswith(folder) for folder in left_out if folder.endswith('/'))
    assert any('@home' in name for name in found)  # a folder of somebody's own
    foreign = [name for name, reason in left_out.items() if reason == FOREIGN]
    sentence = describe_left_out(left_out)[0]
    assert sentence.startswith(f'Left out: {len(foreign)} files of kinds that are not read (')
    assert '.mp4' in sentence


@pytest.mark.parametrize('kind', ['HEIC', pytest.param('AVIF', marks=needs_avif)])
def test_photographs_of_phones_are_read_whatever_their_suffix(
    kind: str, pixels: np.ndarray, rgba: np.ndarray, tmp_path: Path
) -> None:
    if kind == 'HEIC':
        pytest.importorskip('pillow_heif')
    data = encode(pixels, kind, **({'quality': 98} if kind == 'AVIF' else {}))
    (tmp_path / 'photo.jpg').write_bytes(data)
    assert np.abs(levels(read_image(tmp_path / 'photo.jpg')) - pixels).mean() < 4
    assert read_size(BytesIO(data)) == (WIDTH, HEIGHT)
    transparent = decode_picture(encode(rgba, kind))
    assert transparent.alpha is not None
    assert np.abs(transparent.alpha * 255 - rgba[..., 3]).mean() < 4
    for share in (0.2, 0.5, 0.95):
        with pytest.raises(DamagedFileError, match='it is'):
            decode_picture(data[: int(len(data) * share)])


@needs_avif
def test_avif_is_turned_as_its_camera_was(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(pixels, 'AVIF', quality=98, exif=exif)
    assert np.abs(levels(read_image(data)) - np.rot90(pixels, -1)).mean() < 4
    assert read_size(BytesIO(data)) == (HEIGHT, WIDTH)


@pytest.mark.parametrize('kind', ['HEIC', 'AVIF'])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brand = {'HEIC': b'heic', 'AVIF': b'avif'}[kind]
    box = b'\0\0\0\x08'
    data = b'\0\0\0\x18ftyp' + brand + bytes(4) + b'mif1miaf' + box + b'meta' + box + b'mdat'
    monkeypatch.setitem(__import__('sys').modules, 'pillow_heif', None)
    monkeypatch.setattr(heif.features, 'check', lambda _: False)
    with pytest.raises(
        UserError, match=rf"IMG_1\.{kind} cannot be used: it is an? {kind} file, .*pip install '?pillow"
    ):
        read_image(data, f'IMG_1.{kind}')


@pytest.mark.parametrize(
    ('head', 'kind'),
    [
        (b'GIF89a', 'a GIF'),
        (b'\0\0\0\x18ftypisom', 'a film'),
        (b'\0\0\0\x14ftypqt  ', 'a film'),
        (b'RIFF\0\0\0\0AVI ', 'a film'),
        (b'\0\0\0\x0cJXL \r\n\x87\n', 'a JPEG XL image'),
        (b'8BPS\0\1', 'a Photoshop file'),
        (b'%PDF-1.7', 'a PDF'),
        (b'version https://git-lfs.github.com/spec/v1', 'a pointer of Git LFS'),
        (b'<!DOCTYPE html>', 'a web page'),
    ],
)
def test_what_is_no_image_is_called_by_its_kind(head: bytes, kind: str) -> None:
    with pytest.raises(UserError, match=f'photo.jpg cannot be used: it is {kind}.*PNG, JPEG'):
        read_image(head + bytes(100), 'photo.jpg')


Change = Callable[[np.ndarray], np.ndarray]
SCALES: dict[str, Change] = {
    'uint16': lambda p: p.astype(np.uint16) * 257,
    'uint32': lambda p: p.astype(np.uint32) * 0x01010101,
    'float32': lambda p: p.astype(np.float32) / 255,
    'float64': lambda p: p.astype(np.float64) / 255,
}


@pytest.mark.parametrize('channels', ['grey', 'rgb', 'rgba'])
@pytest.mark.parametrize('kind', ['uint8', *SCALES])
def test_tiff_of_all_usual_pixels_is_read_with_its_colours_and_alpha(
    kind: str, channels: str, rgba: np.ndarray
) -> None:
    pixels = {'grey': rgba[..., 0], 'rgb': rgba[..., :3], 'rgba': rgba}[channels]
    stored = SCALES.get(kind, np.asarray)(pixels)
    expected = np.dstack([pixels] * 3) if channels == 'grey' else pixels[..., :3]
    for orientation, turned in ((1, expected), (6, np.rot90(expected, -1))):
        data = encode_tiff(stored, extra=2 if channels == 'rgba' else None, orientation=orientation)
        picture = decode_picture(data)
        np.testing.assert_allclose(levels(picture.image), turned, atol=0.01)
        assert picture.bits == (8 if kind == 'uint8' else 16)
        assert read_size(BytesIO(data)) == (turned.shape[1], turned.shape[0])
        np.testing.assert_allclose(levels(read_image(data)), turned, atol=0.01)  # what training reads
        if channels == 'rgba':
            assert picture.alpha is not None
            expected_alpha = rgba[..., 3] if orientation == 1 else np.rot90(rgba[..., 3], -1)
            np.testing.assert_allclose(picture.alpha * 255, expected_alpha, atol=0.01)


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'float32'])
def test_colours_that_were_multiplied_by_alpha_are_divided_again(kind: str, rgba: np.ndarray) -> None:
    alpha = rgba[..., 3:] / 255
    stored = SCALES.get(kind, np.asarray)(np.dstack([np.rint(rgba[..., :3] * alpha).astype(np.uint8), rgba[..., 3]]))
    image = levels(decode_picture(encode_tiff(stored, extra=1)).image)
    assert np.abs(image - rgba[..., :3])[:, WIDTH // 4 :].max() < 4  # what was rounded when it was multiplied


@pytest.mark.parametrize(
    ('pixels', 'planes', 'reason'),
    [
        (np.zeros((8, 8, 3), np.float16), False, 'float numbers of 16 bits'),
        (np.zeros((8, 8, 3), np.int16), False, 'signed integer numbers of 16 bits'),
        (np.zeros((8, 8, 3), np.uint64), False, 'integer numbers of 64 bits'),
        (np.zeros((8, 8, 3), np.uint16), True, 'planes of their own'),
        (np.full((8, 8, 3), 40, np.float32), False, 'from 40 to 40, not from 0'),
        (np.full((8, 8, 3), np.nan, np.float32), False, 'not from 0'),
    ],
)
def test_pixels_that_are_not_read_are_called_so_and_not_damaged(pixels: np.ndarray, planes: bool, reason: str) -> None:
    with pytest.raises(UserError, match=f'a.tif cannot be used: its .*{reason}'):
        read_image(encode_tiff(pixels, planes=planes), 'a.tif')


def make_exif() -> bytes:
    exif = Image.Exif()
    exif.update({271: 'Maker', 306: '2024:01:02 03:04:05', 0x0112: 1})
    exif[0x8769] = {36867: '2024:01:02 03:04:05', 37500: b'only the maker knows'}
    exif[0x8825] = {1: 'N', 2: (48.0, 51.0, 30.0)}
    return exif.tobytes()


@pytest.mark.parametrize('alpha', [False, True])
@pytest.mark.parametrize(
    ('suffix', 'bits'), [('.png', 8), ('.png', 16), ('.tif', 8), ('.tif', 16), ('.webp', 8), ('.jpg', 8)]
)
def test_results_hold_profile_resolution_alpha_and_when_and_where(
    suffix: str, bits: int, alpha: bool, rgba: np.ndarray
) -> None:
    profile = make_profile()
    source = decode_picture(
        encode(rgba if alpha else rgba[..., :3], 'PNG', icc_profile=profile, dpi=(300, 200), exif=make_exif())
    )
    data = encode_image(source.image, suffix, bits, source.alpha, source.metadata)
    result = decode_picture(data)
    assert result.metadata.profile == profile
    assert result.metadata.dpi == pytest.approx((300, 200), abs=0.1)
    exif = Image.Exif()
    exif.load(result.metadata.exif)
    assert (exif[271], exif.get_ifd(0x8769)[36867], exif.get_ifd(0x8825)[1]) == ('Maker', '2024:01:02 03:04:05', 'N')
    assert 37500 not in exif.get_ifd(0x8769)
    seen = rgba[..., 3] > 0 if suffix == '.webp' else np.full((HEIGHT, WIDTH), True)  # it has no colours beneath
    assert np.abs(levels(result.image) - rgba[..., :3])[seen].mean() < (3 if suffix == '.jpg' else 0.01)
    if alpha and suffix != '.jpg':
        assert result.alpha is not None
        np.testing.assert_allclose(result.alpha * 255, rgba[..., 3], atol=0.01)
    assert source.find_losses(suffix) == (['transparency'] if alpha and suffix == '.jpg' else [])
    with Image.open(BytesIO(data)) as image:  # others read it, too
        image.load()
        assert image.info['icc_profile'] == profile


def test_what_a_result_does_not_hold_is_said(rgba: np.ndarray) -> None:
    deep = decode_picture(encode_tiff(rgba.astype(np.uint16) * 257, extra=2))
    assert deep.find_losses('.png') == []
    assert deep.find_losses('.webp') == ['bits beyond 8']
    assert deep.find_losses('.jpg') == ['transparency', 'bits beyond 8']
    pages = encode(rgba[..., :3], 'TIFF', save_all=True, append_images=[Image.fromarray(rgba[..., :3])])
    assert decode_picture(pages).find_losses('.png') == ['all pictures but the first']
    cmyk = encode(Image.fromarray(rgba[..., :3]).convert('CMYK'), 'JPEG')
    assert decode_picture(cmyk).find_losses('.png') == ['colours for printing (CMYK)']
    damaged = encode(rgba[..., :3], 'PNG', icc_profile=b'no profile' * 20)
    assert decode_picture(damaged).find_losses('.png') == ['the colour profile, which is damaged']
    assert decode_picture(damaged).metadata.profile == b''


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', pytest.param('AVIF', marks=needs_avif)])
def test_networks_see_srgb_and_files_keep_their_own_colours(kind: str, pixels: np.ndarray) -> None:
    smooth = (pixels // 2 + 60).astype(np.uint8)
    quality = {} if kind in ('PNG', 'TIFF') else {'quality': 98}
    data = encode(smooth, kind, icc_profile=make_profile('grb'), **quality)
    picture = decode_picture(data)
    assert np.abs(levels(picture.image) - smooth).mean() < 4
    swapped = smooth[..., [1, 0, 2]]  # what the profile says: its first channel is green
    assert np.abs(levels(picture.space.to_srgb(picture.image)) - swapped).mean() < 6
    assert np.abs(levels(read_image(data)) - swapped).mean() < 6
    there_and_back = picture.space.from_srgb(picture.space.to_srgb(picture.image))
    assert np.abs(there_and_back - picture.image).max() < 4 / 127.5


def test_a_profile_that_is_srgb_in_other_words_changes_no_bit(pixels: np.ndarray) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    picture = decode_picture(encode(pixels, 'PNG', icc_profile=profile))
    assert picture.space.to_srgb(picture.image) is picture.image
    assert picture.metadata.profile == profile


@pytest.mark.filterwarnings('ignore')
def test_any_changed_byte_is_a_reason_or_no_matter_and_the_rest_can_be_written(rgba: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    known = {'icc_profile': make_profile(), 'exif': make_exif()}
    files = {kind: encode(rgba, kind, **known) for kind in ('PNG', 'WEBP', 'TIFF')}
    files['JPEG'] = encode(rgba[..., :3], 'JPEG', dpi=(300, 300), **known)
    files['float'] = encode_tiff(rgba.astype(np.float32) / 255, extra=2)
    if features.check('avif'):
        files['AVIF'] = encode(rgba, 'AVIF', **known)
    if heif.find_spec('pillow_heif') is not None:
        files['HEIC'] = encode(rgba, 'HEIC')
    read, reasons = 0, []
    for data in files.values():
        for _ in range(60):
            changed = bytearray(data)
            for place in generator.integers(0, len(data), 3):
                changed[place] ^= 1 << int(generator.integers(8))
            try:
                picture = decode_picture(bytes(changed), 100_000)
            except DamagedFileError as error:
                reasons.append(str(error))
                continue
            read += 1
            for suffix in ('.png', '.jpg', '.webp', '.tif'):
                assert encode_image(picture.image, suffix, 8, picture.alpha, picture.metadata)
    assert read > 50
    assert all(reason.startswith(('it ', 'its ')) for reason in reasons)


def test_names_of_255_bytes_can_be_written_and_longer_ones_are_an_error_with_advice(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.float32)
    write_image(tmp_path / ('ü' * 125 + 'x.png'), image, metadata=Metadata())
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match='its name is too long'):
        write_image(tmp_path / ('x' * 252 + '.png'), image)
