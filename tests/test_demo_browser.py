"""The page in a real browser: what a visitor does with it, and what the visitor sees."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from demo_process import Demo, draw_portraits, encode

pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
pytest.importorskip('selenium', reason='selenium drives the browser: pip install selenium')

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
REAL = SHARED / 'data/photos/lisa2.jpg'
WIDE, NARROW = 1280, 400
EMPTY = 'appears here'
EXAMPLE = '#people .gallery-item'
CLEAR = '#photo .icon-button-wrapper button'
BEFORE, AFTER = '#picture img:nth-of-type(1)', '#picture img:nth-of-type(2)'


class Visitor:
    """Somebody in front of a browser window.

    Args:
        browser: the browser.
        page: what is open in it.
        downloads: where downloads go.
    """

    def __init__(self, browser: Any, page: Demo, downloads: Path) -> None:
        self.browser, self.page, self.downloads = browser, page, downloads

    def open(self, width: int = WIDE, theme: str = 'light', height: int = 900) -> None:
        """Open the page in a window of a width."""
        size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
        self.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        self.browser.get(f'{self.page.address}/?__theme={theme}')
        self.find('#photo input')
        self.wait(lambda: self.browser.execute_script('return document.readyState') == 'complete')
        self.wait(lambda: len(self.browser.find_elements(By.CSS_SELECTOR, EXAMPLE)) == 3)

    def find(self, selector: str) -> Any:
        """Return an element as soon as it is there."""
        return self.wait(lambda: next(iter(self.browser.find_elements(By.CSS_SELECTOR, selector)), None))

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return what a condition gives once that is true."""
        end = time.monotonic() + 20
        while not (value := condition()):
            assert time.monotonic() < end, self.page.log.read_text()
            time.sleep(0.05)
        return value

    def drop(self, path: Path) -> None:
        """Upload a photograph and wait for what comes of it."""
        for clear in self.browser.find_elements(By.CSS_SELECTOR, CLEAR):
            clear.click()
            self.wait(lambda: EMPTY in self.message())
        self.act(lambda: self.find('#photo input').send_keys(str(path)))

    def act(self, action: Callable[[], Any]) -> None:
        """Do something and wait for what the page says to it."""
        script = """return document.querySelector('#message [role=status]').textContent
            + document.querySelector('#picture img:last-child')?.src;"""
        old = self.browser.execute_script(script)
        action()
        self.wait(lambda: self.browser.execute_script(script) != old)
        self.wait(self.pictures_are_shown)

    def pictures_are_shown(self) -> bool:
        """Whether all pictures that are in view have been loaded."""
        script = 'return [...document.querySelectorAll("#results img")].every((p) => p.complete && p.naturalWidth)'
        return bool(self.browser.execute_script(script))

    def is_on_screen(self, selector: str) -> bool:
        """Whether all of an element can be seen without scrolling."""
        script = """const place = document.querySelector(arguments[0]).getBoundingClientRect();
        return place.height > 10 && place.top >= -1 && place.bottom <= window.innerHeight + 1;"""
        return bool(self.browser.execute_script(script, selector))

    def message(self) -> str:
        """What the page says about the photograph."""
        return str(self.find('#message [role=status]').text)

    def complaint(self) -> str:
        """What Gradio says about a file that it does not upload."""
        return str(self.wait(lambda: self.find('.toast-body').text))

    def see(self, selector: str = AFTER) -> np.ndarray:
        """Return an element as it is on the screen: H x W x 3, int."""
        data = self.find(selector).screenshot_as_png
        return np.asarray(Image.open(BytesIO(data)).convert('RGB')).astype(int)

    def show_after(self, share: float) -> None:
        """Drag the handle of the picture, so that this share of it is as it was."""
        picture, handle = self.find(AFTER), self.find('#picture [data-testid=slider] .icon-wrap')
        target = picture.rect['x'] + share * picture.rect['width']
        middle = handle.rect['x'] + handle.rect['width'] / 2
        ActionChains(self.browser).drag_and_drop_by_offset(handle, round(target - middle), 0).perform()

    def show(self, kind: str) -> np.ndarray:
        """Return the picture ``before`` or ``after``: H x W x 3, int."""
        self.show_after({'before': 0.97, 'after': 0.03}[kind])  # at the very edge nothing can take hold of it
        return self.see()

    def set_strength(self, value: int) -> None:
        """Type a strength and wait for its result."""
        box = self.find('#strength input[type=number]')
        script = """const [box, value] = arguments; box.value = value;
        for (const kind of ['input', 'change', 'blur']) box.dispatchEvent(new Event(kind, {bubbles: true}));"""
        self.act(lambda: self.browser.execute_script(script, box, value))

    def download(self) -> Path:
        """Press the button and return the file."""
        for old in self.downloads.iterdir():
            old.unlink()
        self.find('#download').click()
        whole: Path = self.wait(
            lambda: next(
                (p for p in self.downloads.glob('*.png') if not list(self.downloads.glob('*.crdownload'))), None
            )
        )
        return whole


@pytest.fixture(scope='module')
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    program = next((path for path in map(shutil.which, BROWSERS) if path), None)
    driver = shutil.which('chromedriver')
    if program is None or driver is None:
        pytest.skip('there is no Chromium with its chromedriver here (Debian: apt install chromium chromium-driver)')
    folder = tmp_path_factory.mktemp('browser')
    options = webdriver.ChromeOptions()
    options.binary_location = program
    arguments = ['--headless=new', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars']
    arguments += ['--no-sandbox'] * (hasattr(os, 'geteuid') and os.geteuid() == 0)  # Chromium's own rule for root
    for argument in [*arguments, f'--user-data-dir={folder / "profile"}']:
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    try:
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f'the browser does not start: {error.msg}')
    downloads = folder / 'downloads'
    downloads.mkdir()
    allowed = {'behavior': 'allow', 'downloadPath': str(downloads)}
    browser.execute_cdp_cmd('Browser.setDownloadBehavior', allowed)
    page = Demo(folder, '--max_size', 500_000 / (1 << 20))
    yield Visitor(browser, page, downloads)
    browser.quit()
    if page.process.poll() is None:
        page.stop()


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    """Two people who do not exist, in one photograph."""
    path = tmp_path / 'two people.png'
    path.write_bytes(encode(draw_portraits(2)))
    return path


def test_a_photograph_is_restored_compared_blended_and_downloaded(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    assert '2 faces · 512 × 256 pixels' in visitor.message()
    visitor.wait(lambda: len(visitor.browser.find_elements(By.CSS_SELECTOR, '#found .gallery-item img')) == 2)

    half = visitor.see()
    middle = half.shape[1] // 2
    after, before = visitor.show('after'), visitor.show('before')
    inside = np.s_[60:-60, 60 : middle - 60]  # without the corners, the label and the handle
    assert np.abs(half[inside] - before[inside]).max() <= 2
    assert np.abs(half[inside] - after[inside]).mean() > 5

    visitor.set_strength(50)
    blend = (before[inside] + after[inside]) / 2
    assert np.abs(visitor.show('after')[inside] - blend).mean() < 3
    path = visitor.download()
    assert path.name == 'two people_restored.png'
    pixels = np.asarray(Image.open(path)).astype(int)
    original = draw_portraits(2).astype(int)
    assert pixels.shape == original.shape
    visitor.set_strength(100)
    assert np.abs(visitor.show('after')[inside] - after[inside]).max() <= 2
    full = np.asarray(Image.open(visitor.download())).astype(int)
    assert np.abs(pixels - (original + full) / 2).max() <= 1
    assert np.abs(full - original).max() > 30


def test_choices_restore_again_without_another_upload(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    visitor.act(lambda: visitor.find('#faces label:nth-of-type(2) input').click())
    assert '1 face ' in visitor.message()
    visitor.act(lambda: visitor.find('#scale label:nth-of-type(2) input').click())
    assert '1 face · 1024 × 512 pixels' in visitor.message()
    assert Image.open(visitor.download()).size == (1024, 512)


def test_a_real_photograph_is_restored(visitor: Visitor) -> None:
    if not REAL.is_file():
        pytest.skip(f'{REAL.name} of the shared data is not here')
    visitor.open()
    visitor.drop(REAL)
    assert '1 face · 600 × 800 pixels' in visitor.message()


@pytest.mark.parametrize('width', [WIDE, NARROW])
def test_one_click_on_an_example_shows_the_page_at_work(visitor: Visitor, width: int) -> None:
    visitor.open(width)
    visitor.act(lambda: visitor.find(EXAMPLE).click())
    assert '1 face · 256 × 256 pixels' in visitor.message()
    visitor.wait(lambda: visitor.is_on_screen('#message') and visitor.is_on_screen('#picture'))


def test_on_a_phone_the_result_is_in_sight_wherever_the_visitor_was(visitor: Visitor) -> None:
    visitor.open(NARROW, height=600)
    visitor.browser.execute_script('document.querySelector("#people").scrollIntoView()')
    visitor.act(lambda: visitor.find(EXAMPLE).click())
    visitor.wait(lambda: visitor.is_on_screen('#message') and visitor.is_on_screen('#picture'))
    assert visitor.is_on_screen('#message')
    assert visitor.is_on_screen('#picture')


def test_what_is_wrong_is_said(visitor: Visitor, tmp_path: Path, portraits: Path) -> None:
    files = {
        'notes.jpg': b'words and more words',
        'cut off.jpg': encode(draw_portraits(), '.jpg')[:4000],
        'large.png': bytes(500_001),
        'wall.png': encode(np.full((200, 300, 3), 128, np.uint8)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    visitor.open()
    visitor.drop(tmp_path / 'notes.jpg')
    assert 'notes.jpg cannot be used: it is not an image' in visitor.message()
    visitor.drop(tmp_path / 'cut off.jpg')
    assert 'cut off.jpg cannot be used: it is cut off' in visitor.message()
    visitor.find(CLEAR).click()
    visitor.find('#photo input').send_keys(str(tmp_path / 'large.png'))
    assert 'exceed the maximum allowed size of 488.3 Kb: "large.png"' in visitor.complaint()
    visitor.drop(tmp_path / 'wall.png')
    assert 'No face was found' in visitor.message()
    assert np.abs(visitor.see()[100:-100, 200:400] - 128).max() <= 2
    visitor.drop(portraits)
    assert '2 faces' in visitor.message()
    assert 'Traceback' not in visitor.page.log.read_text()


def test_photographs_can_be_dropped(visitor: Visitor) -> None:
    visitor.open()
    script = """const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(arguments[0])], 'image.png', {type: 'image/png'}));
    const event = new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
    document.querySelector('#photo button').dispatchEvent(event);"""
    visitor.act(lambda: visitor.browser.execute_script(script, list(encode(draw_portraits(), '.jpg'))))
    assert '1 face' in visitor.message()


def test_photographs_can_be_pasted(visitor: Visitor) -> None:
    visitor.open()
    rights = {'permissions': ['clipboardReadWrite', 'clipboardSanitizedWrite'], 'origin': visitor.page.address}
    visitor.browser.execute_cdp_cmd('Browser.grantPermissions', rights)
    script = """const [bytes, done] = arguments;
    const image = new Blob([new Uint8Array(bytes)], {type: 'image/png'});
    navigator.clipboard.write([new ClipboardItem({'image/png': image})]).then(() => done(''), (e) => done(`${e}`));"""
    assert visitor.browser.execute_async_script(script, list(encode(draw_portraits()))) == ''
    visitor.act(lambda: visitor.find('#photo [aria-label="Paste from clipboard"]').click())
    assert '1 face' in visitor.message()


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_the_page_fits_a_narrow_window(visitor: Visitor, portraits: Path, theme: str, tmp_path: Path) -> None:
    visitor.open(NARROW, theme)
    visitor.drop(portraits)
    width = visitor.browser.execute_script('return document.documentElement.scrollWidth')
    assert width <= NARROW
    visitor.browser.save_screenshot(str(tmp_path / f'{theme}.png'))
    corner = np.asarray(Image.open(tmp_path / f'{theme}.png').convert('L'))[:5, :5].mean()
    assert corner > 240 if theme == 'light' else corner < 40
    for selector in ('#heading h1', '#message [role=status]', '#download', '#photo label'):
        text = visitor.see(selector)
        assert np.ptp(text.mean(axis=2)) > 100, selector  # it can be told from what is behind it


def test_strength_works_by_keyboard(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    full = visitor.show('after')
    visitor.act(lambda: visitor.find('#strength input[type=range]').send_keys(Keys.HOME))
    assert np.abs(visitor.show('after') - full).mean() > 1
    assert np.abs(visitor.show('after') - visitor.show('before')).mean() < 1


def test_photographs_are_in_the_private_folder_until_the_end(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    address = visitor.find(AFTER).get_attribute('src')
    assert f'/gradio_api/file={visitor.page.private}/' in address
    assert any(path.name == portraits.name for path in visitor.page.photographs())
    assert visitor.page.files() == []


def test_nothing_came_from_elsewhere_and_nothing_was_written(visitor: Visitor) -> None:
    """Runs last: it looks back at everything that the browser did."""
    hosts, paths = set(), []
    for entry in visitor.browser.get_log('performance'):
        event = json.loads(entry['message'])['message']
        if event['method'] == 'Network.requestWillBeSent':
            address = urlsplit(event['params']['request']['url'])
            paths.append(address.path)
            if address.scheme in ('http', 'https', 'ws', 'wss'):
                hosts.add(address.netloc)
    assert hosts <= {urlsplit(visitor.page.address).netloc}
    assert any(path.endswith('/after.jpg') for path in paths)
    errors = [entry['message'] for entry in visitor.browser.get_log('browser') if entry['level'] == 'SEVERE']
    # Gradio asks for the progress of the file that it found too large, in vain, and says so.
    assert [text for text in errors if 'upload_progress' not in text and not text.endswith(' Response')] == []
    assert visitor.page.files() == []
    assert visitor.page.log.read_text() == ''
    assert visitor.page.stop() == 0
    assert not visitor.page.private.exists()
