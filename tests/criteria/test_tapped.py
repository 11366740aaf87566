"""Scores by activation times gradient need no gradients of weights, and leave what is frozen as it was."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from mmprune.pruning.pruner import Pruner


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.wise = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6)
        self.conv, self.head = nn.Conv2d(6, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(torch.tanh(self.wise(torch.tanh(self.norm(self.stem(x))))))
        return self.head(torch.tanh(x).mean((2, 3)))


@pytest.mark.parametrize('criterion', ['GroupFisher', 'Taylor'])
def test_tapped_layers_have_no_gradients_of_weights_while_they_are_scored(criterion):
    torch.manual_seed(0)
    net = Net()
    net.norm.bias.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    pruner, seen = Pruner(net, torch.randn(2, 3, 5, 5), criterion, ratio=0.5), []

    def loss(outputs, targets):
        seen.append({name for name, parameter in net.named_parameters() if parameter.requires_grad})
        return F.cross_entropy(outputs, targets)

    pruner.calibrate([(torch.randn(2, 3, 5, 5), torch.tensor([0, 1]))], loss)
    assert seen[0] == {'stem.weight', 'stem.bias', 'norm.weight'}
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == before


def test_a_frozen_stem_has_scores():
    torch.manual_seed(0)
    net = Net()
    net.stem.requires_grad_(False)
    pruner = Pruner(net, torch.randn(2, 3, 5, 5), 'GroupFisher', ratio=0.5)
    pruner.calibrate([(torch.randn(2, 3, 5, 5), torch.tensor([0, 1]))], F.cross_entropy)
    assert not pruner.criterion.unseen(pruner.mutator.units[0])
    assert (pruner.criterion.total > 0).all()


class Words(nn.Module):
    """Blocks behind checkpoints that keep no graph; the head is the embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.first = nn.Embedding(7, 6), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words):
        x = self.embed(words)
        x = x + (checkpoint(self.first, x, use_reentrant=True) if x.requires_grad else self.first(x))
        return self.head(x).mean(1)


def test_a_checkpoint_behind_a_shared_embedding_is_seen():
    torch.manual_seed(0)
    words = torch.randint(7, (3, 4))
    pruner = Pruner(Words(), words, 'GroupFisher', ratio=0.5)
    recorded = []
    pruner.calibrate([(words, torch.tensor([0, 1, 2]))], lambda outputs, targets: (
        recorded.append(pruner.model.embed.weight.requires_grad), F.cross_entropy(outputs, targets))[1])
    assert recorded == [True]
    assert (pruner.criterion.total > 0).any()
