"""Every operation that channels can pass: its units by hand, and masked dense equal to cut."""
import op_nets
import pytest
import torch
import value_nets  # noqa: F401  (adds to the networks)

from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.report import proof as check
from mmprune.units.copies import double_copy
from mmprune.units.equivalence import cut_copy, outputs
from mmprune.units.mutator import ChannelMutator, NoPrunableUnitError

STAYS = ("it is the model's input, or comes from an operation without channels", 'it is an output of the model')


def mutator_of(name):
    net, shape, units, reasons = op_nets.NETS[name]
    torch.manual_seed(0)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), dict(type='DemoInput', input_shape=shape))
    try:
        mutator.prepare(net())
    except NoPrunableUnitError:
        assert not units
    return mutator


@pytest.mark.parametrize('name', op_nets.NETS)
def test_units_and_reasons(name):
    mutator = mutator_of(name)
    _, _, units, reasons = op_nets.NETS[name]
    assert {unit.name: unit.num_sets for unit in mutator.units} == units
    frozen = [channels.reason for channels in mutator.frozen]
    for reason in reasons:
        assert any(reason in text for text in frozen), frozen
    rest = [text for text in frozen if not any(reason in text for reason in reasons)]
    assert {*rest} <= {*STAYS}, rest
    assert check.unaccounted_layers(mutator) == []


@pytest.mark.parametrize('name', [name for name, (_, _, units, _) in op_nets.NETS.items() if units])
def test_masked_dense_equals_cut(name):
    if name == 'ChannelShuffle' and torch.__version__.startswith('2.0.'):
        pytest.skip('torch 2.0 cannot differentiate its own channel shuffle')
    mutator = mutator_of(name)
    proof = check.prove(mutator)
    print(f'{name}: {max(proof.differences):.1e} over {proof.units} units')
    assert max(proof.differences) < 1e-10
    assert (proof.same_shapes, proof.backward, proof.unaccounted) == (True, True, [])
    assert proof.macs[0] == proof.macs[1]
    assert proof.holds()


@pytest.mark.parametrize('name', [name for name, (_, _, units, _) in op_nets.NETS.items() if units])
def test_structure_and_weights_rebuild_the_cut_model(name):
    net, shape, _, _ = op_nets.NETS[name]
    mutator = mutator_of(name)
    cut = cut_copy(double_copy(mutator.model), mutator.units, check.masks_around(mutator, 0.5, 0))
    cut_mutator = mutator_of(name)
    cut_mutator.cut(check.masks_around(cut_mutator, 0.5, 0))
    rebuilt = GroupFisherDeploySubModel(net(), cut_mutator.structure, mutate_linear=True,
                                        demo_input=dict(type='DemoInput', input_shape=shape)).double()
    rebuilt.load_state_dict(cut.state_dict())
    for ours, theirs in zip(outputs(rebuilt, mutator.demo_input, False), outputs(cut, mutator.demo_input, False)):
        assert torch.equal(ours, theirs)
