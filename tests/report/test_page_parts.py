"""What the page is made of: axes, places of names, lines of runs, numbers, markup."""
import json
import math

import numpy as np
import pytest
from compressed_folders import METRIC, write_scalars

from mmprune.report.page import html, markdown, number
from mmprune.report.page.content import Bar, Bars, Chart, Code, Series, Strong, Table
from mmprune.report.page.progress import MOST, read_scalars, run_charts
from mmprune.report.page.svg import Box, axis, bar_svg, chart_svg


@pytest.mark.parametrize('span', np.geomspace(1e-4, 1e9, 53))
@pytest.mark.parametrize('low', [0.0, -0.3, 0.77, 98.1])
def test_axis_has_few_round_numbers_inside(low, span):
    found = axis(low, low + span)
    assert 2 <= len(found.ticks) <= 6
    steps = np.diff(found.ticks)
    step = steps[0]
    np.testing.assert_allclose(steps, step, rtol=1e-6)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)
    assert all(low - 1e-6 * span <= tick <= low + 1.000001 * span for tick in found.ticks)
    assert len({*found.labels}) == len(found.labels)
    for tick, label in zip(found.ticks, found.labels):
        assert float(label.replace(',', '')) == pytest.approx(tick, abs=1e-6 * step)


def test_axis_places_its_ends():
    found = axis(2.0, 4.0)
    assert [found.place(value, 10, 50) for value in (2.0, 3.0, 4.0)] == [10, 30, 50]


@pytest.mark.parametrize(('other', 'overlap'), [((1, 1, 3, 3), True), ((2, 0, 3, 1), False), ((0, 2, 1, 3), False)])
def test_boxes(other, overlap):
    assert Box(0, 0, 2, 2).overlaps(Box(*other)) is overlap


def test_names_of_points_that_are_near_do_not_cover_one_another():
    points = [(1.0, 90.0), (1.02, 90.01), (0.98, 90.02)]
    series = [Series('kept', [point], [f'network {place}']) for place, point in enumerate(points)]
    picture = chart_svg(Chart('a', 'a title', 'milliseconds', series))
    boxes = []
    for line in picture.splitlines():
        if 'class="label"' in line:
            x, y = (float(line.partition(f' {name}="')[2].partition('"')[0]) for name in 'xy')
            left = x - {'start': 0, 'middle': 30, 'end': 60}[line.partition('anchor="')[2].partition('"')[0]]
            boxes.append(Box(left, y - 10, left + 60, y))
    assert len(boxes) == 3
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize('points', [[(0.0, 0.0)], [(3.0, 1.0)], [(1.0, 5.0), (2.0, 5.0)], [(0, -1), (5, 1e9)]])
@pytest.mark.parametrize('zero', [True, False])
def test_any_points_are_drawn_inside(points, zero):
    picture = chart_svg(Chart('a', 'a title', 'x', [Series('kept', points)], zero, mark=0.5), alone=True)
    assert 'nan' not in picture
    circles = [line for line in picture.splitlines() if line.startswith('<circle')]
    assert len(circles) == len(points)
    for line in circles:
        x, y = (float(line.partition(f' c{name}="')[2].partition('"')[0]) for name in 'xy')
        assert 0 <= x <= 420
        assert 0 <= y <= 250


def test_parts_of_a_bar_follow_one_another():
    assert bar_svg(Bar('a', [('kept', 3), ('gone', 1)], ''), 8) == (
        '<svg aria-hidden="true"><rect class="kept" x="0.00%" width="37.50%" height="100%"/>'
        '<rect class="gone" x="37.50%" width="12.50%" height="100%"/></svg>')
    assert bar_svg(Bar('a', [('kept', 0)], ''), 0) == '<svg aria-hidden="true"></svg>'


def test_a_run_that_was_resumed_is_one_line(tmp_path):
    write_scalars(tmp_path, prune=True)
    second = write_scalars(tmp_path, prune=True, started='20261127_210000', first=30)
    with second.open('a') as file:
        file.write('{"loss": NaN, "iter": 72, "step": 72}\n[1]\n{"step": true}\n{"loss": 3, "it')
    charts = {chart.name: chart for chart in run_charts(read_scalars(tmp_path), 'prune', METRIC, {'flops': 0.5})}
    assert [*charts] == ['prune_loss', 'prune_flops_ratio', 'prune_metric']
    loss = charts['prune_loss'].series[0].points
    assert [step for step, _ in loss] == [*range(2, 71, 2)]
    assert loss[0][1] == 2.5 * math.exp(-0.1)
    assert charts['prune_flops_ratio'].mark == 0.5
    assert charts['prune_flops_ratio'].series[0].points[-1] == (70, 1 - 70 / 80)
    assert charts['prune_metric'].x == 'epoch'
    assert charts['prune_metric'].series[0].points == [(step, 90 + step) for step in range(1, 8)]


def test_a_long_run_is_thinned_out():
    lines = [dict(loss=float(step % 2), iter=step, step=step) for step in range(1, 10 * MOST + 1)]
    points = run_charts(lines, 'finetune', METRIC, {})[0].series[0].points
    assert len(points) == MOST
    assert {value for _, value in points} == {0.5}
    assert points[-1][0] == 10 * MOST


def test_validations_of_a_run_that_counts_iterations():
    lines = [*(dict(loss=1.0, epoch=1, iter=step, step=step) for step in (50, 100)),
             *({METRIC: 5.0, 'step': step} for step in (50, 100))]
    assert run_charts(lines, 'finetune', METRIC, {})[1].x == 'iteration'


def test_no_scalars_no_charts(tmp_path):
    assert run_charts(read_scalars(tmp_path / 'nothing'), 'prune', METRIC, {}) == []


@pytest.mark.parametrize(('written', 'wanted'), [
    (number.metric(98.7406), '98.74'), (number.metric(0.54449), '0.5445'), (number.metric(None), '–'),
    (number.change(98.25, 98.5), '−0.25'), (number.change(0.5444, 0.52), '+2.44'),
    (number.change(98.5, 98.5), '±0.00'),
    (number.milliseconds(0.2534), '0.253 ms'), (number.milliseconds(12.345), '12.35 ms'),
    (number.milliseconds(123.45), '123.5 ms'), (number.share(0.49757), '49.8 %'),
    (number.count(27362560), '27.4 M'), (number.count(4.1e9), '4.1 G'), (number.count(697706), '698 k'),
    (number.count(312), '312'), (number.times(1.376), '1.38×'), (number.duration(12.46), '12.5 s'),
    (number.duration(100.2), '1 min 40 s'), (number.duration(6600), '1 h 50 min'),
    (number.duration(5399.9), '1 h 30 min'),
    (number.ratio(1.0, 0.0), None), (number.ratio(None, 2.0), None), (number.ratio(1.0, 2.0), 0.5),
    (number.number(True), None), (number.number('1'), None), (number.number(3), 3.0)])
def test_numbers(written, wanted):
    assert written == wanted


@pytest.mark.parametrize(('text', 'wanted'), [
    ('a_b | c* <d> & [e] `f` #g ~h', 'a\\_b \\| c\\* &lt;d&gt; &amp; \\[e\\] \\`f\\` \\#g \\~h'),
    (Code('a|b_c'), '`a\\|b_c`'), (Code('a`b``c'), '``` a`b``c ```'), (Code(' '), ''), (Strong('a*b'), '**a\\*b**'),
    (['a ', Code('b'), '\nc'], 'a `b` c')])
def test_markup_of_markdown(text, wanted):
    assert markdown.inline(text) == wanted


def test_rows_after_the_first_unfold():
    table = Table(['a', 'b'], [[str(row), 'x' * 60] for row in range(20)], left=(1,), shown=5)
    found = html.block_html(table)
    assert found.count('<tr>') == 20 + 2
    assert '15 more rows' in found
    assert '<td class="left long">' in found
    few = html.block_html(Bars([Bar('a', [('kept', 1.0)], 'b')] * 8, {}, ('a', 'b'), shown=5))
    assert 'details' not in few
    assert json.dumps(few).count('class=\\"row\\"') == 8
