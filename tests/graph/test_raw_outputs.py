"""Auxiliary heads, which a segmentor runs for its loss only, follow a cut and cost nothing."""
import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmprune import Pruner
from mmprune.graph.demo_input import DemoInput
from mmprune.graph.grouping import TRAINING_ONLY
from mmprune.report.proof import largest_difference, masks_around
from mmprune.units.mutator import ChannelMutator


class Levels(nn.Module):
    """Two feature maps, of 6 and 8 channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, x):
        first = torch.tanh(self.first(x))
        return first, torch.tanh(self.second(first))


class Head(nn.Module):
    def __init__(self, level, channels):
        super().__init__()
        self.level, self.conv, self.conv_seg = level, nn.Conv2d(channels, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, levels):
        return self.conv_seg(torch.tanh(self.conv(levels[self.level])))


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 7, 1)

    def forward(self, levels):
        return torch.tanh(self.conv(levels[0])), levels[1]


class Segmentor(BaseModel):
    """Heads as in mmseg's EncoderDecoder, one or several of them auxiliary, with or without a neck."""

    def __init__(self, several=False, with_neck=False):
        super().__init__()
        self.backbone, self.with_neck = Levels(), with_neck
        if with_neck:
            self.neck = Neck()
        self.decode_head = Head(1, 8)
        channels = 7 if with_neck else 6
        self.auxiliary_head = nn.ModuleList([Head(0, channels), Head(1, 8)]) if several else Head(0, channels)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        levels = self.backbone(inputs)
        return self.decode_head(self.neck(levels) if self.with_neck else levels)


INPUT = dict(type='DemoInput', input_shape=(1, 3, 8, 8))


def mutator_of(model):
    mutator = ChannelMutator(demo_input=INPUT)
    mutator.prepare(model)
    return mutator


@pytest.mark.parametrize(('several', 'with_neck', 'readers'), [
    (False, False, {'auxiliary_head.conv'}), (True, False, {'auxiliary_head.0.conv', 'auxiliary_head.1.conv'}),
    (True, True, {'auxiliary_head.0.conv', 'auxiliary_head.1.conv'})])
def test_auxiliary_heads_follow_a_cut_and_cost_nothing(several, with_neck, readers):
    torch.manual_seed(0)
    model = Segmentor(several, with_neck)
    mutator = mutator_of(model)
    consumers = {member.axis.layer for unit in mutator.units for member in unit.channels.consumers}
    assert {layer for layer in consumers if layer.startswith('auxiliary')} == readers
    stay = {channels.name.split('_(')[0] for channels in mutator.frozen if channels.reason == TRAINING_ONLY}
    assert stay == readers  # their own channels
    difference, cut = largest_difference(mutator, masks_around(mutator, 0.5, seed=0))
    assert difference < 1e-12
    outputs, auxiliary = mutator.demo_input(cut.train())
    assert outputs.shape == (1, 2, 8, 8)
    assert [tuple(output.shape) for output in auxiliary] == [(1, 2, 8, 8)] * (1 + several)


def test_only_what_runs_at_inference_is_counted():
    model = Segmentor(several=True)
    convs = [model.backbone.first, model.backbone.second, model.decode_head.conv, model.decode_head.conv_seg]
    assert mutator_of(model).cost['macs'] == 64 * sum(conv.weight.numel() for conv in convs)


def test_they_run_in_train_mode_only():
    model, demo = Segmentor(), DemoInput((1, 3, 8, 8))
    assert demo(model.eval()).shape == (1, 2, 8, 8)
    outputs, auxiliary = demo(model.train())
    assert len(auxiliary) == 1
    assert not model.backbone._forward_hooks
    model.auxiliary_head = None
    assert demo(model).shape == (1, 2, 8, 8)


def test_the_pruner_finds_them_too():
    pruner = Pruner(Segmentor(several=True), torch.randn(1, 3, 8, 8), ratio=0.5)
    outputs, auxiliary = DemoInput((1, 3, 8, 8))(pruner.cut().train())
    assert outputs.shape == auxiliary[0].shape == (1, 2, 8, 8)
    assert pruner.model.auxiliary_head[0].conv.in_channels == 3
