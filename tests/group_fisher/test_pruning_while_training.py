"""A cut in the middle of a training loop: graphs that are still alive, optimizers, one unit after another."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.criteria.criterion import CriterionError
from mmprune.criteria.filter_norm import L2
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.structure_file import save_structure
from mmprune.pruning.target import TargetError
from mmprune.units.layer import OptimizerError
from mmprune.units.structure import StructureError

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 3, 1, 2])


def plain(widths=(16, 24, 24, 16)):
    torch.manual_seed(0)
    layers = []
    for before, after in zip((3, *widths), widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))


def steps(model, optimizer, count=2):
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X.to(next(model.parameters()).dtype)), Y)
        loss.backward()
        optimizer.step()
        losses.append(loss)  # with its graph
    return losses


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('kind', [torch.optim.SGD, torch.optim.AdamW])
def test_graphs_from_before_the_cut_may_be_alive(kind, dtype):
    model = plain((8, 8)).to(dtype)
    optimizer = kind(model.parameters(), lr=0.01, **(dict(momentum=0.9) if kind is torch.optim.SGD else {}))
    pruner = Pruner(model, X.to(dtype), 'L2', ratio=0.25)
    calls = []
    model[0].weight.register_hook(lambda gradient: calls.append(tuple(gradient.shape)))
    alive = [model(X.to(dtype)), *steps(model, optimizer)]
    fresh = copy.deepcopy(pruner)
    pruner.cut([optimizer])
    alive += steps(pruner.model, optimizer)
    assert len(alive) == 5
    assert calls == [(8, 3, 3, 3)] * 2 + [(6, 3, 3, 3)] * 2  # hooks of one's own stay
    assert all(parameter.grad.shape == parameter.shape for parameter in pruner.model.parameters())
    alone = fresh.cut()  # the same cut without any graph alive
    first = F.cross_entropy(alone(X.to(dtype)), Y)
    assert float(first.detach()) == pytest.approx(float(alive[3].detach()), rel=1e-5)


def test_a_cut_and_a_mask_are_seen_inside_autocast():
    for step in ('mask', 'cut'):
        pruner = Pruner(plain((8, 8)).eval(), X, 'L2', ratio=0.4)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            dense = pruner.model(X)
            inside = getattr(pruner, step)()(X)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            outside = pruner.model(X)
        assert torch.equal(inside, outside)
        assert not torch.equal(dense, inside)


class Remembering(torch.optim.Optimizer):
    """Keeps something of a given shape for each parameter."""

    def __init__(self, parameters, shape_of):
        super().__init__(parameters, {})
        self.shape_of = shape_of

    def step(self):
        for group in self.param_groups:
            for parameter in group['params']:
                self.state[parameter].setdefault('memory', self.shape_of(parameter))
                self.state[parameter].setdefault('step', torch.tensor(3.0))


def test_what_an_optimizer_keeps_by_row_follows():
    model = plain((8, 8))
    optimizer = Remembering(model.parameters(), lambda parameter: parameter.detach().flatten(1).mean(1).reshape(
        -1, *[1] * (parameter.dim() - 1)) if parameter.dim() > 1 else parameter.detach().clone())
    optimizer.step()
    before = optimizer.state[model[0].weight]['memory'].clone()
    pruner = Pruner(model, X, 'L2', ratio=0.25)
    pruner.cut(optimizer)  # one optimizer needs no list
    kept = torch.from_numpy(pruner.mutator.units[0].kept)
    assert torch.equal(optimizer.state[model[0].weight]['memory'], before[kept])
    assert optimizer.state[model[3].weight]['memory'].shape == (6, 1, 1, 1)
    assert optimizer.state[model[0].weight]['step'] == 3


@pytest.mark.parametrize('shape_of', [lambda parameter: torch.zeros(5), lambda parameter: [torch.zeros(2, 2)],
                                      lambda parameter: parameter.detach().flatten(1) if parameter.dim() > 1 else None])
def test_an_optimizer_that_cannot_follow_is_refused_before_anything_changes(shape_of):
    model = plain((8, 8))
    optimizer = Remembering(model.parameters(), shape_of)
    optimizer.step()
    pruner = Pruner(model, X, 'L2', ratio=0.25)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(OptimizerError, match=r"keeps 'memory' of shape \(.*, which cannot follow a cut: make a new"):
        pruner.cut([optimizer])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert pruner.cut()[0].out_channels == 6


@pytest.mark.parametrize('kind', ['Remembering', 'LBFGS'])
def test_nor_does_anything_change_by_least_squares_or_in_turns(kind):
    model = plain((8, 8))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2) if kind == 'LBFGS' else Remembering(
        model.parameters(), lambda parameter: torch.zeros(5))
    if kind == 'LBFGS':
        optimizer.step(lambda: steps(model, torch.optim.SGD(model.parameters(), lr=0.0), 1)[0])
    else:
        optimizer.step()
    before = copy.deepcopy(model.state_dict())
    # what LBFGS keeps, it keeps under its first parameter only, which stays as it is here
    pruner = Pruner(model, X, 'ThiNet', ratio=0.25, choice=dict(exclude='0') if kind == 'LBFGS' else None)
    pruner.calibrate([(X, Y)], F.cross_entropy)
    for method in (pruner.cut, pruner.cut_next, pruner.cut_next):
        with pytest.raises(OptimizerError, match='cannot follow a cut'):
            method(optimizer)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == []
    turns = 0
    while pruner.cut_next():
        turns += 1
    assert turns == len(pruner.mutator.units)


def test_a_turn_that_is_interrupted_comes_again(monkeypatch):
    pruner = Pruner(plain((8, 8, 8)), X, 'Taylor', target=dict(ratio=0.5, scope='layer'))
    pruner.calibrate([(X, Y)], F.cross_entropy)
    assert pruner.cut_next()
    with monkeypatch.context() as patch:
        patch.setattr(pruner.criterion, 'score', lambda unit: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pruner.cut_next()
    while pruner.cut_next():
        pass
    assert list(pruner.mutator.structure.values()) == [4, 4, 4]


def test_a_channel_that_comes_back_brings_its_optimizer_state():
    model = plain((4, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer)
    pruner = Pruner(model, X, 'L2', target=dict(levels={'0': 0.75}))
    pruner.cut(optimizer)
    assert [model[0].out_channels, optimizer.state[model[1].weight]['exp_avg'].shape] == [1, (1,)]
    pruner.mutator.cut({pruner.mutator.units[0].name: torch.ones(4, dtype=bool).numpy()}, [optimizer])
    assert optimizer.state[model[1].weight]['exp_avg'].shape == (4,)
    steps(model, optimizer)


def test_an_optimizer_of_another_model_is_refused():
    pruner = Pruner(plain((8, 8)), X, 'L2', ratio=0.25)
    for method in (pruner.cut, pruner.cut_next):
        with pytest.raises(OptimizerError, match='SGD has no parameter of the model: give the optimizers that'):
            method(torch.optim.SGD(plain((8, 8)).parameters(), lr=0.1))


@pytest.mark.parametrize('criterion', ['Random', 'L2', 'Taylor', dict(type='BNScale', normalize='mean')], ids=str)
@pytest.mark.parametrize('target', [dict(flops=0.5), dict(params=0.5), dict(ratio=0.4)], ids=str)
@pytest.mark.parametrize('scope', ['global', 'layer'])
def test_one_unit_after_another_reaches_the_target_while_weights_change(criterion, target, scope):
    model = plain()
    pruner = Pruner(model, X, criterion, target=dict(target, scope=scope))
    pruner.calibrate([(X, Y)], F.cross_entropy)
    planned = {name: int(mask.sum()) for name, mask in pruner.choose().masks.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    turns = 0
    while pruner.cut_next(optimizer):
        turns += 1
        steps(model, optimizer)
    assert pruner.mutator.structure == planned
    assert turns == sum(count < unit.width for count, unit in zip(planned.values(), pruner.mutator.units)) > 1
    dense, cost = pruner.mutator.complexity.cost({}), pruner.mutator.cost
    for name, share in target.items():
        if name != 'ratio':
            assert cost[{'flops': 'macs', 'params': 'params'}[name]] <= share * dense[
                {'flops': 'macs', 'params': 'params'}[name]]


def test_which_channels_go_is_seen_when_it_is_their_turn():
    model = plain((8, 8))
    pruner = Pruner(model, X, 'L2', ratio=0.25)
    assert pruner.cut_next()
    with torch.no_grad():
        model[3].weight[[2, 5]] *= 1e-3  # would not have been the least before
    assert pruner.cut_next()
    assert not pruner.cut_next()
    assert (~pruner.mutator.units[1].kept).nonzero()[0].tolist() == [2, 5]


def test_a_criterion_scores_one_model():
    criterion = L2()
    first = Pruner(plain((8, 8)), X, criterion, ratio=0.25)
    with pytest.raises(CriterionError, match='this L2 scores another model already: make one for each'):
        Pruner(plain((8, 8)), X, criterion, ratio=0.25)
    assert first.cut()[0].out_channels == 6


def test_a_pruner_whose_model_was_cut_by_another_says_so():
    model = plain((8, 8))
    old, new = (Pruner(model, X, 'L2', ratio=0.25) for _ in range(2))
    new.cut()
    masked = Pruner(model, X, 'L2', ratio=0.25)
    masked.mask()
    Pruner(model, X, 'L2', ratio=0.25).cut()
    with pytest.raises(StructureError, match='something else has cut the model; find'):
        masked.cut()
    for method in (old.mask, old.cut):
        with pytest.raises(StructureError, match='something else has cut the model; find'):
            method()


def test_a_masked_model_has_no_structure_yet(tmp_path):
    pruner = Pruner(plain((8, 8)), X, 'L2', ratio=0.25)
    pruner.mask()
    with pytest.raises(StructureError, match=r'the model is masked, its structure is the one before: call cut\(\)'):
        save_structure(pruner, tmp_path / 'structure.json')
    assert not list(tmp_path.iterdir())
    pruner.cut()
    save_structure(pruner, tmp_path / 'structure.json')
    pruner = Pruner(plain((8, 8)), X, 'L2', ratio=0.25)
    pruner.mask()
    for unit in pruner.mutator.units:
        assert pruner.is_masked, unit.name
        assert pruner.cut_next()
    save_structure(pruner, tmp_path / 'structure.json')  # everything is cut
    assert not pruner.cut_next()


@pytest.mark.parametrize(('loss_fn', 'message'), [
    (lambda out, y: 0.5, 'loss_fn returned float; it must return one number as a Tensor'),
    (lambda out, y: None, 'loss_fn returned NoneType'),
    (lambda out, y: F.cross_entropy(out, y, reduction='none'), r'loss_fn returned a Tensor of shape \(4,\)')])
def test_what_a_loss_must_be(loss_fn, message):
    with pytest.raises(ValueError, match=message):
        Pruner(plain((8, 8)), X, 'Taylor', ratio=0.25).calibrate([(X, Y)], loss_fn)


@pytest.mark.parametrize(('target', 'message'), [
    (dict(ratio=0.5, max_pruned_ratio='0.5'), "max_pruned_ratio is '0.5'; it is the share"),
    (dict(levels=[('0', 0.5)]), 'levels is .*; it maps patterns to shares')])
def test_targets_of_another_type(target, message):
    with pytest.raises(TargetError, match=message):
        Pruner(plain((8, 8)), X, 'L2', target=target)
