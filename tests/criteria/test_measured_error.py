"""Trials against networks that are really cut and solved by numpy, and prices against curves that are known."""
import copy

import numpy as np
import pytest
import torch
import toy_nets
import value_nets
from read_samples import ALL, NETS, batches_of, prepared, samples_of
from tiny_transformer import TinyViT, images
from torch import nn

from mmprune import Pruner
from mmprune.criteria import measured_error, output_change, solved_without
from mmprune.criteria.calibration import Calibration
from mmprune.criteria.criterion import CriterionError, UnscorableError, build_criterion
from mmprune.criteria.inputs import reading
from mmprune.criteria.measured_error import MeasuredError, parted
from mmprune.criteria.prices import prices
from mmprune.repair import sampling


@pytest.fixture(autouse=True)
def every_position_and_no_ridge(monkeypatch):
    """As many samples as ``positions`` says, and nearly plain least squares."""
    monkeypatch.setattr(sampling, 'SAMPLES', ALL)
    monkeypatch.setattr(solved_without, 'RIDGE', 1e-10)


def calibrated(mutator, batches, **options):
    criterion = build_criterion(MeasuredError('L2', positions=ALL, images=ALL, **options), mutator)
    criterion.calibrate(Calibration(batches, lambda batch: (mutator.model(batch), torch.zeros(()))[1]))
    return criterion


def really_cut(mutator, unit, mask, samples):
    """Return a copy that is cut, the layers that read the unit solved by numpy."""
    model, other = (twin := copy.deepcopy(mutator)).model, next(one for one in mutator.units if one.name == unit.name)
    solved = {}
    for member in [member for member in reading(other) if member.axis.layer in samples]:
        layer = mutator.model.get_submodule(member.axis.layer)
        weight, x = layer.weight.detach().numpy(), samples[member.axis.layer]
        gone = np.zeros(weight.shape[1:], dtype=bool)
        for one in [one for one in reading(other) if one.axis.layer == member.axis.layer]:
            gone[mutator.positions(unit, one)[torch.from_numpy(~mask[unit.kept])].flatten().numpy()] = True
        weights, offsets = [], []
        for inputs, rows in zip(x, weight.reshape(len(x), -1, x.shape[1])):
            left = np.vstack([inputs[~gone.flatten()], np.ones(inputs.shape[1])])
            found = np.linalg.lstsq(left.T, (rows @ inputs).T, rcond=None)[0].T
            weights.append(found[:, :-1])
            offsets.append(found[:, -1])
        solved[member.axis.layer] = np.concatenate(weights), np.concatenate(offsets)
    dropped = mutator.surgery.dropped({unit.name: mask})
    twin.cut({unit.name: mask})
    for name, (weight, offset) in solved.items():
        layer = model.get_submodule(name)
        if (f'{name}.weight', 0) in dropped:
            weight, offset = (np.delete(part, dropped[f'{name}.weight', 0][1].numpy(), 0) for part in (weight, offset))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight).reshape(layer.weight.shape))
        shift = torch.from_numpy(offset)
        shift = shift if isinstance(layer, nn.Linear) else shift.view(-1, 1, 1)
        layer.register_forward_hook(lambda module, args, out, shift=shift: out + shift)
    return model


def relative_error(found, wanted):
    found, wanted = ([one.detach().numpy() for one in (out if isinstance(out, (list, tuple)) else [out])]
                     for out in (found, wanted))
    parts = []
    for ours, theirs in zip(found, wanted):
        axes = (0, *range(2, theirs.ndim))
        parts.append((np.square(ours - theirs).sum() / np.square(theirs - theirs.mean(axes, keepdims=True)).sum(),
                      theirs.size))
    return sum(error * size for error, size in parts) / sum(size for _, size in parts)


@pytest.mark.parametrize('pruned', [False, True], ids=['dense', 'pruned'])
@pytest.mark.parametrize('name', NETS)
def test_a_trial_is_the_error_of_the_network_that_is_cut_and_solved(name, pruned):
    model, mutator = prepared(NETS[name])
    if pruned:
        unit = mutator.units[0]
        mask = unit.kept.copy()
        mask[0] = False
        mutator.cut({unit.name: mask})
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(30, 3, 6, 6, generator=generator, dtype=torch.float64) for _ in range(5)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    criterion = calibrated(mutator, batches, levels=(0.2, 0.6))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    samples = samples_of(mutator, batches[:4])
    tried = 0
    for unit in mutator.units:
        order = criterion.order.score(unit).argsort(stable=True).numpy()
        for count, error in criterion.points[unit.name]:
            mask = unit.kept.copy()
            mask[np.flatnonzero(mask)[order[:count]]] = False
            wanted = relative_error(really_cut(mutator, unit, mask, samples)(batches[4]), model(batches[4]))
            assert error == pytest.approx(wanted, rel=1e-4, abs=1e-9)
            tried += 1
    assert tried >= len(mutator.units)


def test_heads_dimensions_and_the_stream_of_a_transformer():
    torch.manual_seed(0)
    model = TinyViT(depth=1).double().eval()
    pruner = Pruner(model, images(), MeasuredError('L2', positions=ALL, images=ALL), ratio=0.3)
    batches = [images(20) for _ in range(5)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.calibrate([(batch, ) for batch in batches])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    mutator, criterion = pruner.mutator, pruner.criterion
    samples = samples_of(mutator, batches[:4])
    assert {'heads', 'qk', 'v', ''} == {unit.channels.part for unit in mutator.units}
    for unit in mutator.units:
        order = criterion.order.score(unit).argsort(stable=True).numpy()
        for count, error in criterion.points[unit.name]:
            mask = unit.kept.copy()
            mask[order[:count]] = False
            wanted = relative_error(really_cut(mutator, unit, mask, samples)(batches[4]), model(batches[4]))
            assert error == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize('net', [value_nets.WeightNorm, value_nets.ParametrizedWeightNorm, value_nets.MaskedWeights,
                                 type('Net', (value_nets.FilterNet, ), {'layer': value_nets.Standardised})])
def test_computed_weights_are_computed_again_afterwards(net):
    torch.manual_seed(0)
    model = net().double().eval()
    x = torch.randn(20, 3, *([9, 9] if isinstance(model, value_nets.FilterNet) else [8]), dtype=torch.float64)
    pruner = Pruner(model, x[:2], MeasuredError('L2', positions=ALL, images=ALL, levels=(0.5, )), ratio=0.5)
    with torch.no_grad():
        wanted = model(x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    pruner.calibrate([(x + 0.1 * number, ) for number in range(5)])
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(x), wanted)
    for unit in pruner.mutator.units:
        (count, error), = pruner.criterion.points[unit.name]
        mask = unit.kept.copy()
        mask[pruner.criterion.order.score(unit).argsort(stable=True).numpy()[:count]] = False
        twin = copy.deepcopy(pruner.mutator)
        twin.cut({unit.name: mask})
        judged = x + 0.4
        with torch.no_grad():
            raw = relative_error(twin.model(judged), model(judged))
        solved = [type(layer) in (nn.Linear, nn.Conv2d) for layer in (  # whose weight is a parameter of its own
            pruner.mutator.model.get_submodule(member.axis.layer) for member in reading(unit))
            if 'weight' in layer._parameters]
        assert 0 <= error < raw if any(solved) else error == pytest.approx(raw, rel=1e-7)


def test_scores_keep_the_order_and_rise_by_what_the_next_channel_costs():
    _, mutator = prepared(NETS['Residual'])
    criterion = calibrated(mutator, batches_of(30) * 3, normalization_type='none')
    for unit in mutator.units:
        order = criterion.order.score(unit).argsort(stable=True)
        scores = criterion.score(unit)[order].numpy()
        assert np.allclose(scores, prices(criterion.points[unit.name], unit.num_sets))
        assert (np.diff(scores) > 0).all()
        by_flops = copy.copy(criterion)
        by_flops.normalization_type = 'flops'
        ratio = criterion.score(unit) / by_flops.score(unit)
        assert torch.allclose(ratio, ratio[0].expand_as(ratio))
        assert ratio[0] == pytest.approx(mutator.complexity.channel_macs(unit.channels, mutator.widths) / 1e9)


def test_a_score_is_the_geometric_mean_with_that_of_an_order_that_compares_units():
    model, mutator = prepared(NETS['Residual'])
    x = torch.randn(40, 3, 6, 6, dtype=torch.float64)
    found = {}
    for weight in (None, 1.0, 0.25):
        pruner = Pruner(model, x[:1], MeasuredError('Taylor', weight=weight), ratio=0.3)
        pruner.calibrate([(part, torch.arange(20) % 4) for part in x.split(20)], nn.functional.cross_entropy)
        found[weight] = {unit.name: pruner.criterion.score(unit) for unit in pruner.mutator.units}
        order = {unit.name: pruner.criterion.order.score(unit) for unit in pruner.mutator.units}
    assert found[1.0]
    for name, price in found[1.0].items():
        assert torch.allclose(found[None][name], (price * order[name]).sqrt())
        assert torch.allclose(found[0.25][name], price ** 0.25 * order[name] ** 0.75)
    assert MeasuredError('L2').weight == 1.0  # whose scope is a layer
    with pytest.raises(ValueError, match='weight is 0; it is the share of the measured price'):
        MeasuredError(weight=0)


def test_prices_of_a_square_are_its_slope():
    points = [(count, 3.0 * count ** 2) for count in (2, 4, 8, 16)]
    found = prices(points, 20)
    assert np.allclose(found[:12], 6 * (np.arange(12) + 0.5))  # up to the last middle, and the line beyond it
    assert (np.diff(found) > 0).all()


def test_prices_of_what_falls_or_flattens_are_those_of_the_way_beyond():
    found = prices([(2, 4.0), (4, 3.0), (8, 20.0)], 10)
    assert (np.diff(found) > 0).all()
    assert found[:4].sum() == pytest.approx(3.0, rel=0.35)
    assert (prices([(2, -1.0), (4, -2.0)], 6) == 0).all()
    assert (np.diff(prices([(1, 0.5)], 3)) > 0).all()


def test_a_network_that_returns_losses_is_judged_by_them():
    class Loss(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, wanted=None):
            out = self.net(x)
            return out if wanted is None else dict(loss=(out - wanted).square().mean())

    torch.manual_seed(0)
    model = Loss(toy_nets.randomise(toy_nets.Residual())).eval().double()
    x = torch.randn(80, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x) + 0.3
    criterion = MeasuredError('L2', positions=ALL, images=ALL)
    pruner = Pruner(model, x[:1], criterion, ratio=0.3)
    parts = [(x[first:first + 20], wanted[first:first + 20]) for first in range(0, 80, 20)]
    pruner.calibrate([(part, None) for part in parts], lambda losses, targets: losses['loss'])
    samples = samples_of(pruner.mutator, [part for part, _ in parts[:3]])
    for unit in pruner.mutator.units:
        order = criterion.order.score(unit).argsort(stable=True).numpy()
        for count, error in criterion.points[unit.name]:
            mask = unit.kept.copy()
            mask[order[:count]] = False
            with torch.no_grad():
                rise = really_cut(pruner.mutator, unit, mask, samples)(*parts[3])['loss'] / model(*parts[3])['loss'] - 1
            assert error == pytest.approx(float(rise), rel=1e-4, abs=1e-9)
    pruner.cut()


def test_a_loss_that_mixes_images_at_random_mixes_them_alike_in_each_trial():
    _, mutator = prepared(NETS['Residual'])
    batches = batches_of(20) * 3

    def loss(batch):
        mutator.model(batch + 0.1 * torch.randn_like(batch))
        return torch.zeros(())

    found = []
    for _ in range(2):
        torch.manual_seed(7)
        criterion = build_criterion(MeasuredError('L2', levels=(0.2, )), mutator)
        criterion.calibrate(Calibration(batches, loss))
        found.append(criterion.points)
    assert found[0] == found[1]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    build_criterion(MeasuredError('L2'), mutator).calibrate(
        Calibration(batches, lambda batch: mutator.model(batch).sum()))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_solved_and_what_is_judged_are_not_the_same_images():
    batches = [torch.full((10, 1), number) for number in range(20)]
    solving, judging = parted(batches, 20)
    assert len(judging) == 2
    assert len(solving) == 16
    many = [torch.full((40, 1), number) for number in range(20)]
    assert [len(part) for part in parted(many, 80)] == [4, 2]  # of 160 images, in whole batches
    assert {int(batch[0]) % 5 for batch in judging} == {4}
    assert 4 not in {int(batch[0]) % 5 for batch in solving}
    assert [len(part) for part in parted(batches[:2], 64)] == [1, 1]
    assert parted(batches[:2], 64)[0][0] is not parted(batches[:2], 64)[1][0]
    assert [part[0] is batches[0] for part in parted(batches[:1], 64)] == [True, True]


def test_large_outputs_are_compared_for_fewer_images(monkeypatch):
    _, mutator = prepared(NETS['Residual'])
    batches = [torch.randn(8, 3, 6, 6, dtype=torch.float64) for _ in range(20)]
    loss = lambda batch: (mutator.model(batch), torch.zeros(()))[1]  # noqa: E731
    found = {}
    for room, judging in [(8 * 4 * 8, [9]), (1e9, [9]), (1e9, [9, 19])]:
        monkeypatch.setattr(output_change, 'MOST_OUTPUTS', room)
        monkeypatch.setattr(measured_error, 'parted', lambda batches, images, judging=judging, room=room: (
            [batch for number, batch in enumerate(batches) if number % 5 != 4],
            [batches[number] for number in ((9, 19) if room < 1e9 else judging)]))
        criterion = build_criterion(MeasuredError('L2'), mutator)
        criterion.calibrate(Calibration(batches, loss))
        found[room, len(judging)] = criterion.points
    assert found[8 * 4 * 8, 1] == found[1e9, 1] != found[1e9, 2]


def test_a_unit_of_one_set_has_no_price():
    _, mutator = prepared(NETS['Residual'])
    unit = mutator.units[1]
    mask = np.arange(len(unit.kept)) == 0
    mutator.cut({unit.name: mask})
    criterion = calibrated(mutator, batches_of(20) * 3)
    with pytest.raises(UnscorableError, match='it has a single set of channels'):
        criterion.score(unit)
    assert criterion.score(mutator.units[0]).isfinite().all()


def test_scores_need_data_and_levels_are_shares():
    _, mutator = prepared(NETS['Residual'])
    with pytest.raises(CriterionError, match='MeasuredError scores channels by data, and has seen no data'):
        build_criterion('MeasuredError', mutator).score(mutator.units[0])
    for levels, message in [((0.5, 0.25), 'rising'), ((0.0, ), 'share'), ((1.0, ), 'share'), ((), 'levels')]:
        with pytest.raises(ValueError, match=message):
            MeasuredError(levels=levels)
