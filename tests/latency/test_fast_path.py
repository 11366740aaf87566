"""Nodes of a file: in the fast layout or not, and why."""
import pytest
import torch
from torch import nn

from mmprune.deploy.onnx_export import export_onnx
from mmprune.deploy.runtimes.runtime import NodeTime
from mmprune.latency.fast_path import FAST, PLAIN, REORDER, fast_path, format_fast_path, reason_of, summary


class Mixed(nn.Module):
    """A convolution of whole vectors, one of 22 channels, and a concat of both."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, width, 1)
        self.third = nn.Conv2d(32 + width, 32, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.third(torch.cat([x, torch.relu(self.second(x))], 1))


def nodes_of(width, folder):
    path = folder / f'{width}.onnx'
    export_onnx(Mixed(width).eval(), torch.randn(1, 3, 16, 16), path)
    return fast_path(path, runs=3)


def test_whole_blocks_stay_in_the_fast_layout(tmp_path):
    whole, ragged = nodes_of(32, tmp_path), nodes_of(22, tmp_path)
    assert {node.layout for node in whole if node.op in ('Conv', 'Concat')} == {FAST}
    fell = {node.op: node for node in ragged if node.layout == PLAIN}
    assert fell['Concat'].reason == '22, 54 channels: no multiple of 16'
    assert fell['Conv'].reason == '54 channels in: no multiple of 4'
    assert summary(ragged)[REORDER][0] > summary(whole)[REORDER][0]
    text = format_fast_path(ragged, whole)
    assert 'fell out of the fast layout' in text
    assert 'dense ms' in text
    assert 'fell out' not in format_fast_path(whole)


class Decoding(Mixed):
    """With boxes decoded from what it writes, a part of them at a time."""

    def forward(self, x):
        boxes = super().forward(x).permute(0, 2, 3, 1).reshape(1, -1, 4, 8)[:, :251]
        return torch.cat([boxes + boxes.flip(-1), boxes], 3)


def test_boxes_are_no_channels(tmp_path):
    export_onnx(Decoding(22).eval(), torch.randn(1, 3, 16, 16), tmp_path / 'x.onnx')
    nodes = fast_path(tmp_path / 'x.onnx', runs=3)
    assert {node.op for node in nodes} > {'Add', 'Concat', 'Conv'}
    assert not any('251' in node.reason for node in nodes)
    assert [node.reason for node in nodes if node.op == 'Concat' and node.reason] == [
        '22, 54 channels: no multiple of 16']


class Normed(nn.Module):
    """Group norms, which are written with reshapes, in front of a pool and of a residual sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.norms, self.last = nn.ModuleList(nn.GroupNorm(4, 24) for _ in range(2)), nn.Conv2d(24, 32, 1)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norms[0](self.first(x))), 2)
        return self.last(x + self.norms[1](self.second(x)))


def test_maps_behind_reshapes_are_maps(tmp_path):
    export_onnx(Normed().eval(), torch.randn(1, 3, 16, 16), tmp_path / 'x.onnx')
    reasons = {node.op: node.reason for node in fast_path(tmp_path / 'x.onnx', runs=3) if node.layout == PLAIN}
    assert reasons['MaxPool'] == reasons['Add'] == '24 channels: no multiple of 16'


@pytest.mark.parametrize(('node', 'reason'), [
    (NodeTime('c', 'Conv', 1.0, ((1, 48, 8, 8), (48, 24, 3, 3)), ((1, 48, 8, 8), )),
     'its 2 groups have 24 channels, no multiples of 16'),
    (NodeTime('c', 'Conv', 1.0, ((1, 37, 8, 8), (22, 37, 3, 3)), ()),
     '37 channels in and 22 channels out: no multiple of 4'),
    (NodeTime('c', 'Conv', 1.0, ((1, 32, 8, 8), (32, 32, 3, 3)), ()), 'what it reads is not in it'),
    (NodeTime('m', 'MaxPool', 1.0, ((1, 36, 8, 8), ), ((1, 36, 4, 4), )), '36 channels: no multiple of 16'),
    (NodeTime('s', 'Softmax', 1.0, ((1, 10), ), ((1, 10), )), '')])
def test_reasons(node, reason):
    assert reason_of(node) == reason
