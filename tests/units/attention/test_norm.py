"""The norm of a stream computes what a layer norm does over all channels, of which the removed ones are zero."""
import pytest
import torch
from torch import nn

from mmprune.units.attention.norm import StreamNorm
from mmprune.units.attention.taking_over import take_over

KEPT = [0, 2, 3, 6]


def dense_and_cut(bias=True):
    dense, cut = nn.LayerNorm(8).double(), nn.LayerNorm(8).double()
    for norm in () if bias else (dense, cut):
        norm.register_parameter('bias', None)
    nn.init.normal_(dense.weight)
    cut.load_state_dict(dense.state_dict())
    take_over([cut])
    for name in ('weight', 'bias')[:1 + bias]:
        setattr(cut, name, nn.Parameter(getattr(dense, name)[KEPT].detach()))
    return dense, cut


@pytest.mark.parametrize('bias', [True, False])
def test_removed_channels_are_zeros(bias):
    dense, cut = dense_and_cut(bias)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    whole = torch.zeros(3, 5, 8, dtype=torch.float64)
    whole[..., KEPT] = x
    assert torch.allclose(cut(x), dense(whole)[..., KEPT], rtol=0, atol=1e-14)
    assert isinstance(cut, StreamNorm)
    assert cut.dense_width == 8


def test_gradients():
    _, cut = dense_and_cut()
    assert torch.autograd.gradcheck(cut, torch.randn(2, 4, dtype=torch.float64, requires_grad=True))


def test_half_precision_is_summed_in_single():
    """A mean of values around 300 has a variance that half precision cannot hold."""
    _, cut = dense_and_cut()
    x = torch.randn(2, 4) + 300
    expected = cut.float()(x.to(torch.bfloat16).float())
    found = cut.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, rtol=0.02, atol=0.02)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert cut.float()(x).dtype == torch.float32
