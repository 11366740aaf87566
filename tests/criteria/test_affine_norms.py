"""Batch norms as a factor and an addend: torch's own outputs and gradients, and no other forward left behind."""
import copy

import pytest
import torch
from torch import nn

from mmprune.criteria.affine_norms import affine_norms


def trained(norm):
    """Return a norm in eval mode with statistics of its own."""
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2.0)
    return norm.double().eval()


@pytest.mark.parametrize(('norm', 'shape'), [
    (nn.BatchNorm1d(4), (3, 4)), (nn.BatchNorm1d(4), (3, 4, 5)), (nn.BatchNorm2d(4), (3, 4, 5, 2)),
    (nn.BatchNorm2d(4, affine=False), (3, 4, 5, 2)), (nn.BatchNorm3d(4), (3, 4, 2, 3, 2))])
def test_outputs_and_gradients_are_those_of_torch(norm, shape):
    torch.manual_seed(0)
    trained(norm)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(shape, dtype=torch.float64)
    expected = norm(x)
    gradient, = torch.autograd.grad((expected * weights).sum(), x)
    with affine_norms(norm):
        found = norm(input=x)
        assert 'addcmul' in type(found.grad_fn).__name__.lower()
        (found * weights).sum().backward()
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert torch.allclose(x.grad, gradient, rtol=1e-13, atol=1e-13)
    assert all(parameter.grad is None for parameter in norm.parameters())
    assert 'forward' not in vars(norm)


def test_a_graph_may_begin_at_a_norm_and_other_precisions_and_modes_stay_torch_s():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    norm, x = trained(nn.BatchNorm2d(4)), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    training, untracked, own = copy.deepcopy(norm).train(), nn.BatchNorm2d(4, track_running_stats=False).eval(), Own(4)
    with affine_norms(nn.ModuleList([norm, untracked, own.eval()])), affine_norms(training):
        assert norm(x).requires_grad
        assert type(norm(x).grad_fn) is type(training(x).grad_fn)
        with pytest.raises(RuntimeError):  # torch's own refusal of two precisions, not a promotion
            norm(x.float().requires_grad_())
        assert not any('forward' in vars(module) for module in (training, untracked, own))
    with pytest.raises(ZeroDivisionError), affine_norms(norm):
        raise ZeroDivisionError
    assert 'forward' not in vars(norm)
