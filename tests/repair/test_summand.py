"""Where a layer's output is added to a stream that is off already, it makes up for that too."""
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import randomise

from mmprune.pruning.pruner import Pruner
from mmprune.repair import plan, sampling
from mmprune.repair.refit import repair
from mmprune.repair.summand import Summand
from mmprune.repair.survey import Survey

#: More than any layer here has, so that every output is a sample.
ALL = 10**6


class Block(nn.Module):
    """``x`` plus two convolutions of it; ``way`` says how the sum is made."""

    def __init__(self, way='plain', norm=False):
        super().__init__()
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(6) if norm else None
        self.down = nn.Conv2d(6, 6, 1) if way == 'downsample' else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        if self.way == 'changed':
            x.mul_(2)  # after the block was called, and before nothing that reads it
        out = self.conv2(torch.tanh(self.conv1(x if self.way != 'changed' else x + 0)))
        out = out if self.norm is None else self.norm(out)
        if self.way == 'downsample':
            out += self.down(x)
        elif self.way == 'in place':
            out += x
        elif self.way == 'into the stream':
            x = x + 0
            x += out
            return x
        elif self.way == 'used twice':
            return x + out + torch.tanh(out)
        elif self.way == 'no sum':
            return out
        else:
            out = x + out
        return self.relu(out)


class Stream(nn.Module):
    """A stem whose channels are pruned, a block, and a head."""

    def __init__(self, way='plain', norm=False):
        super().__init__()
        self.stem, self.mid = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1)
        self.block, self.head = Block(way, norm), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(self.block(torch.tanh(self.mid(torch.tanh(self.stem(x))))))


@pytest.mark.parametrize(('way', 'layer', 'expected'), [
    ('plain', 'block.conv2', Summand('block', True)), ('in place', 'block.conv2', Summand('block.conv1', True)),
    ('downsample', 'block.conv2', None), ('downsample', 'block.down', Summand('block.conv2', False)),
    ('into the stream', 'block.conv2', None), ('used twice', 'block.conv2', None), ('no sum', 'block.conv2', None),
    ('changed', 'block.conv2', None), ('plain', 'block.conv1', None), ('plain', 'head', None)])
def test_what_a_layer_is_added_to_is_found(way, layer, expected):
    with torch.no_grad():
        survey = Survey(Stream(way).eval(), lambda model: model(torch.randn(2, 3, 4, 4)))
    found = survey.summand(layer, ())
    if expected == Summand('block', True):  # the innermost module that reads it
        expected = Summand('block.conv1', True)
    assert found == expected


def test_it_is_found_behind_a_norm():
    with torch.no_grad():
        survey = Survey(Stream(norm=True).eval(), lambda model: model(torch.randn(2, 3, 4, 4)))
    assert survey.summand('block.conv2', ('block.norm',)) == Summand('block.conv1', True)
    assert survey.summand('block.conv2', ()) is None


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize(('way', 'norm'), [('plain', False), ('in place', True), ('downsample', True)])
def test_the_sum_is_as_near_as_least_squares_can_make_it(way, norm, whole, monkeypatch):
    monkeypatch.setattr(sampling, 'SAMPLES', ALL)
    if whole:
        monkeypatch.setattr(plan, 'find_chain', lambda *args: None)
    torch.manual_seed(1)
    dense = randomise(Stream(way, norm)).double().eval()
    dense.block.relu = nn.LeakyReLU(inplace=True)  # no clamp, behind which other outputs are as good
    images = torch.randn(160, 3, 5, 5, dtype=torch.float64)
    pruner = Pruner(copy.deepcopy(dense), images[:1], 'Random', target=dict(ratio=0.4, scope='layer'))
    pruner.cut()
    done = repair(pruner.mutator, dense, images, positions=ALL, ridge=0.0)
    last = 'block.down' if way == 'downsample' else 'block.conv2'
    assert done.layers[last].applied
    assert not done.norms
    net, block = pruner.model.eval(), pruner.model.block
    rows = pruner.mutator.layout('block.conv2.weight')[0].astype(int)
    with torch.no_grad():
        x, wanted = (torch.tanh(one.mid(torch.tanh(one.stem(images)))) for one in (net, dense))
        wanted = before_relu(dense.block, wanted)[:, rows]
        found = before_relu(block, x)
        inner = x if way == 'downsample' else torch.tanh(block.conv1(x))
        rest = wanted - (found - at_work(block, last, inner))
    columns = inner.movedim(1, -1).reshape(-1, inner.size(1)).numpy()
    columns = np.concatenate([columns, np.ones((len(columns), 1))], 1)
    goal = rest.movedim(1, -1).reshape(len(columns), -1).numpy()
    gap = goal - columns @ np.linalg.lstsq(columns, goal, rcond=None)[0]
    assert float((wanted - found).square().sum()) == pytest.approx(float(np.square(gap).sum()), rel=1e-6)


def before_relu(block, x):
    """What the block returns before its last activation."""
    out = block.conv2(torch.tanh(block.conv1(x)))
    out = out if block.norm is None else block.norm(out)
    return out + (x if block.down is None else block.down(x))


def at_work(block, layer, inner):
    """What a layer adds to the sum."""
    out = block.get_submodule(layer.partition('.')[2])(inner)
    return block.norm(out) if block.norm is not None and layer == 'block.conv2' else out


def test_tokens_are_added_up_too():
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
            self.up, self.down, self.head = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.embed(x)
            return self.head(x + self.down(F.gelu(self.up(self.norm(x)))))

    dense = Tokens().eval()
    images = torch.randn(60, 5, 4)
    survey = Survey(dense, lambda model: model(images[:2]))
    assert survey.summand('down', ()) == Summand('norm', True)
    pruner = Pruner(copy.deepcopy(dense), images[:1], ratio=0.4)
    pruner.cut()
    done = repair(pruner.mutator, dense, images)
    assert done.layers['down'].applied
    assert done.after < done.before
