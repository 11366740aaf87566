"""A pruned checkpoint that does not fit leaves the model as it was; no kept vector is taken for another one."""
import copy

import numpy as np
import pytest
import torch
import toy_nets
from mmengine.runner import load_checkpoint
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import ToyClassifier, algorithm_of

from mmprune.arguments import UserError
from mmprune.models.checkpoint_file import CheckpointError
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.units.structure import StructureError

KEPT = 'mutator.kept.'


class Blocked(nn.Module):
    """A residual block that can go, between a stem and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.block = Block()

    def forward(self, x):
        return self.fc(self.block(F.relu(self.stem(x))).mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)


def algorithm(net=toy_nets.Residual):
    return algorithm_of(ToyClassifier(net()), size=6)


def pruned(net, structure):
    model = algorithm(net)
    model.mutator.apply_structure(structure)
    return copy.deepcopy(model.state_dict())


def assert_unchanged(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.filterwarnings('ignore:Validating sparse tensor invariants')
@pytest.mark.parametrize('way', ['load_pruned', 'load_state_dict'])
@pytest.mark.parametrize(('key', 'value', 'error', 'problem'), [
    ('architecture.net.conv2.weight', torch.ones(6, 5, 3, 3), CheckpointError,
     '(6, 5, 3, 3) in the file, (4, 3, 3, 3) in the model'),
    ('architecture.net.conv2.weight', None, CheckpointError,
     "1 keys are missing, first 'architecture.net.conv2.weight'"),
    ('architecture.net.bn1.weight', 'x', CheckpointError, 'str in the file'),
    (f'{KEPT}net.stem_(0, 6)_6', torch.ones(6), StructureError, 'is torch.float32 of shape (6,), not a vector with 0 '),
    (f'{KEPT}net.stem_(0, 6)_6', [1, 0], StructureError, 'is list, not a vector with 0 or 1 for each channel'),
    (f'{KEPT}net.stem_(0, 6)_6', torch.ones(5, dtype=torch.uint8), StructureError, 'has 5 channels in the file, 6 in'),
    (f'{KEPT}net.stem_(0, 6)_6', torch.full((6,), 2, dtype=torch.uint8), StructureError, 'holds more than 0 and 1'),
    (f'{KEPT}net.stem_(0, 6)_6', torch.ones(6, dtype=torch.uint8).to_sparse(), StructureError, 'is torch.uint8 of'),
    (f'{KEPT}net.stem_(0, 6)_6', torch.ones(6, dtype=torch.uint8), CheckpointError, 'shapes differ')])
def test_checkpoint_that_does_not_fit_changes_nothing(way, key, value, error, problem, tmp_path):
    state = pruned(toy_nets.Residual, {'net.stem_(0, 6)_6': 4, 'net.conv1_(0, 5)_5': 3})
    state.update({key: value})
    if value is None:
        del state[key]
    model = algorithm()
    before = copy.deepcopy(model.state_dict())
    torch.save(dict(state_dict=state), tmp_path / 'pruned.pth')
    argument = dict(load_pruned=str(tmp_path / 'pruned.pth'), load_state_dict=state)[way]
    with pytest.raises(error) as caught:
        getattr(model, way)(argument)
    assert problem in str(caught.value)
    assert way == 'load_state_dict' or str(tmp_path / 'pruned.pth') in str(caught.value)
    assert_unchanged(model, before)


def test_half_of_a_tied_set_is_refused(tmp_path):
    """The grouped convolution ties channel k of the stem to channel k + 3."""
    state = pruned(toy_nets.Grouped, {'net.stem_(0, 6)_6': 4, 'net.g_(0, 4)_4': 2})
    state[f'{KEPT}net.stem_(0, 6)_6'] = torch.tensor([1, 1, 1, 0, 1, 0], dtype=torch.uint8)
    with pytest.raises(StructureError) as caught:
        algorithm(toy_nets.Grouped).load_state_dict(state)
    assert str(caught.value) == ("the structure of the checkpoint: 'net.stem_(0, 6)_6' keeps 4 channels, of which 2 "
                                 'without the rest of their set of 2, to which they are tied')


def test_checkpoint_without_a_block_is_loaded_and_checked():
    """The weights of the block are gone, and group Fisher no longer taps its layers."""
    structure = {'net.stem_(0, 4)_4': 3, 'net.block.conv1_(0, 3)_3': 0}
    state = pruned(Blocked, structure)
    assert not [key for key in state if 'conv' in key and 'kept' not in key]
    model = algorithm(Blocked)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r'fc.weight: \(2, 4\) in the file, \(2, 3\) in the model'):
        model.load_state_dict({**state, 'architecture.net.fc.weight': torch.zeros(2, 4)})
    assert_unchanged(model, before)
    model.load_state_dict(state)
    assert model.mutator.structure == structure
    assert_unchanged(model, state)
    model.mutator.taps.record(True)
    F.cross_entropy(model(torch.randn(2, 3, 6, 6)), torch.tensor([0, 1])).backward()
    assert [layer for layer, _ in model.mutator.taps.take()] == ['net.fc']


def test_a_model_for_deployment_takes_the_checkpoint_of_a_prune_run(tmp_path):
    """What is exported without a finetuning; mmdeploy loads it by mmengine's loader."""
    run = algorithm()
    masks = {unit.name: np.arange(len(unit.kept)) != 1 for unit in run.mutator.units}
    run.mutator.cut(masks)
    torch.save(dict(state_dict=run.state_dict()), tmp_path / 'pruned.pth')
    model = GroupFisherDeploySubModel(ToyClassifier(toy_nets.Residual()), run.mutator.portable_structure,
                                      demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)), mutate_linear=True)
    load_checkpoint(model, str(tmp_path / 'pruned.pth'), map_location='cpu', strict=True)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(model.eval().net(x), run.architecture.eval().net(x))


def test_structure_names_its_file(tmp_path):
    from mmprune import apply_structure  # the public door

    path = tmp_path / 'fix_subnet.json'
    for content, problem in (('{"stem_(0, 6)_6": 9}', 'fix_subnet does not fit this model:'),
                             ('{"stem_(0, 6)_6": [1, 1], "conv1_(0, 5)_5": 2}', 'names a channel of'),
                             ('{"stem_(0, 6)_6": [7], "conv1_(0, 5)_5": 2}', 'names channels of')):
        path.write_text(content)
        net = toy_nets.Residual()
        with pytest.raises(UserError) as caught:
            apply_structure(net, torch.randn(1, 3, 6, 6), path)
        assert str(caught.value).startswith(f"'{path}': ")
        assert problem in str(caught.value)
        assert net.stem.weight.shape == (6, 3, 3, 3)
