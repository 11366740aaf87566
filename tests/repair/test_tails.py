"""Tails against whole runs, with every module changed in turn."""
import copy

import pytest
import torch
import toy_nets
from torch import nn

from mmprune.repair import tails
from mmprune.repair.tails import Tails


class Counted(nn.Conv2d):
    """Writes down how often it runs."""

    runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x)


class Skip(nn.Module):
    """A chain of blocks, the output of the first of which is used again at the end, beside a layer before them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(Counted(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(
            inplace=True)) for _ in range(4)])
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.tanh(self.stem(x) * 0.5)
        first = None
        for block in self.blocks:
            x = block(x)
            first = x.clone() if first is None else first
        return self.fc((x + first).mean((2, 3)))


NETS = {'Skip': Skip, **{name: getattr(toy_nets, name) for name in ('Residual', 'Concat', 'Depthwise', 'Tokens')}}


@pytest.mark.parametrize('name', NETS)
def test_what_changed_models_return_whichever_module_has_changed(name):
    torch.manual_seed(0)
    model = toy_nets.randomise(NETS[name]()).eval()
    batches = [torch.randn(size, 3, 6, 6) for size in (5, 3)]
    with torch.no_grad():
        found = Tails(model, batches, lambda batch: model(batch), batches[0][:2])
        assert all(torch.equal(one, model(batch)) for one, batch in zip(found.first(), batches))
        for changed, module in [(name, module) for name, module in model.named_modules()
                                if any(True for _ in module.parameters(recurse=False))]:
            state = copy.deepcopy(module.state_dict())
            for parameter in module.parameters(recurse=False):
                parameter.mul_(1.5)
            for number, batch in enumerate(batches):
                torch.testing.assert_close(found.outputs(number, {changed}), model(batch))
            module.load_state_dict(state)
        both = {'fc', next(iter(dict(model.named_children())))}
        torch.testing.assert_close(found.outputs(0, both), model(batches[0]))


def runs(model, run):
    """Return how often the convolution of each block runs."""
    before = [block[0].runs for block in model.blocks]
    run()
    return [block[0].runs - count for block, count in zip(model.blocks, before)]


@torch.no_grad()
def test_modules_before_the_first_that_has_changed_do_not_run(monkeypatch):
    model = toy_nets.randomise(Skip()).eval()
    batch = torch.randn(4, 3, 6, 6)
    found = Tails(model, [batch], lambda batch: model(batch), batch[:2])
    list(found.first())
    for changed, expected in [({'blocks.2.0', 'blocks.3.0'}, [0, 0, 1, 1]), ({'fc'}, [0, 0, 0, 0]),
                              ({'stem'}, [1, 1, 1, 1]), ({'fc', 'blocks.1.1'}, [0, 0, 1, 1]), (set(), [0, 0, 0, 0])]:
        assert runs(model, lambda changed=changed: found.outputs(0, changed)) == expected
    size = 4 * 4 * 4 * 36
    for room, expected in [(size, [1, 1, 1, 1]), (2 * size, [0, 0, 0, 0]), (3 * size, [0, 0, 0, 0])]:
        monkeypatch.setattr(tails, 'KEPT', room)  # what does not fit is not kept
        other = Tails(model, [batch], lambda batch: model(batch), batch[:2])
        list(other.first())
        assert runs(model, lambda other=other: other.outputs(0, {'fc'})) == expected
        torch.testing.assert_close(other.outputs(0, {'blocks.3.1'}), model(batch))
    without = Tails(model, [batch], lambda batch: model(batch))
    list(without.first())
    assert runs(model, lambda: without.outputs(0, {'fc'})) == [1, 1, 1, 1]
