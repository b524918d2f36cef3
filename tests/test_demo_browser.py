"""The page in a real browser: what a visitor does with it, and what the visitor sees."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from demo_page import Demo, draw_portraits, encode

pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
pytest.importorskip('selenium', reason='selenium drives the browser: pip install selenium')

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
REAL = SHARED / 'data/photos/lisa2.jpg'
WIDE, NARROW = 1280, 400


class Visitor:
    """Somebody in front of a browser window.

    Args:
        browser: the browser.
        page: what is open in it.
        downloads: where downloads go.
    """

    def __init__(self, browser: Any, page: Demo, downloads: Path) -> None:
        self.browser, self.page, self.downloads = browser, page, downloads

    def open(self, width: int = WIDE, theme: str = 'light') -> None:
        """Open the page in a window of a width."""
        size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
        self.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        self.browser.get(f'{self.page.address}/?__theme={theme}')
        self.find('#drop input')
        self.wait(lambda: self.browser.execute_script('return document.readyState') == 'complete')

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
        shown = '#result .picture, #result .empty, #message .message'
        self.browser.execute_script('document.querySelectorAll(arguments[0]).forEach((e) => e.dataset.old = "")', shown)
        self.find('#drop input').send_keys(str(path))
        self.find(', '.join(f'{selector}:not([data-old])' for selector in shown.split(', ')))
        self.wait(self.pictures_are_shown)

    def pictures_are_shown(self) -> bool:
        """Whether all pictures that are in view have been loaded."""
        script = (
            'return [...document.querySelectorAll("#result .picture img")].every((p) => p.complete && p.naturalWidth)'
        )
        return bool(self.browser.execute_script(script))

    def message(self) -> str:
        """What the page says about the photograph."""
        return str(self.browser.find_element(By.ID, 'message').text)

    def see(self, selector: str = '.picture') -> np.ndarray:
        """Return an element as it is on the screen: H x W x 3, int."""
        data = self.find(selector).screenshot_as_png
        return np.asarray(Image.open(BytesIO(data)).convert('RGB')).astype(int)

    def set_range(self, selector: str, value: float) -> None:
        """Move a slider."""
        script = """const [slider, value] = arguments; slider.value = value;
        for (const kind of ['input', 'change']) slider.dispatchEvent(new Event(kind, {bubbles: true}));"""
        self.browser.execute_script(script, self.find(selector), value)

    def download(self) -> Path:
        """Press the button and return the file."""
        for old in self.downloads.iterdir():
            old.unlink()
        self.find('.download').click()
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
    page = Demo(folder, '--max_size', '0.5')
    yield Visitor(browser, page, downloads)
    browser.quit()
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
    assert '2 faces · 512 × 256 pixels' in visitor.find('.bar').text
    assert len(visitor.browser.find_elements(By.CSS_SELECTOR, '.faces figure')) == 2

    half = visitor.see()
    middle = half.shape[1] // 2
    visitor.set_range('.picture input', 0)
    after = visitor.see()
    visitor.set_range('.picture input', 100)
    before = visitor.see()
    inside = np.s_[60:-60, 60 : middle - 60]  # without the corners, the tags and the handle
    assert np.abs(half[inside] - before[inside]).max() <= 2
    assert np.abs(half[inside] - after[inside]).mean() > 5

    visitor.set_range('.picture input', 0)
    visitor.set_range('#strength input[type=range]', 50)
    blend = (before[inside] + after[inside]) / 2
    visitor.wait(lambda: np.abs(visitor.see()[inside] - blend).max() <= 3)
    path = visitor.download()
    assert path.name == 'two people_restored.png'
    pixels = np.asarray(Image.open(path)).astype(int)
    original = draw_portraits(2).astype(int)
    assert pixels.shape == original.shape
    visitor.set_range('#strength input[type=range]', 100)
    visitor.wait(lambda: np.abs(visitor.see()[inside] - after[inside]).max() <= 2)
    full = np.asarray(Image.open(visitor.download())).astype(int)
    assert np.abs(pixels - (original + full) / 2).max() <= 1
    assert np.abs(full - original).max() > 30


def test_choices_restore_again_without_another_upload(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    visitor.find('#faces label:nth-of-type(2) input').click()
    visitor.wait(lambda: '1 face ' in visitor.find('.bar').text)
    visitor.find('#scale label:nth-of-type(2) input').click()
    visitor.wait(lambda: '1 face · 1024 × 512 pixels' in visitor.find('.bar').text)
    assert Image.open(visitor.download()).size == (1024, 512)


def test_a_real_photograph_is_restored(visitor: Visitor) -> None:
    if not REAL.is_file():
        pytest.skip(f'{REAL.name} of the shared data is not here')
    visitor.open()
    visitor.drop(REAL)
    assert '1 face · 600 × 800 pixels' in visitor.find('.bar').text
    assert visitor.message() == ''


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
    visitor.drop(tmp_path / 'large.png')
    assert 'larger than 0.5 MB' in visitor.message()
    visitor.drop(tmp_path / 'wall.png')
    assert 'No face was found' in visitor.message()
    assert np.abs(visitor.see()[20:-20, 20:-20] - 128).max() <= 2
    visitor.drop(portraits)
    assert visitor.message() == ''
    assert 'Traceback' not in visitor.page.log.read_text()


@pytest.mark.parametrize('kind', ['drop', 'paste'])
def test_photographs_can_be_dropped_and_pasted(visitor: Visitor, kind: str) -> None:
    visitor.open()
    script = """const [kind, bytes] = arguments; const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], 'image.png', {type: 'image/png'}));
    const event = kind == 'drop' ? new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})
                                 : new ClipboardEvent('paste', {clipboardData: data, bubbles: true});
    (kind == 'drop' ? document.querySelector('#drop .zone') : document.body).dispatchEvent(event);"""
    visitor.browser.execute_script(script, kind, list(encode(draw_portraits(), '.jpg')))
    assert '1 face' in visitor.find('.bar').text


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_the_page_fits_a_narrow_window(visitor: Visitor, portraits: Path, theme: str, tmp_path: Path) -> None:
    visitor.open(NARROW, theme)
    visitor.drop(portraits)
    width = visitor.browser.execute_script('return document.documentElement.scrollWidth')
    assert width <= NARROW
    visitor.browser.save_screenshot(str(tmp_path / f'{theme}.png'))
    corner = np.asarray(Image.open(tmp_path / f'{theme}.png').convert('L'))[:5, :5].mean()
    assert corner > 240 if theme == 'light' else corner < 40
    for selector in ('#heading h1', '#drop .call', '.bar span', '.download'):
        text = visitor.see(selector)
        assert np.ptp(text.mean(axis=2)) > 100, selector  # it can be told from what is behind it


def test_sliders_work_by_keyboard(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    half = visitor.see()
    visitor.find('.picture input').send_keys(Keys.HOME)
    assert visitor.wait(lambda: np.abs(visitor.see() - half).mean() > 1)
    visitor.find('#strength input[type=range]').send_keys(Keys.HOME)
    assert visitor.wait(
        lambda: visitor.browser.execute_script('return document.body.style.getPropertyValue("--strength")') == '0'
    )


def test_a_closed_tab_takes_its_photograph_along(visitor: Visitor, portraits: Path) -> None:
    visitor.open()
    visitor.drop(portraits)
    address = visitor.find('.picture img').get_attribute('src')

    def status() -> int:
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status() == 200
    visitor.browser.get('about:blank')
    visitor.wait(lambda: status() == 410)


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
    assert any(path.startswith('/result/') for path in paths)
    assert [entry for entry in visitor.browser.get_log('browser') if entry['level'] == 'SEVERE'] == []
    assert visitor.page.files() == []
    assert visitor.page.log.read_text() == ''
