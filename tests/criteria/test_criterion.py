"""Criteria against the definitions of their papers, computed another way; units are written by hand."""
import copy
import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_nets
from hand_classes import HAND
from hand_units import Unit, loss_of, span, strided
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import randomise

from mmprune.criteria.calibration import Calibration
from mmprune.criteria.criterion import Criterion, CriterionError, UnscorableError, build_criterion
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.target import PruningTarget
from mmprune.registry import CRITERIA, MODELS, build
from mmprune.units.equivalence import random_masks
from mmprune.units.mutator import ChannelMutator


class Rectified(nn.Module):
    """``stem`` has two readers, ``left`` a grouped one, ``group`` a depthwise and a linear one behind a flatten."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.left, self.side = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 5, 1)
        self.group, self.dw = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.fc, self.head = nn.Linear(54, 2), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        y = F.relu(self.group(F.relu(self.left(x))))
        y = F.max_pool2d(F.relu(self.dw(y)), 2)
        return self.fc(y.flatten(1)) + self.head(F.relu(self.side(x))).mean((2, 3))


#: Channel c of ``group`` is tied to c + 3; each has nine columns in ``fc``.
PAIRS = [[*range(9 * c, 9 * c + 9), *range(9 * c + 27, 9 * c + 36)] for c in range(3)]
RECTIFIED = {
    'stem_(0, 4)_4': Unit({'stem': span(0, 4)}, {'left': span(0, 4), 'side': span(0, 4)}, act=36, flops=None),
    'left_(0, 6)_6': Unit({'left': strided(3, 2)}, {'group': strided(3, 2)}, act=72, flops=None),
    'group_(0, 6)_6': Unit({'group': strided(3, 2), 'dw': strided(3, 2)}, {'dw': strided(3, 2), 'fc': PAIRS},
                           act=144, flops=None),
    'side_(0, 5)_5': Unit({'side': span(0, 5)}, {'head': span(0, 5)}, act=36, flops=None)}
UNITS = {**HAND, 'Rectified': RECTIFIED}
#: ``part`` of TwoBatches reads another batch than its images.
OF_IMAGES = [name for name in UNITS if name != 'TwoBatches']
EXACT = dict(rel=1e-11, abs=1e-13)


def net_of(name):
    return randomise(Rectified() if name == 'Rectified' else getattr(toy_nets, name)()).double().eval()


def mutator_of(net, size=6):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)))
    mutator.prepare(net)
    return mutator


def batches_of(*samples, size=6):
    """Images with a weight for the loss of each."""
    return [(torch.randn(count, 3, size, size, dtype=torch.float64), torch.rand(count, dtype=torch.float64) + 0.5)
            for count in samples]


def mean_loss(out, weights):
    """The mean over samples of a loss whose gradient differs from element to element."""
    outs = [one.flatten(1) for one in (out if isinstance(out, list) else [out])]
    return sum((((one + 0.3).square() + one.sin()).sum(1) * weights).mean() for one in outs)


def calibration_of(net, batches, loss=mean_loss):
    return Calibration(batches, lambda batch: loss(net(batch[0]), batch[1]), lambda batch: (batch[1] > 1).long())


def scores_of(cfg, net, batches=None, size=6):
    """Return unit name -> its scores, by a criterion."""
    mutator = mutator_of(net, size)
    criterion = build_criterion(cfg, mutator)
    if batches is not None:
        criterion.calibrate(calibration_of(net, batches))
    scores = {unit.name: criterion.score(unit) for unit in mutator.units}
    assert not any(score.requires_grad for score in scores.values())
    return {name: score.tolist() for name, score in scores.items()}


def assert_equal(scores, expected):
    assert list(scores) == list(expected)
    for name, values in expected.items():
        assert scores[name] == pytest.approx([float(value) for value in values], **EXACT), name


def filters_of(net, unit):
    """Return for each producer the filter of each class as a list of numbers."""
    return [[[value for row in rows for value in net.get_submodule(layer).weight[row].flatten().tolist()]
             for rows in classes] for layer, classes in unit.producers.items()]


def means_of(layers):
    """Return the mean over layers of ``[classes]``."""
    return [sum(column) / len(layers) for column in zip(*layers)]


# weights

@pytest.mark.parametrize('name', UNITS)
def test_filter_norms_by_loops(name):
    net = net_of(name)
    filters = {unit: filters_of(net, by_hand) for unit, by_hand in UNITS[name].items()}
    for criterion, norm in (('L1', lambda one: sum(abs(w) for w in one)),
                            ('L2', lambda one: math.sqrt(sum(w * w for w in one)))):
        assert_equal(scores_of(criterion, net), {unit: means_of([[norm(one) for one in layer] for layer in layers])
                                                 for unit, layers in filters.items()})


def cosine_distance(a, b):
    return 1 - sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize(('distance', 'between'), [('euclidean', math.dist), ('cosine', cosine_distance)])
@pytest.mark.parametrize('name', UNITS)
def test_fpgm_by_double_loops(name, distance, between):
    net = net_of(name)
    assert_equal(scores_of(dict(type='FPGM', distance=distance), net), {
        unit: means_of([[sum(between(one, other) for other in layer) for one in layer]
                        for layer in filters_of(net, by_hand)]) for unit, by_hand in UNITS[name].items()})


def geometric_median(points):
    """Return the point with the least sum of distances, by ever finer grids around the best so far."""
    best, step = points.mean(0), 1.0
    while step > 1e-9:
        around = torch.linspace(-4, 4, 17, dtype=torch.float64) * step
        grid = best + torch.cartesian_prod(around, around)
        sums = sum((grid - point).square().sum(1).sqrt() for point in points)
        best, step = grid[sums.argmin()], step / 2
    return best


@pytest.mark.parametrize('seed', range(3))
def test_filter_at_the_geometric_median_goes_first(seed):
    torch.manual_seed(seed)
    points = torch.randn(6, 2, dtype=torch.float64)
    median = geometric_median(points)
    net = nn.Sequential(nn.Conv2d(2, 7, 1), nn.Conv2d(7, 1, 1)).double()
    net[0].weight.data = torch.cat([points[:4], median[None], points[4:]]).view(7, 2, 1, 1)
    pruner = Pruner(net, torch.zeros(1, 2, 1, 1), 'FPGM')
    score = pruner.criterion.score(pruner.mutator.units[0])
    assert float(score[4]) == pytest.approx(sum(math.dist(median, point) for point in points))
    others = torch.cat([score[:4], score[5:]])
    assert float(score[4]) < float(others.min()) + 1e-9  # a filter may be the median itself
    assert float(score[4]) < float(others.max()) - 0.1


def test_bn_scale_by_hand():
    net = net_of('Residual')
    outer = [net.bn0.weight.abs().tolist(), net.bn2.weight.abs().tolist()]
    inner = net.bn1.weight.abs().tolist()
    net.bn1.weight.data[2] *= -1
    for combine, function in (('or', max), ('max', max), ('and', min), ('min', min)):
        assert_equal(scores_of(dict(type='BNScale', combine=combine), net),
                     {'stem_(0, 6)_6': list(map(function, *outer)), 'conv1_(0, 5)_5': inner})
    assert_equal(scores_of('BNScale', net), scores_of(dict(type='BNScale', combine='or'), net))
    # the norm lies over two units; behind the second depthwise convolution a channel is two
    net = net_of('Concat')
    pruner = Pruner(net, torch.zeros(1, 3, 6, 6), 'BNScale')
    assert [pruner.criterion.score(unit).tolist() for unit in pruner.mutator.units[:2]] == [
        net.bn.weight[:4].abs().tolist(), net.bn.weight[4:].abs().tolist()]
    net = net_of('Depthwise')
    pruner = Pruner(net, torch.zeros(1, 3, 6, 6), dict(type='BNScale', combine='sum'))
    assert pruner.criterion.score(pruner.mutator.units[0]).tolist() == pytest.approx([
        abs(one) + (abs(two) + abs(three)) / 2 for one, two, three in zip(
            net.bn0.weight.tolist(), net.bn2.weight[::2].tolist(), net.bn2.weight[1::2].tolist())])


# activations

def see_inputs(net, units, own=False):
    """Return a list of (layer, input ``Tensor[N, channels, positions]``), which grows with every call of a consumer.

    With ``own`` each input is a copy of its own, so that its gradient is that through this call alone.
    """
    seen = []

    def hook(layer, module, x):
        x = x.clone().requires_grad_() if own else x
        last = isinstance(module, nn.Linear)
        seen.append((layer, x, (lambda t: t.movedim(-1, 1).flatten(2)) if last and x.dim() > 2 else
                     (lambda t: t.reshape(len(t), t.size(1), -1))))
        return (x,)

    for layer in dict.fromkeys(layer for unit in units.values() for layer in unit.consumers):
        net.get_submodule(layer).register_forward_pre_hook(
            lambda module, args, layer=layer: hook(layer, module, args[0]))
    return seen


@pytest.mark.parametrize(('criterion', 'of_one'), [
    ('APoZ', lambda values: sum(value != 0 for value in values) / len(values)),
    ('MeanActivation', lambda values: sum(values) / len(values))])
@pytest.mark.parametrize('name', OF_IMAGES)
def test_input_statistics_by_hooks(name, criterion, of_one):
    net, batches, expected = net_of(name), batches_of(2, 1), {}
    dense = copy.deepcopy(net)
    seen = see_inputs(dense, UNITS[name])
    for x, _ in batches:
        dense(x)
    for unit, by_hand in UNITS[name].items():
        layers = []
        for layer, columns in by_hand.consumers.items():
            inputs = [order(x) for one, x, order in seen if one == layer]
            layers.append([sum(of_one(x[n, column].tolist()) for x in inputs for n in range(len(x)) for column in row)
                           / sum(len(x) for x in inputs) / len(row) for row in columns])
        expected[unit] = means_of(layers)
    scores = scores_of(criterion, net, batches)
    assert_equal(scores, expected)
    if name == 'Rectified' and criterion == 'APoZ':
        assert all(any(0 < score < 1 for score in several) for several in scores.values())


def test_means_of_many_batches_in_bfloat16():
    """Adding up in bfloat16 would end at 256."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)).to(torch.bfloat16)
    nn.init.zeros_(net[0].weight)
    nn.init.ones_(net[0].bias)
    for criterion in ('APoZ', 'MeanActivation'):
        pruner = Pruner(net, torch.zeros(1, 1, 1, 1), criterion)
        pruner.calibrate([torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)] * 600)
        assert pruner.criterion.score(pruner.mutator.units[0]).tolist() == [1, 1]


# gradients

@pytest.mark.parametrize('name', OF_IMAGES)
def test_taylor_of_activations_by_autograd_sample_by_sample(name):
    net, batches, units = net_of(name), batches_of(3, 2), UNITS[name]
    dense = copy.deepcopy(net)
    seen, sums = see_inputs(dense, units, own=True), dict.fromkeys(units, 0.0)
    for images, weights in batches:
        for n in range(len(images)):
            seen.clear()
            loss = mean_loss(dense(images[n:n + 1]), weights[n:n + 1])
            gradients = torch.autograd.grad(loss, [x for _, x, _ in seen])
            for unit, by_hand in units.items():
                changes = torch.zeros(by_hand.classes, dtype=torch.float64)
                for (layer, x, order), gradient in zip(seen, gradients):
                    for c, row in enumerate(by_hand.consumers.get(layer, [])):
                        changes[c] += (order(x) * order(gradient))[0, row].sum()
                sums[unit] = sums[unit] + changes.detach().abs() / by_hand.act / 5
    assert_equal(scores_of(dict(type='Taylor', normalize='none'), net, batches), sums)
    assert_equal(scores_of('Taylor', net, batches), {unit: score / score.norm() for unit, score in sums.items()})


@pytest.mark.parametrize('name', OF_IMAGES)
def test_taylor_of_weights_by_autograd_batch_by_batch(name):
    net, batches, expected = net_of(name), batches_of(3, 2), {}
    dense = copy.deepcopy(net)
    for images, weights in batches:
        dense.zero_grad()
        mean_loss(dense(images), weights).backward()
        for unit, by_hand in UNITS[name].items():
            for layer, classes in by_hand.producers.items():
                weight = dense.get_submodule(layer).weight
                for c, rows in enumerate(classes):
                    change = sum(float((weight[row] * weight.grad[row]).detach().sum()) for row in rows)
                    expected.setdefault(unit, [0.0] * by_hand.classes)[c] += change ** 2 / 2
    for parameter in list(net.parameters())[::2]:
        parameter.requires_grad_(False)  # what is not trained has a say, too
    assert_equal(scores_of(dict(type='Taylor', source='weights'), net, batches), expected)
    assert [parameter.requires_grad for parameter in net.parameters()][:2] == [False, True]


def test_whole_groups_by_loops():
    net, batches = net_of('Residual'), batches_of(3, 2)
    dense = copy.deepcopy(net)
    for images, weights in batches:
        mean_loss(dense(images), weights).backward()
    # rows of those that produce a channel, columns of those that read it, norms on it
    groups = {'stem_(0, 6)_6': (('stem', 0), ('conv2', 0), ('conv1', 1), ('fc', 1), ('bn0', 0), ('bn2', 0)),
              'conv1_(0, 5)_5': (('conv1', 0), ('conv2', 1), ('bn1', 0))}

    def weights_of(layer, dim, gradient=False):
        weight = dense.get_submodule(layer).weight
        return [(one * (grad if gradient else 1)).detach().flatten().tolist()
                for one, grad in zip(weight.unbind(dim), weight.grad.unbind(dim))]

    def scores(of_layer, norms, **options):
        found = {}
        for unit, layers in groups.items():
            means = means_of([of_layer(weights_of(*one, **options)) for one in layers if norms or 'bn' not in one[0]])
            found[unit] = [one / (sum(means) / len(means)) for one in means]
        return found

    for criterion, expected in (
            ('WholeGroup', scores(lambda rows: [sum(w * w for w in row) for row in rows], norms=True)),
            (dict(type='WholeGroup', source='distances'), scores(lambda rows: [
                sum(math.dist([w * w for w in row], [w * w for w in other]) for other in rows) for row in rows],
                norms=False)),
            (dict(type='WholeGroup', source='taylor'), scores(
                lambda rows: [sum(abs(w) for w in row) for row in rows], norms=False, gradient=True))):
        assert_equal(scores_of(criterion, net, batches), expected)


@pytest.mark.parametrize('name', ['Residual', 'Concat', 'Grouped', 'Flatten', 'Rectified'])
def test_oracle_by_really_removing_channels(name):
    net, batches = net_of(name), batches_of(3, 2)
    mutator = mutator_of(copy.deepcopy(net))

    def loss_without(unit=None, number=None):
        cut = copy.deepcopy(mutator)
        if unit is not None:
            cut.cut({unit.name: np.arange(len(unit.kept)) != number})
            assert cut.structure[unit.name] == unit.width - unit.multiplicity
        return sum(float(mean_loss(cut.model(x), weights)) for x, weights in batches) / len(batches)

    with torch.no_grad():
        dense = loss_without()
        changes = {unit.name: [loss_without(unit, c) - dense for c in range(len(unit.kept))] for unit in mutator.units}
    assert_equal(scores_of(dict(type='Oracle', change='signed'), net, batches), changes)
    assert_equal(scores_of('Oracle', net, batches), {unit: map(abs, several) for unit, several in changes.items()})
    assert min(map(min, changes.values())) < 0 < max(map(max, changes.values()))


@pytest.mark.parametrize('kind', ['act', 'flops', 'none'])
@pytest.mark.parametrize('name', HAND)
def test_group_fisher_equals_what_a_prune_run_accumulates(name, kind):
    net, batches = net_of(name), batches_of(3, 1, 2)
    mutator = build(MODELS, toy_nets.mutator_cfg(kind, size=6))
    mutator.prepare(copy.deepcopy(net))
    for x, _ in batches:
        mutator.taps.record(True)
        loss_of(mutator.model(x)).backward()
        mutator.accumulate(mutator.taps.take())
        mutator.taps.record(False)
    ours = mutator_of(net)
    criterion = build_criterion(dict(type='GroupFisher', normalization_type=kind), ours)
    criterion.calibrate(calibration_of(net, batches, lambda out, _: loss_of(out)))
    assert_equal({unit.name: criterion.score(unit).tolist() for unit in ours.units},
                 {name: scores.tolist() for name, scores in mutator.scores().items()})


# random scores, and how scores become one

def test_random_scores():
    net = net_of('Flatten')
    first, again = scores_of('Random', net), scores_of('Random', net_of('Flatten'))
    assert first == again
    assert first != scores_of(dict(type='Random', seed=1), net)
    conv, fc = first.values()
    assert len({*conv, *fc}) == len(conv) + len(fc)  # no two alike, within units or between
    assert all(0 <= score < 1 for score in [*conv, *fc])


class Fixed(Criterion):
    """Scores of two layers, by hand."""

    def member_scores(self, unit):
        return [torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64), torch.tensor([4.0, 0.0, 3.0], dtype=torch.float64)]


@pytest.mark.parametrize(('combine', 'expected'), [
    ('sum', [5, -2, 8]), ('mean', [2.5, -1, 4]), ('max', [4, 0, 5]), ('or', [4, 0, 5]), ('min', [1, -2, 3]),
    ('and', [1, -2, 3])])
def test_combinations_by_hand(combine, expected):
    assert Fixed(combine).element_scores(None).tolist() == expected


@pytest.mark.parametrize(('normalize', 'divisors'), [
    ('none', (1, 1)), ('sum', (8, 7)), ('mean', (8 / 3, 7 / 3)), ('max', (5, 4)), ('l2', (math.sqrt(30), 5))])
def test_normalizations_by_hand(normalize, divisors):
    expected = [a / divisors[0] + b / divisors[1] for a, b in ((1, 4), (-2, 0), (5, 3))]
    assert Fixed('sum', normalize).element_scores(None).tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize('normalize', ['none', 'sum', 'mean', 'max', 'l2'])
def test_layers_of_zeros_stay_zero(normalize):
    criterion = Fixed(normalize=normalize)
    criterion.member_scores = lambda unit: [torch.zeros(3)]
    assert criterion.element_scores(None).tolist() == [0, 0, 0]


# cut models, and what a calibration leaves behind

CFGS = ['L1', 'L2', 'FPGM', dict(type='FPGM', distance='cosine'), 'BNScale', 'APoZ', 'MeanActivation', 'Taylor',
        dict(type='Taylor', source='weights'), 'Oracle', 'GroupFisher',
        dict(type='GroupFisher', normalization_type='flops'), 'Random', 'WholeGroup',
        dict(type='WholeGroup', source='taylor')]


def label(cfg):
    return cfg if isinstance(cfg, str) else '-'.join(map(str, cfg.values()))


@pytest.mark.parametrize('cfg', CFGS, ids=label)
@pytest.mark.parametrize('name', ['Everything', 'Depthwise', 'Rectified'])
def test_scores_of_a_cut_model_are_those_of_the_small_model(name, cfg):
    size = 8 if name == 'Everything' else 6
    net, batches = net_of(name), batches_of(2, 1, size=size)
    mutator = mutator_of(net, size)
    criterion = build_criterion(cfg, mutator)
    mutator.cut(random_masks(mutator.units, ratio=0.4, seed=1))
    criterion.calibrate(calibration_of(net, batches))
    small = mutator_of(copy.deepcopy(net), size)
    other = build_criterion(cfg, small)
    other.calibrate(calibration_of(small.model, batches))
    assert [len(unit.kept) for unit in small.units] == [unit.num_sets for unit in mutator.units]
    scored = 0
    for unit, anew in zip(mutator.units, small.units):
        try:
            expected = other.score(anew).tolist()
        except UnscorableError:
            with pytest.raises(UnscorableError):
                criterion.score(unit)
            continue
        assert criterion.score(unit).tolist() == pytest.approx(expected, **EXACT), unit.name
        scored += 1
    assert scored


def everything_about(net):
    return dict(
        tensors={name: tensor.clone() for name, tensor in net.state_dict().items()},
        gradients={name: (id(parameter.grad), None if parameter.grad is None else parameter.grad.clone())
                   for name, parameter in net.named_parameters()},
        trained=[parameter.requires_grad for parameter in net.parameters()],
        modes=[module.training for module in net.modules()], classes=[type(module) for module in net.modules()],
        attributes=[sorted(vars(module)) for module in net.modules()],
        hooks=[len(hooks) for module in net.modules() for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)],
        random=(torch.get_rng_state(), np.random.get_state()[1], random.getstate()), grad=torch.is_grad_enabled())


def same(a, b):
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return bool((a == b).all())
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a) if isinstance(a, dict) else a == b


@pytest.mark.parametrize('enabled', [True, False], ids=['grad', 'no_grad'])
@pytest.mark.parametrize('cfg', [*CFGS, 'ThiNet', 'NISP', 'DCP'], ids=label)
def test_a_calibration_leaves_the_model_alone(cfg, enabled):
    net = randomise(toy_nets.Everything()).double()
    net.bn3.eval()
    net.fc1.eval()
    net.conv1.weight.requires_grad_(False)
    mutator = mutator_of(net, 8)
    criterion = build_criterion(cfg, mutator)
    batches = batches_of(4, 2, size=8)
    net(batches[0][0])[:, 0].sum().backward()
    net.fc2.weight.grad = None
    with torch.set_grad_enabled(enabled):
        before = everything_about(net)
        criterion.calibrate(calibration_of(net, batches))
        for unit in mutator.units:
            if not (cfg == 'BNScale' and unit.name.startswith('fc')):
                criterion.score(unit)
        after = everything_about(net)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_a_calibration_that_fails_leaves_the_model_alone_and_counts_for_nothing():
    net = randomise(toy_nets.Everything()).double()
    mutator, batches = mutator_of(net, 8), batches_of(2, size=8)

    def fail(out, weights):
        raise RuntimeError('no loss today')

    for cfg in CFGS:
        criterion = build_criterion(cfg, mutator)
        if criterion.needs_data:
            criterion.calibrate(calibration_of(net, batches))
            before = everything_about(net)
            with pytest.raises(RuntimeError, match='no loss today'):
                criterion.calibrate(calibration_of(net, batches, fail))
            assert same(before, everything_about(net)), cfg
            assert not criterion.is_calibrated


class Backward(Criterion):
    """A user's criterion, which takes the gradients of the parameters as they come."""

    needs_data = needs_loss = True

    def observe(self, calibration):
        with torch.enable_grad():
            for batch in calibration.batches:
                calibration.loss(batch).backward()
        self.gradients = {name: parameter.grad.clone() for name, parameter in self.mutator.model.named_parameters()}


def test_a_criterion_starts_without_gradients_and_leaves_those_that_were_there():
    net, batches = net_of('Flatten'), batches_of(2)
    criterion = build_criterion(Backward(), mutator_of(net))
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    before = everything_about(net)
    criterion.calibrate(calibration_of(net, batches))
    assert same(before, everything_about(net))
    other = copy.deepcopy(net)
    other.zero_grad()
    mean_loss(other(batches[0][0]), batches[0][1]).backward()
    for name, parameter in other.named_parameters():
        assert torch.allclose(criterion.gradients[name], parameter.grad), name


# mistakes

def test_a_criterion_without_data_is_refused():
    net = net_of('Residual')
    mutator = mutator_of(net)
    criterion = build_criterion('APoZ', mutator)
    with pytest.raises(CriterionError, match='APoZ scores channels by data, and has seen no data: call calibrate'):
        criterion.score(mutator.units[0])
    criterion.calibrate(calibration_of(net, batches_of(2)))
    criterion.score(mutator.units[0])
    mutator.cut({'stem_(0, 6)_6': np.arange(6) > 1})
    with pytest.raises(CriterionError, match='has seen no data since the model was cut: call calibrate first'):
        criterion.score(mutator.units[0])
    criterion.calibrate(calibration_of(net, batches_of(2)))
    assert len(criterion.score(mutator.units[0])) == 4
    criterion.bind(mutator_of(net_of('Residual')))  # what it saw was another model
    with pytest.raises(CriterionError, match='has seen no data: call calibrate first'):
        criterion.score(criterion.mutator.units[0])


class Functional(nn.Module):
    """The weight of ``b`` is used by the network itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.c(F.relu(F.conv2d(x, self.b.weight, self.b.bias, padding=1))).mean((2, 3))


@pytest.mark.parametrize(('cfg', 'reason'), [
    ('BNScale', "unit 'a_(0, 6)_6': no norm with a scale follows it; leave it out (exclude), or take a criterion of "
                'filters'),
    ('APoZ', "unit 'a_(0, 6)_6': 'b.weight' reads it outside the conv or linear module that owns it, where nothing can "
             'be recorded; leave the unit out (exclude) or take a criterion of weights'),
    ('Taylor', "unit 'a_(0, 6)_6': 'b.weight' reads it outside the conv or linear module that owns it, where nothing "
               'can be recorded; leave the unit out (exclude) or take a criterion of weights'),
    ('GroupFisher', "unit 'a_(0, 6)_6': 'b.weight' reads it outside the conv or linear module that owns it")])
def test_a_unit_that_cannot_be_scored_says_why(cfg, reason):
    net = Functional().double()
    mutator = mutator_of(net)
    criterion = build_criterion(cfg, mutator)
    criterion.calibrate(calibration_of(net, batches_of(2)))
    with pytest.raises(UnscorableError) as error:
        criterion.score(mutator.units[0])
    assert f'{label(cfg)} cannot score {reason}' in str(error.value)


def test_criteria_of_weights_score_functional_layers():
    net = Functional().double()
    for cfg in ('L2', dict(type='Taylor', source='weights'), 'Oracle'):
        assert min(scores_of(cfg, net, batches_of(2))['a_(0, 6)_6']) > 0


def test_weights_that_the_loss_does_not_depend_on_say_so():
    class Side(toy_nets.Flatten):
        def forward(self, x):
            return super().forward(x.detach()).detach() + self.fc2.bias

    net = Side().double()
    mutator = mutator_of(net)
    criterion = build_criterion(dict(type='Taylor', source='weights'), mutator)
    criterion.calibrate(calibration_of(net, batches_of(2)))
    with pytest.raises(UnscorableError, match='the loss depends on no layer that produces it'):
        criterion.score(mutator.units[0])


@pytest.mark.parametrize(('cfg', 'message'), [
    ('FPMG', "criterion is 'FPMG', did you mean 'FPGM'.*; it must be one of APoZ, BNScale, "),
    (dict(type='mmprune.Taylr'), "criterion is 'Taylr', did you mean 'Taylor'"),
    (dict(distance='cosine'), "criterion is 'None'; it must be one of"),
    (None, "criterion is None; it must be a name, such as 'L2', or a dict"),
    (dict(type='L1', combine='avg'), "combine is 'avg'; it must be one of 'sum', 'mean', 'max', 'min'"),
    (dict(type='L1', normalize='means'), "normalize is 'means', did you mean 'mean'"),
    (dict(type='FPGM', distance='cosin'), "distance is 'cosin', did you mean 'cosine'"),
    (dict(type='Taylor', source='weight'), "source is 'weight', did you mean 'weights'"),
    (dict(type='Oracle', change='abs'), "change is 'abs'; it must be one of 'absolute', 'signed'"),
    (dict(type='GroupFisher', normalization_type='flop'), "normalization_type is 'flop', did you mean 'flops'")])
def test_misspelt_options_are_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_criterion(cfg, SimpleNamespace())


@pytest.mark.parametrize(('name', 'value'), [('Taylor', 'weights'), ('WholeGroup', 'distances')])
def test_the_former_name_of_source_still_counts_and_says_so(name, value, monkeypatch):
    said = []
    monkeypatch.setattr('mmprune.arguments.print_log', lambda message, **where: said.append(message))
    assert build(CRITERIA, dict(type=name, of=value)).source == value
    assert said == ["the argument 'of' is called 'source' now"]


@pytest.mark.parametrize('criterion', ['Taylor', dict(type='Taylor', source='weights'), 'GroupFisher', 'Oracle'],
                         ids=label)
def test_a_criterion_of_the_loss_needs_one(criterion):
    """The oracle without a loss would find that no channel changes it."""
    pruner = Pruner(net_of('Flatten'), torch.zeros(1, 3, 6, 6), criterion)
    with pytest.raises(ValueError, match=r'needs a loss: call calibrate\(loader, loss_fn\)'):
        pruner.calibrate(batches_of(2))


def test_what_a_loader_must_give():
    pruner = Pruner(net_of('Flatten'), torch.zeros(1, 3, 6, 6), 'Taylor')
    with pytest.raises(ValueError, match='calibrate got no batch: the loader is empty'):
        pruner.calibrate([], mean_loss)
    with pytest.raises(ValueError, match=r'a batch is Tensor; where targets are needed it must be \(inputs, targets\)'):
        pruner.calibrate([batches_of(2)[0][0]], mean_loss)
    endless = itertools.repeat(batches_of(2)[0])
    pruner.calibrate(endless, mean_loss, batches=3)
    once = iter(batches_of(2, 2))  # looked at again after a cut, though it can be gone through only once
    pruner.calibrate(once, mean_loss)
    pruner.mutator.cut({'conv_(0, 4)_4': np.arange(4) > 0})
    assert not pruner.criterion.is_calibrated
    pruner.target = PruningTarget(ratio=0.5)
    pruner.choose()
    assert pruner.criterion.is_calibrated
