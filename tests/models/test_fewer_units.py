"""Checkpoints and structures of a time at which less of a network could be pruned."""
import copy

import numpy as np
import pytest
import torch
from toy_nets import Residual, mutator_cfg

from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.units import structure
from mmprune.units.structure import StructureError

STEM, CONV1 = 'stem_(0, 6)_6', 'conv1_(0, 5)_5'


def algorithm(**choice):
    torch.manual_seed(0)
    return GroupFisherAlgorithm(Residual(), dict(mutator_cfg(), **choice), 1)


@pytest.fixture(name='state')
def old_state():
    """Return what a run wrote that could not prune ``conv1``, two channels later."""
    old = algorithm(exclude='conv1')
    assert [unit.name for unit in old.mutator.units] == [STEM]
    old.cut({STEM: np.array([True, False, True, True, False, True])})
    old.mutator.fisher.copy_(torch.arange(6))
    return copy.deepcopy(old.state_dict())


def test_a_run_goes_on_with_the_units_that_its_checkpoint_has(state, monkeypatch):
    new = algorithm()
    assert [unit.name for unit in new.mutator.units] == [STEM, CONV1]
    new.load_state_dict(state)
    assert new.mutator.structure == {STEM: 4}
    assert {channels.name: channels.reason for channels in new.mutator.frozen}[CONV1] == (
        'the checkpoint does not have it')
    assert new.mutator.fisher.tolist() == list(range(6))
    assert set(new.mutator.scores()) == {STEM}
    assert all(torch.equal(value, state[key]) for key, value in new.state_dict().items())
    new.mutator.cut({STEM: np.array([True, False, True, False, False, True])})
    assert new(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_what_a_checkpoint_lacks_is_said_in_one_line(state, monkeypatch):
    said = []
    monkeypatch.setattr(structure, 'print_log', lambda text, **options: said.append(text))
    algorithm().load_state_dict(state)
    assert said == [f'the structure of the checkpoint says nothing of 1 of 2 units, which stay whole: {CONV1!r}']


def test_a_structure_of_fewer_units_deploys():
    model = GroupFisherDeploySubModel(Residual(), {STEM: 4}, mutate_linear=True,
                                      demo_input=dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    assert (model.stem.out_channels, model.conv1.out_channels) == (4, 5)
    with pytest.raises(StructureError, match='it names none of the 2 units'):
        GroupFisherDeploySubModel(Residual(), {}, mutate_linear=True,
                                  demo_input=dict(type='DemoInput', input_shape=(1, 3, 8, 8)))


class Writes(Residual):
    """Has a unit that no cut model can be without."""

    def forward(self, x):
        y = torch.relu(self.bn0(self.stem(x)))
        inner = torch.relu(self.conv1(y))
        inner = inner.reshape(len(x), 5, -1).reshape(inner.shape)
        y = self.bn2(self.conv2(inner)) + y
        return self.fc(y.mean((2, 3)))


def test_a_resumed_run_takes_the_units_of_its_checkpoint_without_another_trial():
    first = GroupFisherAlgorithm(Writes(), mutator_cfg(), 1)
    assert [unit.name for unit in first.mutator.units] == [STEM]
    resumed = GroupFisherAlgorithm(Writes(), dict(mutator_cfg(), trial_cut=False), 1)
    assert [unit.name for unit in resumed.mutator.units] == [STEM, CONV1]
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [unit.name for unit in resumed.mutator.units] == [STEM]
    assert list(resumed.state_dict()) == list(first.state_dict())
