"""Curves, tables and pictures of a page: true to the numbers, readable, and only text where text is meant."""

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from figures import list_legend, list_marks, read_figures
from gpen.errors import UserError
from gpen.reporting.curves import Series, draw_curves, smooth
from gpen.reporting.page import Html, embed_image, render_page, table
from gpen.reporting.pictures import choose_through_time
from gpen.utils.text import format_number

EVIL = '<script>alert("x")</script>'


def test_gaps_are_not_drawn_over() -> None:
    (figure,) = read_figures(
        draw_curves([Series('a', range(60), [1, 2, None, 3, math.inf, *range(55)])], 'a', 'x', 'y')
    )
    (trace,) = figure['data']
    assert trace['y'] == [1, 2, None, 3, None, *range(55)]
    assert 'connectgaps' not in trace
    assert [x for x, size in enumerate(trace['marker']['size']) if size] == [3]  # points that stand alone are seen


def test_values_that_a_logarithmic_axis_cannot_show_are_gaps() -> None:
    series = Series('a', [0, 1, 10, 100], [1, -1, 0, 5])
    (figure,) = read_figures(draw_curves([series], 'a', 'x', 'y', log_x=True, log_y=True))
    assert figure['data'][0]['x'] == [1, 10, 100]
    assert figure['data'][0]['y'] == [None, None, 5]
    assert {figure['layout'][axis]['type'] for axis in ('xaxis', 'yaxis')} == {'log'}


def test_points_are_drawn_in_their_order_and_with_their_labels() -> None:
    drawing = draw_curves([Series('a', [3, 1, 2], [30, 10, 20])], 'loss', 'iteration', 'adversarial')
    (figure,) = read_figures(drawing)
    assert (figure['data'][0]['x'], figure['data'][0]['y']) == ([1, 2, 3], [10, 20, 30])
    assert figure['layout']['xaxis']['title']['text'] == 'iteration'
    assert {figure['layout'][axis]['type'] for axis in ('xaxis', 'yaxis')} == {'linear'}
    assert figure['layout']['hovermode'] == 'x unified'
    assert drawing.startswith('<h3>loss</h3><p class="quiet">adversarial</p>')
    assert list_legend(figure) == ['a']
    assert list_legend(read_figures(draw_curves([Series('a', [1], [1])], 'a', 'x', ''))[0]) == []  # the title says it


@pytest.mark.parametrize('log', [False, True])
def test_noise_is_smoothed_and_trends_are_kept(log: bool) -> None:
    generator = np.random.default_rng(0)
    trend = np.linspace(2, 1, 400)
    noisy = trend + generator.normal(0, 0.1, 400)
    assert np.abs(smooth(noisy) - trend)[20:-20].max() < 0.1
    (figure,) = read_figures(draw_curves([Series('a', range(400), noisy.tolist())], 'a', 'x', '', log_y=log))
    faint, line = figure['data']
    assert faint['opacity'] < 0.5
    assert faint['y'] == noisy.tolist()
    assert 'opacity' not in line
    assert np.abs(np.array(line['y']) - trend)[20:-20].max() < 0.1
    assert line['line'] == faint['line']
    assert line['hoverinfo'] == 'skip'  # the pointer shows the numbers that were recorded
    assert len(read_figures(draw_curves([Series('a', range(400), trend.tolist())], 'a', 'x', ''))[0]['data']) == 1


def test_numbers_are_written_for_people() -> None:
    numbers = (0, 1600, 0.07439, 2.924e-5, 24.9582, -0.5, 1e6, 20_000, 1.0)
    assert [format_number(n) for n in numbers] == [
        '0', '1,600', '0.07439', '2.924e-5', '24.96', '-0.5', '1e6', '20,000', '1',
    ]  # fmt: skip


@pytest.mark.parametrize('values', [[], [5], [5, 5, 5], [None, math.nan], [-1, 0, 2], [1e-300, 1e300]])
@pytest.mark.parametrize('log', [False, True])
def test_any_numbers_make_a_drawing(values: list[float], log: bool) -> None:
    drawing = draw_curves([Series(EVIL, range(len(values)), values)], EVIL, 'x', 'y', log_y=log, log_x=log)
    assert EVIL not in drawing
    figures = read_figures(drawing)
    drawn = [y for figure in figures for trace in figure['data'] for y in trace['y'] if y is not None]
    is_finite = [x for x, y in enumerate(values) if y is not None and math.isfinite(y) and not (log and min(x, y) <= 0)]
    assert len(drawn) == len(is_finite)
    assert ('no numbers yet' in drawing) == (not drawn)
    assert EVIL not in json.dumps(figures)  # plotly reads tags, too


def test_colours_beyond_the_palette_have_dashes_and_marks_have_words() -> None:
    curves = [Series(f'trial {n}', [0, 1], [n, n + 1]) for n in range(9)]
    drawing = draw_curves(curves, 'trials', 'iteration', 'loss', marks=[(0.5, 'best'), (7, 'beyond')])
    (figure,) = read_figures(drawing)
    assert len({tuple(trace['line'].items()) for trace in figure['data']}) == 9
    assert list_legend(figure) == [f'trial {n}' for n in range(9)]
    assert list_marks(figure) == ['best']
    (mark,) = figure['layout']['shapes']
    assert mark['x0'] == mark['x1'] == 0.5


def test_a_run_keeps_its_colour() -> None:
    (figure,) = read_figures(draw_curves([Series('b', [0, 1], [1, 2], 1)], 'loss', 'x', ''))
    both = read_figures(draw_curves([Series(name, [0, 1], [1, 2]) for name in 'ab'], 'loss', 'x', ''))[0]
    assert figure['data'][0]['line'] == both['data'][1]['line'] != both['data'][0]['line']


def test_tables_escape_text_and_keep_html() -> None:
    made = table(['a', 'b'], [[Html('<b>x</b>'), EVIL], ['y', 'z']])
    assert '<b>x</b>' in made
    assert EVIL not in made
    assert '<td class=number>' in table(['n'], [[1.5], ['2']])


def test_a_page_lets_nothing_in_and_leaves_empty_sections_out() -> None:
    page = render_page(EVIL, [('One', '<p>1</p>'), ('Two', ''), ('\udcff', '<p>3</p>')])
    assert "default-src 'none'" in page
    assert 'script' not in page.replace(html.escape(EVIL), '')  # without curves there is nothing to run
    assert EVIL not in page
    assert 'Two' not in page
    page.encode('utf-8')


def test_a_page_with_curves_admits_exactly_its_own_scripts() -> None:
    drawing = draw_curves([Series('a', [0, 1], [1, 2])], 'a', 'x', '')
    page = render_page('title', [('One', drawing), ('Two', drawing)])
    scripts = re.findall('<script>(.*?)</script>', page, re.DOTALL)
    assert scripts[0] == get_plotlyjs()
    assert len(scripts) == 2
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = html.unescape(re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    allowed = ' '.join(f"'sha256-{one}'" for one in hashes)
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


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
