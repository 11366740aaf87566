"""NISP: scores against what a change of each channel does to the final responses of the network of absolute weights."""
import copy

import numpy as np
import pytest
import torch
import toy_nets
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.criteria.calibration import Calibration
from mmprune.criteria.criterion import CriterionError, UnscorableError
from mmprune.criteria.nisp import NISP, inf_fs
from mmprune.registry import CRITERIA
from mmprune.units.equivalence import random_masks
from mmprune.units.mutator import ChannelMutator


class PreActivation(nn.Module):
    """The norm of a block lies on its branches, not on the stream: ``x + conv(bn(x)) + side(bn(x))``."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.conv, self.side = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.last, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.bn(x))
        return self.fc(self.last(x + self.conv(y) + self.side(y)).mean((2, 3)))


class DepthwiseStream(nn.Module):
    """A depthwise conv on a branch of the stream that it is tied to; a layer scale ends the branch."""

    def __init__(self):
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.up, self.down = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.gamma = nn.Parameter(torch.randn(6, 1, 1))
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((x + self.gamma * self.down(torch.tanh(self.up(self.dw(x))))).mean((2, 3)))


class Transposed(nn.Module):
    """Transposed convolutions: plain, grouped, depthwise with two outputs a channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.group = nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2)
        self.dw, self.pw = nn.ConvTranspose2d(4, 8, 3, padding=1, groups=4), nn.Conv2d(8, 5, 1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        return self.head(F.relu(self.pw(self.dw(torch.tanh(self.group(F.relu(self.up(self.stem(x)))))))))


class InPlace(nn.Module):
    """Activations and sums that overwrite what layers made."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.conv2 = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        x += 1.0
        x = F.relu(self.bn(x), inplace=True)
        y = self.conv1(x)
        y.relu_()
        y = self.conv2(y)
        y += x
        return self.fc(F.relu(y, inplace=True).mean((2, 3)))


#: The images are 6x6 where the network wants that, else 8x8.
SIZES = {'Flatten': 6, 'TwoBatches': 6}
IDENTITIES = [(F, 'relu'), (F, 'relu6'), (F, 'gelu'), (torch, 'tanh'), (torch, 'sigmoid')]
#: Net -> the layers that read the final responses.
NETS = {
    'Residual': ['fc'], 'Concat': ['e'], 'Depthwise': ['fc'], 'Grouped': ['head'], 'Shared': ['fc'],
    'SharedHead': ['cls'], 'Flatten': ['fc2'], 'Tokens': ['head'], 'TwoBatches': ['whole', 'part'],
    'Everything': ['fc2'], PreActivation: ['fc'], DepthwiseStream: ['fc'], Transposed: ['head'], InPlace: ['fc']}


def prepared(net, **options):
    size = SIZES.get(net, 8)
    model = (net if callable(net) else getattr(toy_nets, net))()
    model = toy_nets.randomise(model).double().eval()
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)))
    mutator.prepare(model)
    criterion = NISP(**options)
    criterion.bind(mutator)
    return model, mutator, criterion


def calibration_of(model, size=8, batches=2):
    def loss(batch):
        out = model(batch)
        return sum(o.square().mean() for o in out) if isinstance(out, list) else out.square().mean()
    return Calibration([torch.randn(4, 3, size, size).double() for _ in range(batches)], loss)


def absolute(model):
    """Return a copy whose weights are absolute, whose biases are zero and whose norms only scale."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
        if isinstance(getattr(module, 'bias', None), nn.Parameter):
            module.bias.data.zero_()
    for parameter in model.parameters():
        parameter.data.abs_()
    return model


def responses(model, layers, x):
    """Return the mean over rows and positions of each input channel of the layers, one call's row after the other."""
    seen = {layer: [] for layer in layers}
    handles = [model.get_submodule(layer).register_forward_pre_hook(
        lambda module, args, layer=layer: seen[layer].append(
            args[0].movedim(1, -1).flatten(0, -2).mean(0)))
        for layer in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return {layer: torch.stack(rows) for layer, rows in seen.items()}


def score_by_change(model, layer, channels, last, size):
    """Return what the final responses gain, weighted by their scores, where a channel of a layer is one larger."""
    x = torch.zeros(1, 3, size, size).double()
    before = responses(model, last, x)
    scores = []
    for channel in range(channels):
        def more(module, args, out, channel=channel):
            out = out.clone()
            out.select(-1 if isinstance(module, nn.Linear) else 1, channel).add_(1.0)
            return out
        handle = model.get_submodule(layer).register_forward_hook(more)
        after = responses(model, last, x)
        handle.remove()
        scores.append(sum(float(((after[name] - before[name]) * last[name]).sum()) for name in last))
    return torch.tensor(scores, dtype=torch.float64)


def expected_scores(model, mutator, last):
    """Return unit -> mean over its producers of the score of each class."""
    model = absolute(model)
    expected = {}
    for unit in mutator.units:
        rows = []
        for member in unit.channels.producers:
            module = model.get_submodule(member.axis.layer)
            channels = getattr(module, 'out_channels', getattr(module, 'out_features', None))
            change = score_by_change(model, member.axis.layer, channels, last, mutator.demo_input.input_shape[-1])
            layout = mutator.layout(member.axis.tensor)[member.axis.dim]
            per_index = [[] for _ in layout]
            for channel in range(channels):  # of a transposed convolution several outputs share an index
                transposed = getattr(module, 'transposed', False)
                depthwise = member.axis.role == 'depthwise'
                step = channels // module.groups if transposed else 1
                number = channel // step if depthwise and transposed else channel % step if transposed else channel
                per_index[number].append(change[channel])
            totals = {int(key): sum(values) for key, values in zip(layout, per_index)}
            rows.append(torch.stack([sum(totals[int(key)] for key in keys) for keys in member.index[unit.kept]]))
        expected[unit.name] = torch.stack(rows).mean(0)
    return expected


def linear_network(monkeypatch):
    """Make activations identities, also where they work in place."""
    for owner, name in IDENTITIES:
        monkeypatch.setattr(owner, name, lambda x, inplace=False: x)
    monkeypatch.setattr(torch.Tensor, 'relu_', lambda x: x)


def averaging(monkeypatch, net):
    """Average in place of a maximum where its place would count: poolings of maps that a border has changed."""
    if net != 'Flatten':
        monkeypatch.setattr(F, 'max_pool2d', F.avg_pool2d)


@pytest.mark.parametrize('net', NETS, ids=lambda net: net if isinstance(net, str) else net.__name__)
@pytest.mark.parametrize('cut', [False, True], ids=['dense', 'cut'])
def test_scores_are_what_the_absolute_network_gains(net, cut, monkeypatch):
    averaging(monkeypatch, net)
    model, mutator, criterion = prepared(net, final='ones')
    if cut:
        mutator.cut(random_masks(mutator.units, 0.4, 3))
    criterion.calibrate(Calibration([], lambda batch: None))
    last = {name: torch.ones(model.get_submodule(name).weight.size(1)).double() for name in NETS[net]}
    scores = {unit.name: criterion.score(unit) for unit in mutator.units}
    linear_network(monkeypatch)
    monkeypatch.setattr(F, 'max_pool2d', F.avg_pool2d)
    expected = expected_scores(model, mutator, last)
    for unit in mutator.units:
        torch.testing.assert_close(scores[unit.name], expected[unit.name], rtol=1e-9, atol=1e-12)
        assert len(scores[unit.name]) == unit.num_sets
        assert bool((scores[unit.name] > 0).any())


@pytest.mark.parametrize('net', ['Residual', 'Concat', 'SharedHead', 'Flatten'])
def test_final_scores_are_inf_fs_of_what_the_last_layers_read(net, monkeypatch):
    averaging(monkeypatch, net)
    model, mutator, criterion = prepared(net, alpha=0.3)
    calibration = calibration_of(model, SIZES.get(net, 8))
    criterion.calibrate(calibration)
    seen = {name: [] for name in NETS[net]}
    handles = [model.get_submodule(name).register_forward_pre_hook(
        lambda module, args, name=name: seen[name].append(args[0].movedim(1, -1).flatten(0, -2))) for name in seen]
    with torch.no_grad():
        for batch in calibration.batches:
            calibration.loss(batch)
    for handle in handles:
        handle.remove()
    last = {name: inf_fs(torch.cat(rows), 0.3) for name, rows in seen.items()}
    scores = {unit.name: criterion.score(unit) for unit in mutator.units}
    linear_network(monkeypatch)
    monkeypatch.setattr(F, 'max_pool2d', F.avg_pool2d)
    expected = expected_scores(model, mutator, last)
    for unit in mutator.units:
        torch.testing.assert_close(scores[unit.name], expected[unit.name], rtol=1e-9, atol=1e-12)


def test_numbers_by_hand():
    """Three 1x1 layers and a norm; the score of the last responses is 1."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, eps=0.0), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Sigmoid(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    model[1].weight.data = torch.tensor([-3.0, 2.0]).double()
    model[1].running_var = torch.tensor([4.0, 0.25]).double()
    model[3].weight.data = torch.tensor([[1.0, -2.0], [0.0, 4.0], [-5.0, 0.5]]).double().view(3, 2, 1, 1)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, 4, 4)))
    mutator.prepare(model)
    criterion = CRITERIA.build(dict(type='NISP', final='ones'))
    criterion.bind(mutator)
    criterion.calibrate(Calibration([], lambda batch: None))
    first, second = mutator.units
    assert criterion.score(second).tolist() == pytest.approx([1, 1, 1])
    assert criterion.score(first).tolist() == pytest.approx([(1 + 0 + 5) * 3 / 2, (2 + 4 + 0.5) * 2 / 0.5])


def test_totals_without_borders_are_products_of_matrices():
    """With circular padding a layer sends ``sum over kernel |W|^T s``."""
    kernel = dict(kernel_size=3, padding=1, padding_mode='circular')
    model = nn.Sequential(nn.Conv2d(3, 5, **kernel), nn.Tanh(), nn.Conv2d(5, 6, **kernel), nn.ReLU(),
                          nn.Conv2d(6, 4, **kernel), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)).double()
    mutator = ChannelMutator(dict(type='ChannelUnit'), dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(model)
    criterion = NISP(final='ones')
    criterion.bind(mutator)
    scores, score = dict(_scores_of(criterion)), torch.ones(4).double()
    torch.testing.assert_close(scores['4.weight'], score)
    for reader, layer in ((4, 2), (2, 0)):
        score = model[reader].weight.detach().abs().sum((2, 3)).t() @ score
        torch.testing.assert_close(scores[f'{layer}.weight'], score)


class Gate(nn.Module):
    """A squeeze-and-excitation gate on what ``a`` makes."""

    def __init__(self):
        super().__init__()
        self.a, self.down, self.up = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.head(x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))))


def test_a_gate_gives_the_score_to_both():
    model, mutator, criterion = prepared(Gate, final='ones', combine='max')
    criterion.calibrate(Calibration([], lambda batch: None))
    scores = {unit.channels.first.axis.layer: criterion.score(unit) for unit in mutator.units}
    up, down = model.up.weight.detach()[..., 0, 0].abs(), model.down.weight.detach()[..., 0, 0].abs()
    torch.testing.assert_close(scores['down'], up.sum(0))  # the total over all positions of the gate is 1
    torch.testing.assert_close(scores['a'], 1 + down.t() @ up.sum(0))


class Difference(nn.Module):
    """The difference of two branches, and of a branch and a number."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(0.5 * (1.0 - (self.a(x) - self.b(x))) - torch.ones(1, 1, 1, 1).to(x))


class Signs(nn.Module):
    """Negative factors next to positive ones, and a negation."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)
        self.factor = nn.Parameter(torch.tensor([-1.0, 2.0, -3.0, 0.0]).view(4, 1, 1))

    def forward(self, x):
        x = self.stem(x)
        x = self.conv(x * self.factor + x * -1.0)
        return self.head(-x)


def test_scores_have_no_signs():
    model, mutator, criterion = prepared(Signs, final='ones')
    scores = dict(_scores_of(criterion))
    torch.testing.assert_close(scores['conv.weight'], torch.ones(5).double())
    sent = model.conv.weight.detach()[..., 0, 0].abs().sum(0)
    torch.testing.assert_close(scores['stem.weight'], sent * torch.tensor([2.0, 3.0, 4.0, 1.0]).double())


class Overwritten(nn.Module):
    """A map that changes in place after the last layer has read it."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.head, self.other = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.side(x)
        out = self.head(x)
        x += y
        return out, self.other(x)


def test_a_layer_reads_what_was_there_when_it_ran():
    model, mutator, criterion = prepared(Overwritten, final='ones')
    scores = dict(_scores_of(criterion))
    torch.testing.assert_close(scores['side.weight'], torch.ones(4).double())
    torch.testing.assert_close(scores['stem.weight'],
                               1 + 1 + model.side.weight.detach()[..., 0, 0].abs().sum(0))


def test_a_difference_gives_the_score_to_both():
    model, mutator, criterion = prepared(Difference, final='ones')
    scores = dict(_scores_of(criterion))
    half = torch.full((5,), 0.5).double()
    torch.testing.assert_close(scores['a.weight'], half)
    torch.testing.assert_close(scores['b.weight'], half)
    both = model.a.weight.detach()[..., 0, 0].abs() + model.b.weight.detach()[..., 0, 0].abs()
    torch.testing.assert_close(scores['stem.weight'], both.t() @ half)


@pytest.mark.parametrize(('norm', 'groups'), [
    (nn.GroupNorm(2, 6), 2), (nn.LayerNorm([6, 8, 8]), 1), (nn.InstanceNorm2d(6, affine=True), 6),
    (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), None),
    (nn.BatchNorm2d(6, track_running_stats=False), 6)])
def test_norms_scale_by_their_own_statistics(norm, groups):
    """The derivative of ``weight * (x - mean) / sigma`` with mean and sigma held."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), norm, nn.ReLU(), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)).double()
    nn.init.normal_(norm.weight)
    if groups is None:
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    mutator = ChannelMutator(dict(type='ChannelUnit'), dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(model)
    criterion = NISP(final='ones')
    criterion.bind(mutator)
    criterion.calibrate(Calibration([], lambda batch: None))
    x = model[0](mutator.demo_input.tensor(model)).detach()[0]
    variance = norm.running_var.view(6, 1, 1) if groups is None else (
        x.reshape(groups, -1).var(1, unbiased=False).repeat_interleave(6 // groups).view(6, 1, 1))
    weight = norm.weight.detach().abs()
    scale = (weight if weight.dim() == 3 else weight.view(6, 1, 1)) / (variance + norm.eps).sqrt()
    sent = model[3].weight.detach()[..., 0, 0].abs().sum(0)
    expected = sent * (scale.expand(6, 8, 8)).mean((1, 2))
    torch.testing.assert_close(criterion.scores['0.weight'], expected)


class Attention(nn.Module):
    """What NISP has no rules for: attention as one function, in front of the last layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1, self.fc2, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.fc2(F.gelu(self.fc1(x)))).mean(1))


def test_scores_pass_attention():
    model, mutator, criterion = prepared(Attention)
    criterion.calibrate(calibration_of(model))
    unit = next(unit for unit in mutator.units if unit.channels.first.axis.layer == 'fc1')
    importance = criterion.scores['fc2.weight']
    torch.testing.assert_close(criterion.score(unit), model.fc2.weight.detach().abs().t() @ importance)
    assert bool((criterion.scores['embed.weight'] > 0).all())


# feature ranking


def naive_rank(column):
    return torch.tensor([sum(float(other < value) + 0.5 * float(other == value) for other in column)
                         for value in column]).double()


def naive_correlation(a, b):
    a, b = naive_rank(a), naive_rank(b)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_inf_fs_is_the_power_series(alpha):
    features = F.relu(torch.randn(30, 6).double())  # many zeros, so many tied ranks
    size = features.size(1)
    graph = torch.zeros(size, size).double()
    for i in range(size):
        for j in range(size):
            spread = max(float(features[:, i].std()), float(features[:, j].std()))
            graph[i, j] = alpha * spread + (1 - alpha) * (
                1 - abs(naive_correlation(features[:, i], features[:, j])))
    step = graph * 0.9 / max(abs(np.linalg.eigvals(graph.numpy())))
    energy, power = torch.zeros_like(graph), torch.eye(size).double()
    while float(power.abs().max()) > 1e-17:
        power = power @ step
        energy += power
    torch.testing.assert_close(inf_fs(features, alpha), energy.sum(1), rtol=1e-9, atol=1e-12)


def test_inf_fs_of_two_features_by_hand():
    """Ranks 0 1 2 and 0 2 1 correlate by 1/2, the deviations are 1 and 10: ``A = [[1, 10.5], [10.5, 10]] / 2``."""
    features = torch.tensor([[0.0, 0.0], [1.0, 20.0], [2.0, 10.0]])
    a, b, c = 0.5, 0.5 * 10 + 0.5 * 0.5, 5.0
    radius = (a + c) / 2 + (((a - c) / 2) ** 2 + b ** 2) ** 0.5
    a, b, c = (0.9 / radius * value for value in (a, b, c))
    determinant = (1 - a) * (1 - c) - b * b
    expected = [(1 - c + b) / determinant - 1, (1 - a + b) / determinant - 1]
    assert inf_fs(features).tolist() == pytest.approx(expected)
    assert inf_fs(features.int()).dtype == torch.float64


def test_a_constant_feature_counts_as_redundant():
    varied = torch.randn(40, 5).double()
    features = torch.cat([varied, torch.full((40, 1), 3.0).double()], 1)
    assert int(inf_fs(features).argmin()) == 5
    assert inf_fs(torch.ones(10, 3)).tolist() == [0, 0, 0]


def test_samples_are_taken_evenly():
    model, mutator, criterion = prepared('Residual', samples=8)
    calibration = calibration_of(model, batches=4)
    criterion.calibrate(calibration)
    responses = []
    handle = model.fc.register_forward_pre_hook(lambda module, args: responses.append(args[0]))
    with torch.no_grad():
        for batch in calibration.batches:
            model(batch)
    handle.remove()
    chosen = torch.cat(responses)[[0, 2, 4, 6, 8, 10, 12, 15]]
    torch.testing.assert_close(criterion.scores['stem.weight'].shape[0], 6)
    last = criterion.scores['conv2.weight'] * (model.bn2.running_var + model.bn2.eps).sqrt() / model.bn2.weight.abs()
    torch.testing.assert_close(last, inf_fs(chosen))


# the model, and what a user gets wrong


def test_model_and_random_state_stay():
    model, mutator, criterion = prepared('Everything')
    model.train()
    model.conv1.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibration = calibration_of(model)
    state = torch.get_rng_state()
    criterion.calibrate(calibration)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ['conv1.weight']
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ['stem.weight']
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    first = {unit.name: criterion.score(unit) for unit in mutator.units}
    criterion.calibrate(calibration)
    assert all(torch.equal(criterion.score(unit), first[unit.name]) for unit in mutator.units)


def test_scores_of_a_deep_network_in_single_precision_are_finite():
    """Fifty layers of factor eight: beyond float32, and worked out by hand."""
    model = nn.Sequential(*[nn.Conv2d(*((4, 4) if layer else (3, 4)), 1) for layer in range(52)])
    for layer in model:
        nn.init.constant_(layer.weight, 2.0)
    mutator = ChannelMutator(dict(type='ChannelUnit'), dict(type='DemoInput', input_shape=(1, 3, 2, 2)),
                             trial_cut=False)
    mutator.prepare(model)
    criterion = NISP(final='ones')
    criterion.bind(mutator)
    scores = dict(_scores_of(criterion))
    assert scores['0.weight'].tolist() == pytest.approx([8.0 ** 50] * 4)


def test_frozen_channels_carry_scores():
    model, mutator, criterion = prepared('Residual', final='ones')
    all_scores = dict(_scores_of(criterion))
    frozen = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                            dict(type='DemoInput', input_shape=(1, 3, 8, 8)), exclude='stem')
    frozen.prepare(model)
    criterion.bind(frozen)
    for name, score in _scores_of(criterion):
        torch.testing.assert_close(score, all_scores[name])
    assert [unit.channels.first.axis.layer for unit in frozen.units] == ['conv1']
    torch.testing.assert_close(criterion.score(frozen.units[0]), all_scores['conv1.weight'])


def _scores_of(criterion):
    criterion.calibrate(Calibration([], lambda batch: None))
    return criterion.scores.items()


def test_refusals():
    with pytest.raises(ValueError, match=r"final is 'inf_sf'.*must be one of 'inf_fs', 'ones'"):
        NISP(final='inf_sf')
    with pytest.raises(ValueError, match='alpha is 2; it must be a number, from 0 to 1'):
        NISP(alpha=2)
    with pytest.raises(ValueError, match='samples is 1; it must be a whole number of 2 or more'):
        NISP(samples=1)
    model, mutator, criterion = prepared('Residual')
    with pytest.raises(CriterionError, match='NISP scores channels by data, and has seen no data'):
        criterion.score(mutator.units[0])
    with pytest.raises(CriterionError, match="'fc' saw fewer than 2 samples in the calibration data"):
        criterion.calibrate(Calibration([], lambda batch: None))


def test_a_unit_that_leads_nowhere():
    model, mutator, criterion = prepared('Residual', final='ones')
    criterion.calibrate(Calibration([], lambda batch: None))
    criterion.scores.pop('conv1.weight')
    with pytest.raises(UnscorableError, match='nothing that the last layers read depends on it'):
        criterion.score(next(unit for unit in mutator.units if unit.channels.first.axis.layer == 'conv1'))
