"""Curves, tables and pictures of a page: true to the numbers, readable, and only text where text is meant."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from gpen.errors import UserError
from gpen.reporting.curves import Series, draw_curves
from gpen.reporting.page import Html, embed_image, render_page, table
from gpen.reporting.pictures import choose_through_time
from gpen.reporting.points import choose_ticks, format_number, smooth, thin

EVIL = '<script>alert("x")</script>'


def test_gaps_are_not_drawn_over() -> None:
    drawing = draw_curves([Series('a', range(6), [1, 2, None, 3, math.inf, 4])], 'title', 'x', 'y')
    line = next(path for path in re.findall(r'<path d="(M[^"]*)" stroke-width="1.8"', drawing))
    assert line.count('M') == 3
    assert line.count('L') == 1
    assert line.count('h0') == 2  # points that stand alone are seen
    assert 'nan' not in drawing
    assert 'inf' not in drawing
    assert 'a: not finite' in drawing


def test_long_curves_are_thinned_and_keep_their_extremes() -> None:
    values = np.sin(np.arange(20_000) / 900)
    values[[7_777, 12_345]] = -9, 9
    values[15_000] = math.nan
    kept = thin(values, 500)
    assert len(kept) <= 520
    assert {0, 7_777, 12_345, 15_000, 19_999} <= set(kept)
    assert len(draw_curves([Series('a', range(20_000), values.tolist())], 'a', 'x', '')) < 30_000


def test_noise_is_smoothed_and_trends_are_kept() -> None:
    generator = np.random.default_rng(0)
    trend = np.linspace(1, 0, 400)
    noisy = trend + generator.normal(0, 0.1, 400)
    assert np.abs(smooth(noisy) - trend)[20:-20].max() < 0.1
    drawing = draw_curves([Series('a', range(400), noisy.tolist())], 'a', 'x', '')
    assert 'stroke-opacity="0.3"' in drawing
    assert 'stroke-opacity="0.3"' not in draw_curves([Series('a', range(400), trend.tolist())], 'a', 'x', '')


@pytest.mark.parametrize(
    ('low', 'high', 'log', 'expected'),
    [
        (0, 100, False, [0, 20, 40, 60, 80, 100]),
        (0.031, 0.09, False, [0.04, 0.06, 0.08]),
        (1e-5, 1, True, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (0.5, 90, True, [1, 3, 10, 30]),
        (2.0, 2.5, True, [2, 2.1, 2.2, 2.3, 2.4, 2.5]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    assert choose_ticks(low, high, log) == pytest.approx(expected)


def test_numbers_are_written_for_people() -> None:
    numbers = (0, 1600, 0.07439, 2.924e-5, 24.9582, -0.5, 1e6, 20_000, 1.0)
    assert [format_number(n) for n in numbers] == [
        '0', '1,600', '0.07439', '2.924e-5', '24.96', '-0.5', '1e6', '20,000', '1',
    ]  # fmt: skip


@pytest.mark.parametrize('values', [[], [5], [5, 5, 5], [None, math.nan], [-1, 0, 2], [1e-300, 1e300]])
@pytest.mark.parametrize('log', [False, True])
def test_any_numbers_make_a_drawing(values: list[float], log: bool) -> None:
    drawing = draw_curves([Series(EVIL, range(len(values)), values)], EVIL, 'x', 'y', log_y=log, log_x=log)
    root = ElementTree.fromstring(drawing)
    assert root.tag.endswith('svg')
    for element in root.iter():
        assert not re.search(r'\b(nan|inf)\b', element.get('d', ''))


def test_colours_beyond_the_palette_have_dashes_and_marks_have_words() -> None:
    curves = [Series(f'trial {n}', [0, 1], [n, n + 1]) for n in range(9)]
    drawing = draw_curves(curves, 'trials', 'iteration', 'loss', marks=[(0.5, 'best'), (7, 'beyond')])
    styles = re.findall(r'<g style="([^"]*)"', drawing)
    assert len(set(styles)) == 9
    assert '<title>best</title>' in drawing
    assert 'beyond' not in drawing


def test_tables_escape_text_and_keep_html() -> None:
    made = table(['a', 'b'], [[Html('<b>x</b>'), EVIL], ['y', 'z']])
    assert '<b>x</b>' in made
    assert EVIL not in made
    assert '<td class=number>' in table(['n'], [[1.5], ['2']])


def test_a_page_lets_nothing_in_and_leaves_empty_sections_out() -> None:
    page = render_page(EVIL, [('One', '<p>1</p>'), ('Two', ''), ('\udcff', '<p>3</p>')])
    assert "default-src 'none'" in page
    assert EVIL not in page
    assert 'Two' not in page
    page.encode('utf-8')


def test_pictures_are_embedded(tmp_path: Path) -> None:
    import cv2

    picture = np.full((300, 2000, 3), (200, 40, 10), np.uint8)
    uri = embed_image(picture, 1000)
    head, _, data = uri.partition(',')
    assert head == 'data:image/jpeg;base64'
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (150, 1000, 3)
    assert np.abs(pixels[0, 0].astype(int) - (10, 40, 200)).max() < 6
    assert embed_image(picture[:8, :8].copy()).startswith('data:image/png;base64,')
    with pytest.raises(UserError, match=r'none\.png'):
        embed_image(tmp_path / 'none.png')


def test_pictures_are_chosen_from_the_whole_run() -> None:
    assert choose_through_time(range(50, 1650, 50), 6) == [50, 100, 300, 600, 1050, 1600]
    assert choose_through_time([1, 2, 3], 6) == [1, 2, 3]
    assert choose_through_time([5], 6) == [5]
    assert choose_through_time([], 6) == []
    assert len(choose_through_time(range(8), 6)) == 6
