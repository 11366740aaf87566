"""A repair against its definition: numpy's least squares on every sample, columns from one-hot weights."""
import copy

import numpy as np
import pytest
import torch
import toy_nets
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import randomise

from mmprune.arguments import UserError
from mmprune.pruning.pruner import Pruner
from mmprune.repair import batches as batches_module
from mmprune.repair import sampling
from mmprune.repair.norms import recalibrate
from mmprune.repair.refit import repair

#: More than any layer here has, so that every output is a sample.
ALL = 10**6


@pytest.fixture(autouse=True)
def every_position(monkeypatch):
    """As many samples as ``positions`` says, however few unknowns a layer has."""
    monkeypatch.setattr(sampling, 'SAMPLES', ALL)


class Reader(nn.Module):
    """``layer`` reads ``tanh(stem(x))``, several times where ``sizes`` has several."""

    def __init__(self, layer, norm=None, sizes=(1,), mix=False):
        super().__init__()
        one = isinstance(layer, nn.Conv1d)
        self.stem = (nn.Conv1d if one else nn.Conv2d)(3, 8, 1)
        self.other = nn.Conv2d(3, 4, 1) if mix else None
        self.layer, self.norm, self.sizes = layer, norm, sizes
        depthwise = getattr(layer, 'groups', 1) == 8  # its outputs are channels that it reads
        self.head = nn.Conv2d(layer.out_channels, 2, 1) if depthwise else nn.Identity()
        if depthwise:  # what it reads is there, but not what it was
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 8, 1))

    def read(self, x):
        """What the layer reads, call by call."""
        found = torch.tanh(self.stem(x))
        if self.other is not None:
            found = torch.cat([found, torch.sigmoid(self.other(x))], 1)
        if isinstance(self.layer, nn.Linear):
            found = found.flatten(2).transpose(1, 2)
        return [F.max_pool2d(found, size) if size > 1 else found for size in self.sizes]

    def forward(self, x):
        outs = [self.layer(one) for one in self.read(x)]
        return [self.head(one if self.norm is None else self.norm(one)) for one in outs]


CASES = {
    'linear': lambda: Reader(nn.Linear(8, 5)),
    '1x1': lambda: Reader(nn.Conv2d(8, 5, 1)),
    '3x3 padded': lambda: Reader(nn.Conv2d(8, 5, 3, padding=1)),
    'strided': lambda: Reader(nn.Conv2d(8, 5, 3, stride=2, padding=1)),
    'dilated': lambda: Reader(nn.Conv2d(8, 5, (3, 1), dilation=(2, 1), padding='same')),
    'reflected': lambda: Reader(nn.Conv2d(8, 5, 3, padding=2, padding_mode='reflect')),
    'one dimension': lambda: Reader(nn.Conv1d(8, 5, 3, stride=2, padding=2)),
    'grouped': lambda: Reader(nn.Conv2d(8, 6, 3, padding=1, groups=2)),
    'depthwise': lambda: Reader(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    'depthwise, two outputs': lambda: Reader(nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=8)),
    'shared': lambda: Reader(nn.Conv2d(8, 5, 3, padding=1), sizes=(1, 2)),
    'concat': lambda: Reader(nn.Conv2d(12, 5, 1), mix=True)}


def images_for(net, count=40):
    generator = torch.Generator().manual_seed(3)
    shape = (count, 3, 7) if isinstance(net.layer, nn.Conv1d) else (count, 3, 6, 6)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def cut(net, images, ratio=0.4):
    """Return a pruner of the net after the cut, and the dense twin."""
    net = net.double()
    dense = copy.deepcopy(net)
    pruner = Pruner(net, images[:1], ratio=ratio)
    pruner.cut()
    return pruner, dense


def design(layer, xs):
    """Return for each group ``ndarray[samples, K]``: what the layer makes of weights that are one 1 and zeros."""
    if isinstance(layer, nn.Linear):
        return [np.concatenate([x.reshape(-1, x.size(-1)).numpy() for x in xs])]
    found, size = [], layer.weight[0].numel()
    for group in range(layer.groups):
        one_group = copy.deepcopy(layer)
        one_group.groups = 1
        width = layer.weight.size(1)
        weights = torch.eye(size, dtype=torch.float64).reshape(size, *layer.weight.shape[1:])
        outs = [one_group._conv_forward(x[:, group * width:(group + 1) * width], weights, None) for x in xs]
        found.append(np.concatenate([out.movedim(1, -1).reshape(-1, size).detach().numpy() for out in outs]))
    return found


def outputs_of(layer, xs, rows):
    outs = [layer(x) for x in xs]
    outs = [out if isinstance(layer, nn.Linear) else out.movedim(1, -1) for out in outs]
    return np.concatenate([out.reshape(-1, out.size(-1))[:, rows].detach().numpy() for out in outs])


@pytest.mark.parametrize('case', CASES)
def test_a_solution_is_that_of_numpys_least_squares(case):
    torch.manual_seed(1)
    net = CASES[case]()
    images = images_for(net, 160)
    pruner, dense = cut(net, images, 0.6)
    kept = pruner.mutator.structure
    assert any(width < 8 for width in kept.values())
    done = repair(pruner.mutator, dense, images, positions=ALL, ridge=0.0)
    assert done.layers['layer'].applied
    assert done.layers['layer'].after < done.layers['layer'].before
    assert done.after < done.before
    layer = pruner.model.layer
    members = dict(pruner.mutator.surgery.members)
    rows = np.arange(len(dense.layer.weight))
    if 'layer.weight' in members and any(member.axis.role == 'depthwise' for _, member in members['layer.weight']):
        rows = pruner.mutator.layout('layer.weight')[0].astype(int)
    with torch.no_grad():
        columns = design(layer, pruner.model.read(images))
        wanted = outputs_of(dense.layer, dense.read(images), rows)
    per_group = len(rows) // len(columns)
    for group, x in enumerate(columns):
        some = slice(group * per_group, (group + 1) * per_group)
        x = np.concatenate([x, np.ones((len(x), 1))], 1)
        expected = np.linalg.lstsq(x, wanted[:, some], rcond=None)[0]
        found = layer.weight[some].detach().reshape(per_group, -1).numpy()
        assert pytest.approx(expected[:-1], rel=1e-5, abs=1e-8) == found.T
        assert layer.bias[some].detach().numpy() == pytest.approx(expected[-1], rel=1e-5, abs=1e-8)


def test_a_ridge_draws_to_the_weight_before():
    """The same as least squares with a row more for every unknown."""
    torch.manual_seed(1)
    net = Reader(nn.Conv2d(8, 5, 1))
    images = images_for(net)
    pruner, dense = cut(net, images)
    before = pruner.model.layer.weight.detach().flatten(1).numpy().copy()
    repair(pruner.mutator, dense, images, positions=ALL, ridge=0.3)
    x = design(pruner.model.layer, pruner.model.read(images))[0]
    y = outputs_of(dense.layer, dense.read(images), range(5))
    x, y = x - x.mean(0), y - y.mean(0)
    weight = np.diag(np.sqrt(0.3 * x.var(0) * len(x)))
    rows = np.concatenate([x, weight]), np.concatenate([y, weight @ before.T])
    expected = np.linalg.lstsq(*rows, rcond=None)[0]
    assert pytest.approx(expected, rel=1e-6) == pruner.model.layer.weight.detach().flatten(1).numpy().T


@pytest.mark.parametrize('name', ['Residual', 'Concat', 'Depthwise', 'Grouped', 'Shared', 'SharedHead', 'Flatten',
                                  'Tokens', 'TwoBatches', 'Everything'])
def test_the_outputs_come_back_and_masked_is_cut(name):
    torch.manual_seed(0)
    size = 8 if name == 'Everything' else 6
    net = randomise(getattr(toy_nets, name)())
    images = torch.randn(120, 3, size, size, dtype=torch.float64)
    pruner, dense = cut(net, images)
    done = repair(pruner.mutator, dense, images)
    assert done.after < 0.9 * done.before
    assert all(layer.after < layer.before for layer in done.layers.values() if layer.applied)
    cut_outputs = flat(pruner.model.eval()(images[:5]))
    whole = copy.deepcopy(pruner)
    whole.mutator.cut({unit.name: unit.kept | True for unit in whole.mutator.units})  # zeros where something was cut
    assert [value.shape for value in whole.model.state_dict().values()] == [
        value.shape for value in dense.state_dict().values()]
    assert torch.allclose(flat(whole.model.eval()(images[:5])), cut_outputs, atol=1e-10)


def flat(out):
    return torch.cat([one.detach().flatten() for one in (out if isinstance(out, (list, tuple)) else [out])])


def test_nothing_changes_where_nothing_was_cut():
    net = randomise(toy_nets.Everything()).double()
    pruner = Pruner(net, torch.zeros(1, 3, 8, 8, dtype=torch.float64), ratio=0.4)
    before = copy.deepcopy(net.state_dict())
    done = repair(pruner.mutator, copy.deepcopy(net), torch.randn(20, 3, 8, 8, dtype=torch.float64))
    assert (done.layers, done.norms, done.before, done.after) == ({}, False, 0, 0)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    pruner.cut()
    before = copy.deepcopy(net.state_dict())
    repair(pruner.mutator, pruner_twin(pruner), torch.randn(20, 3, 8, 8, dtype=torch.float64))
    assert torch.equal(net.stem.weight, before['stem.weight'])  # it reads what the dense one reads


def pruner_twin(pruner):
    """Return a dense model of the same weights, with random ones where something was cut."""
    whole = copy.deepcopy(pruner)
    whole.mutator.cut({unit.name: unit.kept | True for unit in whole.mutator.units})
    return whole.model


def test_a_solution_that_is_worse_on_held_back_images_is_dropped_and_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 4)).double()
    dense, images = copy.deepcopy(net), torch.randn(40, 10, dtype=torch.float64)
    pruner = Pruner(net, images[:1], ratio=0.05)  # one channel goes, and there are hardly more images than channels
    pruner.cut()
    before = copy.deepcopy(net.state_dict())
    done = repair(pruner.mutator, dense, images, ridge=0.0)
    assert not done.layers['2'].applied
    assert done.layers['2'].after > done.layers['2'].before > 0
    assert '2: left as it was, since its solution is worse on held-back images' in done.notes()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert repair(pruner.mutator, dense, images).layers['2'].applied  # with a ridge it is better


class Normed(nn.Module):
    """A norm behind a convolution, one behind a sum, and dropout."""

    def __init__(self, norm=nn.BatchNorm2d, bias=False):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 6, 3, bias=bias), norm(6)
        self.conv, self.bn1 = nn.Conv2d(6, 8, 1, bias=bias), norm(8)
        self.drop, self.head = nn.Dropout(0.5), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv(F.relu(self.bn0(self.stem(x))))))
        return self.head(self.drop(x)).mean((2, 3))


def test_norms_are_means_and_variances_of_what_they_read():
    torch.manual_seed(0)
    net = randomise(Normed()).double()
    batches = [torch.randn(4, 3, 6, 6, dtype=torch.float64) for _ in range(3)]
    expected = {'bn0': [], 'bn1': []}
    with torch.no_grad():
        for x in batches:
            first = net.stem(x)
            mean, var = first.mean((0, 2, 3)), first.var((0, 2, 3))
            expected['bn0'].append((mean, var))
            biased = first.var((0, 2, 3), unbiased=False)
            first = F.relu(F.batch_norm(first, mean, biased, net.bn0.weight, net.bn0.bias, eps=net.bn0.eps))
            second = net.conv(first)
            expected['bn1'].append((second.mean((0, 2, 3)), second.var((0, 2, 3))))
    weights = {name: value.clone() for name, value in net.named_parameters()}
    net.eval()
    recalibrate(net, batches)
    for name, values in expected.items():
        norm = getattr(net, name)
        assert torch.allclose(norm.running_mean, torch.stack([mean for mean, _ in values]).mean(0))
        assert torch.allclose(norm.running_var, torch.stack([var for _, var in values]).mean(0))
        assert (norm.momentum, norm.training, int(norm.num_batches_tracked)) == (0.1, False, 0)
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())


@pytest.mark.parametrize('bias', [False, True])
def test_an_offset_counts_against_the_dense_norm_however_often(bias):
    torch.manual_seed(0)
    images = torch.randn(60, 3, 6, 6, dtype=torch.float64)
    pruner, dense = cut(randomise(Normed(bias=bias)), images)
    net = pruner.model
    for _ in range(3):
        recalibrate(net.eval(), [images])  # as after a round that recalibrated
        repair(pruner.mutator, dense, images, positions=ALL, ridge=0.0)
        with torch.no_grad():
            rows = pruner.mutator.layout('conv.weight')[0].astype(int)
            x = F.relu(net.bn0.eval()(net.stem(images)))
            wanted = dense.conv(F.relu(dense.bn0.eval()(dense.stem(images))))[:, rows].mean((0, 2, 3))
            found = (net.conv(x) - net.bn1.running_mean.view(1, -1, 1, 1)).mean((0, 2, 3))
        if torch.equal(net.bn1.running_var, dense.bn1.running_var[rows]):  # norms were not measured anew
            assert torch.allclose(found, wanted - dense.bn1.running_mean[rows], atol=1e-9)


def test_without_a_place_for_the_offset_a_bias_is_added_and_follows_later_cuts():
    torch.manual_seed(0)

    def net():
        torch.manual_seed(0)
        return Normed(norm=lambda channels: nn.GroupNorm(channels // 2, channels))

    images = torch.randn(60, 3, 6, 6, dtype=torch.float64)
    pruner, dense = cut(net(), images, 0.34)
    done = repair(pruner.mutator, dense, images)
    assert done.layers['conv'].added_bias
    assert 'conv: has got a bias, a parameter that the architecture does not have' in done.notes()
    width = len(pruner.model.conv.bias)
    pruner.target.ratio = 0.67
    pruner.cut()
    assert len(pruner.model.conv.bias) == len(pruner.model.conv.weight) < width
    pruner.model(images)
    again = repair(pruner.mutator, dense, images)
    assert not again.layers['conv'].added_bias
    pruner, dense = cut(net(), images, 0.34)
    done = repair(pruner.mutator, dense, images, may_add_bias=False)
    assert pruner.model.conv.bias is None
    assert done.layers['conv'].applied
    assert done.after < done.before


def test_it_is_deterministic_and_leaves_generators_and_modes_alone(capsys):
    images = torch.randn(60, 3, 6, 6)
    dense = randomise(Normed())
    states = []
    for seed in (0, 7):
        net = copy.deepcopy(dense).train()
        net.bn0.eval()
        pruner = Pruner(net, images[:1], ratio=0.4)
        pruner.cut()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        repair(pruner.mutator, dense, images, positions=5)
        assert torch.equal(torch.get_rng_state(), before)
        assert (net.training, net.bn0.training, net.drop.training, dense.training) == (True, False, True, True)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
        states.append(net.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert 'task/s' in capsys.readouterr().out  # a progress bar


class Upwards(nn.Module):
    """A transposed convolution reads what is pruned."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.head = nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(torch.relu(self.up(torch.relu(self.stem(x)))))


def test_a_transposed_convolution_is_left_and_named():
    images = torch.randn(20, 3, 4, 4, dtype=torch.float64)
    pruner, dense = cut(Upwards(), images)
    up = pruner.model.up.weight.clone()
    done = repair(pruner.mutator, dense, images)
    assert done.left == {'up.weight': 'a transposed convolution is not solved'}
    assert 'up.weight: left as it was; a transposed convolution is not solved' in done.notes()
    assert torch.equal(pruner.model.up.weight, up)
    assert done.layers['head'].applied


def test_offsets_only():
    torch.manual_seed(0)
    images = torch.randn(60, 3, 6, 6, dtype=torch.float64)
    pruner, dense = cut(Reader(nn.Conv2d(8, 5, 1)), images)
    before = pruner.model.layer.weight.clone()
    done = repair(pruner.mutator, dense, images, how='bias', positions=ALL)
    assert torch.equal(pruner.model.layer.weight, before)
    means = [model(images)[0].mean((0, 2, 3)) for model in (pruner.model, dense)]
    assert torch.allclose(*means)
    assert done.after < done.before


def test_the_pruner_repairs_and_cuts_in_rounds():
    torch.manual_seed(0)
    images = torch.randn(200, 3, 8, 8)
    loader = [(part, torch.zeros(len(part))) for part in images.split(25)]
    dense = randomise(toy_nets.Everything())
    errors = {}
    for rounds in (1, 3, 'auto'):
        pruner = Pruner(copy.deepcopy(dense), images[:1], 'APoZ', target=dict(flops=0.7))
        with pytest.raises(UserError, match='there are no images: give repair some, or call calibrate first'):
            pruner.repair(dense=dense)
        pruner.calibrate(loader)
        done = pruner.cut_in_rounds(rounds=rounds)
        assert len(done) == {1: 1, 3: 3, 'auto': 4}[rounds]
        assert pruner.mutator.cost['macs'] <= 0.7 * pruner.mutator.complexity.cost({})['macs']
        errors[rounds] = done[-1].after
        with pytest.raises(UserError, match='the model is cut already'):
            pruner.cut_in_rounds(images)
    once = Pruner(copy.deepcopy(dense), images[:1], 'APoZ', target=dict(flops=0.7))
    once.calibrate(loader)
    once.mask()
    with pytest.raises(UserError, match='the model is masked, and a repair is made of a cut one'):
        once.repair(images, dense)
    once.cut()
    assert once.repair(loader, dense).after == pytest.approx(errors[1], rel=1e-3)
    assert once.repair(images, how='norms').norms


@pytest.mark.parametrize(('wrong', 'message'), [
    (dict(how='all'), "how is 'all'; it must be one of 'full', 'bias', 'norms'"),
    (dict(positions=0), 'positions is 0; it must be a whole number of 1 or more'),
    (dict(seed=-1), 'seed is -1'), (dict(ridge=-0.1), 'ridge is -0.1; it must be a number, from 0'),
    (dict(dense=None), "how='full' compares with the dense model: give dense, a copy from before the cut"),
    (dict(dense=nn.Conv2d(3, 2, 1)), "dense: 'stem.weight' is missing, and the dense model has 6 channels"),
    (dict(dense='cut'), r"dense: 'stem.weight' is of shape \(4, 3, 3, 3\), and the dense model has 6 channels"),
    (dict(images=torch.zeros(1, 3, 6, 6)), 'a repair got 1 batches of images; it takes two or more'),
    (dict(images=[torch.zeros(2, 3, 6, 6)]*0), 'a repair got 0 batches'),
    (dict(images=['a', 'b']), 'a repair got a batch without a tensor')], ids=str)
def test_mistakes_are_told(wrong, message):
    images = torch.randn(20, 3, 6, 6)
    dense = Normed()
    pruner = Pruner(copy.deepcopy(dense), images[:1], ratio=0.4)
    pruner.cut()
    arguments = dict(dense=dense, images=images, **{}) | wrong
    if arguments['dense'] == 'cut':
        arguments['dense'] = copy.deepcopy(pruner.model)
    with pytest.raises(UserError, match=message):
        repair(pruner.mutator, **arguments)


def test_portions_change_nothing_where_every_position_is_taken(monkeypatch):
    found = {}
    for portion in (4, 100):
        monkeypatch.setattr(batches_module, 'PORTION', portion)
        torch.manual_seed(1)
        net = CASES['depthwise']()
        images = images_for(net, 60)
        pruner, dense = cut(net, images)
        repair(pruner.mutator, dense, images, positions=ALL, ridge=0.0)
        found[portion] = pruner.model(images)
    torch.testing.assert_close(found[4], found[100])
