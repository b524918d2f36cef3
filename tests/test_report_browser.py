"""A report in a real browser: its content policy lets the curves be drawn, and nothing else run."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip('selenium', reason='selenium drives the browser: pip install selenium')

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.wait import WebDriverWait

from gpen.reporting.curves import Series, arrange, draw_curves
from gpen.reporting.page import render_page

EVIL = '<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>'


@pytest.mark.parametrize('width', [1280, 400])
def test_curves_are_drawn_and_nothing_else_runs(tmp_path: Path, width: int) -> None:
    browsers = [path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))]
    driver = shutil.which('chromedriver')
    if not browsers or driver is None:
        pytest.skip('needs chromium and chromedriver')
    chart = draw_curves([Series(EVIL, [1, 2, 3], [1, 3, 2]), Series('b', [1, 3], [2, 2])], EVIL, EVIL, EVIL)
    page = tmp_path / 'page.html'
    page.write_text(render_page(EVIL, [('Curves', arrange([chart, chart])), ('', EVIL)]), encoding='utf-8')

    options = webdriver.ChromeOptions()
    options.binary_location = browsers[0]
    for argument in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'):
        options.add_argument(argument)
    try:
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f'the browser does not start: {error.msg}')
    try:
        size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': width < 500}
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        browser.get(page.as_uri())
        count = "return document.querySelectorAll('.scatterlayer .js-line').length"
        WebDriverWait(browser, 20).until(lambda _: browser.execute_script(count) == 4)
        names = browser.execute_script("return document.querySelector('.legendtext').textContent")
        assert names == f'…{EVIL[-43:]}'  # text, not tags
        assert browser.execute_script('return window.hit') is None
        assert browser.execute_script('return document.documentElement.scrollWidth') <= width
        entries = "return performance.getEntriesByType('resource').filter((entry) => entry.transferSize > 0).length"
        assert browser.execute_script(entries) == 0
    finally:
        browser.quit()
