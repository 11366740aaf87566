"""Checks of a library's attentions: what runs ours computes the same, and masked and cut models are equal."""
import copy
import json

import torch

from mmprune.units.attention.taking_over import forward_for, take_over
from mmprune.units.equivalence import difference, outputs, random_masks, randomise, relative_difference
from mmprune.units.mutator import ChannelMutator
from mmprune.units.ranks import by_element, rank


def prepared(model, forward, **choice):
    """Return a mutator of a model in float64, whose linear layers may be pruned."""
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), **choice)
    mutator.demo_input = forward
    mutator.prepare(model)
    return mutator


def shuffled(units, seed=0):
    """Give every head another order of its dimensions."""
    generator = torch.Generator().manual_seed(seed)
    for unit in units:
        rank(unit, torch.rand(len(by_element(unit).kept), generator=generator))
    return units


def parts(mutator):
    """Return what is among the units: ``heads``, ``qk``, ``v``, the ``stream`` and other channels, '' ."""
    return {unit.channels.part or ('stream' if any(member.axis.across for member in unit.channels.members) else '')
            for unit in mutator.units}


def assert_swap_computes_the_same(model, forward, tolerance=1e-12):
    """Check that a model in float64 computes the same when known modules run ours, in eval and in train mode."""
    before = [outputs(copy.deepcopy(model), forward, training) for training in (False, True)]
    keys = [*model.state_dict()]
    swapped = copy.deepcopy(model)
    modules = [module for module in swapped.modules() if forward_for(module)]
    take_over(modules)
    for expected, training in zip(before, (False, True)):
        assert relative_difference(expected, outputs(copy.deepcopy(swapped), forward, training)) < tolerance
    assert [*swapped.state_dict()] == keys
    return modules


def assert_cut_equals_masked(mutator, forward, seeds=3):
    """Check at random ratios of every unit together, every head with dimensions of its own choice."""
    for seed in range(seeds):
        units = shuffled(mutator.units, seed)
        found, cut = difference(mutator.model, units, forward, random_masks(units, 0.5, seed, 0.3))
        assert found < 1e-10
    assert relative_difference(outputs(cut, forward, False), outputs(copy.deepcopy(cut), forward, False)) == 0
    return cut


def assert_structure_is_rebuilt(make, mutator, forward):
    """Check that a json of the kept channels makes a fresh model into the cut one, with its state dict."""
    units = shuffled(mutator.units)
    keys = [*mutator.model.state_dict()]
    mutator.cut(random_masks(units, 0.5, 0, 0.3))
    kept = json.loads(json.dumps({name: vector.nonzero()[0].tolist() for name, vector in mutator.kept.items()}))
    fresh = make()
    prepared(fresh, forward).apply_structure(kept)
    fresh.load_state_dict(mutator.model.state_dict())
    assert [*fresh.state_dict()] == keys
    assert relative_difference(outputs(fresh, forward, False), outputs(mutator.model, forward, False)) < 1e-12


def random_model(make):
    """Return a model in float64, of which no two channels are alike."""
    torch.manual_seed(0)
    model = make().double().eval()
    randomise(model, 0)
    for parameter in model.parameters():
        deviation = float(parameter.detach().std()) if parameter.dim() > 1 else 1.0
        if 0 < deviation < 0.1:  # a head with weights of 1e-5 would hide all
            parameter.data.mul_(0.1 / deviation)
    return model
