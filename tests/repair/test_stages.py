"""Models that are chains of modules are repaired stage by stage: where they are cut apart, and with the same result."""
import copy

import pytest
import torch
import toy_nets
from torch import nn
from toy_nets import randomise

from mmprune.pruning.pruner import Pruner
from mmprune.repair import layer_by_layer, plan, sampling
from mmprune.repair.refit import repair


class Pyramid(nn.Module):
    """A chain of blocks, two of whose outputs are used at the end; two modules of one head read both."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6),
                                                   nn.ReLU(inplace=True)) for _ in range(3)])
        self.lateral, self.head = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return [self.head(torch.tanh(self.lateral(one))) for one in found[1:]]


class Reused(nn.Module):
    """Residual blocks, each of which uses one activation that works in place twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.blocks = nn.Sequential(*[_ReusedBlock() for _ in range(3)])

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class _ReusedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def cut(dense, images):
    """Return a pruner of a copy after the cut."""
    pruner = Pruner(copy.deepcopy(dense), images[:1], ratio=0.4)
    pruner.cut()
    return pruner


def planned(dense, memory=1e9):
    """Return how a cut copy is repaired with so many bytes."""
    images = torch.randn(10, 3, 8, 8)
    mutator = cut(dense.eval(), images).mutator
    return plan.make_repair_plan(mutator, dense, lambda model: model.eval()(images[:2]), 10, True, 10, memory)


@pytest.mark.parametrize('make', [Pyramid, Reused, toy_nets.Everything, toy_nets.Residual])
def test_stage_by_stage_is_what_whole_forwards_give(make, monkeypatch):
    monkeypatch.setattr(sampling, 'SAMPLES', 10**6)  # every output, however few unknowns a layer has
    torch.manual_seed(0)
    images = torch.randn(60, 3, 8, 8, dtype=torch.float64)
    dense = randomise(make()).double()
    pruner = cut(dense, images)
    other = copy.deepcopy(pruner)
    chained = repair(pruner.mutator, dense, images)
    monkeypatch.setattr(plan, 'find_chain', lambda *args: None)
    monkeypatch.setattr(layer_by_layer, 'TARGETS', 1.0)  # the targets of a layer at a time, too
    whole = repair(other.mutator, dense, images)
    assert list(chained.layers) == list(whole.layers)
    for key, value in pruner.model.state_dict().items():
        assert torch.allclose(value, other.model.state_dict()[key], rtol=1e-6, atol=1e-8), key


def test_a_pyramid_is_cut_apart():
    torch.manual_seed(0)
    made = planned(Pyramid())
    assert [stage.kind for stage in made.stages] == ['head', 'links', 'links', 'links', 'links', 'rest']
    assert [layer.name for layer in made.stages[-1].layers] == ['lateral', 'head']
    assert made.chain.kept == {'blocks.1.2', 'blocks.2.2'}
    assert made.stages[-1].layers[0].calls == 2
    assert not made.half


def test_a_stage_ends_where_least_is_returned():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.Tanh(),
                          nn.Conv2d(6, 6, 1), nn.Upsample(scale_factor=4), nn.Conv2d(6, 2, 1), nn.Tanh())

    def stages(memory):
        made = planned(dense, memory)
        return [''.join(stage.links) for stage in made.stages if stage.kind == 'links'], made.half

    assert stages(1e9) == (['0123', '4', '567'], False)
    assert stages(4.0 * 2 * 2 * 16 * 16 * 2) == (['0123', '4', '567'], True)
    assert stages(100) == (['01234567'], True)  # all return more


def test_an_activation_in_place_between_two_modules_ends_a_chain():
    torch.manual_seed(0)
    made = planned(Reused())
    assert made.chain.links == ('stem', 'blocks.0', 'blocks.1', 'blocks.2', 'head')
    assert [layer.summand.module for stage in made.stages for layer in stage.layers if layer.summand] == [
        'blocks.0.conv1', 'blocks.1.conv1', 'blocks.2.conv1']
