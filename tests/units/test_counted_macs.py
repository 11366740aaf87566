"""Multiply-adds that are counted while a model runs, by kind."""
import pytest
import torch
from torch import nn
from torch.nn import functional

from mmprune.units.counted_macs import MacsByKind, counted_macs, macs_by_kind


class Calls(nn.Module):
    """Something that is done with a parameter."""

    def __init__(self, shape, call):
        super().__init__()
        self.weight, self.call = nn.Parameter(torch.randn(shape)), call

    def forward(self, x):
        return self.call(self.weight, x)


def test_convolutions_and_matrices():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 5 * 5, 7))
    x = torch.randn(2, 3, 5, 5)
    assert macs_by_kind(net, lambda model: model(x)) == MacsByKind(2 * 25 * 4 * 27, 2 * 100 * 7)
    assert counted_macs(net, lambda model: model(x)) == 2 * 25 * 4 * 27 + 2 * 100 * 7


def test_projections_of_fused_attention():
    x = torch.randn(1, 3, 8)
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    assert macs_by_kind(net, lambda model: model(x, x, x)) == (0, 3 * 4 * 8 * 8)


#: Product -> shape of the parameter, what is done with it, multiply-adds.
PRODUCTS = {
    '@': ((8, 4), lambda w, x: x @ w, 16 * 8 * 4),
    'matmul by keyword': ((8, 4), lambda w, x: torch.matmul(x, other=w), 16 * 8 * 4),
    '@ vector': ((8,), lambda w, x: x @ w, 16 * 8),
    'mv': ((8,), lambda w, x: torch.mv(x[0], w), 8 * 8),
    'mm by keyword': ((8, 4), lambda w, x: torch.mm(x[0], mat2=w), 8 * 8 * 4),
    'baddbmm': ((2, 8, 4), lambda w, x: torch.baddbmm(torch.zeros(2, 8, 4), x, w), 16 * 8 * 4),
    'einsum': ((8, 4), lambda w, x: torch.einsum('b i k, k j -> b i j', x, w), 16 * 8 * 4),
    'einsum with dots': ((8, 4), lambda w, x: torch.einsum('...k,kj->...j', x, w), 16 * 8 * 4),
    'transposed convolution by keyword': (
        (8, 4, 3), lambda w, x: functional.conv_transpose1d(input=x, weight=w), 16 * 8 * 4 * 3),
    'activations': ((8, 4), lambda w, x: x @ x, 0)}


@pytest.mark.parametrize('name', PRODUCTS)
def test_products_with_a_parameter(name):
    shape, call, macs = PRODUCTS[name]
    x = torch.randn(2, 8, 8)
    assert counted_macs(Calls(shape, call), lambda model: model(x)) == macs
