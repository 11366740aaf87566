"""A loss that needs no labels: its squared derivatives are, in the mean over the signs, those of all outputs."""
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.arguments import UserError
from mmprune.criteria.output_loss import OutputLoss
from mmprune.pruning.pruner import Pruner


class Net(nn.Module):
    """Two convolutions and a linear layer with four outputs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv2(torch.tanh(self.conv1(x)))).mean((2, 3)))


def test_the_mean_over_all_signs_is_the_sum_over_all_outputs(monkeypatch):
    torch.manual_seed(0)
    net, images = Net().double(), torch.randn(3, 3, 7, 7, dtype=torch.float64)
    pruner = Pruner(net, images[:1], dict(type='GroupFisher', normalization_type='none'), ratio=0.2)
    unit = next(unit for unit in pruner.mutator.units if 'conv1' in unit.name)
    found = []
    for signs in itertools.product((-1.0, 1.0), repeat=4):
        drawn = torch.tensor(signs, dtype=torch.float64)
        monkeypatch.setattr(OutputLoss, '_signs', lambda self, like, drawn=drawn: drawn.expand_as(like))
        pruner.calibrate([images], 'outputs')
        found.append(pruner.criterion.score(unit))
    mask = torch.ones(3, 5, dtype=torch.float64, requires_grad=True)
    x = torch.tanh(net.conv1(images)) * mask[:, :, None, None]
    outputs = net.fc(torch.tanh(net.conv2(x)).mean((2, 3)))
    jacobian = torch.stack([torch.autograd.grad(outputs[:, one].sum(), mask, retain_graph=True)[0] for one in range(4)])
    # the loss is a mean over the samples
    torch.testing.assert_close(torch.stack(found).mean(0), jacobian.square().sum((0, 1)) / 3 ** 2)


def test_signs_differ_by_sample_and_call_and_are_those_of_the_seed():
    outputs = torch.zeros(40, 6, requires_grad=True)
    loss, again = OutputLoss(), OutputLoss()
    first, = torch.autograd.grad(loss(outputs), outputs)
    second, = torch.autograd.grad(loss(outputs), outputs)
    assert (first.abs() * 40 == 1).all()
    assert len({tuple(row) for row in first.tolist()}) > 20
    assert not torch.equal(first, second)
    assert torch.equal(torch.autograd.grad(again(outputs), outputs)[0], first)


def test_all_tensors_of_nested_outputs_count_by_their_samples():
    one, two = torch.randn(4, 3, 2, 2, requires_grad=True), torch.randn(8, requires_grad=True)
    loss = OutputLoss()(dict(a=[one, torch.arange(3)], b=(two, 'text', torch.tensor(1.0))))
    gradients = torch.autograd.grad(loss, [one, two])
    assert (gradients[0].abs() == 1 / 4).all()
    assert (gradients[1].abs() == 1 / 8).all()


def test_no_labels_are_looked_at_and_other_names_are_refused():
    images = torch.randn(4, 3, 7, 7)
    pruner = Pruner(Net(), images[:1], 'Taylor', ratio=0.2)
    pruner.calibrate([images[:2], images[2:]], 'outputs')
    pruner.cut()
    with pytest.raises(UserError, match="loss_fn is 'output', did you mean 'outputs'"):
        pruner.calibrate([images], 'output')
    with pytest.raises(UserError, match='tensors with samples in their first axis'):
        OutputLoss()(['text'])
    pruner.calibrate([(images, torch.tensor([0, 1, 2, 3]))], F.cross_entropy)
