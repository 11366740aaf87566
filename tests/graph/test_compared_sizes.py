"""Two sizes that a forward compares: cut to the same number, it would take the other branch."""
import torch
from torch import nn

from mmprune import Pruner


class Stage(nn.Module):
    """Widens its input where its widths differ, as the stages of Hiera do."""

    def __init__(self, width, wider, compares=True):
        super().__init__()
        self.width, self.wider, self.compares = width, wider, compares
        self.project, self.read = nn.Conv2d(width, wider, 1), nn.Conv2d(width, wider, 3, padding=1)

    def forward(self, x):
        y = self.read(x)
        if not self.compares or self.width != self.wider:
            x = self.project(x).view(x.size(0), self.wider, *x.shape[2:])
        return torch.tanh(x + y)


def pruner_of(compares):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Stage(8, 16, compares), nn.Conv2d(16, 4, 1))
    return Pruner(net, torch.randn(1, 3, 6, 6), 'L2', ratio=0.5)


def test_a_compared_size_stays():
    """Half of 16 is the 8 that the forward compares with; what no forward compares goes."""
    pruner = pruner_of(compares=True)
    assert [unit.name for unit in pruner.mutator.units] == ['0_(0, 8)_8']
    reasons = {channels.name: channels.reason for channels in pruner.mutator.frozen}
    assert "the forward compares its size, attribute 'wider', with attribute 'width'" in reasons[
        '1.read_(0, 16)_16']
    assert pruner.cut()(torch.randn(1, 3, 6, 6)).shape == (1, 4, 6, 6)


def test_a_size_that_is_not_compared_is_followed():
    pruner = pruner_of(compares=False)
    assert [unit.name for unit in pruner.mutator.units] == ['0_(0, 8)_8', '1.read_(0, 16)_16']
    net = pruner.cut()
    assert net[1].wider == 8
    assert net(torch.randn(1, 3, 6, 6)).shape == (1, 4, 6, 6)
