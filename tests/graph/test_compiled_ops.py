"""Operations that hide behind ``torch.autograd.Function``: those of mmcv by rule, any other frozen with its name."""
import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.report import proof as check
from mmprune.units.attention.taking_over import ATTENTIONS
from mmprune.units.mutator import ChannelMutator

full = pytest.mark.full


class Twice(torch.autograd.Function):
    """Computes outside torch."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Thrice(torch.autograd.Function):
    """The same with a forward that takes no context."""

    @staticmethod
    def forward(x):
        return torch.from_numpy(3 * x.detach().numpy())

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


twice, thrice = Twice.apply, Thrice.apply  # bound at import, as mmcv's are


class CARAFEFunction(torch.autograd.Function):
    """mmcv's by torch's operations: without CUDA it has none. Named as mmcv's, since the rule goes by the name."""

    @staticmethod
    def reassemble(features, masks, kernel_size, groups, scale):
        n, c, h, w = features.shape
        windows = F.unfold(features, kernel_size, padding=kernel_size // 2).view(n, -1, h, w)
        windows = F.interpolate(windows, scale_factor=float(scale))
        windows = windows.view(n, groups, c // groups, -1, h * scale, w * scale)
        return (windows * masks.view(n, groups, 1, -1, h * scale, w * scale)).sum(3).flatten(1, 2)

    @staticmethod
    def forward(ctx, features, masks, kernel_size, groups, scale):
        ctx.save_for_backward(features, masks)
        ctx.rest = kernel_size, groups, scale
        return CARAFEFunction.reassemble(features, masks, kernel_size, groups, scale)

    @staticmethod
    def backward(ctx, grad):
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            out = CARAFEFunction.reassemble(*inputs, *ctx.rest)
        return (*torch.autograd.grad(out, inputs, grad), None, None, None)


class Between(nn.Module):
    """Something between two convolutions."""

    def __init__(self, middle, channels=8, out=8):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, channels, 3, padding=1), middle, nn.Conv2d(out, 3, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


class Pooled(nn.Module):
    """Regions of a map, flattened into a linear layer."""

    def __init__(self, pooling, rois):
        super().__init__()
        self.first, self.pooling, self.last = nn.Conv2d(3, 8, 3, padding=1), pooling, nn.Linear(72, 4)
        self.register_buffer('rois', torch.tensor(rois))

    def forward(self, x):
        return self.last(self.pooling(torch.tanh(self.first(x)), self.rois).flatten(1))


class Steered(nn.Module):
    """A deformable convolution whose offsets and masks another layer computes from another map, as heads do."""

    def __init__(self, conv):
        super().__init__()
        self.first, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.offset, self.conv, self.last = nn.Conv2d(6, 27, 1), conv, nn.Conv2d(6, 3, 1)

    def forward(self, x):
        y, x_, mask = self.offset(torch.tanh(self.other(x))).chunk(3, 1)
        steering = (torch.cat([y, x_], 1), mask.sigmoid())[:2 if hasattr(self.conv, 'bias') else 1]
        return self.last(torch.tanh(self.conv(torch.tanh(self.first(x)), *steering)))


class Attention(nn.Module):
    """mmcv's deformable attention over one level."""

    def __init__(self, attention):
        super().__init__()
        self.first, self.query, self.attention = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 16), attention
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        n, _, h, w = x.shape
        x = self.first(x).flatten(2).transpose(1, 2)
        points = torch.linspace(0.1, 0.9, h * w * 2, dtype=x.dtype).view(1, h * w, 1, 2).expand(n, -1, -1, -1)
        x = self.attention(torch.tanh(self.query(x)), value=x, reference_points=points,
                           spatial_shapes=torch.tensor([[h, w]]), level_start_index=torch.tensor([0]))
        return self.last(x)


def mutator_of(net, size=8):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)))
    mutator.prepare(net)
    return mutator


def prove(mutator):
    """Random channels of every unit, three times: masked dense equals cut, and the costs are those counted."""
    proof = check.prove(mutator)
    print(f'{type(mutator.model).__name__}: {max(proof.differences):.1e} over {proof.units} units')
    assert proof.holds()
    return {channels.name: channels.reason for channels in mutator.frozen}


@pytest.mark.parametrize(('function', 'name'), [(twice, 'Twice'), (thrice, 'Thrice')])
def test_function_that_was_bound_at_import_is_seen(function, name):
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Conv2d(8, 6, 1)

        def forward(self, x):
            return function(self.before(x))

    mutator = mutator_of(Between(Middle(), 8, 6))
    assert list(mutator.structure) == ['first_(0, 8)_8']
    assert prove(mutator)['middle.before_(0, 6)_6'] == (
        f"{name} computes outside torch (add a rule with mmprune.register_op('{name}')) in module 'middle'")
    assert [type(cls.__dict__['forward']) for cls in (Twice, Thrice)] == [staticmethod, staticmethod]
    assert Twice.forward.__qualname__ == 'Twice.forward'  # unwrapped again


@full
@pytest.mark.parametrize('name', ['DeformConv2dPack', 'ModulatedDeformConv2dPack'])
@pytest.mark.parametrize('options', [{}, dict(deform_groups=2), dict(groups=2), dict(groups=2, deform_groups=4)])
def test_deformable_convolution(name, options):
    ops = pytest.importorskip('mmcv.ops')
    mutator = mutator_of(Between(getattr(ops, name)(8, 8, 3, padding=1, **options)))
    assert mutator.structure == {'first_(0, 8)_8': 8, 'middle_(0, 8)_8': 8}
    first, middle = mutator.units
    blocks = max(options.get('groups', 1), options.get('deform_groups', 1))
    assert first.multiplicity == blocks
    assert middle.multiplicity == options.get('groups', 1)
    assert {m.axis.layer for m in first.channels.consumers} == {'middle', 'middle.conv_offset'}
    function = name.replace('Pack', 'Function')
    count = (3 if 'Modulated' in name else 2) * 9 * options.get('deform_groups', 1)
    reasons = prove(mutator)
    assert reasons[f'middle.conv_offset_(0, {count})_{count}'] == f"{function} takes it as positions in module 'middle'"
    mutator.apply_structure({'first_(0, 8)_8': blocks, 'middle_(0, 8)_8': 4})
    conv = mutator.model.middle
    assert (conv.in_channels, conv.out_channels, conv.groups) == (blocks, 4, options.get('groups', 1))
    assert conv.conv_offset.in_channels == blocks


@full
def test_depthwise_deformable_convolution():
    ops = pytest.importorskip('mmcv.ops')
    mutator = mutator_of(Between(ops.ModulatedDeformConv2dPack(8, 8, 3, padding=1, groups=8)))
    assert mutator.structure == {'first_(0, 8)_8': 8}
    prove(mutator)
    mutator.apply_structure({'first_(0, 8)_8': 3})
    conv = mutator.model.middle
    assert (conv.in_channels, conv.out_channels, conv.groups, tuple(conv.weight.shape)) == (3, 3, 3, (3, 1, 3, 3))


@full
@pytest.mark.parametrize('name', ['DeformConv2d', 'ModulatedDeformConv2d'])
def test_offsets_from_another_map(name):
    ops = pytest.importorskip('mmcv.ops')
    mutator = mutator_of(Steered(getattr(ops, name)(8, 6, 3, padding=1)))
    assert list(mutator.structure) == ['other_(0, 6)_6', 'first_(0, 8)_8', 'conv_(0, 6)_6']
    assert f'{name}Function takes it as positions' in prove(mutator)['offset_(0, 27)_27']


@full
@pytest.mark.parametrize('groups', [1, 2])
def test_content_aware_reassembly(groups, monkeypatch):
    ops = pytest.importorskip('mmcv.ops')
    monkeypatch.setattr(importlib.import_module('mmcv.ops.carafe'), 'carafe', CARAFEFunction.apply)
    mutator = mutator_of(Between(ops.CARAFEPack(8, 2, up_kernel=3, up_group=groups, compressed_channels=6)))
    assert mutator.structure == {'first_(0, 8)_8': 8, 'middle.channel_compressor_(0, 6)_6': 6}
    assert mutator.units[0].multiplicity == groups
    count = 9 * groups * 4
    assert prove(mutator)[f'middle.content_encoder_(0, {count})_{count}'] is not None


@full
@pytest.mark.parametrize(('name', 'roi'), [('RoIAlign', [0.0, 1, 1, 5, 6]),
                                           ('RoIAlignRotated', [0.0, 4, 4, 3, 5, 0.3])])
def test_pooling_of_regions(name, roi):
    ops = pytest.importorskip('mmcv.ops')
    mutator = mutator_of(Pooled(getattr(ops, name)((3, 3), 1.0), [roi, [0.0, *roi[1:]]]))
    assert mutator.structure == {'first_(0, 8)_8': 8}
    assert mutator.units[0].channels.consumers[0].index.shape == (8, 9)
    prove(mutator)


@full
def test_deformable_attention_has_the_same_units_on_any_device(monkeypatch):
    """With CUDA one compiled function takes the place of torch's operations."""
    ops = pytest.importorskip('mmcv.ops')
    module = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
    computed = module.multi_scale_deformable_attn_pytorch

    def net():
        return Attention(ops.MultiScaleDeformableAttention(16, 4, 1, 2, batch_first=True))

    monkeypatch.delitem(ATTENTIONS, 'mmcv.MultiScaleDeformableAttention')  # the library's own forward

    class MultiScaleDeformableAttnFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, shapes, locations, weights):
            return computed(value, shapes, locations, weights)

    by_torch = mutator_of(net())
    prove(by_torch)
    monkeypatch.setattr(module, 'multi_scale_deformable_attn_pytorch', MultiScaleDeformableAttnFunction.apply)
    compiled = mutator_of(net())
    assert list(by_torch.structure) == list(compiled.structure) == ['first_(0, 16)_16', 'query_(0, 16)_16']
    text = "deformable attention combines its channels with one another in module 'attention'"
    reasons = {member.axis.layer: channels.reason for channels in compiled.frozen for member in channels.producers}
    assert {reasons[f'attention.{name}'] for name in ('value_proj', 'sampling_offsets', 'attention_weights')} == {text}
    assert {channels.name: channels.reason for channels in compiled.frozen}['attention.output_proj_(0, 16)_16'] == text
