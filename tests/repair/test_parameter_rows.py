"""Projections that are rows of one parameter are repaired: against numpy's least squares, and to lower errors."""
import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmprune.pruning.pruner import Pruner
from mmprune.repair import sampling
from mmprune.repair.refit import repair
from mmprune.units.mutator import ChannelMutator

#: More than any layer here has, so that every output is a sample.
ALL = 10**6


@pytest.fixture(autouse=True)
def every_position(monkeypatch):
    monkeypatch.setattr(sampling, 'SAMPLES', ALL)


class Net(nn.Module):
    """Tokens, and the attention of them to themselves or to fewer others."""

    def __init__(self, crossed, **options):
        super().__init__()
        self.crossed = crossed
        self.first, self.second = nn.Linear(6, 12), nn.Linear(6, options.get('kdim', 12))
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True, **options)
        self.last = nn.Linear(12, 4)

    def read(self, x):
        """What queries, keys and values are projections of."""
        x, others = torch.tanh(self.first(x)), torch.tanh(self.second(x[:, ::2]))
        return (x, others, others) if self.crossed else (x, x, x)

    def forward(self, x):
        return self.last(self.attention(*self.read(x), need_weights=False)[0])


CASES = {'self': lambda: Net(False), 'crossed': lambda: Net(True), 'without a bias': lambda: Net(True, bias=False),
         'of other widths': lambda: Net(True, kdim=10, vdim=10)}


def repaired(case):
    """Return a net whose streams and attention were cut, its dense twin, the images and what the repair says."""
    torch.manual_seed(0)
    net = CASES[case]().double().eval()
    dense, images = copy.deepcopy(net), torch.randn(80, 6, 6, dtype=torch.float64)
    pruner = Pruner(net, images[:1], 'L2', ratio=0.3)
    pruner.cut()
    return pruner, dense, images, repair(pruner.mutator, dense, images, positions=ALL, ridge=0.0)


def weights_of(attention):
    """Return the weights and biases of queries, keys and values, and their names in a state dict."""
    product = getattr(attention, 'product', None)
    sizes = product.sizes if product is not None else [attention.embed_dim] * 3
    weights = ([attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
               if attention.in_proj_weight is None else attention.in_proj_weight.split(sizes))
    biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.split(sizes)
    return weights, biases, sizes


def kept_rows(mutator, sizes, attention):
    """Return for queries, keys and values which of the 12 dense rows are left."""
    if attention.in_proj_weight is None:
        return [mutator.layout(f'attention.{name}_proj_weight')[0] for name in 'qkv']
    rows = np.split(mutator.layout('attention.in_proj_weight')[0], np.cumsum(sizes)[:-1])
    return [own - 12 * place for place, own in enumerate(rows)]


@pytest.mark.parametrize('case', CASES)
def test_rows_are_those_of_numpys_least_squares(case):
    pruner, dense, images, done = repaired(case)
    attention = pruner.model.attention
    weights, biases, sizes = weights_of(attention)
    assert all(size < 12 for size in sizes)
    dense_weights, dense_biases, _ = weights_of(dense.attention)
    with torch.no_grad():
        read, wanted = pruner.model.read(images), dense.read(images)
    for place, rows in enumerate(kept_rows(pruner.mutator, sizes, attention)):
        x = read[place].flatten(0, 1).numpy()
        y = torch.nn.functional.linear(wanted[place], dense_weights[place], dense_biases[place])
        y = y.flatten(0, 1).detach().numpy()[:, rows.astype(int)]
        has_bias = biases[place] is not None
        columns = np.concatenate([x, np.ones((len(x), 1))], 1) if has_bias else x
        expected = np.linalg.lstsq(columns, y, rcond=None)[0]
        found = weights[place].detach().numpy().T
        assert found == pytest.approx(expected[:-1] if has_bias else expected, rel=1e-6, abs=1e-9)
        if has_bias:
            assert biases[place].detach().numpy() == pytest.approx(expected[-1], rel=1e-6, abs=1e-9)
    assert done.after < done.before


@pytest.mark.parametrize('case', CASES)
def test_no_projection_is_left(case):
    pruner, dense, images, done = repaired(case)
    assert done.left == {}
    found = [name for name in done.layers if 'rows' in name]
    assert len(found) == (1 if case == 'self' else 3)
    assert all(done.layers[name].applied for name in found)
    assert type(dense.attention) is nn.MultiheadAttention  # it ran our forward meanwhile
    assert list(dense.attention.state_dict()) == list(CASES[case]().attention.state_dict())


def test_masked_is_cut_after_a_repair():
    """What is solved is the parameter itself: later cuts and checkpoints follow."""
    pruner, _, images, _ = repaired('crossed')
    mutator: ChannelMutator = pruner.mutator
    state = copy.deepcopy(pruner.model.state_dict())
    assert state['attention.in_proj_weight'].shape == pruner.model.attention.in_proj_weight.shape
    masks = {unit.name: unit.kept & (np.arange(len(unit.kept)) != np.flatnonzero(unit.kept)[0])
             for unit in mutator.units if unit.kept.sum() > 1}
    other = copy.deepcopy(pruner)
    other.mutator.mask(masks)
    masked = other.model(images[:4])
    mutator.cut(masks)
    assert torch.allclose(pruner.model(images[:4]), masked, atol=1e-10)
