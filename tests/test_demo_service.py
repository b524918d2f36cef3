"""What the page does with uploads: decoding, restoring, remembering, and what it says when it cannot."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from demo_page import draw_portraits, encode
from gpen.data.file_check import DamagedFileError
from gpen.data.image_io import Picture, decode_image, decode_picture
from gpen.demo.markup import draw_message, draw_result
from gpen.demo.photo import Result
from gpen.demo.service import Choice, RefusedError, Service
from gpen.demo.store import MAX_WAITING, BusyError, Store, Upload
from gpen.faces.face import Face
from gpen.restoration.base import Restorer
from gpen.restoration.photograph import PhotographRestorer, Restoration

SIZE = 32


@dataclass
class Detector:
    """Says that there are faces, wherever it is told."""

    centers: list[tuple[float, float]]
    name: str = 'test'
    error: Exception | None = None
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def detect(self, image: np.ndarray) -> list[Face]:
        self.calls.append(image.shape)
        if self.error is not None:
            raise self.error
        points = np.array([[-6, -5], [6, -5], [0, 1], [-5, 7], [5, 7]], np.float32)
        return [Face((x - 16, y - 18, x + 16, y + 18), points + np.float32([x, y]), 0.9) for x, y in self.centers]


def service(*centers: tuple[float, float], error: Exception | None = None, **settings: Any) -> Service:
    """A service whose network turns faces into their negatives."""
    network = Restorer(lambda lq: -lq, SIZE, SIZE, 'test')
    return Service(PhotographRestorer(network, Detector(list(centers), error=error)), Store(), **settings)


def photo(height: int = 60, width: int = 90) -> np.ndarray:
    return cv2.resize(draw_portraits(), (width, height), interpolation=cv2.INTER_AREA)


def restore(desk: Service, data: bytes, name: str = 'anna.png', choice: Choice = Choice()) -> Result:  # noqa: B008
    return desk.restore_upload(desk.store.add_upload(Upload(name, data)), 'tab', choice)[1]


def refusal(desk: Service, data: bytes, name: str = 'anna.png', choice: Choice = Choice()) -> str:  # noqa: B008
    with pytest.raises(RefusedError) as caught:
        restore(desk, data, name, choice)
    return str(caught.value)


def levels(data: bytes) -> np.ndarray:
    """Pixels of a file, RGB, as they are stored."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_16_bits_come_back_as_16_bits(suffix: str) -> None:
    pixels = photo().astype(np.uint16) * 257 + 5
    result = restore(service(), encode(pixels, suffix))
    assert result.picture.bits == 16
    np.testing.assert_array_equal(levels(result.png(1.0)), pixels)


@pytest.mark.parametrize('suffix', ['.png', '.tiff', '.bmp', '.webp', '.jpg'])
def test_8_bits_come_back_as_8_bits(suffix: str) -> None:
    data = encode(photo(), suffix)
    back = levels(restore(service(), data).png(1.0))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, np.rint((decode_image(data) + 1) * 127.5))


def test_photographs_are_turned_as_exif_says_and_lose_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: 'N', 2: (48.0, 51.0, 30.0)})
    stream = BytesIO()
    Image.fromarray(photo(60, 90)).save(stream, 'JPEG', exif=exif)
    assert b'Exif' in stream.getvalue()

    result = restore(service((30, 45)), stream.getvalue())

    assert result.picture.image.shape == (90, 60, 3)
    for data in (result.png(1.0), result.before, result.after):
        with Image.open(BytesIO(data)) as image:
            assert image.size == (60, 90)
            assert not image.getexif()
        assert b'Exif' not in data
        assert b'eXIf' not in data


def test_grey_photographs_stay_grey() -> None:
    grey = cv2.imencode('.png', cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY))[1].tobytes()
    back = levels(restore(service((45, 30)), grey).png(1.0))
    assert (back.min(axis=2) == back.max(axis=2)).all()


def test_transparent_photographs_lose_their_alpha_channel() -> None:
    rgba = np.dstack([photo(), np.full((60, 90), 128, np.uint8)])
    stream = BytesIO()
    Image.fromarray(rgba).save(stream, 'PNG')
    np.testing.assert_array_equal(levels(restore(service(), stream.getvalue()).png(1.0)), photo())


def test_every_strength_lies_between_before_and_after() -> None:
    """The page shows a strength by an opacity, so the download must be that blend, also where faces overlap."""
    result = restore(service((40, 30), (55, 32)), encode(photo())).restoration
    before, after = result.background, result.compose()
    assert len(result.faces) == 2
    assert np.abs(after - before).max() > 0.5
    np.testing.assert_allclose(result.compose(0.3), before + 0.3 * (after - before), atol=1e-5)


def test_only_the_face_in_the_middle_is_restored() -> None:
    desk = service((20, 30), (47, 30), (75, 30))
    assert len(restore(desk, encode(photo())).restoration.faces) == 3
    again = desk.restore_again('tab', Choice(only_center=True))
    assert again is not None
    assert [face.face.box[0] + 16 for face in again[1].restoration.faces] == [47]


def test_enlarged_results_are_twice_as_large() -> None:
    result = restore(service((45, 30)), encode(photo()), choice=Choice(scale=2))
    assert levels(result.png(0.5)).shape == (120, 180, 3)


def test_another_choice_needs_no_other_upload_but_a_photograph() -> None:
    desk = service((45, 30))
    assert desk.restore_again('tab', Choice()) is None
    restore(desk, encode(photo()))
    assert desk.restore_again('another tab', Choice()) is None
    again = desk.restore_again('tab', Choice(scale=2))
    assert again is not None
    assert again[1].restoration.background.shape == (120, 180, 3)
    assert desk.store.find(again[0]) is again[1]


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'just words, renamed', 'it is not an image that can be read'),
        (b'GIF89a' + bytes(100), 'it is not an image that can be read (PNG, JPEG, WEBP, TIFF, BMP)'),
        (b'\0\0\0\x18ftypheic' + bytes(100), 'it is not an image that can be read'),
        (b'', 'it is empty'),
        (encode(draw_portraits(), '.jpg')[:3000], 'it is cut off'),
        (b'\x89PNG\r\n\x1a\n' + bytes(30) + b'IEND\xaeB`\x82', 'it is'),
        (b'II*\0\x08\0\0\0\x01\0\x02\x01\x03\0\x01\0\0\0', 'it is'),
    ],
)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_a_wrong_file_is_refused_with_its_name_and_the_reason(data: bytes, reason: str) -> None:
    desk = service((45, 30))
    assert refusal(desk, data, 'anna.jpg').startswith(f'anna.jpg cannot be used: {reason}')
    assert not desk.is_busy


def test_a_picture_of_too_many_pixels_is_refused_by_its_header() -> None:
    header = struct.pack('>II5B', 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack('>I', 13) + b'IHDR' + header + struct.pack('>I', zlib.crc32(b'IHDR' + header))
    bomb = b'\x89PNG\r\n\x1a\n' + chunk + struct.pack('>I', 0) + b'IDAT' + bytes(4) + bytes(4) + b'IEND\xaeB`\x82'
    assert 'it has too many pixels (60000 x 60000; at most 50,000,000 in all)' in refusal(
        service(max_pixels=50_000_000), bomb
    )
    with pytest.raises(DamagedFileError, match='too many pixels'):
        decode_picture(encode(photo()), 5000)


def test_a_result_of_too_many_pixels_is_refused() -> None:
    desk = service((45, 30), max_pixels=10_000)
    assert restore(desk, encode(photo())).picture.image.shape == (60, 90, 3)
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
def test_out_of_memory_is_told_as_such(error: Exception) -> None:
    assert refusal(service(error=error), encode(photo())).startswith('There is not enough memory')


def test_what_goes_wrong_inside_is_in_the_log_and_not_on_the_page(caplog: pytest.LogCaptureFixture) -> None:
    desk = service(error=ValueError('secret detail'))
    message = refusal(desk, encode(photo()), 'anna.png')
    assert message.startswith('Something went wrong')
    assert 'secret' not in message
    assert 'ValueError: secret detail' in caplog.text
    assert 'anna' not in caplog.text
    assert restore(service(), encode(photo()))  # and the next one works


def test_damaged_weights_are_told() -> None:
    network = Restorer(lambda lq: lq * torch.nan, SIZE, SIZE, 'test')
    desk = Service(PhotographRestorer(network, Detector([(45.0, 30.0)])), Store())
    assert 'no numbers' in refusal(desk, encode(photo()))


def test_an_upload_can_be_used_once() -> None:
    desk = service()
    key = desk.store.add_upload(Upload('anna.png', encode(photo())))
    desk.restore_upload(key, 'tab', Choice())
    with pytest.raises(RefusedError, match='forgotten'):
        desk.restore_upload(key, 'tab', Choice())


def test_names_of_files_are_no_code() -> None:
    name = '<img src=x onerror=alert(1)>"\'.png'
    desk = service()
    page = draw_result('key', restore(desk, encode(photo()), name))
    page += draw_message(refusal(desk, b'wrong', name), 'error')
    assert 'onerror' in page
    assert '<img src=x' not in page
    assert '"\'' not in page


def make_result(side: int = 10) -> Result:
    image = np.zeros((side, side, 3), np.float32)
    return Result('anna.png', Picture(image, 8), Restoration(image, 1, []), b'', b'', 0.0)


class Clock:
    """Seconds, set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_results_and_uploads_are_forgotten_after_a_while() -> None:
    clock = Clock()
    store = Store(lifetime=60, clock=clock)
    upload, kept, used = store.add_upload(Upload('a', b'')), store.keep('one', make_result()), None
    used = store.keep('two', make_result())
    clock.now = 50
    assert store.find(used) is not None
    clock.now = 70
    store.sweep()
    assert store.take_upload(upload) is None
    assert store.find(kept) is None
    assert store.find(used) is not None


def test_a_session_has_one_result_and_loses_it_with_its_tab() -> None:
    store = Store()
    first, other = store.keep('one', make_result()), store.keep('two', make_result())
    second = store.keep('one', make_result())
    assert store.find(first) is None
    assert store.find(second) is store.find_session('one')
    store.close('one')
    assert store.find(second) is None
    assert store.find(other) is not None


def test_the_results_used_longest_ago_make_room() -> None:
    store = Store(memory=3000)  # a result has 1200 bytes
    first, second = store.keep('one', make_result()), store.keep('two', make_result())
    assert store.find(first) is not None
    third = store.keep('three', make_result())
    assert [store.find(key) is not None for key in (first, second, third)] == [True, False, True]
    huge = store.keep('four', make_result(100))
    assert [store.find(key) is not None for key in (first, third, huge)] == [False, False, True]


def test_no_more_uploads_wait_than_fit() -> None:
    store = Store()
    keys = [store.add_upload(Upload('a', b'')) for _ in range(MAX_WAITING)]
    with pytest.raises(BusyError):
        store.add_upload(Upload('a', b''))
    store.take_upload(keys[0])
    assert store.add_upload(Upload('a', b'')) not in keys
