"""What must not happen silently."""
import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from paths import ROOT
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mmprune.config import plain
from mmprune.graph.grouping import build_graph
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.group_fisher.ops import GroupFisherConv2d
from mmprune.models.checkpoint import CheckpointError
from mmprune.registry import MODELS
from mmprune.report import proof as check
from mmprune.units import equivalence
from mmprune.units.mutator import ChannelMutator
from mmprune.units.selection import NotFiniteError

DEPLOY = 'configs/mmcls/group_fisher/mobilenet/group_fisher_act_deploy_mobilenet-v2_8xb32_in1k.py'
PRUNE = 'configs/mmcls/group_fisher/mobilenet/group_fisher_act_prune_mobilenet-v2_8xb32_in1k.py'


def mutator_of(model, shape=(1, 3, 8, 8), kind='ChannelMutator'):
    mutator = MODELS.build(dict(type=f'mmprune.{kind}', demo_input=dict(type='DemoInput', input_shape=shape)))
    mutator.prepare(model)
    return mutator


def two_convs():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


def test_an_interval_without_anything_finite_prunes_nothing(caplog):
    algorithm = GroupFisherAlgorithm(two_convs(), dict(type='GroupFisherChannelMutator', demo_input=dict(
        type='DemoInput', input_shape=(1, 3, 8, 8))))
    algorithm.mutator.accumulate([('2', torch.full((2, 8), float('nan')))], 2.0**16, drop_overflow=True)
    with pytest.raises(NotFiniteError, match='nothing finite was recorded since the last prune event'):
        algorithm.mutator.least_important()
    assert algorithm.prune([]) == []
    assert algorithm.mutator.structure == {'0_(0, 8)_8': 8}


def test_ddp_leaves_the_accumulator_to_each_rank():
    algorithm = GroupFisherAlgorithm(two_convs(), dict(type='GroupFisherChannelMutator', demo_input=dict(
        type='DemoInput', input_shape=(1, 3, 8, 8))))
    names = dict(algorithm.named_buffers())
    assert set(algorithm._ddp_params_and_buffers_to_ignore) <= set(names)


@pytest.mark.parametrize('rank', [0, 1])
def test_only_rank_0_takes_the_saved_accumulator(monkeypatch, rank):
    first, second = (mutator_of(two_convs(), kind='GroupFisherChannelMutator') for _ in range(2))
    first.fisher += 3.0
    monkeypatch.setattr('mmprune.group_fisher.mutator.dist.get_rank', lambda: rank)
    second.load_state_dict(first.state_dict())
    assert second.fisher.tolist() == [3.0 if rank == 0 else 0.0] * 8


def test_a_run_refuses_to_resume_from_another_model():
    make = [GroupFisherAlgorithm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, width, 3)), dict(
        type='GroupFisherChannelMutator', demo_input=dict(type='DemoInput', input_shape=(1, 3, 8, 8))))
        for width in (4, 5)]
    with pytest.raises(CheckpointError, match=r'shapes differ, first architecture\.1\.weight'):
        make[0].load_state_dict(make[1].state_dict(), strict=False)
    with pytest.raises(CheckpointError, match='keys are missing'):
        make[0].load_state_dict(two_convs().state_dict(), strict=False)


@dataclasses.dataclass
class Outputs:
    features: torch.Tensor
    logits: torch.Tensor


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        features = self.a(x)
        return Outputs(features, self.c(self.b(features)))


def test_outputs_inside_objects_are_outputs():
    mutator = mutator_of(Structured())
    assert [unit.name for unit in mutator.units] == ['b_(0, 6)_6']
    reasons = {channels.name: channels.reason for channels in mutator.frozen}
    assert reasons['a_(0, 8)_8'] == 'it is an output of the model'
    difference, cut = check.largest_difference(mutator, equivalence.random_masks(mutator.units, 0.5, 0))
    assert difference < 1e-10
    assert cut.b.out_channels == 3


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = two_convs()

    def forward(self, x):
        self.net(x)


def test_comparing_nothing_is_an_error():
    with pytest.raises(ValueError, match='Silent returns no tensor on the demo input'):
        mutator_of(Silent())


class Blur(nn.Module):
    """A fixed filter in a buffer, and a convolution with a computed weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.register_buffer('kernel', torch.ones(4, 1, 3, 3) / 9)
        self.normed = spectral_norm(nn.Conv2d(2, 2, 1))

    def forward(self, x):
        x = nn.functional.conv2d(self.a(x), self.kernel, padding=1, groups=len(self.kernel))
        return self.normed(self.b(x))


def test_filters_in_buffers_and_computed_weights_are_counted():
    mutator = mutator_of(Blur(), (1, 3, 8, 8))
    macs = 64 * (4 * 3 + 4 * 9 + 2 * 4 + 2 * 2)
    assert mutator.cost['macs'] == macs
    assert mutator.cost['acts'] == 64 * (4 + 4 + 2 + 2)
    mutator.apply_structure({'a_(0, 4)_4': 3})
    assert mutator.model.kernel.shape == (3, 1, 3, 3)
    assert mutator.cost['macs'] == 64 * (3 * 3 + 3 * 9 + 2 * 3 + 2 * 2)
    graph = build_graph(mutator.model, lambda model: model(torch.randn(1, 3, 8, 8)))
    assert any('computed weight' in channels.reason for channels in graph.frozen)


def test_recording_classes_can_be_used_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), GroupFisherConv2d(8, 4, 3))
    mutator = mutator_of(net, kind='GroupFisherChannelMutator')
    mutator.taps.record(True)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert [grad.shape for _, grad in mutator.taps.take()] == [(2, 8)]


def tool(*command):
    return subprocess.run([sys.executable, '-W', 'ignore', *map(str, command)], cwd=ROOT, capture_output=True,
                          text=True)


def test_cost_of_a_deploy_config_whose_structure_is_a_path(tmp_path):
    path = tmp_path / 'fix_subnet.json'
    structure = plain(Config.fromfile(ROOT / DEPLOY).model.fix_subnet)
    path.write_text(json.dumps(structure))
    done = tool('tools/pruning/structure_cost.py', DEPLOY, '--json', '-', '--cfg-options', f'model.fix_subnet={path}')
    assert json.loads(done.stdout)['macs'] == 200469704
    done = tool('tools/pruning/structure_cost.py', DEPLOY, '--cfg-options', 'model.fix_subnet=none.json')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: fix_subnet: there is no file 'none.json'")


def test_arguments_that_are_used_already_are_refused():
    done = tool('tools/train.py', PRUNE, '--cfg-options', 'interval=7')
    assert done.returncode == 2
    assert 'error: --cfg-options interval=... would change nothing' in done.stderr
    assert 'Set model.interval instead' in done.stderr


def test_masks_of_units_that_start_in_the_middle():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.head(self.a(x) + torch.cat([self.b(x), self.c(x)], 1))

    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(Halves())
    assert [unit.name for unit in mutator.units] == ['a_(0, 4)_4', 'a_(4, 8)_4']
    for unit in mutator.units:
        assert unit.mask_of(unit.kept_channels).all()
        unit.kept[1] = False
        assert unit.kept_channels.tolist() == [1, 0, 1, 1]
        assert unit.mask_of(unit.kept_channels).tolist() == [True, False, True, True]


