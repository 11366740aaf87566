"""Two sizes that a forward compares: cut to the same number, it would take the other branch."""
import pytest
import torch
from torch import nn

from mmprune import AttentionProduct, Pruner
from mmprune.graph.written_size import WrittenSize

#: How a forward may ask whether its widths differ; None: it does not.
COMPARES = {
    'left': lambda stage: stage.wider != stage.width, 'right': lambda stage: stage.width != stage.wider,
    'equal': lambda stage: (stage.width == stage.wider) is False, 'items': lambda stage: stage.widths[0] != stage.wider,
    'scaled': lambda stage: stage.half * 2 != stage.wider, 'tuples': lambda stage: (stage.width,) != (stage.wider,),
    'nothing': None}


class Stage(nn.Module):
    """Widens its input where its widths differ, as the stages of Hiera do."""

    def __init__(self, width, wider, compares):
        super().__init__()
        self.width, self.wider, self.half, self.widths, self.compares = width, wider, width // 2, [width], compares
        self.project, self.read = nn.Conv2d(width, wider, 1), nn.Conv2d(width, wider, 3, padding=1)

    def forward(self, x):
        y = self.read(x)
        if self.compares is None or self.compares(self):
            x = self.project(x).view(x.size(0), self.wider, *x.shape[2:])
        return torch.tanh(x + y)


def pruner_of(compares):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Stage(8, 16, COMPARES[compares]), nn.Conv2d(16, 4, 1))
    return Pruner(net, torch.randn(1, 3, 6, 6), 'L2', ratio=0.5)


@pytest.mark.parametrize('compares', [name for name, function in COMPARES.items() if function])
def test_a_compared_size_stays(compares):
    """Half of 16 is the 8 that the forward compares with."""
    pruner = pruner_of(compares)
    assert [unit.name for unit in pruner.mutator.units] == ['0_(0, 8)_8']
    reasons = {channels.name: channels.reason for channels in pruner.mutator.frozen}
    assert reasons['1.read_(0, 16)_16'].startswith(
        "its size is written down in attribute '1.wider', which the forward compares with")
    assert pruner.cut()(torch.randn(1, 3, 6, 6)).shape == (1, 4, 6, 6)


def test_a_size_that_is_not_compared_is_followed():
    pruner = pruner_of('nothing')
    assert [unit.name for unit in pruner.mutator.units] == ['0_(0, 8)_8', '1.read_(0, 16)_16']
    net = pruner.cut()
    assert net[1].wider == 8
    assert net(torch.randn(1, 3, 6, 6)).shape == (1, 4, 6, 6)


def test_it_compares_as_a_plain_number_does():
    plain, size = 8, WrittenSize.of(8, nn.Identity(), 'width', compared=[])
    for other in (8, 9, 8.0, float('nan'), None, '8', (8,)):
        assert (size == other) is (plain == other)
        assert (size != other) is (plain != other)
        assert (other == size) is (other == plain)
    assert (size == torch.tensor([8, 4])).tolist() == [True, False]
    assert torch.equal(torch.tensor([8, 4]) != size, torch.tensor([False, True]))
    assert size.compared == []
    assert {8: 'found'}[size] == 'found'


class Grouped(nn.Module):
    """Two heads of queries read each head of keys."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 6)
        self.product = AttentionProduct(4, 4, 4, kv_heads=2)

    def forward(self, x):
        return self.proj(self.product(self.q(x), self.kv(x)))


def test_heads_are_no_such_sizes():
    pruner = Pruner(Grouped(), torch.randn(1, 5, 6), 'L2', ratio=0.5)
    assert any(unit.name.endswith('#heads') for unit in pruner.mutator.units)
    assert pruner.cut()(torch.randn(1, 5, 6)).shape == (1, 5, 6)
