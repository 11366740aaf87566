"""Where the activation behind a layer is a clamp, only what it lets through counts."""
import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import randomise

from mmprune.pruning.pruner import Pruner
from mmprune.repair import clipping, layer_by_layer, plan
from mmprune.repair.clipping import Clip, Samples, alike, clip_of
from mmprune.repair.moments import LeastSquares, Sums
from mmprune.repair.refit import repair
from mmprune.repair.survey import Survey

RELU, RELU6 = Clip(0.0, math.inf), Clip(0.0, 6.0)


def nearest_wanted(found, y, low, high):
    return y + (found - y).clamp(*alike(y, low, high))


class Way(nn.Module):
    """A convolution, maybe a norm, and what follows."""

    def __init__(self, way, norm=False):
        super().__init__()
        self.stem, self.mid, self.conv, self.head = (nn.Conv2d(*size, 1) for size in ((3, 8), (8, 6), (6, 8), (8, 2)))
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.ways = {
            'module': nn.ReLU(), 'in place': nn.ReLU(inplace=True), 'six': nn.ReLU6(True), 'hard': nn.Hardtanh(-2, 3),
            'function': F.relu, 'method': lambda x: x.relu(), 'leaky': nn.LeakyReLU(), 'none': lambda x: x + 1}
        self.way = way

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        out = self.conv(torch.tanh(self.mid(x)))
        out = self.norm(out) if isinstance(self.norm, nn.BatchNorm2d) else out
        if self.way == 'used twice':
            return self.head(F.relu(out) + out)
        if self.way == 'read before':
            return self.head(torch.tanh(out) + F.relu(out))
        if self.way == 'in place, read after':
            return self.head(F.relu_(out) + out)
        if self.way == 'two clamps':
            return self.head(F.relu(out) + F.relu6(self.conv(torch.tanh(self.mid(out)))))
        if self.way == 'sum':
            return self.head(F.relu(x + out))
        if self.way == 'sum in place':
            out += x
            return self.head(F.relu(out, inplace=True))
        if self.way == 'returned':
            return F.relu(out), out
        return self.head(self.ways[self.way](out))


@pytest.mark.parametrize(('way', 'expected'), [
    ('module', RELU), ('in place', RELU), ('six', RELU6), ('hard', Clip(-2.0, 3.0)), ('function', RELU),
    ('method', RELU), ('leaky', None), ('none', None), ('used twice', None), ('read before', None),
    ('in place, read after', RELU), ('two clamps', None), ('sum', RELU), ('sum in place', RELU), ('returned', None)])
@pytest.mark.parametrize('norm', [False, True])
def test_the_clamp_that_alone_reads_a_layer_is_found(way, expected, norm):
    with torch.no_grad():
        survey = Survey(Way(way, norm).eval(), lambda model: model(torch.randn(2, 3, 4, 4)))
    norms = ('norm',) if norm else ()
    assert survey.clip('conv', norms, survey.summand('conv', norms) is not None) == expected


def test_which_functions_are_clamps():
    x = torch.zeros(2)
    assert clip_of(F.relu, (x,), dict(inplace=True)) == clip_of(torch.relu_, (x,), {}) == RELU
    assert clip_of(F.hardtanh, (x, -3.0), dict(max_val=2.0)) == Clip(-3.0, 2.0)
    assert clip_of(F.hardtanh, (x,), {}) == Clip(-1.0, 1.0)
    assert clip_of(F.relu6, (x,), {}) == RELU6
    assert clip_of(F.gelu, (x,), {}) is None


def test_what_is_wanted_is_the_nearest_that_is_clamped_alike():
    grid = torch.linspace(-4, 4, 801, dtype=torch.float64)
    low, high = torch.tensor(-1.0).double(), torch.tensor(2.0).double()
    for y in (-3.0, -1.0, 0.5, 2.0, 2.5):
        alike = grid[(grid.clamp(-1, 2) - min(max(y, -1), 2)).abs() < 1e-9]
        for found in (-3.5, -0.7, 0.9, 3.1):
            nearest = alike[(alike - found).abs().argmin()]
            assert float(nearest_wanted(*torch.tensor([found, y], dtype=torch.float64), low, high)) == \
                pytest.approx(float(nearest), abs=1e-9)


def samples_of(groups=2, inputs=5, outputs=4, count=300, added=False, low=-0.3, high=1.5, centred=True):
    torch.manual_seed(0)
    shape = groups, outputs, 1
    kept = Samples(torch.full(shape, low).double(), torch.full(shape, high).double(), torch.ones(shape).double(),
                   centred, count)
    parts, sums = [], {False: Sums(), True: Sums()}
    for held in (False, False, True):
        x = torch.randn(groups, inputs, count // 3, dtype=torch.float64)
        y = torch.tanh(torch.randn(groups, outputs, inputs, dtype=torch.float64) @ x) * 2
        other = torch.randn_like(y) if added else None
        kept.add(held, x, y, other)
        sums[held].add(x, y)
        parts.append((x, y, torch.zeros_like(y) if other is None else other))
    return kept, parts, {held: one.moments() for held, one in sums.items()}


@pytest.mark.parametrize('added', [False, True])
def test_turns_bring_the_outputs_nearer_to_what_is_clamped_alike(added, monkeypatch):
    kept, parts, moments = samples_of(added=added)
    x, y, other = (torch.cat(one, 2) for one in zip(*parts[:2]))
    prior = torch.zeros(2, 4, 5, dtype=torch.float64)
    distances = []
    for turns in range(6):
        monkeypatch.setattr(clipping, 'TURNS', turns)
        weight, offset = kept.solved(LeastSquares(moments[False], prior), (False,), 0.0)
        found = weight @ x + offset[:, :, None]
        gap = found - nearest_wanted(found, y, -0.3 - other, 1.5 - other)
        distances.append(float(gap.square().sum()))
    assert all(later < earlier for earlier, later in zip(distances, distances[1:]))


@pytest.mark.parametrize('centred', [False, True])
def test_moments_are_those_of_the_wanted_outputs(centred):
    kept, parts, moments = samples_of(centred=centred)
    linear = moments[False].joined(moments[True])
    linear = linear if centred else linear.uncentred()
    weight, offset = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    found = kept.moments(linear, (False, True), weight, offset)
    sums = Sums()
    for x, y, _ in parts:
        out = weight @ x + offset[:, :, None]
        sums.add(x, nearest_wanted(out, y, torch.tensor(-0.3).double(), torch.tensor(1.5).double()))
    expected = sums.moments() if centred else sums.moments().uncentred()
    for name in ('x', 'y', 'xx', 'yx'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_the_error_is_that_behind_the_clamp():
    kept, parts, _ = samples_of()
    x, y, _ = parts[2]
    weight, offset = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    out, wanted = (weight @ x + offset[:, :, None]).clamp(-0.3, 1.5), y.clamp(-0.3, 1.5)
    spread = (wanted - wanted.mean(2, keepdim=True)).square().sum()
    assert kept.error(weight, offset) == pytest.approx(float((out - wanted).square().sum() / spread))


def test_few_of_many_samples_are_kept(monkeypatch):
    monkeypatch.setattr(clipping, 'KEPT', 300 * 4.0)
    kept, _, _ = samples_of()
    assert [part[0].size(2) for part in kept._parts[False]] == [3, 3]


@pytest.mark.parametrize('norm', [False, True])
def test_outputs_beyond_the_ends_are_clamped(norm):
    net = randomise(Way('six', norm)).double().eval()
    if norm:
        net.norm.weight.data[::2] *= -1
        net.norm.weight.data[3] = 0
    pruner = Pruner(copy.deepcopy(net), torch.randn(1, 3, 4, 4, dtype=torch.float64), ratio=0.4)
    pruner.cut()
    made = plan.make_repair_plan(pruner.mutator, net, lambda model: model.eval()(torch.randn(
        2, 3, 4, 4, dtype=torch.float64)), 10, True, 10, 1e9)
    layer = next(layer for stage in made.stages for layer in stage.layers if layer.name == 'conv')
    low, high, factor = (part.flatten() for part in layer.flat())
    for place, row in enumerate(layer.rows.tolist()):
        if norm and row == 3:
            assert (low[place], high[place]) == (-math.inf, math.inf)
            continue
        ends = torch.zeros(1, len(net.conv.weight), 1, 2, dtype=torch.float64)
        ends[0, row, 0] = torch.stack([low[place], high[place]])
        with torch.no_grad():
            through = net.norm(ends)[0, row, 0]
        assert sorted(through.tolist()) == pytest.approx([0.0, 6.0])
        assert float(factor[place]) == pytest.approx(float((through[1] - through[0]) / (high[place] - low[place])))


def test_a_repair_is_nearer_behind_the_activation(monkeypatch):
    torch.manual_seed(0)
    dense = randomise(Way('in place', norm=True)).eval()
    images = torch.randn(200, 3, 6, 6)
    errors = {}
    for turns in (0, 5):
        monkeypatch.setattr(clipping, 'TURNS', turns)
        pruner = Pruner(copy.deepcopy(dense), images[:1], ratio=0.4)
        pruner.cut()
        done = repair(pruner.mutator, dense, images)
        assert done.layers['conv'].applied
        errors[turns] = done.layers['conv'].after
    assert errors[5] < 0.98 * errors[0]


def test_where_the_turns_are_worse_on_held_back_samples_the_linear_solution_stays(monkeypatch):
    torch.manual_seed(0)
    dense = randomise(Way('in place')).eval()
    images = torch.randn(60, 3, 6, 6)
    weights = []
    for worse in (False, True):
        if worse:
            monkeypatch.setattr(Samples, 'solved', lambda self, linear, parts, ridge: (
                linear.prior * 0, linear.prior.new_zeros(linear.prior.shape[:2])))
        else:
            monkeypatch.setattr(layer_by_layer.Samples, 'error', lambda self, weight, offset: 1.0)
        pruner = Pruner(copy.deepcopy(dense), images[:1], ratio=0.4)
        pruner.cut()
        done = repair(pruner.mutator, dense, images)
        weights.append((done.layers['conv'].applied, pruner.model.conv.weight.abs().sum() > 0))
        monkeypatch.undo()
    assert weights == [(False, True), (True, True)]
