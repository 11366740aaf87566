"""Why channels stay, and how much of the multiply-adds stays for it."""
import pytest
import torch
from torch import nn

from mmprune import Pruner
from mmprune.report.proof import prunable_share
from mmprune.units.mutator import NoPrunableUnitError
from mmprune.units.reasons import CATEGORIES, OTHER, category, explain, stay_shares


class Mixed(nn.Module):
    """Two thirds of a stream behind a norm across channels, a branch that is free."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 16, 1)
        self.c, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        return self.head(self.c(self.b(self.norm(self.a(x)))))


IMAGE = torch.randn(1, 3, 8, 8)


def test_shares_add_up_and_are_worked_out_by_hand():
    mutator = Pruner(Mixed(), IMAGE, ratio=0.5).mutator
    macs = {'a': 3 * 8, 'b': 8 * 16, 'c': 16 * 16, 'head': 16 * 2}
    whole = sum(macs.values())
    shares = stay_shares(mutator)
    # a stays, b keeps one row of 8 columns, c one element, head one column of 2
    assert shares == pytest.approx({'group norm': (24 + 8) / whole, 'last channel of a unit': 1 / whole,
                                    'input and output': 2 / whole})
    assert 1 - sum(shares.values()) == pytest.approx(prunable_share(mutator))
    assert explain(mutator) == '92 % of the multiply-adds can go; 8 % stay: group norm 7, input and output 1'


@pytest.mark.parametrize(('reason', 'expected'), [
    ("layer_norm normalises across channels in module 'x.norm2'", 'layer norm'),
    ("scaled_dot_product_attention combines its channels with one another in module 'a'", 'attention'),
    ("bmm multiplies it with another activation, as attention does in module 'a'", 'attention'),
    ("its size is written down in attribute 'x.wider', which the forward compares with 'width'", 'written sizes'),
    ("cutting it breaks the forward of module 'x' (RuntimeError: 3 against 5): where a size", 'written sizes'),
    ("cutting it changes what the model computes by 1e-2 (seen in the outputs only)", 'order of channels'),
    ("linear layer 'fc' is coupled to it (mutate_linear=True prunes it)", 'linear layers (mutate_linear)'),
    ("mean reduces over the channel axis in the model", 'values of all channels'),
    ("svd has no channel rule (add one with mmprune.register_op) in module 'q'", 'operations without a rule'),
    ('something new', OTHER)])
def test_categories(reason, expected):
    assert category(reason) == expected
    assert expected in {*CATEGORIES, OTHER}


class ChannelAttention(nn.Module):
    """A convolution along the channels, as in ECA."""

    def __init__(self):
        super().__init__()
        self.a, self.eca, self.head = nn.Conv2d(3, 8, 1), nn.Conv1d(1, 1, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x)
        gate = self.eca(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1)
        return self.head(x * gate)


def test_the_error_says_which_operation_keeps_the_channels_and_leaves_out_image_and_outputs():
    with pytest.raises(NoPrunableUnitError) as raised:
        Pruner(ChannelAttention(), IMAGE, ratio=0.5)
    assert str(raised.value).splitlines()[1] == "  a_(0, 8)_8: conv1d runs along its channels in module 'eca'"
    assert 'output' not in str(raised.value)


def test_the_error_sorts_by_multiply_adds_and_names_the_option():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 2))
    with pytest.raises(NoPrunableUnitError) as raised:
        Pruner(net, torch.randn(1, 12), ratio=0.5, mutate_linear=False)
    lines = str(raised.value).splitlines()
    assert [line.partition('_')[0] for line in lines[1:3]] == ['  3', '  1']
    assert lines[-1] == '  mutate_linear=True prunes what linear layers read and produce'
