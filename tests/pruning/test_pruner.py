"""The Pruner, as somebody uses it: any model, any criterion; what is masked is what is cut."""
import copy
import functools
import json
import subprocess
import sys
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
import toy_nets
from criterion_cfgs import CFGS
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import randomise

import mmprune
from mmprune.criteria.bn_sparsity import bn_sparsity_
from mmprune.criteria.criterion import CriterionError, build_criterion
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.structure_file import apply_structure, save_structure
from mmprune.pruning.target import PruningTarget, TargetError
from mmprune.units.choice import PatternError
from mmprune.units.mutator import NoPrunableUnitError
from mmprune.units.structure import StructureError

NETS = ['Residual', 'Concat', 'Depthwise', 'Grouped', 'Shared', 'SharedHead', 'Flatten', 'Tokens', 'TwoBatches',
        'Optional', 'Everything']
NORMED = {'Residual', 'Concat', 'Depthwise', 'Grouped', 'Flatten', 'Everything'}


def size_of(name):
    return 8 if name == 'Everything' else 6


def net_of(name, *args):
    return randomise(getattr(toy_nets, name)(*args)).double()


def images(name, samples=1):
    return torch.randn(samples, 3, size_of(name), size_of(name), dtype=torch.float64)


def flat(out):
    return torch.cat([one.flatten() for one in (out if isinstance(out, (list, tuple)) else [out])])


def loss_fn(out, weights):
    outs = out if isinstance(out, list) else [out]
    return sum(((one.flatten(1) + 0.3).square().sum(1) * weights[0]).mean() for one in outs)


def data(name, samples=4, batches=2):
    return [(images(name, samples), torch.arange(samples) % 2) for _ in range(batches)]


def outputs(net, x, training):
    net.train(training)
    with torch.no_grad():
        return flat(net(x))


@functools.lru_cache(maxsize=None)
def traced(name):
    """A pruner of the net, traced once; take copies."""
    return Pruner(net_of(name), torch.zeros(1, 3, size_of(name), size_of(name)), target=dict(ratio=0.4, scope='layer'))


def pruner_of(name, cfg='L2'):
    pruner = copy.deepcopy(traced(name))
    pruner.criterion = build_criterion(cfg, pruner.mutator)
    return pruner


# masked is cut

@pytest.mark.parametrize('cfg', CFGS, ids=str)
@pytest.mark.parametrize('name', NETS)
def test_the_masked_model_computes_what_the_cut_one_does(name, cfg):
    masked, cut = pruner_of(name, cfg), pruner_of(name, cfg)
    dense, batches, x = copy.deepcopy(masked.model), data(name), images(name, 3)
    for pruner in (masked, cut):
        pruner.calibrate(batches, loss_fn)
    if 'BNScale' in str(cfg) and name not in NORMED:
        with pytest.raises(CriterionError, match='BNScale can score none of the . units, for example: BNScale cannot'):
            cut.cut()
        return
    assert masked.mask() is masked.model
    assert cut.cut() is cut.model
    gone = {unit.name: int((~unit.kept).sum()) for unit in cut.mutator.units}
    assert gone == {unit.name: 0 if unit.name in cut.plan.skipped else int(0.4 * len(unit.kept))
                    for unit in cut.mutator.units}
    assert sum(gone.values()) > 0
    for training in (False, True):
        before, after = outputs(masked.model, x, training), outputs(cut.model, x, training)
        assert after.shape == flat(dense(x)).shape  # outputs are never pruned
        assert float((before - after).abs().max() / before.abs().max()) < 1e-10
        assert not torch.allclose(before, outputs(dense, x, training))
    masked.cut()  # what was masked is what goes
    assert masked.mutator.structure == cut.mutator.structure
    assert outputs(masked.model, x, False).tolist() == pytest.approx(outputs(cut.model, x, False).tolist(), abs=1e-12)


@pytest.mark.parametrize('name', NETS)
def test_a_mask_only_writes_zeros(name):
    pruner = pruner_of(name)
    before = {key: value.clone() for key, value in pruner.model.state_dict().items()}
    objects = {key: id(value) for key, value in pruner.model.named_parameters()}
    pruner.mask()
    after = pruner.model.state_dict()
    assert list(after) == list(before)
    assert {key: id(value) for key, value in pruner.model.named_parameters()} == objects
    changed = 0
    for key, value in after.items():
        assert value.shape == before[key].shape
        different = value != before[key]
        assert (value[different] == (1 if key.endswith('running_var') else 0)).all(), key
        changed += int(different.sum())
    assert changed > 0
    assert all(unit.kept.all() for unit in pruner.mutator.units)


def test_masked_and_cut_by_hand():
    """Two units of a residual net, the filters with the least sums of absolute weights."""
    net = net_of('Residual')
    dense = copy.deepcopy(net)
    norm = {name: dense.get_submodule(name).weight.detach().abs().sum((1, 2, 3)) for name in ('stem', 'conv1', 'conv2')}
    x = sorted(((norm['stem'] + norm['conv2']) / 2).argsort().tolist()[3:])  # half of 6 and of 5 go
    y = sorted(norm['conv1'].argsort().tolist()[2:])
    pruner = Pruner(net, images('Residual'), 'L1', ratio=0.5)
    pruner.cut()
    for name, stay in {'stem': (x, range(3)), 'conv1': (y, x), 'conv2': (x, y), 'fc': (range(4), x)}.items():
        expected = dense.get_submodule(name).weight[list(stay[0])][:, list(stay[1])]
        assert torch.equal(net.get_submodule(name).weight, expected)
    assert torch.equal(net.bn0.running_mean, dense.bn0.running_mean[x])
    assert (net.conv1.in_channels, net.conv1.out_channels, net.bn1.num_features, net.fc.in_features) == (3, 3, 3, 3)
    assert pruner.mutator.structure == {'stem_(0, 6)_6': 3, 'conv1_(0, 5)_5': 3}


def test_a_look_at_other_plans_does_not_change_what_was_masked():
    pruner = Pruner(net_of('Residual'), images('Residual'), 'Random', ratio=0.5)
    masks = copy.deepcopy(pruner.mask() and pruner.plan.masks)
    pruner.criterion = build_criterion(dict(type='Random', seed=3), pruner.mutator)
    assert any((pruner.choose().masks[name] != masks[name]).any() for name in masks)
    pruner.cut()
    assert all((unit.kept == masks[unit.name]).all() for unit in pruner.mutator.units)
    assert pruner.plan.masks.keys() == masks.keys()
    pruner.target = PruningTarget(ratio=0.7, scope='layer')
    pruner.cut()  # the mask is used up, so that channels are chosen again
    assert pruner.mutator.structure == {'stem_(0, 6)_6': 2, 'conv1_(0, 5)_5': 2}


def test_choosing_changes_nothing():
    pruner = pruner_of('Everything')
    before = {key: value.clone() for key, value in pruner.model.state_dict().items()}
    plan = pruner.choose()
    assert all(torch.equal(value, before[key]) for key, value in pruner.model.state_dict().items())
    assert all(unit.kept.all() for unit in pruner.mutator.units)
    assert int((~plan.masks['project_(0, 9)_9']).sum()) == 3


# outputs, linear layers, and other models

class Named(nn.Module):
    """Takes two arguments and returns a dict; blocks of blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(7, 6)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6)]) for _ in range(2)])
        self.heads = nn.ModuleDict({'a': nn.Linear(6, 3), 'b': nn.Linear(6, 2)})

    def forward(self, x, y, scale=1.0):
        x = torch.relu(self.stem(x + y))
        for up, down in self.blocks:
            x = x + down(torch.relu(up(x))) * scale
        return {name: head(x) for name, head in self.heads.items()}


XY = (torch.randn(2, 7), torch.randn(2, 7))
Pair = namedtuple('Pair', 'x y')


@pytest.mark.parametrize('inputs', [
    XY, list(XY), Pair(*XY), dict(x=XY[0], y=XY[1]), dict(x=XY[0], y=XY[1], scale=2.0), OrderedDict(y=XY[1], x=XY[0])],
    ids=['tuple', 'list', 'namedtuple', 'dict', 'dict with a number', 'OrderedDict'])
@pytest.mark.parametrize('cfg', ['L2', 'Taylor', 'APoZ'])
def test_models_of_any_signature(inputs, cfg):
    net = Named()
    pruner = Pruner(net, inputs, cfg, ratio=0.5)
    pruner.calibrate([(inputs, None)], lambda out, _: sum(one.square().mean() for one in out.values()))
    pruner.cut()
    assert pruner.mutator.structure == {'stem_(0, 6)_6': 3, 'blocks.0.0_(0, 8)_8': 4, 'blocks.1.0_(0, 8)_8': 4}
    out = net(**inputs) if isinstance(inputs, dict) else net(*inputs)
    assert {name: tuple(value.shape) for name, value in out.items()} == {'a': (2, 3), 'b': (2, 2)}
    assert 'pruned' in pruner.report()


def test_inputs_of_activations_come_without_targets():
    net = Named()
    pruner = Pruner(net, XY, 'MeanActivation', ratio=0.5)
    pruner.calibrate([dict(x=XY[0], y=XY[1])])
    pruner.cut()
    assert net.stem.out_features == 3


def test_linear_layers():
    pruner = Pruner(net_of('Flatten'), images('Flatten'), ratio=0.5)
    pruner.cut()
    assert (pruner.model.fc1.in_features, pruner.model.fc1.out_features) == (18, 4)
    pruner = Pruner(net_of('Everything'), images('Everything'), ratio=0.5, mutate_linear=False)
    pruner.cut()
    assert (pruner.model.fc1.in_features, pruner.model.fc1.out_features) == (44, 14)
    assert {channels.name.split('_(')[0] for channels in pruner.mutator.frozen} >= {'mix', 'fc1', 'fc2'}


class Pooled(nn.Module):
    """Its norm behind a global pooling cannot train on one sample."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.bn = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), nn.BatchNorm1d(10)
        self.fc2 = nn.Linear(10, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.bn(self.fc1(torch.relu(self.conv(x)).mean((2, 3))))))


@pytest.mark.parametrize('training', [True, False])
def test_modes_stay(training):
    net = Pooled().train(training)
    net.bn.train(not training)
    pruner = Pruner(net, torch.randn(1, 3, 8, 8), 'Taylor', ratio=0.5)
    pruner.calibrate([(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))] * 2, F.cross_entropy)
    pruner.mask()
    pruner.cut()
    pruner.report()
    assert pruner.mutator.structure == {'conv_(0, 8)_8': 4, 'fc1_(0, 10)_10': 5}
    assert [module.training for module in net.modules()] == [training] * 3 + [not training, training]


def test_frozen_parameters_are_pruned_and_stay_frozen():
    net = net_of('Residual')
    for parameter in (net.stem.weight, net.bn1.weight, net.fc.bias):
        parameter.requires_grad_(False)
    before = [parameter.requires_grad for parameter in net.parameters()]
    pruner = Pruner(net, images('Residual'), 'Taylor', ratio=0.5)
    pruner.calibrate(data('Residual'), loss_fn)
    pruner.cut()
    assert net.stem.out_channels == 3
    assert [parameter.requires_grad for parameter in net.parameters()] == before
    assert all(parameter.grad is None for parameter in net.parameters())


def test_options_reach_the_mutator_and_the_target():
    def stay(**options):
        pruner = Pruner(net_of('Residual'), images('Residual'), **options)
        pruner.cut()
        return list(pruner.mutator.structure.values())

    def stay_of(**target):
        return stay(target=target)

    assert stay(ratio=0.5, choice=dict(include='conv1')) == [3]
    assert stay(ratio=0.5, choice=dict(exclude=['stem'])) == [3]
    assert stay(ratio=0.5, choice=dict(min_channels={'conv1': 4})) == [3, 4]
    assert stay_of(ratio=0.9, scope='layer', max_pruned_ratio=0.5) == [3, 3]
    assert stay_of(ratio=0.4, scope='layer', align=2) == [4, 2]  # 5 becomes 4 by one, then 2 go together
    assert stay_of(levels={'conv1': 0.4}) == [6, 3]
    assert stay_of(levels={'conv1': 0.4}, ratio=0.5, scope='layer') == [3, 3]
    assert stay(target=PruningTarget(levels={'conv1': 0.4})) == [6, 3]
    assert stay_of(ratio=0.5, scope='layer', op_types='Conv2d') == [3, 3]


@pytest.mark.parametrize(('criterion', 'scope'), [
    ('L1', 'layer'), ('FPGM', 'layer'), ('APoZ', 'layer'), ('BNScale', 'global'), ('Taylor', 'global'),
    ('GroupFisher', 'global')])
def test_a_target_without_scope_takes_that_of_the_paper(criterion, scope):
    assert Pruner(net_of('Residual'), images('Residual'), criterion, target=dict(ratio=0.5)).target.scope == scope
    assert Pruner(net_of('Residual'), images('Residual'), criterion, ratio=0.5).target.scope == 'layer'


# optimizers, and several cuts

@pytest.mark.parametrize('optimizer', [
    lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01)], ids=['SGD', 'AdamW'])
def test_training_goes_on(optimizer):
    net = net_of('Everything')
    optimizer, x = optimizer(net.parameters()), images('Everything', 4)

    def train(steps):
        net.train()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    train(2)
    objects = list(map(id, net.parameters()))
    dense = {name: {key: value.clone() for key, value in optimizer.state[parameter].items()
                    if isinstance(value, torch.Tensor) and value.dim()} for name, parameter in net.named_parameters()}
    pruner = Pruner(net, images('Everything'), target=dict(flops=0.5))
    pruner.mask()
    pruner.cut([optimizer])
    assert list(map(id, net.parameters())) == objects
    kept = np.flatnonzero(pruner.mutator.kept['conv1_(0, 10)_10'])
    for key, value in dense['bn1.weight'].items():
        assert torch.equal(optimizer.state[net.bn1.weight][key], value[kept]), key
    for name, parameter in net.named_parameters():
        assert all(value.shape == parameter.shape for key, value in optimizer.state[parameter].items()
                   if key in dense[name])
        assert dense[name]
    first = train(1)
    assert train(15) < 0.9 * first


def test_units_are_cut_one_after_the_other():
    """Each is scored on the model behind the cuts before it."""
    net = net_of('Concat')
    pruner = Pruner(net, images('Concat'), 'L1', ratio=0.5)
    structures, dense = [list(pruner.mutator.structure.values())], copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    while True:
        before = copy.deepcopy(net)
        if not pruner.cut_next([optimizer]):
            break
        structures.append(list(pruner.mutator.structure.values()))
        if len(structures) == 4:  # c + d, behind the cuts of a and b
            norms = (before.c.weight.abs().sum((1, 2, 3)) + before.d.weight.abs().sum((1, 2, 3))) / 2
            assert np.flatnonzero(pruner.mutator.kept['c_(0, 6)_6']).tolist() == sorted(norms.argsort().tolist()[3:])
            assert before.c.in_channels == 2 + 3
        optimizer.zero_grad()
        net(images('Concat', 2)).square().sum().backward()
        optimizer.step()
    assert structures == [[4, 5, 6], [2, 5, 6], [2, 3, 6], [2, 3, 3]]
    assert net(images('Concat')).shape == dense(images('Concat')).shape
    assert 'pruned' in pruner.report()
    assert pruner.cut_next() is False  # all shares are reached
    pruner.target = PruningTarget(ratio=0.7, scope='layer')
    rounds = 0
    while pruner.cut_next():
        rounds += 1
    assert (rounds, list(pruner.mutator.structure.values())) == (2, [2, 2, 2])


def test_units_of_a_masked_model_are_cut_one_after_the_other():
    pruner = pruner_of('Residual', 'Random')
    pruner.mask()
    masks = pruner.plan.masks
    pruner.criterion = build_criterion(dict(type='Random', seed=5), pruner.mutator)
    assert pruner.cut_next()
    assert pruner.cut_next()
    assert not pruner.cut_next()
    assert all((unit.kept == masks[unit.name]).all() for unit in pruner.mutator.units)


@pytest.mark.parametrize('cfg', CFGS, ids=str)
def test_cut_train_and_cut_again(cfg):
    """Shares and numbers of channels stay those of the dense model; what a criterion saw is looked at again."""
    net = net_of('Everything')
    pruner = Pruner(net, images('Everything'), cfg, target=dict(ratio=0.2, scope='layer'))
    pruner.calibrate(iter(data('Everything')), loss_fn)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    kept = []
    for ratio in (0.2, 0.5):
        pruner.target = PruningTarget(ratio=ratio, scope='layer')
        pruner.cut([optimizer])
        kept.append(pruner.mutator.kept)
        net.train()
        optimizer.zero_grad()
        net(images('Everything', 4)).square().mean().backward()
        optimizer.step()
    for unit in pruner.mutator.units:
        if unit.name in pruner.plan.skipped:
            continue
        assert [int(vector[unit.name].sum()) for vector in kept] == [
            unit.width - int(ratio * len(unit.kept)) * unit.multiplicity for ratio in (0.2, 0.5)]
        assert (kept[1][unit.name] <= kept[0][unit.name]).all()


# numbers for people

def test_sparsity_by_hand():
    pruner = Pruner(net_of('Flatten'), images('Flatten'), ratio=0.5)
    dense = pruner.sparsity()
    assert set(dense) == {'conv.weight', 'conv.bias', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var',
                          'fc1.weight', 'fc1.bias', 'fc2.weight'}
    assert set(dense.values()) == {0}
    pruner.mask()  # 2 of 4 and 3 of 7 channels
    assert {name: round(share, 9) for name, share in pruner.sparsity().items() if name != 'bn.running_var'} == {
        'conv.weight': 0.5, 'conv.bias': 0.5, 'bn.weight': 0.5, 'bn.bias': 0.5, 'bn.running_mean': 0.5,
        'fc1.weight': round(1 - 4 / 7 / 2, 9), 'fc1.bias': round(3 / 7, 9), 'fc2.weight': round(3 / 7, 9)}
    pruner.cut()
    assert set(pruner.sparsity().values()) == {0}


def counted_macs(net, x):
    """Multiply-adds of all convolutions and linear layers, by what their calls return."""
    total = []

    def count(module, _, out):
        each = module.weight[0].numel()  # for one element of the output
        total.append(out.numel() * each)

    handles = [module.register_forward_hook(count) for module in net.modules()
               if isinstance(module, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return sum(total)


def test_report():
    net, x = net_of('Everything').eval(), images('Everything')
    dense = counted_macs(net, x), sum(parameter.numel() for parameter in net.parameters())
    pruner = Pruner(net, x, 'BNScale', target=dict(flops=0.5, levels={'conv1': 0.3}),
                    choice=dict(min_channels={'stem': 8}))
    lines = pruner.report().split('\n')
    assert [line.split()[0] for line in lines[2:]] == ['dense']
    net.bn0.weight.data *= 1e-3
    net.bn2.weight.data *= 1e-3
    pruner.cut()
    cut = counted_macs(net, x), sum(parameter.numel() for parameter in net.parameters())
    assert pruner.mutator.cost == {**pruner.mutator.cost, 'macs': cut[0], 'params': cut[1]}
    assert cut[0] <= dense[0] / 2
    lines = pruner.report().split('\n')
    print('\n'.join(lines))
    assert lines[0].split() == ['stage', 'accuracy', '(%)', 'MACs', '(M)', 'params', '(M)', 'latency', '(ms)']
    for line, stage, costs, share in ((lines[2], 'dense', dense, False), (lines[3], 'pruned', cut, True)):
        cells = [cell.strip() for cell in line.split('  ') if cell.strip()]
        percent = [f' ({now / before:.0%})' if share else '' for now, before in zip(costs, dense)]
        assert cells[:4] == [stage, '-', f'{costs[0] / 1e6:.2f}{percent[0]}', f'{costs[1] / 1e6:.3f}{percent[1]}']
        assert float(cells[4].split()[0]) > 0
    assert lines[4:] == [
        'stem_(0, 12)_12: 8 channels below the threshold stay (min_channels, max_pruned_ratio, align)',
        "fc1_(0, 14)_14: left as it is; BNScale cannot score unit 'fc1_(0, 14)_14': no norm with a scale follows it; "
        'leave it out (exclude), or take a criterion of filters']
    assert pruner.report().split('\n')[2] == lines[2]  # the dense model was measured once


# structures

def test_structures_by_counts(tmp_path):
    pruner = Pruner(net_of('Everything'), images('Everything'), target=dict(flops=0.4))
    pruner.cut()
    save_structure(pruner, tmp_path / 'structure.json')
    assert json.loads((tmp_path / 'structure.json').read_text()) == pruner.mutator.structure
    fresh = toy_nets.Everything().double()
    assert apply_structure(fresh, images('Everything'), str(tmp_path / 'structure.json')) is fresh
    fresh.load_state_dict(pruner.model.state_dict())
    x = images('Everything', 2)
    assert torch.equal(outputs(fresh, x, False), outputs(pruner.model, x, False))


def test_structures_by_channels(tmp_path):
    """With the dense weights the channels give the cut model, element by element."""
    net = net_of('Everything')
    dense = copy.deepcopy(net)
    pruner = Pruner(net, images('Everything'), 'Random', ratio=0.5)
    pruner.cut()
    save_structure(pruner, tmp_path / 'kept.json', kept=True)
    kept = json.loads((tmp_path / 'kept.json').read_text())
    assert {name: len(channels) for name, channels in kept.items()} == pruner.mutator.structure
    assert any(channels != list(range(len(channels))) for channels in kept.values())
    apply_structure(dense, images('Everything'), tmp_path / 'kept.json')
    assert list(dense.state_dict()) == list(net.state_dict())
    assert all(torch.equal(value, dense.state_dict()[key]) for key, value in net.state_dict().items())


def test_structures_where_only_some_units_were_pruned():
    pruner = Pruner(net_of('Everything'), images('Everything'), ratio=0.5, choice=dict(exclude='fc1'))
    pruner.cut()
    structure = pruner.mutator.structure
    apply_structure(net_of('Everything'), images('Everything'), structure, choice=dict(exclude='fc1'))
    whole = apply_structure(net_of('Everything'), images('Everything'), structure)
    assert whole.fc1.out_features == 14
    with pytest.raises(StructureError, match=r"'mix_\(0, 11\)_11' is not pruned in this model: linear layer 'fc1'"):
        apply_structure(net_of('Everything'), images('Everything'), structure, mutate_linear=False)


STEM, CONV1 = 'stem_(0, 6)_6', 'conv1_(0, 5)_5'


@pytest.mark.parametrize(('structure', 'message'), [
    ({}, r"it names none of the 2 units, such as 'stem_\(0, 6\)_6'"),
    ({STEM: 3, CONV1: 7}, r"'conv1_\(0, 5\)_5': 7 channels; the unit has 5, so 1 to 5 can stay"),
    ({STEM: 3, CONV1: 0}, '0 channels; the unit has 5'), ({STEM: 3, CONV1: []}, '0 channels; the unit has 5'),
    ({STEM: 3, CONV1: '2'}, "'2' is not a whole number of channels"), ({STEM: 3, CONV1: 2.5}, '2.5 is not a whole'),
    ({STEM: 3, CONV1: None}, 'None is not a whole number'), ({STEM: 3, CONV1: True}, 'True is not a whole number'),
    ({STEM: 3, 'conv_(0, 5)_5': 2}, r"unknown unit 'conv_\(0, 5\)_5', did you mean 'conv1_\(0, 5\)_5'"),
    ({STEM: 3, CONV1: [0, 5]}, r"channels of 'conv1_\(0, 5\)_5' that it does not have; they are numbers from 0 to 4"),
    ({STEM: 3, CONV1: [0, 'a']}, 'that it does not have'), ({STEM: 3, CONV1: [0, [1]]}, 'that it does not have'),
    ({STEM: 3, CONV1: {'0': 1}}, 'is not a whole number')])
def test_structures_that_do_not_fit(structure, message):
    net = net_of('Residual')
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(StructureError, match=message):
        apply_structure(net, images('Residual'), structure)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_structures_that_keep_a_part_of_tied_channels():
    net, x = net_of('Grouped'), images('Grouped')
    with pytest.raises(StructureError, match='3 channels; they are tied in sets of 2'):
        apply_structure(net, x, {'stem_(0, 6)_6': 3, 'g_(0, 4)_4': 4})
    with pytest.raises(StructureError, match=r"channels of 'stem_\(0, 6\)_6' are tied in sets of 2, of which the "
                                             'structure keeps some'):
        apply_structure(net, x, {'stem_(0, 6)_6': [0, 1], 'g_(0, 4)_4': 4})
    apply_structure(net, x, {'stem_(0, 6)_6': [0, 3], 'g_(0, 4)_4': 4})
    assert net.stem.out_channels == 2


@pytest.mark.parametrize(('content', 'message'), [
    (None, 'there is no file'), ('{"a": 1,', 'is not json'), ('[1, 2]', 'holds a list, not an object')])
def test_structure_files_that_are_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / 'structure.json').write_text(content)
    with pytest.raises(StructureError, match=message):
        apply_structure(net_of('Residual'), images('Residual'), tmp_path / 'structure.json')


# sparsity training

def test_the_sparsity_penalty_is_that_of_autograd():
    net, s = net_of('Residual'), 0.1
    net.bn1.weight.data[::2] *= -1
    x = images('Residual', 4)
    other = copy.deepcopy(net)
    net(x).square().mean().backward()
    bn_sparsity_(net, s)
    penalty = s * sum(norm.weight.abs().sum() for norm in (other.bn0, other.bn1, other.bn2))
    (other(x).square().mean() + penalty).backward()
    for (name, parameter), expected in zip(net.named_parameters(), other.parameters()):
        assert torch.allclose(parameter.grad, expected.grad, rtol=1e-12, atol=1e-15), name


def test_the_sparsity_penalty_of_chosen_scales():
    scale = nn.Parameter(torch.tensor([2.0, -3.0, 0.0]))
    bn_sparsity_([scale], 0.5)
    assert scale.grad is None  # it had no part in the loss
    scale.grad = torch.ones(3)
    bn_sparsity_(iter([scale]), 0.5)
    assert scale.grad.tolist() == [1.5, 0.5, 1.0]
    with pytest.raises(ValueError, match='s is -1; it is the strength of a penalty, 0 or more'):
        bn_sparsity_([scale], -1)
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).requires_grad_(False), nn.BatchNorm2d(4, affine=False))
    with pytest.raises(ValueError, match='there is no norm with a scale that is trained'):
        bn_sparsity_(frozen, 0.1)


def test_slimming_takes_the_scales_to_zero_and_prunes_them():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[3].weight.data[:, :2] = 0  # two channels that the loss does not need
    for _ in range(12):
        optimizer.zero_grad()
        net(torch.randn(8, 1, 2, 2, dtype=torch.float64)).mean().backward()
        net[3].weight.grad.zero_()
        bn_sparsity_(net, 1.0)
        optimizer.step()
    pruner = Pruner(net, torch.zeros(1, 1, 2, 2), 'BNScale', target=dict(ratio=0.5))
    pruner.cut()
    assert net[0].out_channels == 2
    assert len(pruner.mutator.kept['0_(0, 4)_4']) == 4


# the first steps of a user, and mistakes

def test_three_lines():
    from mmprune import Pruner

    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    pruner = Pruner(model, torch.randn(1, 3, 32, 32), 'FPGM', ratio=0.3)
    pruner.cut()
    print(pruner.report())
    assert (model[0].out_channels, model[3].out_channels) == (12, 23)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_importing_mmprune_imports_little():
    code = ('import sys, mmprune\n'
            'print(sorted({"torch", "mmengine", "numpy", "mmprune.pruning.pruner"} & set(sys.modules)))\n'
            'from mmprune import Pruner, apply_structure, bn_sparsity_, save_structure\n'
            'print(Pruner.__module__, "torch" in sys.modules, "matplotlib" in sys.modules)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split('\n')[:2] == ['[]', 'mmprune.pruning.pruner True False']
    assert mmprune.Pruner is Pruner
    assert all(hasattr(mmprune, name) for name in mmprune.__all__)
    with pytest.raises(AttributeError, match="module 'mmprune' has no attribute 'Prunner'"):
        mmprune.Prunner  # noqa: B018


@pytest.mark.parametrize(('options', 'error', 'message'), [
    (dict(criterion='L3'), ValueError, "criterion is 'L3'"),
    (dict(criterion=None), ValueError, 'Pruner: criterion is None; it must be text or a dict or a Criterion'),
    (dict(ratio=0.5, target=dict(flops=0.5)), TargetError, 'ratio and target are given; ratio is short for'),
    (dict(ratio=50), TargetError, 'ratio is 50; it is a share, at least 0 and less than 1'),
    (dict(target=dict(flop=0.5)), TargetError, "target has no 'flop', did you mean 'flops'"),
    (dict(target=dict(ratio=0.5, levels={'conv3': 0.5})), PatternError,
     "levels: no conv or linear layer matches 'conv3', did you mean 'conv"),
    (dict(target=dict(levels={'fc': 0.5})), PatternError, "what 'fc' produces cannot be pruned: it is an output"),
    (dict(target=dict(ratio=0.5, op_types=['Linear'])), PatternError, 'op_types: no unit is produced by Linear only'),
    (dict(choice=dict(include='conv7')), PatternError, "include: no conv or linear layer matches 'conv7'"),
    (dict(choice=dict(min_channels=0)), ValueError, r"min_channels of '\*' is 0"),
    (dict(choice=dict(exlude='stem')), ValueError,
     "choice has no 'exlude', did you mean 'exclude'.*it takes include, exclude, min_channels"),
    (dict(choice=dict(exclude='*')), NoPrunableUnitError, r'(?s)no unit that may be pruned:.*is excluded')])
def test_mistakes_are_told_at_once(options, error, message):
    with pytest.raises(error, match=message):
        Pruner(net_of('Residual'), images('Residual'), **options)


def test_mistakes_that_come_later():
    pruner = Pruner(net_of('Residual'), images('Residual'))
    with pytest.raises(TargetError, match=r'there is no target: give the Pruner ratio=0.3 or target=dict\(flops=0.5\)'):
        pruner.cut()
    pruner = Pruner(net_of('Residual'), images('Residual'), 'Taylor', ratio=0.3)
    for method in (pruner.cut, pruner.mask, pruner.choose, pruner.cut_next):
        with pytest.raises(CriterionError, match='Taylor scores channels by data, and has seen no data: call'):
            method()
    pruner = Pruner(net_of('Residual'), images('Residual'), target=dict(flops=0.001))
    with pytest.raises(TargetError, match='flops=0.001 cannot be reached: 0.0'):
        pruner.mask()
    assert {value for name, value in pruner.sparsity().items()} == {0}
