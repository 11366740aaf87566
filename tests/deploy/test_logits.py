"""Scores are compared as logits: a softmax hides a network that is 1 % off, its logarithms do not."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmprune.deploy.logits import SMALLEST, ScoreFunction, difference, run, where
from mmprune.units.equivalence import relative_difference

SOFTMAX, SIGMOID = ScoreFunction('softmax'), ScoreFunction('sigmoid')


def confident(count=5, classes=10):
    """Return logits of images whose class is sure."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), torch.arange(count)] += 25
    return logits


def off(logits, share, function):
    """Return the difference of scores of which one has all logits off by a share."""
    score = torch.sigmoid if function is SIGMOID else lambda values: values.softmax(1)
    return difference([score(logits)], [score(logits * (1 + share))], [function])


def test_what_a_softmax_hides_is_seen():
    logits = confident()
    scores = [values.softmax(1) for values in (logits, logits * 1.012)]
    assert relative_difference(scores[:1], scores[1:]) < 1e-8
    assert difference(scores[:1], scores[1:], [SOFTMAX]) == pytest.approx(0.012, rel=1e-3)


@pytest.mark.parametrize('scale', [1e-3, 0.1, 1.0, 20.0, 300.0])
def test_a_softmax_is_compared_by_its_logits_whatever_they_are(scale):
    """The logits may be nearly equal, or so far apart that scores are 0: 1 % is seen, and rounding is not."""
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(8, 100, generator=generator)
    assert off(logits, 0.01, SOFTMAX) > 1e-4
    assert off(logits, 2e-7, SOFTMAX) < 1e-5
    exact = logits.double().softmax(1)
    assert difference([exact], [(logits + 100).softmax(1)], [SOFTMAX]) < (1e-5 if scale > 1 else 1e-4)  # a constant


def test_only_the_difference_between_logits_counts():
    logits = torch.tensor([[3.0, 1.0, -1.0]])
    changed = torch.tensor([[3.0, 1.0, -0.9]])
    gap = difference([logits.softmax(1)], [changed.softmax(1)], [SOFTMAX])
    assert gap == pytest.approx(0.05 / 2, rel=1e-5)  # half the range of 0, 0, 0.1, over half that of 3, 1, -1


@pytest.mark.parametrize('middle', [-9.0, -4.0, 0.0, 4.0, 9.0])
def test_a_sigmoid_is_compared_by_its_logits(middle):
    generator = torch.Generator().manual_seed(2)
    logits = middle + torch.randn(8, 20, generator=generator)
    assert off(logits, 0.01, SIGMOID) > 5e-3
    scores = logits.sigmoid()
    rounding = torch.finfo(torch.float32).eps * (2 * torch.rand(scores.shape, generator=generator) - 1)
    rounded = scores + rounding  # as onnxruntime's, which is exact to a digit of 1
    assert difference([scores], [rounded.clamp(0, 1)], [SIGMOID]) < 1e-5


def test_saturated_scores():
    """A score of 0 or 1 says nothing of its logit, but it must be 0 or 1."""
    for function in (SOFTMAX, SIGMOID):
        scores = torch.tensor([[0.0, 1.0, 1e-40]])
        assert difference([scores], [torch.tensor([[SMALLEST / 2, 1.0, 0.0]])], [function]) < 1e-30
        assert difference([scores], [torch.tensor([[0.0, 0.99, 0.0]])], [function]) > 1e-3
        for wrong in (float('nan'), -0.5, 1.5):
            assert difference([scores], [torch.tensor([[wrong, 1.0, 0.0]])], [function]) > 0.1


class Net(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.fc, self.end = nn.Linear(4, 3), end

    def forward(self, x):
        weights = x.softmax(-1)  # an attention, not an output
        return self.end(self.fc(x * weights))


@pytest.mark.parametrize(('end', 'function'), [
    (nn.Softmax(dim=1), SOFTMAX), (nn.Softmax(-1), ScoreFunction('softmax', -1)), (nn.Sigmoid(), SIGMOID),
    (torch.sigmoid, SIGMOID), (lambda x: x.softmax(dim=1), SOFTMAX), (lambda x: F.softmax(x, 1), SOFTMAX),
    (lambda x: torch.softmax(x, 1), SOFTMAX), (torch.special.expit, SIGMOID),
    (nn.Identity(), None), (nn.ReLU(), None), (lambda x: x.softmax(1) * 2, None)])
def test_how_an_output_ends_is_seen(end, function):
    outputs, functions = run(Net(end), torch.randn(2, 4))
    assert functions == [function]
    assert not outputs[0].requires_grad


def test_each_output_has_its_own_end():
    _, functions = run(Net(lambda x: {'a': x, 'b': [x.sigmoid(), x.softmax(1)]}), torch.randn(2, 4))
    assert functions == [None, SIGMOID, SOFTMAX]


def test_other_outputs_are_compared_as_they_are():
    values = torch.tensor([[1.0, -4.0]])
    assert difference([values], [values + 0.4], [None]) == pytest.approx(0.1)
    assert difference([values], [values[:, :1]], [None]) == float('inf')
    assert difference([], [], []) == 0


def test_where_says_what_differs():
    left, right = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.4, 0.5, 0.1]])
    assert where([left, left], [left, right], [None, None]) == (
        'onnxruntime and PyTorch differ by 0.4 relative to the largest output; farthest apart is [0, 1] of output 1, '
        '0.5 in onnxruntime and 0.3 in PyTorch')
    assert 'the largest logit before the softmax; farthest apart is [0, 1] of output 0' in where(
        [left], [right], [SOFTMAX])
    assert where([left], [left[:, :1]], [None]) == (
        'onnxruntime and PyTorch differ by inf: shapes [(1, 3)] in PyTorch, [(1, 1)] in onnxruntime')
