"""Group Fisher scores against their definition (Liu et al., ICML 2021), by brute force.

For every unit, ``mask`` is a ``Tensor[N, classes]`` of ones that is multiplied into the input of each of its consumers.
With the loss L of a batch, ``F[c] = sum over iterations, sum over n of (dL/dmask[n, c])^2``, and the score is F over
what one class costs. Units, producers, consumers and costs are written by hand here; nothing comes from the graph.
"""
from types import SimpleNamespace

import pytest
import torch
import toy_nets
from hand_classes import HAND
from hand_units import Unit, blocks, loss_of, relative_error, span, strided
from mmengine.optim import OptimWrapper
from toy_nets import ToyClassifier, algorithm_of, randomise

from mmprune.group_fisher.mutator import GroupFisherChannelMutator
from mmprune.registry import MODELS, build

TYPES = ('act', 'flops', 'none')

# Images are 3x6x6: 36 positions at full size, 9 at half of it. A 3x3 kernel has 9 elements.

# Images are 3x8x8: 64 positions, 16 at half size, 4 behind the last pooling.
STEM, CONV1, GROUP = 'net.stem_(0, 12)_12', 'net.conv1_(0, 10)_10', 'net.group_(0, 16)_16'
EXPAND, PROJECT = 'net.expand_(0, 20)_20', 'net.project_(0, 9)_9'
MIX, FC1 = 'net.mix_(0, 11)_11', 'net.fc1_(0, 14)_14'
EVERYTHING = {
    STEM: Unit({'net.stem': strided(6, 2), 'net.conv2': strided(6, 2)},
               {'net.conv1': strided(6, 2), 'net.group': strided(6, 2)},
               act=2 * 64 + 2 * 64,
               flops=lambda k: 2 * 64 * 27 + 2 * 64 * 9 * k[CONV1] + 2 * 64 * 9 * k[CONV1] + 16 * 9 * k[GROUP],
               norms={'net.bn0': strided(6, 2), 'net.bn2': strided(6, 2)}, columns={'net.group': span(0, 6)}),
    CONV1: Unit({'net.conv1': span(0, 10)}, {'net.conv2': span(0, 10)},
                act=64, flops=lambda k: 64 * 9 * k[STEM] + 64 * 9 * k[STEM], norms={'net.bn1': span(0, 10)}),
    GROUP: Unit({'net.group': strided(8, 2)}, {'net.expand': strided(8, 2), 'net.mix': strided(8, 2)},
                act=2 * 16,
                flops=lambda k: 2 * 16 * 9 * (k[STEM] // 2) + 2 * 16 * k[EXPAND] + 2 * 16 * k[MIX],
                norms={'net.bn3': strided(8, 2)}),
    EXPAND: Unit({'net.expand': span(0, 20), 'net.dw': span(0, 20)},
                 {'net.dw': span(0, 20), 'net.project': span(0, 20)},
                 act=16 + 16, flops=lambda k: 16 * k[GROUP] + 16 * 9 + 16 * k[PROJECT],
                 norms={'net.bn4': span(0, 20), 'net.bn5': span(0, 20)}, columns={'net.dw': [[]] * 20}),
    PROJECT: Unit({'net.project': span(0, 9), 'net.shared': span(0, 9)},
                  {'net.shared': span(0, 9), 'net.mix': span(16, 9)},
                  act=16 + 2 * 16,
                  flops=lambda k: 16 * k[EXPAND] + 2 * 16 * 9 * k[PROJECT] + 2 * 16 * 9 * k[PROJECT] + 16 * k[MIX],
                  norms={'net.bn6': span(0, 9)}),
    MIX: Unit({'net.mix': span(0, 11)}, {'net.fc1': blocks(11, 4)},
              act=16, flops=lambda k: 16 * (k[GROUP] + k[PROJECT]) + 4 * k[FC1], norms={'net.bn7': span(0, 11)}),
    FC1: Unit({'net.fc1': span(0, 14)}, {'net.fc2': span(0, 14)}, act=1, flops=lambda k: 4 * k[MIX] + 5),
}


class BruteForce:
    """Masks in front of the consumers of a model that is never cut; a dropped class is multiplied by zero."""

    def __init__(self, model, units):
        self.units = units
        self.alive = {name: torch.ones(unit.classes, dtype=torch.float64) for name, unit in units.items()}
        self.fisher = {name: torch.zeros(unit.classes, dtype=torch.float64) for name, unit in units.items()}
        self.masks = {}
        modules = dict(model.named_modules())
        for layer in sorted({layer for unit in units.values() for layer in unit.consumers}):
            modules[layer].register_forward_pre_hook(lambda module, args, layer=layer: self._masked(layer, args[0]))

    def _masked(self, layer, x):
        axis = 2 if x.dim() == 3 else 1  # tokens have their channels last
        factor = torch.ones(len(x), x.size(axis), dtype=torch.float64)
        for name, unit in self.units.items():
            if layer in unit.consumers:
                key = name, len(x)
                if key not in self.masks:
                    self.masks[key] = torch.ones(len(x), unit.classes, dtype=torch.float64, requires_grad=True)
                columns = torch.tensor(unit.consumers[layer])
                values = (self.masks[key] * self.alive[name])[:, :, None].expand(-1, -1, columns.size(1))
                factor = factor.index_copy(1, columns.reshape(-1), values.reshape(len(x), -1))
        shape = [len(x)] + [1] * (x.dim() - 1)
        shape[axis] = x.size(axis)
        return (x * factor.view(shape),)

    def backward(self, loss):
        loss.backward()
        for (name, _), mask in self.masks.items():
            self.fisher[name] += mask.grad.square().sum(0)
        self.masks = {}

    def kept(self):
        return {name: int(self.alive[name].sum()) * unit.multiplicity for name, unit in self.units.items()}

    def scores(self, kind):
        """Scores of units that may lose another class; a dropped class has none."""
        kept = self.kept()
        return {name: torch.where(self.alive[name] > 0, self.fisher[name] / unit.cost(kind, kept), float('inf'))
                for name, unit in self.units.items() if self.alive[name].sum() > 1}

    def prune(self, kind):
        scores = self.scores(kind)
        name = min(scores, key=lambda unit: float(scores[unit].min()))
        channel = int(scores[name].argmin())
        self.alive[name][channel] = 0
        for fisher in self.fisher.values():
            fisher.zero_()
        return name, channel, float(scores[name][channel])


def compare(name, kind, batches, training=True, before=None):
    """Return the worst relative error of all scores over the iterations of one interval, and our mutator."""
    ours = randomise(getattr(toy_nets, name)()).double()
    dense = getattr(toy_nets, name)().double()
    dense.load_state_dict(ours.state_dict())
    mutator = build(MODELS, toy_nets.mutator_cfg(kind, size=6))
    mutator.prepare(ours)
    brute = BruteForce(dense, HAND[name])
    ours.train(training)
    dense.train(training)
    for number, batch in enumerate(batches):
        if before is not None:
            before(number, ours, dense)
        x = torch.randn(batch, 3, 6, 6, dtype=torch.float64)
        mutator.taps.record(True)
        loss_of(ours(x)).backward()
        mutator.accumulate(mutator.taps.take())
        mutator.taps.record(False)
        brute.backward(loss_of(dense(x)))
    scores, expected = mutator.scores(), brute.scores(kind)
    assert list(scores) == list(HAND[name])
    return max(relative_error(scores[unit], expected[unit]) for unit in expected), mutator


@pytest.mark.parametrize('kind', TYPES)
@pytest.mark.parametrize('name', [name for name in HAND if name != 'Optional'])
def test_scores_equal_the_definition(name, kind):
    """Three iterations with batches of 1, 4 and 3 samples, batch norm in train mode."""
    worst, _ = compare(name, kind, [1, 4, 3])
    print(f'{name} {kind}: worst relative error {worst:.2e}')
    assert worst < 1e-9


@pytest.mark.parametrize('name', HAND)
def test_scores_equal_the_definition_with_frozen_norms(name):
    assert compare(name, 'act', [3, 2], training=False)[0] < 1e-9


def test_consumer_that_an_iteration_does_not_reach_adds_nothing():
    def switch(number, ours, dense):
        ours.use_side = dense.use_side = number != 1

    worst, _ = compare('Optional', 'none', [2, 3, 2], before=switch)
    assert worst < 1e-9


def test_iteration_that_reaches_no_consumer_leaves_the_scores_alone():
    _, mutator = compare('Optional', 'none', [2])
    before = mutator.fisher.clone()
    mutator.accumulate([])
    assert torch.equal(mutator.fisher, before)
    assert float(before.min()) > 0


def test_score_of_a_linear_net_by_hand():
    """y = w2 * w1 * x over one position: g = x2 * dL/dx2 with x2 = w1 * x, so F = sum_n (w2 * w1 * x_n * dL/dy_n)^2."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1, bias=False), torch.nn.Conv2d(2, 1, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, 5.0]).view(2, 1, 1, 1))
        net[1].weight.copy_(torch.tensor([3.0, 7.0]).view(1, 2, 1, 1))
    mutator = GroupFisherChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 1, 1, 1)),
                                        channel_unit_cfg=dict(type='GroupFisherChannelUnit', normalization_type='none'))
    mutator.prepare(net)
    mutator.taps.record(True)
    x = torch.tensor([1.0, 10.0], dtype=torch.float64).view(2, 1, 1, 1)
    (net(x).flatten() * torch.tensor([1.0, 0.1], dtype=torch.float64)).sum().backward()  # dL/dy = 1 and 0.1
    mutator.accumulate(mutator.taps.take())
    # channel 0: (3*2*1*1)^2 + (3*2*10*0.1)^2 = 36 + 36; channel 1: (7*5*1*1)^2 + (7*5*10*0.1)^2 = 1225 + 1225
    assert mutator.scores()['0_(0, 2)_2'].tolist() == pytest.approx([72, 2450], rel=1e-12)
    assert mutator.least_important() == [('0_(0, 2)_2', 0, pytest.approx(72, rel=1e-12))]


def test_loss_scale_does_not_change_scores():
    """AMP multiplies the loss by a scale; Fisher information is quadratic in the gradient."""
    scores = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        net = toy_nets.Residual().double()
        mutator = build(MODELS, toy_nets.mutator_cfg('act', size=6))
        mutator.prepare(net)
        mutator.taps.record(True)
        (scale * loss_of(net(torch.randn(2, 3, 6, 6, dtype=torch.float64)))).backward()
        mutator.accumulate(mutator.taps.take(), scale)
        scores.append(torch.cat(list(mutator.scores().values())))
    assert torch.equal(scores[0], scores[1])  # a power of two: exact


class ScaledOptimWrapper(OptimWrapper):
    """A gradient scaler as AMP's, for CPU: scales up after every good step, down after an overflow, in place."""

    def __init__(self, optimizer, asynchronous):
        super().__init__(optimizer)
        self.scale = torch.tensor(1024.0)
        self.loss_scaler = SimpleNamespace(get_scale=lambda: float(self.scale))
        if asynchronous:  # torch's own scalers have this one, which needs no host synchronisation
            self.loss_scaler._get_scale_async = lambda: self.scale

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        (loss * self.scale).backward()
        grads = [parameter.grad for group in self.param_groups for parameter in group['params']]
        finite = all(bool(grad.isfinite().all()) for grad in grads)
        for grad in grads:
            grad /= self.scale
        if finite:
            self.step()
        self.scale *= 2.0 if finite else 0.5
        self.zero_grad()


class Overflowing(ToyClassifier):
    """Its loss is multiplied by ``factor``."""

    factor = 1.0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = super().forward(inputs, data_samples, mode)
        return dict(loss=out['loss'] * self.factor) if mode == 'loss' else out


@pytest.mark.parametrize('asynchronous', [False, True])
def test_fisher_of_a_scaled_run_is_unscaled_and_without_overflows(asynchronous):
    """The overflow of iteration 2 is left out, as the scaler leaves out its step; scales differ in every iteration."""
    runs = []
    for scaled in (False, True):
        torch.manual_seed(0)
        algorithm = algorithm_of(Overflowing(toy_nets.Everything()).double(), interval=10)
        optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.01)
        wrapper = ScaledOptimWrapper(optimizer, asynchronous) if scaled else OptimWrapper(optimizer)
        for iteration in range(1, 5):
            x, y = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randint(5, (4,))
            algorithm.architecture.factor = float('inf') if iteration == 2 else 1.0
            if iteration != 2 or scaled:
                algorithm.train_step(dict(inputs=x, data_samples=y), wrapper)
        runs.append(algorithm.mutator.fisher)
        if scaled:
            assert float(wrapper.scale) == 1024 * 2 * 0.5 * 2 * 2
    assert torch.equal(*runs)  # powers of two: exact
    assert float(runs[0].max()) > 0


def kept_part(tensor, value, units, alive):
    """Index the kept classes out of a dense parameter or buffer, by hand-written members."""
    layer = tensor.rpartition('.')[0]
    for dim in range(min(value.dim(), 2)):
        gone = set()
        for name, unit in units.items():
            members = {**unit.producers, **unit.norms} if dim == 0 else {**unit.consumers, **unit.columns}
            for c in torch.nonzero(alive[name] == 0).flatten().tolist():
                gone.update(members[layer][c] if layer in members else ())
        value = value.index_select(dim, torch.tensor([i for i in range(value.size(dim)) if i not in gone]))
    return value


@pytest.mark.parametrize('kind', TYPES)
def test_order_of_50_pruned_channels_and_final_weights_equal_brute_force(kind):
    """A real run (SGD with momentum, batch norm in train mode, interval 2) against the masked dense model."""
    ours = randomise(ToyClassifier(toy_nets.Everything())).double()
    dense = ToyClassifier(toy_nets.Everything()).double()
    dense.load_state_dict(ours.state_dict())
    algorithm = algorithm_of(ours, interval=2, normalization_type=kind)
    assert list(algorithm.mutator.structure.items()) == [
        (STEM, 12), (CONV1, 10), (GROUP, 16), (EXPAND, 20), (PROJECT, 9), (MIX, 11), (FC1, 14)]
    brute = BruteForce(dense, EVERYTHING)
    options = dict(lr=0.02, momentum=0.9, weight_decay=1e-3)
    wrapper = OptimWrapper(torch.optim.SGD(algorithm.parameters(), **options))
    optimizer = torch.optim.SGD(dense.parameters(), **options)
    algorithm.train()
    order, expected = [], []
    for iteration in range(1, 101):
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        y = torch.randint(5, (4,))
        algorithm.train_step(dict(inputs=x, data_samples=y), wrapper)
        brute.backward(dense(x, y, mode='loss')['loss'])
        optimizer.step()
        optimizer.zero_grad()
        if iteration % 2 == 0:
            order.append(algorithm.last_pruned)
            expected.append(brute.prune(kind))
    assert [(pruned.unit, pruned.channel) for pruned in order] == [(name, channel) for name, channel, _ in expected]
    worst_score = max(abs(a.score - b[2]) / b[2] for a, b in zip(order, expected))
    assert algorithm.mutator.structure == brute.kept()
    assert len({pruned.unit for pruned in order}) >= 3
    state, worst_weight = dense.state_dict(), 0.0
    cut = ours.state_dict()
    assert list(cut) == list(state)
    for tensor, value in cut.items():
        wanted = kept_part(tensor, state[tensor], EVERYTHING, brute.alive)
        assert value.shape == wanted.shape, tensor
        worst_weight = max(worst_weight, float((value - wanted).abs().max() / wanted.abs().max()))
    print(f'{kind}: order of {len(order)} equal, {len({p.unit for p in order})} units, '
          f'worst score {worst_score:.2e}, worst weight {worst_weight:.2e}')
    assert worst_score < 1e-9
    assert worst_weight < 1e-9
