"""The picture of the units over the layers: lanes, what each row says, and the file."""
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from paths import ROOT
from torch import nn
from toy_nets import Concat, Depthwise, Everything, Grouped, Residual, SharedHead, algorithm_of

from mmprune.report import unit_picture as diagram
from mmprune.report.figure import PictureError
from mmprune.report.lanes import assign_colours, assign_lanes
from mmprune.report.unit_picture import READS, WRITES, draw_units, layer_rows, unit_lines

#: First and last rows of the units of a bottleneck ResNet: its stem, then a stream and the insides of the blocks.
STREAMS = [(0, 4), (3, 14), (13, 27)]
INSIDES = [(1, 2), (2, 3), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (15, 16), (16, 17), (24, 25)]
RANDOM = [sorted(np.random.RandomState(number).randint(0, 40, size=2).tolist()) for number in range(60)]


def mutator_of(net, **kwargs):
    return algorithm_of(net, **kwargs).mutator


def meet(one, other):
    return bool({*range(one[0], one[1] + 1)} & {*range(other[0], other[1] + 1)})


def text_of(path):
    """Return the texts of an svg with their place, in the order of writing."""
    found = re.findall(r'<text [^>]*?translate\(([\d.]+) ([\d.]+)\)[^>]*>(.*?)</text>'
                       r'|<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', path.read_text(encoding='utf-8'))
    return [(float(a or d), float(b or e), c or f) for a, b, c, d, e, f in found]


@pytest.mark.parametrize('spans', [STREAMS + INSIDES, RANDOM, RANDOM[:7], [(3, 3)] * 4, [(0, 9)] * 3, []],
                         ids=['resnet', 'random', 'few', 'one row', 'same', 'none'])
def test_no_two_lines_of_a_lane_meet(spans):
    lanes = assign_lanes(spans)
    assert len(lanes) == len(spans)
    for (one, lane), (other, other_lane) in combinations(zip(spans, lanes), 2):
        assert lane != other_lane or not meet(one, other), f'{one} and {other} are both in lane {lane}'


def test_lanes_by_hand():
    assert assign_lanes([(0, 1), (1, 2), (3, 4)]) == [0, 1, 0]
    # the longest stream is left, the next one beside it, and the insides of blocks right of the stream that they leave
    assert assign_lanes(STREAMS + INSIDES) == [0, 1, 0, 1, 2, 2, 3, 2, 3, 2, 3, 1, 2, 1]


def test_short_lines_stay_right_of_the_long_ones_beside_them():
    spans = RANDOM + INSIDES
    lanes = assign_lanes(spans)
    short = [number for number, (first, last) in enumerate(spans) if last - first < 3]
    assert len(short) > 10
    for number in short:
        assert all(lanes[number] > lanes[other] for other in range(len(spans))
                   if other not in short and meet(spans[number], spans[other]))


def test_colours_differ_where_lines_are_near():
    spans = STREAMS + INSIDES
    lanes = assign_lanes(spans)
    colours = assign_colours(spans, lanes, 6)
    for one, other in combinations(range(len(spans)), 2):
        if meet(spans[one], spans[other]) or (lanes[one] == lanes[other] and abs(spans[one][0] - spans[other][1]) <= 1):
            assert colours[one] != colours[other], f'{spans[one]} and {spans[other]}'
    assert {*assign_colours(RANDOM, assign_lanes(RANDOM), 2)} == {0, 1}


def test_marks_by_hand():
    mutator = mutator_of(Depthwise())
    lines = unit_lines([unit.channels for unit in mutator.units], mutator.frozen,
                       [f'{layer}.weight' for layer in ('stem', 'dw1', 'dw2', 'pw', 'fc')])
    assert {line.channels.name: line.marks for line in lines} == {
        'stem_(0, 4)_4': {0: WRITES, 1: READS | WRITES, 2: READS | WRITES, 3: READS},
        'pw_(0, 5)_5': {3: WRITES, 4: READS}, 'stem_(0, 3)_3': {0: READS}, 'fc_(0, 3)_3': {4: WRITES}}
    assert [line.colour == diagram.STAYS for line in lines] == [False, False, True, True]


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 2, groups=2),
                                 nn.ConvTranspose2d(12, 24, (1, 2), groups=12))
        self.weight = nn.Parameter(torch.ones(4, 24, 1, 1))

    def forward(self, x):
        return nn.functional.conv2d(self.net(x), self.weight).mean((2, 3))


@pytest.mark.parametrize(('net', 'rows'), [
    (Depthwise(), ['stem: 3 > 4, 1x1', 'dw1: 4 > 4, 3x3 depthwise', 'dw2: 4 > 8, 3x3 depthwise', 'pw: 8 > 5, 1x1',
                   'fc: 5 > 3, linear']),
    (Grouped(), ['stem: 3 > 6, 3x3', 'g: 6 > 4, 3x3 in 2 groups', 'head: 4 > 3, 1x1']),
    (SharedHead(), ['low: 3 > 4, 3x3', 'tower: 4 > 6, 3x3', 'cls: 6 > 2, 1x1', 'high: 3 > 4, 3x3']),
    (Transposed(), ['0: 3 > 8, 3x3', '1: 8 > 12, 2x2 in 2 groups', '2: 12 > 24, 1x2 depthwise', 'weight: 24 > 4, 1x1']),
], ids=lambda value: type(value).__name__)
def test_rows_by_hand(net, rows):
    mutator = mutator_of(net)
    axes = {call.weight: [] for call in mutator.complexity.graph.calls}
    for axis in mutator.complexity.graph.axes:
        if axis.role != 'affine':
            axes[axis.tensor].append(axis)
    prefix, found = layer_rows(mutator.complexity, axes)
    assert [f'{row.label}: {row.reads} > {row.writes}, {row.kernel}' for row in found] == rows
    assert prefix == ('net.' if 'net' in dict(net.named_children()) else '')


def test_picture_shows_every_layer_and_unit(tmp_path):
    path = tmp_path / 'sub' / 'units.svg'
    mutator = mutator_of(Everything())
    draw_units(mutator, path)
    assert [file.name for file in path.parent.iterdir()] == ['units.svg']
    texts = [text for _, _, text in text_of(path)]
    layers = ['stem', 'conv1', 'conv2', 'group', 'expand', 'dw', 'project', 'shared', 'mix', 'fc1', 'fc2']
    assert [text for text in texts if text in layers] == layers
    places = {text: y for _, y, text in text_of(path)}
    assert sorted(layers, key=places.get) == layers
    assert len(mutator.units) == 7
    svg = path.read_text(encoding='utf-8')
    for unit in mutator.units:
        assert f'id="{unit.name}"' in svg
    assert 'Everything' in texts
    assert any(text.startswith('7 units; 92 of 97 channels may be pruned.') for text in texts)
    assert '5 stay: it is an output of the model' in texts


def test_title_and_frozen_linear_layers(tmp_path):
    draw_units(mutator_of(Residual(), mutate_linear=False), tmp_path / 'units.svg', title='A small net')
    texts = [text for _, _, text in text_of(tmp_path / 'units.svg')]
    assert 'A small net' in texts
    assert "6 stay: linear layer 'fc' is coupled to it" in texts
    assert any(text.startswith('1 unit; 5 of 15 channels may be pruned.') for text in texts)


@pytest.mark.parametrize('net', [Everything(), Concat(), Transposed()], ids=lambda net: type(net).__name__)
def test_no_text_lies_on_another_or_outside(net, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(diagram, 'save_figure', lambda figure, path: figures.append(figure))
    draw_units(mutator_of(net), tmp_path / 'units.png')
    figure, = figures
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) > 20
    width, height = figure.canvas.get_width_height()
    assert all(min(box.x0, box.y0) > 0 and box.x1 < width and box.y1 < height for box in boxes)
    for one, other in combinations(boxes, 2):
        # boxes of rows include the room of letters that reach below the line
        assert min(one.x1, other.x1) <= max(one.x0, other.x0) or min(one.y1, other.y1) - max(one.y0, other.y0) < 2


def test_same_model_gives_the_same_file(tmp_path):
    for name in ('one.svg', 'two.svg'):
        draw_units(mutator_of(Concat()), tmp_path / name)
    assert (tmp_path / 'one.svg').read_bytes() == (tmp_path / 'two.svg').read_bytes()


def test_long_reasons_are_cut_and_brackets_left_out():
    assert diagram._brief("linear layer 'fc' is coupled to it (mutate_linear=True prunes it)") == (
        "linear layer 'fc' is coupled to it")
    assert diagram._brief("it is the model's input, or comes from an operation without channels") == (
        "it is the model's input …")
    assert diagram._brief("op 'sort' has no channel rule (add one, as docs/extending.md tells) in 'net.block'") == (
        "op 'sort' has no channel rule …")
    assert diagram._brief('one word after another ' * 5) == 'one word after another one word after another one word …'
    assert diagram._brief('x' * 80) == 'x' * 56 + ' …'


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.backends.backend_agg', None)
    with pytest.raises(ImportError, match='matplotlib is not installed: pip install matplotlib'):
        draw_units(mutator_of(Residual()), tmp_path / 'units.svg')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['units.foo', 'units'])
def test_unknown_suffix(name, tmp_path):
    with pytest.raises(PictureError, match=rf"{name}' tells no format of a picture; these do: .*\.png.*\.svg"):
        draw_units(mutator_of(Residual()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_old_picture_stays_if_writing_fails(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, path, **kwargs):
        path.write_text('half')
        raise OSError('disk full')

    monkeypatch.setattr(Figure, 'savefig', fail)
    (tmp_path / 'units.svg').write_text('old')
    with pytest.raises(OSError, match='disk full'):
        draw_units(mutator_of(Residual()), tmp_path / 'units.svg')
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {'units.svg': 'old'}


def test_tool_draws_a_config(tmp_path):
    tool = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/pruning/show_units.py'),
            str(ROOT / 'tests/configs/tiny_digits.py'), '--input-shape', '1', '3', '16', '16', '--picture']
    done = subprocess.run([*tool, str(tmp_path / 'units.svg')], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [text for _, _, text in text_of(tmp_path / 'units.svg')]
    assert 'tiny_digits' in texts
    assert 'layer of backbone' in texts
    assert 'layer4.0.downsample.0' in texts
    assert 'head.fc' in texts
    done = subprocess.run([*tool, str(tmp_path / 'units.foo')], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('error: the suffix of ')
