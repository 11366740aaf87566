"""The small ResNets for CIFAR: their sizes are worked out by hand."""
import pytest
import torch

from mmprune.models.cifar_resnet import CifarResNet
from mmprune.registry import MODELS
from mmprune.units.mutator import ChannelMutator


def count_by_hand(n: int) -> int:
    def block(i: int, o: int) -> int:
        return 9 * i * o + 9 * o * o + 2 * 2 * o

    stem = 9 * 3 * 16 + 2 * 16
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    return stem + shortcuts + n * block(16, 16) + block(16, 32) + (n - 1) * block(32, 32) + block(32, 64) + (
        n - 1) * block(64, 64)


@pytest.mark.parametrize(('depth', 'parameters'), [(20, 271824), (32, 466256), (56, 855120), (110, 1730064)])
def test_parameters(depth, parameters):
    model = CifarResNet(depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters == count_by_hand((depth - 2) // 6)
    assert sum(getattr(module, 'kernel_size', None) == (3, 3) for module in model.modules()) == depth - 1


def test_it_is_a_backbone_of_mmcls():
    model = MODELS.build(dict(type='mmprune.CifarResNet', depth=8))
    out = model(torch.randn(2, 3, 32, 32))
    assert [tuple(one.shape) for one in out] == [(2, 64, 8, 8)]
    model.init_weights()
    std = float(model.layer2[0].conv1.weight.detach().std())
    assert std == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.1)  # Kaiming's, by fan out


def test_macs_at_32_pixels():
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 32, 32)))
    mutator.prepare(CifarResNet(20))
    stages = 32**2 * 6 * 9 * 16**2 + 16**2 * (9 * 16 * 32 + 5 * 9 * 32**2) + 8**2 * (9 * 32 * 64 + 5 * 9 * 64**2)
    assert mutator.cost['macs'] == 32**2 * 9 * 3 * 16 + stages + 16**2 * 16 * 32 + 8**2 * 32 * 64


@pytest.mark.parametrize('depth', [18, 2, True, 20.0])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match='6n \\+ 2 layers'):
        CifarResNet(depth)
