"""Criteria and cuts on networks that are not written as most are: what cannot be seen says so, all else is right."""
import copy

import pytest
import torch
from criterion_cfgs import CFGS
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from toy_nets import ToyClassifier, algorithm_of

from mmprune.criteria.criterion import CriterionError, build_criterion
from mmprune.pruning.pruner import Pruner


def loss_fn(out, y):
    return F.cross_entropy(out, y)


def batch(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64), torch.arange(shape[0]) % 3


class Staged(nn.Module):
    """Two stages that ``run`` calls: as they are, through a checkpoint, or without a graph."""

    def __init__(self, run=(None, None)):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.stages = nn.ModuleList([nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()) for _ in range(2)])
        self.fc = nn.Linear(6, 3)
        self.run = run

    def forward(self, x):
        x = self.stem(x).relu()
        for stage, run in zip(self.stages, self.run):
            x = stage(x) if run is None else run(stage, x)
        return self.fc(x.mean((2, 3)))


def reentrant(stage, x):
    return checkpoint(stage, x, use_reentrant=True)


def recomputing(stage, x):
    return checkpoint(stage, x, use_reentrant=False)


def without_graph(stage, x):
    with torch.no_grad():
        return stage(x)


def staged(*run):
    torch.manual_seed(0)
    return Staged(run).double()


@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')  # when the model is traced
@pytest.mark.parametrize('run', [reentrant, recomputing])
@pytest.mark.parametrize('cfg', ['Taylor', 'GroupFisher', dict(type='Taylor', source='weights')], ids=str)
def test_scores_do_not_depend_on_checkpoints(cfg, run):
    x, y = batch(4, 3, 6, 6)
    scores = []
    for net in (staged(None, None), staged(run, run)):
        pruner = Pruner(net, x, cfg, ratio=0.5)
        pruner.calibrate([(x, y)], loss_fn)
        scores.append({unit.name: pruner.criterion.score(unit) for unit in pruner.mutator.units})
    assert len(scores[0]) == 5
    for name, score in scores[0].items():
        assert float(score.max()) > 0
        torch.testing.assert_close(scores[1][name], score, rtol=1e-10, atol=0)


@pytest.mark.parametrize('cfg', ['Taylor', 'GroupFisher', dict(type='Taylor', source='weights')], ids=str)
def test_units_that_no_gradient_reaches_are_left_and_said(cfg):
    x, y = batch(4, 3, 6, 6)
    pruner = Pruner(staged(without_graph, None), x, cfg, target=dict(ratio=0.4, scope='layer'))
    pruner.calibrate([(x, y)], loss_fn)
    pruner.cut()
    widths = {name.partition('_')[0]: count for name, count in pruner.mutator.structure.items()}
    # what the stage without a graph reads and makes inside; its output is read with one
    hidden = {'stem', 'stages.0.0'} | ({'stages.0.2'} if cfg not in ('Taylor', 'GroupFisher') else set())
    assert {name for name, count in widths.items() if count == 6} == hidden
    assert {note.partition('_')[0] for note in pruner.plan.notes()} == hidden
    assert all('left as it is' in note for note in pruner.plan.notes())


def test_a_prune_run_takes_nothing_of_units_that_no_gradient_reaches(monkeypatch):
    said = []
    monkeypatch.setattr('mmprune.group_fisher.mutator.print_log', lambda text, **_: said.append(text))
    algorithm = algorithm_of(ToyClassifier(staged(without_graph, None)), size=6)
    optimizer = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=1e-3))
    x, y = batch(4, 3, 6, 6)
    for _ in range(11):
        algorithm.train_step(dict(inputs=x, data_samples=y), optimizer)
    widths = {name.partition('_')[0]: count for name, count in algorithm.mutator.structure.items()}
    assert widths['net.stem'] == widths['net.stages.0.0'] == 6
    assert sum(widths.values()) == 5 * 6 - 11
    assert len(said) == 1
    assert said[0].startswith("no gradient arrived where layers read unit 'net.stages.0.0_(0, 6)_6' and 1 more since")


class Functional(nn.Module):
    """Weights of its own, two of them alike, and one that is named as a layer's is."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.weight = (nn.Parameter(torch.randn(size, dtype=torch.float64))
                                         for size in ((16, 6), (16, 16), (6, 16)))

    def forward(self, x):
        return F.linear(F.linear(F.linear(x, self.w1).relu(), self.w2).relu(), self.weight)


def functional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), Functional(), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize('cfg', CFGS, ids=str)
def test_weights_of_ones_own(cfg):
    x, y = batch(16, 6)
    masked = Pruner(functional(), x, target=dict(ratio=0.4, scope='layer'))
    assert [unit.name for unit in masked.mutator.units] == [
        '0_(0, 6)_6', '1_(0, 16)_16', '1_(0, 16)_16#2', '1_(0, 6)_6', '3_(0, 8)_8']
    cut = copy.deepcopy(masked)
    for pruner in (masked, cut):
        pruner.criterion = build_criterion(cfg, pruner.mutator)
        pruner.calibrate([(x, y)], loss_fn)
    if 'BNScale' in str(cfg):
        with pytest.raises(CriterionError, match='BNScale can score none of the 5 units'):
            cut.cut()
        return
    masked.mask()
    cut.cut()
    torch.testing.assert_close(masked.model(x), cut.model(x), rtol=1e-10, atol=1e-12)
    gone = {unit.name for unit in cut.mutator.units if not unit.kept.all()}
    assert gone | set(cut.plan.skipped) == set(cut.mutator.structure)
    assert gone >= {'1_(0, 6)_6', '3_(0, 8)_8'}
    if cfg in ('APoZ', 'MeanActivation', 'Taylor', 'GroupFisher'):
        assert set(cut.plan.skipped) == {'0_(0, 6)_6', '1_(0, 16)_16', '1_(0, 16)_16#2'}
        assert 'reads it outside the conv or linear module that owns it' in cut.plan.skipped['0_(0, 6)_6']


def test_nisp_does_not_rank_what_it_cannot_see():
    x, _ = batch(16, 6)
    for net in (Functional(), nn.Sequential(nn.Linear(6, 6).double(), nn.ReLU(), Functional())):
        pruner = Pruner(net, x, 'NISP', ratio=0.3)
        with pytest.raises(CriterionError, match="outside the conv or linear module that owns them.*final='ones'"):
            pruner.calibrate([x])
        pruner = Pruner(net, x, dict(type='NISP', final='ones'), ratio=0.3)
        pruner.calibrate([x])
        before = pruner.mask()(x)
        torch.testing.assert_close(pruner.cut()(x), before)


class Gated(nn.Module):
    def __init__(self, by_bool):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.by_bool = by_bool

    def forward(self, x):
        x = self.a(x)
        x = x * (x > 0) if self.by_bool else x * (x > 0).to(x.dtype)
        return self.c(self.b(x).relu())


def test_nisp_through_a_product_with_a_condition():
    x, _ = batch(16, 6)
    scores = []
    for by_bool in (True, False):
        torch.manual_seed(0)
        pruner = Pruner(Gated(by_bool).double(), x, 'NISP', ratio=0.3)
        pruner.calibrate([x])
        scores.append([pruner.criterion.score(unit) for unit in pruner.mutator.units])
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')
@pytest.mark.parametrize('run', [without_graph, reentrant])
def test_nisp_needs_a_graph(run):
    x, _ = batch(4, 3, 6, 6)
    pruner = Pruner(staged(run, None), x, 'NISP', ratio=0.3)
    with pytest.raises(CriterionError, match='a part of the model runs without a graph'):
        pruner.calibrate([x])


@pytest.mark.parametrize('cfg', ['L2', 'FPGM', 'APoZ', 'MeanActivation', 'ThiNet', 'Oracle', 'Random'])
@pytest.mark.parametrize('dims', [1, 2])
def test_inputs_without_an_axis_of_samples(cfg, dims):
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
    net = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 6, 3), nn.ReLU(), conv(6, 2, 1)).double()
    x = torch.randn(3, *[9] * dims, dtype=torch.float64)
    pruner = Pruner(net, x, cfg, ratio=0.5)
    pruner.calibrate([(x, None)], lambda out, _: out.square().mean())
    before = pruner.mask()(x)
    torch.testing.assert_close(pruner.cut()(x), before, rtol=1e-10, atol=1e-12)
    assert [net[0].out_channels, net[2].out_channels] == [4, 3]


@pytest.mark.parametrize('cfg', ['Taylor', 'GroupFisher'])
def test_scores_by_gradients_want_samples(cfg):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).double()
    x = torch.randn(3, 9, 9, dtype=torch.float64)
    pruner = Pruner(net, x, cfg, ratio=0.5)
    with pytest.raises(ValueError, match=r'input of shape \(8, 7, 7\): scores by gradients need an axis of samples'):
        pruner.calibrate([(x, None)], lambda out, _: out.square().mean())


def test_layers_with_computed_weights_are_listed_with_a_reason():
    net = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
                        nn.Conv2d(8, 4, 3))
    state = copy.deepcopy(net.train().state_dict())
    pruner = Pruner(net, torch.randn(1, 3, 12, 12), 'L2', ratio=0.5)
    reasons = {channels.name: channels.reason for channels in pruner.mutator.frozen}
    assert [unit.name for unit in pruner.mutator.units] == ['2_(0, 8)_8']
    assert reasons['0_(0, 8)_8'].startswith('its weight is computed (spectral norm, standardisation), and cannot')
    assert reasons['2_(0, 8)_8'].startswith("conv2d is called with a computed weight, which cannot be cut in module ")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    pruner.cut()
    assert net[2].out_channels == 4


def weight_normed(wrap):
    torch.manual_seed(0)
    return nn.Sequential(wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 6, 3)), nn.ReLU(), nn.Conv2d(6, 4, 3))


WEIGHT_NORMS = [nn.utils.weight_norm, getattr(parametrizations, 'weight_norm', nn.utils.weight_norm)]


@pytest.mark.parametrize('wrap', WEIGHT_NORMS)
@pytest.mark.filterwarnings('ignore:.*weight_norm.*deprecated')
def test_weight_norm_keeps_the_weights_that_stay(wrap):
    x = torch.randn(2, 3, 12, 12)
    net = weight_normed(wrap)
    net(x)
    before = [net[place].weight.detach().clone() for place in (0, 2)]
    norms = before[0].square().sum((1, 2, 3))
    pruner = Pruner(net, x, 'L2', ratio=0.5)
    masked = pruner.mask()(x)
    pruner.cut()
    torch.testing.assert_close(net(x), masked)
    kept = [torch.from_numpy(unit.kept) for unit in pruner.mutator.units]
    assert kept[0].nonzero().flatten().tolist() == sorted(norms.topk(4)[1].tolist())  # what the layer computes with
    torch.testing.assert_close(net[0].weight, before[0][kept[0]])
    torch.testing.assert_close(net[2].weight, before[1][kept[1]][:, kept[0]])
    assert [net[0].out_channels, net[2].in_channels, net[2].out_channels] == [4, 4, 3]


@pytest.mark.parametrize('wrap', WEIGHT_NORMS)
@pytest.mark.filterwarnings('ignore:.*weight_norm.*deprecated')
def test_weight_norm_trains_on_after_a_cut(wrap):
    x = torch.randn(2, 3, 12, 12)
    net = weight_normed(wrap)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    pruner = Pruner(net, x, 'L2', ratio=0.5)
    for step in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        if step == 0:
            pruner.cut(optimizer)
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)
        self.c.weight = self.b.weight
        self.d = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x).relu()
        return self.d((self.b(x) + self.c(x)).relu())


@pytest.mark.parametrize('cfg', ['APoZ', 'Taylor', 'NISP', 'ThiNet', 'L2'])
def test_weights_that_two_modules_share(cfg):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = Pruner(Tied().double(), x, cfg, target=dict(ratio=0.5, scope='layer'))
    pruner.calibrate([(x, None)], lambda out, _: out.square().mean())
    before = pruner.mask()(x)
    torch.testing.assert_close(pruner.cut()(x), before, rtol=1e-10, atol=1e-12)
    said = list(pruner.plan.skipped.values())
    assert all("'b.weight' reads it outside the conv or linear module that owns it" in one for one in said)
    assert len(said) == (cfg in ('APoZ', 'Taylor'))


def test_a_loss_with_parameters_of_its_own_keeps_their_gradients():
    x, y = batch(4, 3, 6, 6)
    head = nn.Linear(3, 3).double()
    head(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    before = [parameter.grad.clone() for parameter in head.parameters()]
    for cfg in ('Taylor', 'GroupFisher', dict(type='Taylor', source='weights'),
                dict(type='WholeGroup', source='taylor')):
        for grads in (before, [None, None]):
            for parameter, grad in zip(head.parameters(), grads):
                parameter.grad = None if grad is None else grad.clone()
            pruner = Pruner(staged(None, None), x, cfg, ratio=0.5)
            pruner.calibrate([(x, y)] * 2, lambda out, labels: F.cross_entropy(head(out), labels))
            assert float(pruner.criterion.score(pruner.mutator.units[0]).max()) > 0
            assert [parameter.grad is None for parameter in head.parameters()] == [grad is None for grad in grads]
            assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(head.parameters(), grads)
                       if grad is not None)


@pytest.mark.parametrize('between', [nn.PReLU(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True),
                                     nn.Conv2d(8, 8, 3, groups=8)], ids=lambda one: type(one).__name__)
def test_whole_groups_are_those_that_make_and_read_channels(between):
    """What else lies on a channel has no say, but batch and layer norms."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), copy.deepcopy(between), nn.Conv2d(8, 2, 3))
    nn.init.normal_(net[1].weight)
    pruner = Pruner(net, torch.zeros(1, 3, 9, 9), 'WholeGroup')
    expected = net[0].weight.square().sum((1, 2, 3)) + net[2].weight.square().sum((0, 2, 3))
    if isinstance(between, nn.GroupNorm):  # a group goes as a whole
        expected = expected.view(2, 4).sum(1)
    torch.testing.assert_close(pruner.criterion.score(pruner.mutator.units[0]),
                               (expected / expected.mean()).detach().double())


@pytest.mark.parametrize('of', ['squares', 'distances', 'taylor'])
def test_whole_groups_in_half_precision(of):
    torch.manual_seed(0)
    dtype = torch.bfloat16
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.SiLU(), nn.Conv2d(64, 4, 3)).to(dtype)
    for conv in (net[0], net[3]):
        conv.weight.data *= 0.02
    x = torch.randn(4, 3, 6, 6).to(dtype)
    pruner = Pruner(net, x, dict(type='WholeGroup', source=of))
    pruner.calibrate([(x, None)], lambda out, _: out.float().square().mean())
    assert len(set(pruner.criterion.score(pruner.mutator.units[0]).tolist())) > 60
