"""The price of a channel after the best refit, by numpy's least squares on every sample; and two criteria in one."""
from itertools import combinations

import numpy as np
import pytest
import torch
import toy_nets
from read_samples import ALL, NETS, Pair, batches_of, prepared, samples_of
from torch import nn

from mmprune.criteria import least_squares_error, read_moments
from mmprune.criteria.backward_elimination import Reader, backward_elimination
from mmprune.criteria.calibration import Calibration
from mmprune.criteria.criterion import CriterionError, UnscorableError, build_criterion
from mmprune.criteria.inputs import reading
from mmprune.criteria.least_squares_error import LeastSquaresError
from mmprune.pruning.plan import make_plan
from mmprune.pruning.target import PruningTarget
from mmprune.repair import sampling
from mmprune.units.equivalence import random_masks


@pytest.fixture(autouse=True)
def every_position_and_no_ridge(monkeypatch):
    """As many samples as ``positions`` says, and nearly plain least squares."""
    monkeypatch.setattr(sampling, 'SAMPLES', ALL)
    monkeypatch.setattr(least_squares_error, 'RIDGE', 1e-9)


def calibrated(mutator, batches, cfg='LeastSquaresError'):
    criterion = build_criterion(cfg if cfg != 'LeastSquaresError' else LeastSquaresError(ALL), mutator)
    criterion.calibrate(Calibration(batches, lambda batch: (mutator.model(batch), torch.zeros(()))[1]))
    return criterion


def error_without(mutator, unit, sets, samples):
    """Return the least squared error, over the variance of the outputs, summed over the layers that read a unit."""
    total = 0.0
    for member in reading(unit):
        weight, x = mutator.model.get_submodule(member.axis.layer).weight.detach().numpy(), samples[member.axis.layer]
        x = x - x.mean(2, keepdims=True)
        gone = np.zeros(weight.shape[1:], dtype=bool)
        gone[mutator.positions(unit, member)[list(sets)].flatten().numpy()] = True
        rows = weight.reshape(len(x), -1, x.shape[1])
        error = variance = 0.0
        for inputs, own in zip(x, rows):
            y = (own @ inputs).T
            kept = inputs[~gone.flatten()].T
            found = np.linalg.lstsq(kept, y, rcond=None)[0] if kept.size else np.zeros((0, y.shape[1]))
            error, variance = error + np.square(y - kept @ found).sum(), variance + np.square(y).sum()
        total += error / variance
    return total


@pytest.mark.parametrize('pruned', [False, True], ids=['dense', 'pruned'])
@pytest.mark.parametrize('name', NETS)
def test_scores_are_the_least_squared_errors_of_what_is_left(name, pruned):
    _, mutator = prepared(NETS[name])
    if pruned:
        mutator.cut(random_masks(mutator.units, 0.3, seed=1))
    batches = batches_of()
    criterion, samples = calibrated(mutator, batches), samples_of(mutator, batches)
    assert mutator.units
    for unit in mutator.units:
        scores = criterion.score(unit)
        order = scores.argsort().tolist()
        singles = [error_without(mutator, unit, [one], samples) for one in range(unit.num_sets)]
        assert singles[order[0]] <= min(singles) + 1e-9
        for count in range(1, len(order) + 1):
            expected = error_without(mutator, unit, order[:count], samples)
            assert float(scores[order[count - 1]]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(('groups', 'size', 'sets'), [(1, 1, 6), (1, 4, 4), (2, 2, 5)])
def test_prices_of_every_subset_in_any_order(groups, size, sets):
    generator = torch.Generator().manual_seed(1)
    inputs = sets * size + 2  # two that never go
    x = torch.randn(groups, inputs, inputs, generator=generator, dtype=torch.float64) @ torch.randn(
        groups, inputs, 80, generator=generator, dtype=torch.float64)
    weight = torch.randn(groups, 3, inputs, generator=generator, dtype=torch.float64)
    blocks = torch.randperm(inputs, generator=generator)[:sets * size].view(sets, size)
    inverse = torch.linalg.inv(x @ x.transpose(1, 2))
    for count in range(1, sets + 1):
        for subset in combinations(range(sets), count):
            reader, error = Reader(inverse, weight, blocks), 0.0
            for one in sorted(subset, key=lambda number: (number * 3) % 5):
                error += float(reader.prices()[one])
                reader.remove(one)
            left = np.setdiff1d(np.arange(inputs), blocks[list(subset)].flatten())
            expected = 0.0
            for own, rows in zip(x.numpy(), weight.numpy()):
                y = (rows @ own).T
                expected += np.square(y - own[left].T @ np.linalg.lstsq(own[left].T, y, rcond=None)[0]).sum()
            assert error == pytest.approx(expected, rel=1e-7)


def test_several_layers_and_sets_that_were_let_go_add_up():
    generator = torch.Generator().manual_seed(2)
    parts = [(torch.randn(1, 30, 200, generator=generator, dtype=torch.float64),
              torch.randn(1, 4, 30, generator=generator, dtype=torch.float64)) for _ in range(2)]
    blocks = [torch.arange(30)[:, None], torch.randperm(30, generator=generator)[:, None]]
    readers = [Reader(torch.linalg.inv(x @ x.transpose(1, 2)), weight, block)
               for (x, weight), block in zip(parts, blocks)]
    order, errors = backward_elimination(readers, 30)
    assert sorted(order.tolist()) == list(range(30))
    for count in (1, 12, 25):
        expected = 0.0
        for (x, weight), block in zip(parts, blocks):
            own, y = x[0, block[order[count:]].flatten()].numpy().T, (weight @ x)[0].numpy().T
            expected += np.square(y - own @ np.linalg.lstsq(own, y, rcond=None)[0]).sum()
        assert float(errors[count - 1]) == pytest.approx(expected, rel=1e-7)


def test_a_copy_and_a_constant_cost_nothing():
    model, mutator = prepared(lambda: Pair(nn.Conv2d(5, 3, 1)))
    with torch.no_grad():
        model.stem.weight[3], model.stem.bias[3] = model.stem.weight[1], model.stem.bias[1]
        model.stem.weight[4] = 0
    scores = calibrated(mutator, batches_of()).score(mutator.units[0])
    first = scores.argsort()[:2].tolist()
    assert 4 in first
    assert {1, 3} & {*first}
    assert float(scores.sort().values[1]) < 1e-7 < 1e-3 < float(scores.sort().values[2])


def test_samples_are_drawn_evenly_and_by_seed():
    _, mutator = prepared(toy_nets.SharedHead)
    criterion = LeastSquaresError(positions=20)
    criterion.bind(mutator)
    sums = []
    criterion._covariance = lambda layer, found, weight: sums.append((layer, found.count))
    criterion.calibrate(Calibration(batches_of(), lambda batch: (mutator.model(batch), torch.zeros(()))[1]))
    # of 36 and 9 positions, 20 in the same proportion
    assert dict(sums)['tower'] == 100 * (16 + 4)
    again, other = (calibrated(mutator, batches_of(), dict(type='LeastSquaresError', positions=4, seed=seed)).score(
        mutator.units[0]) for seed in (0, 1))
    same = calibrated(mutator, batches_of(), dict(type='LeastSquaresError', positions=4)).score(mutator.units[0])
    assert torch.equal(again, same)
    assert not torch.equal(again, other)


def test_layers_that_cannot_be_solved_leave_their_unit_unscored(monkeypatch):
    _, mutator = prepared(lambda: Pair(nn.ConvTranspose2d(5, 3, 2)))
    with pytest.raises(UnscorableError, match="layer 'layer' is ConvTranspose2d, no plain convolution or linear layer"):
        calibrated(mutator, batches_of()).score(mutator.units[0])
    by_norm = calibrated(mutator, batches_of(), dict(type='OrderedBy', widths='L2'))
    assert torch.equal(by_norm.score(mutator.units[0]), build_criterion('L2', mutator).score(mutator.units[0]))
    monkeypatch.setattr(read_moments, 'MOST_INPUTS', 40)
    _, mutator = prepared(lambda: Pair(nn.Conv2d(5, 3, 3)))
    with pytest.raises(UnscorableError, match='reads 45 values for each output, and 40 is the limit'):
        calibrated(mutator, batches_of()).score(mutator.units[0])
    monkeypatch.setattr(read_moments, 'MOST_INPUTS', 45)
    with pytest.raises(CriterionError, match="layer 'layer': its inputs or weights are not finite"):
        calibrated(mutator, [batch * float('nan') for batch in batches_of()])


@pytest.mark.parametrize('scope', ['global', 'layer'])
@pytest.mark.parametrize(('widths', 'order'), [('L2', 'FPGM'), ('Random', 'LeastSquaresError')])
def test_one_criterion_says_how_many_and_another_which(widths, order, scope):
    _, mutator = prepared(toy_nets.Everything, size=8)
    batches, target = batches_of(size=8), dict(flops=0.6, scope=scope)
    both = calibrated(mutator, batches, dict(type='OrderedBy', widths=widths, order=order))
    masks = {}
    for criterion in (both, calibrated(mutator, batches, widths)):
        masks[criterion] = make_plan(mutator, criterion, PruningTarget.of(target, 'layer')).masks
    own, wanted = masks.values()
    second = calibrated(mutator, batches, dict(type=order))
    assert any((~mask).any() for mask in own.values())
    for unit in mutator.units:
        count = int((~wanted[unit.name]).sum())
        assert int((~own[unit.name]).sum()) == count
        assert set(np.flatnonzero(~own[unit.name])) == set(second.score(unit).argsort(stable=True)[:count].tolist())


def test_needs_and_adjustments_are_those_of_both():
    model, mutator = prepared(lambda: Pair(nn.Conv2d(5, 3, 1)))
    both = build_criterion(dict(type='OrderedBy', widths='GroupFisher', order='ThiNet'), mutator)
    assert (both.needs_data, both.needs_loss, both.scope) == (True, True, 'global')
    assert not both.is_calibrated
    with pytest.raises(CriterionError, match='OrderedBy scores channels by data, and has seen no data'):
        both.score(mutator.units[0])
    weights = build_criterion(dict(type='OrderedBy', widths='L2', order='FPGM'), mutator)
    assert (weights.needs_data, weights.needs_loss, weights.is_calibrated) == (False, False, True)
    half = calibrated(mutator, batches_of(), dict(type='OrderedBy', widths='L2', order='ThiNet'))
    before, mask = model.layer.weight.clone(), np.arange(5) > 1
    half.adjust({mutator.units[0].name: mask})
    assert not torch.equal(model.layer.weight[:, mask], before[:, mask])
    assert not half.is_calibrated
