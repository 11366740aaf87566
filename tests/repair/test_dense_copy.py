"""The twin of a network that was cut before: it computes the same, and is what the next repair compares with."""
import copy

import pytest
import torch
import toy_nets
from torch import nn
from toy_nets import algorithm_of, randomise

from mmprune.graph.demo_input import DemoInput, SeveralInputs
from mmprune.graph.detector_inputs import RegionDemoInput
from mmprune.pruning.pruner import Pruner
from mmprune.repair.batches import few_rows, rows_of
from mmprune.repair.dense_copy import dense_copy
from mmprune.repair.refit import repair


def outputs(model, images):
    with torch.no_grad():
        out = model.eval()(images)
    return torch.cat([one.flatten() for one in (out if isinstance(out, (list, tuple)) else [out])])


@pytest.mark.parametrize('name', ['Residual', 'Concat', 'Depthwise', 'Grouped', 'Everything'])
def test_a_copy_of_a_cut_model_is_dense_and_computes_the_same(name):
    torch.manual_seed(0)
    images = torch.randn(60, 3, 8, 8, dtype=torch.float64)
    net = randomise(getattr(toy_nets, name)()).double()
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    pruner = Pruner(net, images[:1], ratio=0.3)
    assert torch.equal(outputs(dense_copy(pruner.mutator), images), outputs(net, images))
    pruner.cut()
    structure = pruner.mutator.structure
    twin = dense_copy(pruner.mutator)
    assert pruner.mutator.structure == structure
    assert {key: value.shape for key, value in twin.state_dict().items()} == shapes
    assert torch.allclose(outputs(twin, images), outputs(net, images), rtol=0, atol=1e-12)
    for parameter in net.parameters():  # what it learns after the copy is not the twin's
        parameter.data.mul_(1.1)
    wanted = outputs(dense_copy(pruner.mutator), images)
    twin = dense_copy(pruner.mutator)
    pruner.target.ratio = 0.5
    pruner.cut()
    before = (outputs(net, images) - wanted).square().sum()
    done = repair(pruner.mutator, twin, images, may_add_bias=False)
    assert (outputs(net, images) - wanted).square().sum() < 0.9 * before
    assert done.after < done.before


def test_the_group_fisher_mutator_gives_one_too():
    torch.manual_seed(0)
    algorithm = algorithm_of(toy_nets.ToyClassifier(randomise(toy_nets.Residual())), size=6)
    whole = copy.deepcopy(algorithm.architecture.state_dict())
    algorithm.cut({unit.name: unit.kept & [True, *[False] * (len(unit.kept) - 1)] for unit in algorithm.mutator.units})
    twin = dense_copy(algorithm.mutator)
    images = torch.randn(3, 3, 6, 6)
    assert {key: value.shape for key, value in twin.state_dict().items()} == {
        key: value.shape for key, value in whole.items()}
    wanted, found = (outputs(model.net, images) for model in (algorithm.architecture, twin))
    assert torch.allclose(found, wanted, atol=1e-6)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


def test_a_removed_block_is_repaired_and_is_in_no_later_copy():
    torch.manual_seed(0)
    images = torch.randn(60, 3, 6, 6, dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block(), nn.Conv2d(8, 3, 1)).double()
    pruner = Pruner(net, images[:1], 'L2', remove_blocks=True, target=dict(
        scope='layer', levels={'1.first': 0.9, '2.first': 0.3}))
    twin = dense_copy(pruner.mutator)
    pruner.cut()
    assert pruner.mutator.structure['1.first_(0, 6)_6'] == 0
    done = repair(pruner.mutator, twin, images)
    assert done.after < 0.9 * done.before
    again = dense_copy(pruner.mutator)
    assert torch.allclose(outputs(again, images), outputs(net, images), atol=1e-12)
    assert again[2].first.out_channels == 6


def test_a_demo_input_runs_given_images():
    images = torch.randn(5, 3, 8, 8)
    net = nn.Conv2d(3, 2, 1)
    demo_input = DemoInput((1, 3, 4, 4))
    given = demo_input.with_images(images)
    assert torch.equal(given(net), net(images))
    assert torch.equal(SeveralInputs([demo_input, print]).with_images(images).examples[0](net), net(images))
    assert demo_input(net).shape == (1, 2, 4, 4)
    assert given.with_shape((2, 3, 4, 4))(net).shape == (2, 2, 4, 4)
    assert (rows_of(given), rows_of(few_rows(given))) == (5, 2)
    regions = RegionDemoInput((1, 3, 64, 64), regions=7).with_images(images)
    assert torch.equal(regions.tensor(net), images)
    assert len(regions.data_samples()) == 5
    assert float(regions._boxes(1).max()) <= 8
