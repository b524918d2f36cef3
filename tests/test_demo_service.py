"""What the page does with uploads: decoding, restoring, and what it says when it cannot."""

import errno
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from demo_process import draw_portraits, encode
from gpen.data.image_io import decode_picture, read_image
from gpen.data.pixels import DamagedFileError
from gpen.demo.service import Choice, Result, Service, clean_stem
from gpen.errors import UserError
from gpen.faces.face import Face
from gpen.restoration.base import Restorer
from gpen.restoration.photograph import PhotographRestorer

SIZE = 32


@dataclass
class Detector:
    """Says that there are faces, wherever it is told."""

    centers: list[tuple[float, float]]
    name: str = 'test'
    error: Exception | None = None
    calls: list[tuple[int, ...]] = field(default_factory=list)
    zoom: float = 1.0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.calls.append(image.shape)
        if self.error is not None:
            raise self.error
        points = np.array([[-6, -5], [6, -5], [0, 1], [-5, 7], [5, 7]], np.float32)
        return [
            Face((x - 16, y - 18, x + 16, y + 18), self.zoom * points + np.float32([x, y]), 0.9)
            for x, y in self.centers
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where uploads and results are."""
    path = tmp_path / 'private'
    path.mkdir()
    return path


Start = Callable[..., Service]


@pytest.fixture
def service(folder: Path) -> Start:
    """Starts a service whose network turns faces into their negatives."""

    def start(
        *centers: tuple[float, float], error: Exception | None = None, zoom: float = 1, **settings: Any
    ) -> Service:
        network = Restorer(lambda lq: -lq, SIZE, SIZE, 'test')
        detector = Detector(list(centers), error=error, zoom=zoom)
        return Service(PhotographRestorer(network, detector), folder, **settings)

    return start


def photo(height: int = 60, width: int = 90) -> np.ndarray:
    return cv2.resize(draw_portraits(), (width, height), interpolation=cv2.INTER_AREA)


def upload(desk: Service, data: bytes, name: str = 'anna.png') -> dict[str, str]:
    """Write an upload to the folder of a service, and describe it as Gradio does."""
    path = desk.folder / 'upload'
    path.write_bytes(data)
    return {'path': str(path), 'orig_name': name}


def restore(desk: Service, data: bytes, name: str = 'anna.png', choice: Choice = Choice()) -> Result:  # noqa: B008
    return desk.restore(upload(desk, data, name), choice)


def refusal(desk: Service, data: bytes, name: str = 'anna.png', choice: Choice = Choice()) -> str:  # noqa: B008
    with pytest.raises(UserError) as caught:
        restore(desk, data, name, choice)
    assert [path.name for path in desk.folder.iterdir()] == ['upload']
    return str(caught.value)


def levels(path: Path) -> np.ndarray:
    """Pixels of a file, RGB, as they are stored."""
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_16_bits_come_back_as_16_bits(service: Start, suffix: str) -> None:
    pixels = photo().astype(np.uint16) * 257 + 5
    np.testing.assert_array_equal(levels(restore(service(), encode(pixels, suffix)).download), pixels)


@pytest.mark.parametrize('suffix', ['.png', '.tiff', '.bmp', '.webp', '.jpg'])
def test_8_bits_come_back_as_8_bits(service: Start, suffix: str) -> None:
    data = encode(photo(), suffix)
    back = levels(restore(service(), data).download)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, np.rint((read_image(data) + 1) * 127.5))


def test_photographs_are_turned_as_exif_says_and_lose_it(service: Start) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: 'N', 2: (48.0, 51.0, 30.0)})
    stream = BytesIO()
    Image.fromarray(photo(60, 90)).save(stream, 'JPEG', exif=exif)
    assert b'Exif' in stream.getvalue()

    result = restore(service((30, 45)), stream.getvalue())

    for path in (result.download, result.before, result.after, *result.faces):
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as image:
            assert image.size == (60, 90) or path in result.faces
            assert not image.getexif()
        assert b'Exif' not in data
        assert b'eXIf' not in data


def test_grey_photographs_stay_grey(service: Start) -> None:
    grey = cv2.imencode('.png', cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY))[1].tobytes()
    back = levels(restore(service((45, 30)), grey).download)
    assert (back.min(axis=2) == back.max(axis=2)).all()


def test_transparent_photographs_stay_transparent(service: Start) -> None:
    rgba = np.dstack([photo(), np.full((60, 90), 128, np.uint8)])
    stream = BytesIO()
    Image.fromarray(rgba).save(stream, 'PNG')
    for centers in ((), ((45, 30),)):
        back = np.asarray(Image.open(restore(service(*centers), stream.getvalue()).download))
        np.testing.assert_array_equal(back[..., 3], rgba[..., 3])
    np.testing.assert_array_equal(np.asarray(Image.open(restore(service(), stream.getvalue()).download)), rgba)


def test_the_page_says_what_it_did_where_no_face_was_found_or_one_is_far_too_large(service: Start) -> None:
    assert 'so it is shown as it is' in restore(service(), encode(photo())).note
    assert 'so it is only enlarged 2 times' in restore(service(), encode(photo()), choice=Choice(scale=2)).note
    assert restore(service((45, 30)), encode(photo())).note == ''
    large = restore(service((450, 300), zoom=10), encode(photo(600, 900))).note
    assert large.startswith('The network knows faces of 32 pixels, and these have up to ')


def test_every_strength_lies_between_before_and_after(service: Start) -> None:
    """The download is the blend of before and after, also where faces overlap."""
    desk = service((40, 30), (55, 32))
    result = restore(desk, encode(photo()))
    before, after = photo().astype(int), levels(result.download).astype(int)
    assert len(result.faces) == 2
    assert np.abs(after - before).max() > 60
    weak = levels(restore(desk, encode(photo()), choice=Choice(strength=0.3)).download)
    assert np.abs(weak - (before + 0.3 * (after - before))).max() <= 1
    np.testing.assert_array_equal(levels(restore(desk, encode(photo()), choice=Choice(strength=0)).download), before)


def test_each_face_is_shown_before_and_after(service: Start) -> None:
    [face] = restore(service((45, 30)), encode(photo())).faces
    before, after = np.hsplit(levels(face).astype(int), 2)
    assert before.shape == (SIZE, SIZE, 3)
    assert np.abs(before + after - 255).mean() < 3  # the network of this service makes negatives
    [face] = restore(service((45, 30)), encode(photo()), choice=Choice(strength=0)).faces
    before, after = np.hsplit(levels(face).astype(int), 2)
    assert np.abs(before - after).mean() < 3


def test_large_photographs_are_shown_smaller(service: Start) -> None:
    result = restore(service(), encode(photo(90, 3000)))
    assert (levels(result.before).shape, levels(result.after).shape) == ((60, 2000, 3), (60, 2000, 3))
    assert levels(result.download).shape == (90, 3000, 3)


def test_only_the_face_in_the_middle_is_restored(service: Start) -> None:
    desk = service((20, 30), (47, 30), (75, 30))
    every = restore(desk, encode(photo()))
    assert len(every.faces) == 3
    one = restore(desk, encode(photo()), choice=Choice(only_center=True))
    assert len(one.faces) == 1
    middle = (one.faces[0].read_bytes(), [face.read_bytes() for face in every.faces])
    assert middle[1].index(middle[0]) == 1
    assert one.summary.startswith('1 face · 90 × 60 pixels')


def test_enlarged_results_are_twice_as_large(service: Start) -> None:
    result = restore(service((45, 30)), encode(photo()), choice=Choice(scale=2, strength=0.5))
    assert levels(result.download).shape == (120, 180, 3)


def test_another_choice_needs_no_other_upload_but_a_photograph(service: Start) -> None:
    desk = service((45, 30))
    described = upload(desk, encode(photo()))
    first, again = (desk.restore(described, Choice(scale=scale)) for scale in (1, 2))
    assert levels(first.download).shape == (60, 90, 3)
    assert levels(again.download).shape == (120, 180, 3)
    (desk.folder / 'upload').unlink()
    with pytest.raises(UserError, match='forgotten'):
        desk.restore(described, Choice())


@pytest.mark.parametrize(
    'choice', [Choice(scale=3), Choice(scale=0), Choice(strength=1.1), Choice(strength=-0.1), Choice(strength=np.nan)]
)
def test_choices_that_the_page_does_not_offer_are_refused(service: Start, choice: Choice) -> None:
    assert 'that this page offers' in refusal(service((45, 30)), encode(photo()), choice=choice)


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'just words, renamed', 'it is not an image that can be read'),
        (b'GIF89a' + bytes(100), 'it is a GIF, which is not read (PNG, JPEG, WEBP, TIFF, BMP, HEIC, AVIF are)'),
        (b'\0\0\0\x18ftypheic' + bytes(100), 'it is cut off'),
        (b'', 'it is empty'),
        (encode(draw_portraits(), '.jpg')[:3000], 'it is cut off'),
        (b'\x89PNG\r\n\x1a\n' + bytes(30) + b'IEND\xaeB`\x82', 'it is'),
        (b'II*\0\x08\0\0\0\x01\0\x02\x01\x03\0\x01\0\0\0', 'it is'),
    ],
)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_a_wrong_file_is_refused_with_its_name_and_the_reason(service: Start, data: bytes, reason: str) -> None:
    desk = service((45, 30))
    assert refusal(desk, data, 'anna.jpg').startswith(f'anna.jpg cannot be used: {reason}')
    assert not desk.is_busy


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(service: Start) -> None:
    header = struct.pack('>II5B', 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack('>I', 13) + b'IHDR' + header + struct.pack('>I', zlib.crc32(b'IHDR' + header))
    bomb = b'\x89PNG\r\n\x1a\n' + chunk + struct.pack('>I', 0) + b'IDAT' + bytes(4) + bytes(4) + b'IEND\xaeB`\x82'
    assert 'it has too many pixels (60000 x 60000; at most 50,000,000 in all)' in refusal(
        service(max_pixels=50_000_000), bomb
    )
    with pytest.raises(DamagedFileError, match='too many pixels'):
        decode_picture(encode(photo()), 5000)


def test_a_result_of_too_many_pixels_is_refused(service: Start) -> None:
    desk = service((45, 30), max_pixels=10_000)
    assert levels(restore(desk, encode(photo())).download).shape == (60, 90, 3)
    for path in set(desk.folder.iterdir()) - {desk.folder / 'upload'}:
        shutil.rmtree(path)
    message = refusal(desk, encode(photo()), choice=Choice(scale=2))
    assert '21,600 pixels' in message
    assert 'Choose 1x' in message


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        torch.OutOfMemoryError('CUDA out of memory'),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        cv2.error('OpenCV(5.0) error: (-4:Insufficient memory) Failed to allocate 12 bytes'),
    ],
)
def test_out_of_memory_is_told_as_such(service: Start, error: Exception) -> None:
    assert refusal(service(error=error), encode(photo())).startswith('There is not enough memory')


def test_what_goes_wrong_inside_is_in_the_log_and_not_on_the_page(
    service: Start, caplog: pytest.LogCaptureFixture
) -> None:
    desk = service(error=ValueError('secret detail'))
    message = refusal(desk, encode(photo()), 'anna.png')
    assert message.startswith('Something went wrong')
    assert 'secret' not in message
    assert 'ValueError: secret detail' in caplog.text
    assert 'anna' not in caplog.text
    assert restore(service(), encode(photo()))  # and the next one works


def test_a_full_folder_is_told(service: Start) -> None:
    error = OSError(errno.ENOSPC, 'No space left on device')
    assert refusal(service(error=error), encode(photo())).startswith('There is no room for another photograph')


def test_damaged_weights_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = Restorer(lambda lq: lq * torch.nan, SIZE, SIZE, 'test')
    desk = Service(PhotographRestorer(network, Detector([(45.0, 30.0)])), folder)
    assert 'no numbers' in refusal(desk, encode(photo()))
    assert 'no numbers' in caplog.text


@pytest.mark.parametrize(
    ('name', 'stem'),
    [
        ('Anna & Bob (2).jpeg', 'Anna _ Bob (2)'),
        ('Große Jenny-1.png', 'Große Jenny-1'),
        ('../../etc/passwd.png', 'passwd'),
        ('..\\..\\boot.ini', '_.._boot'),
        ('..', 'photograph'),
        ('.png', 'png'),
        ('a\0b\n.png', 'a_b_'),
        ('', 'photograph'),
        ('x' * 400 + '.png', 'x' * 30 + '…' + 'x' * 30),
    ],
)
def test_names_of_files_never_leave_the_folder(service: Start, name: str, stem: str) -> None:
    assert clean_stem(name) == stem
    desk = service((45, 30))
    download = restore(desk, encode(photo()), name).download
    assert download.parents[1] == desk.folder
    assert download.name.endswith('_restored.png')


def test_results_lie_in_private_folders_with_names_that_nobody_guesses(service: Start) -> None:
    desk = service((45, 30))
    folders = {restore(desk, encode(photo())).download.parent for _ in range(3)}
    assert len(folders) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_names_of_files_are_no_code(service: Start) -> None:
    page = pytest.importorskip('demo_page.page', reason="the page needs gradio: pip install 'gradio>=6.30'")
    name = '<img src=x onerror=alert(1)>"\'.png'
    desk = service((45, 30))
    message = page.show_photograph(desk, upload(desk, b'wrong', name), Choice())[0]
    assert 'onerror' in message
    assert '<img src=x' not in message
    assert '"\'' not in message
    assert '<' not in restore(desk, encode(photo()), name).download.name
