"""Layers with standardised filters: what they become when columns of them go, and what follows them."""
import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from value_nets import EqualRate, Explicit, FilterNet, Scaled, Squares, Standardised

from mmprune import Pruner, apply_structure, save_structure
from mmprune.group_fisher.ops import GroupFisherMixin
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.models.prune_sub_model import GroupFisherSubModel
from mmprune.models.pruning_algorithm import PruningAlgorithm
from mmprune.units.baking import BakedMixin, bake

X = torch.randn(3, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DEMO = dict(type='DemoInput', input_shape=(2, 3, 9, 9))
KINDS = [Standardised, Scaled, Explicit, Squares]


def net_of(layer, seed=0):
    torch.manual_seed(seed)
    return type('Net', (FilterNet,), {'layer': layer})().double().eval()


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model(X).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize('layer', KINDS)
def test_masked_equals_cut_and_a_fresh_model_loads_its_weights(layer, tmp_path):
    model = net_of(layer)
    dense = model(X)
    pruner = Pruner(model, X, 'L2', ratio=0.5)
    masked = pruner.mask()(X)
    assert (masked - dense).abs().max() > 1e-3
    same(pruner.cut()(X), masked)
    save_structure(pruner, tmp_path / 'structure.json')
    rebuilt = apply_structure(net_of(layer, seed=1), X, str(tmp_path / 'structure.json'))
    rebuilt.load_state_dict(model.state_dict())  # strict
    same(rebuilt(X), masked)
    deployed = GroupFisherDeploySubModel(net_of(layer, seed=2), str(tmp_path / 'structure.json'), divisor=8,
                                         demo_input=DEMO, mutate_linear=True)
    deployed.load_state_dict(model.state_dict())
    deployed.switch_to_deploy()
    assert deployed.b.weight.shape == (8, 8, 3, 3)
    same(deployed(X), masked)
    for other in (copy.deepcopy(model), copy.deepcopy(rebuilt)):
        same(other(X), masked)
    if layer is not Standardised:
        return
    torch.save(model.b, tmp_path / 'layer.pth')
    same(torch.load(tmp_path / 'layer.pth', weights_only=False)(torch.ones(1, 4, 5, 5).double()),
         model.b(torch.ones(1, 4, 5, 5).double()))


@pytest.mark.parametrize('layer', KINDS)
def test_only_layers_that_lose_columns_are_baked(layer):
    model = net_of(layer)
    effective = {name: copy.deepcopy(getattr(model, name)) for name in 'abd'}
    state = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, X, 'L2', target=dict(levels={'a': 0.5}))
    assert type(model.b) is layer
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    pruner.cut()
    kept = torch.from_numpy(pruner.mutator.units[0].kept)
    assert [type(one) for one in (model.a, model.c, model.deep, model.d)] == [layer] * 4
    assert type(model.b) is not layer
    assert isinstance(model.b, BakedMixin if layer is Scaled else nn.Conv2d)
    same(model.a(X), effective['a'](X)[:, kept])  # rows are standardised each for itself
    x = torch.randn(1, 8, 9, 9, dtype=torch.float64) * kept.view(1, -1, 1, 1)
    same(model.b(x[:, kept]), effective['b'](x))
    again = bake(model.b)
    assert again is None


def test_a_scale_needs_no_baking():
    model = net_of(EqualRate)
    pruner = Pruner(model, X, 'L2', ratio=0.5)
    masked = pruner.mask()(X)
    same(pruner.cut()(X), masked)
    assert {type(one) for one in model.children()} == {EqualRate, nn.BatchNorm2d, nn.Conv2d}


def test_a_gain_of_zero_hides_no_standardisation():
    """Of a new NFNet, the last layer of each block begins with it."""
    model, usual = net_of(Scaled), Pruner(net_of(Scaled), X, 'L2', ratio=0.5)
    for layer in (model.b, model.d):
        nn.init.zeros_(layer.gain)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner = Pruner(model, X, 'L2', ratio=0.5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [unit.name for unit in pruner.mutator.units] == [unit.name for unit in usual.mutator.units]
    for layer in (model.b, model.d):
        nn.init.ones_(layer.gain)
    same(pruner.mask()(X), pruner.cut()(X))


def test_a_layer_that_does_more_can_be_pickled_and_copied():
    model = net_of(Scaled)
    Pruner(model, X, 'L2', ratio=0.5).cut()
    x = torch.randn(1, 4, 8, 9, dtype=torch.float64)
    for other in (pickle.loads(pickle.dumps(model.b)), copy.deepcopy(model.b)):
        assert type(other) is type(model.b)
        assert type(other).__name__ == 'BakedScaled'
        same(other(x), model.b(x))
    assert model.b(x).shape == (1, 4, 4, 5)
    one = Pruner(net_of(Scaled), X, 'L2', target=dict(levels={'c': 0.67}))  # d reads one channel by a 1 x 1 kernel
    same(one.mask()(X), one.cut()(X))
    one.model.train()(X).sum().backward()


@pytest.mark.parametrize('kind', [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize('layer', [Standardised, Scaled])
def test_optimizers_begin_anew_for_baked_weights(layer, kind):
    model = net_of(layer)
    optimizer = kind(model.parameters(), lr=1e-4, **(dict(momentum=0.9) if kind is torch.optim.SGD else {}))
    for _ in range(2):
        step(model, optimizer)
    before, weight = model.b.weight.detach().clone(), model.b.weight
    pruner = Pruner(model, X, 'L2', ratio=0.5)
    pruner.cut(optimizer)
    assert model.b.weight is weight
    assert weight not in optimizer.state
    assert weight.grad is None
    assert model.a.weight in optimizer.state  # of which rows go only
    held, losses = weight.detach().clone(), [step(model, optimizer) for _ in range(6)]
    assert np.isfinite(losses).all()
    assert not torch.equal(weight, held)
    assert before.shape == (8, 8, 3, 3)
    assert weight.shape == (4, 4, 3, 3)
    if layer is Scaled:
        assert [model.a.gain.requires_grad, model.b.gain.requires_grad] == [True, False]
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_a_plain_layer_trains_without_standardisation():
    model = net_of(Standardised)
    Pruner(model, X, 'L2', ratio=0.5).cut()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    plain = nn.Conv2d(4, 4, 3, stride=2, padding=1).double()
    plain.load_state_dict(model.b.state_dict())
    model.b(x).square().sum().backward()
    plain(x).square().sum().backward()
    same(model.b.weight.grad, plain.weight.grad)


def test_cut_again_and_again():
    model = net_of(Scaled)
    for _ in range(2):
        pruner = Pruner(model, X, 'L2', ratio=0.3)
        masked = pruner.mask()(X)
        same(pruner.cut()(X), masked)
    assert type(model.b).__name__ == 'BakedScaled'


def test_baking_can_be_undone():
    model = net_of(Scaled)
    x, before = torch.randn(1, 8, 9, 9, dtype=torch.float64), copy.deepcopy(model.b)
    undo = bake(model.b)
    same(model.b(x), before(x))
    assert not model.b.gain.requires_grad
    undo()
    assert type(model.b) is Scaled
    assert model.b.gain.requires_grad
    assert torch.equal(model.b.weight, before.weight)


@pytest.mark.parametrize('cfg', ['ThiNet', 'GroupFisher', 'Taylor'])
def test_criteria_that_look_at_data(cfg):
    pruner = Pruner(net_of(Scaled), X, cfg, ratio=0.5)
    pruner.calibrate([(X, None)], lambda out, _: out.square().mean())
    masked = pruner.mask()(X)
    same(pruner.cut()(X), masked)
    assert not any('outside the conv' in reason for reason in pruner.plan.skipped.values())


def test_group_fisher_records_prunes_and_resumes():
    mutator = dict(type='GroupFisherChannelMutator', demo_input=DEMO)
    algorithm, resumed = (PruningAlgorithm(net_of(Scaled, seed), dict(mutator)) for seed in (0, 1))
    assert len(algorithm.mutator.units) == 4
    assert all(isinstance(getattr(algorithm.architecture, name), GroupFisherMixin) for name in 'bcd')
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        algorithm.mutator.taps.record(True)
        step(algorithm, optimizer)
        algorithm.mutator.accumulate(algorithm.mutator.taps.take())
        algorithm.cut(algorithm.mutator.masks_without(algorithm.mutator.least_important(2)), [optimizer])
    assert sum(algorithm.mutator.structure.values()) < 8 + 8 + 6 + 5
    resumed.load_state_dict(algorithm.state_dict())
    same(resumed(X), algorithm(X))
    algorithm.mutator.release()
    same(algorithm.architecture(X), resumed(X))


def test_a_divisor_does_not_widen_to_what_would_not_be_baked():
    algorithm = PruningAlgorithm(net_of(Standardised), dict(type='ChannelMutator', demo_input=DEMO))
    mutator = algorithm.mutator
    masks = {unit.name: unit.kept.copy() for unit in mutator.units}
    for mask in masks.values():
        mask[0] = False
    algorithm.cut(masks)
    out = algorithm(X)
    model = GroupFisherSubModel(algorithm, divisor=4)
    same(model(X), out)
    assert model.fix_subnet == {'a_(0, 8)_8': 7, 'b_(0, 8)_8': 6, 'c_(0, 6)_6': 4, 'd_(0, 5)_5': 4}
    again = GroupFisherDeploySubModel(net_of(Standardised, 1), model.fix_subnet, demo_input=DEMO)
    again.load_state_dict(model.state_dict())
    same(again(X), out)
