"""Repairs of detectors: one head on levels of several sizes, against numpy's least squares on all positions of all."""
import copy

import detection_nets
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import randomise

from mmprune.graph.demo_input import ExampleInputs
from mmprune.pruning.pruner import Pruner
from mmprune.repair import layer_by_layer, plan, sampling, twin
from mmprune.repair.refit import repair
from mmprune.repair.twin import Judge

ALL = 10**6


@pytest.fixture
def every_position(monkeypatch):
    """As many samples as ``positions`` says, however few unknowns a layer has."""
    monkeypatch.setattr(sampling, 'SAMPLES', ALL)


def cut(net, images, **kwargs):
    """Return a pruner of the net after the cut, and the dense twin."""
    dense = copy.deepcopy(net)
    pruner = Pruner(net, images[:1], **(kwargs or dict(ratio=0.4)))
    pruner.cut()
    return pruner, dense


def reads_and_returns(model, layer, images):
    """Return what a layer reads, as columns of a 3 x 3 or 1 x 1 kernel, and returns at all positions of all levels."""
    found = []
    handle = layer.register_forward_hook(lambda module, args, out: found.append((args[0], out)))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    xs, ys = [], []
    for x, y in found:
        columns = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)
        xs.append(columns.movedim(1, -1).reshape(-1, columns.size(1)).numpy())
        ys.append(y.movedim(1, -1).reshape(-1, y.size(1)).numpy())
    return np.concatenate(xs), np.concatenate(ys)


@pytest.mark.parametrize('name', ['tower', 'cls', 'l3', 'f4'])
def test_a_shared_head_is_solved_by_all_positions_of_all_levels(name, every_position):
    torch.manual_seed(0)
    images = torch.randn(60, 3, 16, 16, dtype=torch.float64)
    pruner, dense = cut(randomise(detection_nets.Pyramid()).double(), images, ratio=0.35)
    done = repair(pruner.mutator, dense, images, positions=ALL, ridge=0.0)
    assert done.layers[name].applied
    layer = pruner.model.get_submodule(name)
    rows = pruner.mutator.layout(f'{name}.weight')[0].astype(int) if name != 'cls' else np.arange(2)
    x, _ = reads_and_returns(pruner.model, layer, images)
    _, wanted = reads_and_returns(dense, dense.get_submodule(name), images)
    assert len(x) == len(images) * {'l3': 64, 'f4': 16}.get(name, 64 + 16)
    expected = np.linalg.lstsq(np.concatenate([x, np.ones((len(x), 1))], 1), wanted[:, rows], rcond=None)[0][:-1]
    found = layer.weight.detach().flatten(1).numpy().T
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize('positions', [8, 3])
def test_levels_are_sampled_in_proportion_to_their_sizes(positions, monkeypatch):
    """Also one of which a batch gets less than one position in the mean."""
    counts = {}
    places_of = layer_by_layer.LayerByLayer._places

    def places(self, layer, batch, call, count):
        found = places_of(self, layer, batch, call, count)
        assert len(set(found.tolist())) == len(found) <= count
        counts.setdefault(layer.name, {}).setdefault(count, []).append(len(found))
        return found

    monkeypatch.setattr(layer_by_layer.LayerByLayer, '_places', places)
    monkeypatch.setattr(sampling, 'LEAST_IMAGES', 300)  # all
    torch.manual_seed(0)
    images = torch.randn(300, 3, 16, 16)
    pruner, dense = cut(randomise(detection_nets.Pyramid()), images)
    done = repair(pruner.mutator, dense, images.split(1), positions=positions)
    assert done.layers['cls'].applied
    assert {len(found) for found in counts['cls'].values()} == {300}
    large, small = (sum(counts['cls'][count]) for count in (64, 16))
    assert large == pytest.approx(300 * positions * 64 / 80, rel=0.04)
    assert small == pytest.approx(300 * positions * 16 / 80, rel=0.12)
    assert set(counts['l4'][16]) == {positions}  # called once


def test_outputs_count_in_their_own_units_and_by_their_sizes(monkeypatch):
    """Scores in the hundreds beside offsets in the thousandths; batches of one image; a constant."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.off = nn.Conv2d(3, 5, 1), 0.0

        def forward(self, x):
            scores, boxes = self.conv(x).split([4, 1], 1)
            return 100 * scores, 1e-3 * boxes + self.off, torch.full((len(x), 2), 3.0)

    torch.manual_seed(0)
    dense, images = Two(), torch.randn(6, 3, 4, 4)
    net = copy.deepcopy(dense)
    net.off = 2e-3
    with torch.no_grad():
        boxes = dense(images)[1]
        expected = float(2e-3 ** 2 / boxes.double().var(unbiased=False)) * boxes.numel() / (5 * boxes.numel() + 12)
        for size in (1, 3):
            judge = Judge(dense, images.split(size))
            assert judge.error(dense) == 0
            assert judge.error(net) == pytest.approx(expected, rel=1e-4)
        monkeypatch.setattr(twin, 'WANTED', 2 * 2 * 4 * (5 * 16 + 2))  # more than a batch of two, less than two of them
        judge = Judge(dense, images.split(2))
        assert [kept is None for kept in judge._wanted] == [False, True, True]
        assert judge.error(net) == pytest.approx(expected, rel=1e-4)


def test_layers_that_read_a_tensor_before_and_after_it_is_changed_in_place_follow_each_other():
    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mid, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = torch.tanh(self.stem(x))
            x += self.mid(x)
            return self.out(x)

    torch.manual_seed(0)
    images = torch.randn(8, 3, 4, 4)
    pruner, dense = cut(Adding(), images)
    made = plan.make_repair_plan(pruner.mutator, dense.eval(), ExampleInputs(images[:2]), 10, True, 10, 1e9)
    layers = [layer for stage in made.stages for layer in stage.layers]
    assert [layer.name for layer in layers] == ['stem', 'mid', 'out']
    assert len({layer.source for layer in layers}) == 3


@pytest.mark.full
@pytest.mark.parametrize('name', ['RetinaNet', 'CSPNet'])
def test_mmdets_parts_are_repaired(name):
    torch.manual_seed(0)
    images = torch.randn(60, 3, 32, 32)
    net = randomise(getattr(detection_nets, name)())
    if name == 'RetinaNet':  # scores of a fresh head hardly vary
        nn.init.normal_(net.head.retina_cls.weight, std=0.3)
    pruner, dense = cut(net, images)
    done = pruner.repair(list(images.split(4)), dense)
    assert done.left == {}
    assert all(one.after < one.before for one in done.layers.values() if one.applied)
    assert {f'head.{part}' for part in ('cls_convs.0.conv', 'reg_convs.0.conv', 'retina_cls', 'retina_reg')} <= {
        key for key, one in done.layers.items() if one.applied} or name == 'CSPNet'
    assert done.after < (0.8 if name == 'RetinaNet' else 0.6) * done.before
