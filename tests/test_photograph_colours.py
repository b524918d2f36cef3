"""Photographs whose colours are stored in other ways than as sRGB: for printers, as L*a*b*, turned round, by alpha."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from gpen.data.image_io import decode_picture, read_image
from gpen.data.pixels import DamagedFileError
from photograph_files import encode, encode_tiff, make_grey_ink_profile

HEIGHT, WIDTH = 24, 40
DEEP = {'uint16': 65535, 'uint32': 2**32 - 1, 'float32': 1}


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 3 + 60, y * 5 + 60, 180 - x * 2], axis=2).astype(np.uint8)


@pytest.fixture
def alpha() -> np.ndarray:
    return np.tile(np.linspace(60, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))


def levels(image: np.ndarray) -> np.ndarray:
    return (image + 1) * 127.5


@pytest.mark.parametrize('kind', ['JPEG', 'TIFF'])
def test_colours_for_printing_are_seen_as_their_profile_says(kind: str) -> None:
    inks = np.zeros((8, 32, 4), np.uint8)
    inks[:, :8, 0] = 255  # cyan, which this printer has not: its ink is a light grey
    inks[:, 8:16, :2] = 255
    inks[:, 16:24, 3] = 255
    data = encode(Image.fromarray(inks, 'CMYK'), kind, icc_profile=make_grey_ink_profile())
    picture = decode_picture(data)
    seen = levels(picture.image)[4, 4::8]
    np.testing.assert_allclose(seen, [[161] * 3, [79] * 3, [0] * 3, [255] * 3], atol=3)
    np.testing.assert_allclose(levels(read_image(data))[4, 4::8], seen, atol=0.01)
    assert picture.metadata.profile == b''  # it is sRGB now
    assert picture.find_losses('.png') == ['colours for printing (CMYK)']


def test_lab_is_seen_in_its_colours_or_named(pixels: np.ndarray) -> None:
    there = ImageCms.buildTransform(ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), 'RGB', 'LAB')
    lab = ImageCms.applyTransform(Image.fromarray(pixels), there)
    picture = decode_picture(encode(lab, 'TIFF'))
    assert np.abs(levels(picture.image) - pixels).mean() < 2
    assert picture.find_losses('.png') == ['colours in L*a*b*']
    deep = encode_tiff(np.asarray(lab).astype(np.uint16) * 257, photometric=8)
    with pytest.raises(DamagedFileError, match=r'its colours are L\*a\*b\* of 16 bits, which are not read'):
        decode_picture(deep)


@pytest.mark.parametrize('kind', ['uint8', *DEEP])
def test_grey_in_which_white_is_zero_is_no_negative(kind: str, pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    share = (255 - grey) / 255
    stored = 255 - grey if kind == 'uint8' else (share * DEEP[kind]).astype(kind)
    image = levels(decode_picture(encode_tiff(stored, photometric=0)).image)
    np.testing.assert_allclose(image, np.dstack([grey] * 3), atol=0.02)


@pytest.mark.parametrize('bits', [8, 16])
def test_transparency_of_greys_is_kept_or_named(bits: int, pixels: np.ndarray, alpha: np.ndarray) -> None:
    stored = np.dstack([pixels[..., 0], alpha])
    picture = decode_picture(encode_tiff(stored if bits == 8 else stored.astype(np.uint16) * 257, extra=2))
    np.testing.assert_allclose(levels(picture.image), np.dstack([pixels[..., 0]] * 3), atol=0.01)
    if picture.alpha is not None:
        np.testing.assert_allclose(picture.alpha * 255, alpha, atol=0.01)
    lost = picture.find_losses('.png')
    assert ('transparency' in lost) == (picture.alpha is None)
    assert ('bits beyond 8' in lost) == (picture.bits < bits)


@pytest.mark.parametrize('kind', ['HEIC', 'AVIF'])
def test_phone_photographs_whose_colours_were_multiplied_by_alpha_have_their_own(
    kind: str, pixels: np.ndarray, alpha: np.ndarray
) -> None:
    rgba = np.dstack([pixels, alpha])
    if kind == 'AVIF':
        if not features.check('avif'):
            pytest.skip('needs a Pillow with AVIF')
        data = encode(rgba, 'AVIF', quality=100, subsampling='4:4:4', alpha_premultiplied=True)
    else:
        heif = pytest.importorskip('pillow_heif')
        stored = np.rint(rgba[..., :3] * (rgba[..., 3:] / 255)).astype(np.uint8)
        stream = BytesIO()
        heif.from_bytes('RGBa', (WIDTH, HEIGHT), np.dstack([stored, alpha]).tobytes()).save(stream, quality=-1)
        data = stream.getvalue()
    picture = decode_picture(data)
    assert picture.alpha is not None
    assert np.abs(picture.alpha * 255 - alpha).max() < 3
    assert np.abs(levels(picture.image) - pixels).mean() < 4
