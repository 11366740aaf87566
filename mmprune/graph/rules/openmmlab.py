"""Rules for modules and compiled operations of mmcv, mmdet and mmpose, by class name, so that none is imported."""
from typing import Any, Sequence

import numpy as np
from torch import Tensor

from ..factors import ProductCall
from ..label import constant_along
from ..tracer import Tracer
from .attention import WITHOUT_CHANNELS
from .layer import conv
from .op import keeps_channels
from .table import Call, follow_nothing, register_module, register_op

TOKENS = 'its maps are the tokens of an attention'
# Pooling of regions works inside each channel.
register_op('RoIAlignFunction', 'RoIPoolFunction', 'RoIAlignRotatedFunction')(keeps_channels)


@register_op('DeformConv2dFunction', 'ModulatedDeformConv2dFunction')
def deform_conv(tracer: Tracer, call: Call) -> None:
    """A convolution at positions given by other channels (offsets, masks), for each block of channels its own."""
    if call.name.startswith('Modulated'):
        x, *steering, weight, bias = call.args[:5]
        *geometry, groups, deform_groups = call.args[5:10]
    else:
        (x, *steering, weight), bias = call.args[:3], None
        *geometry, groups, deform_groups = call.args[3:8]
    _freeze_positions(tracer, call.name, steering)
    _tie_blocks(tracer, call.name, x, deform_groups)
    conv(tracer, Call('conv2d', (x, weight, bias, *geometry, groups), out=call.out))


@register_op('CARAFEFunction', 'CARAFENaiveFunction')
def reassemble(tracer: Tracer, call: Call) -> None:
    """Resampling by kernels that are other channels, for each block of channels its own."""
    features, masks, _, groups = call.args[:4]
    _freeze_positions(tracer, call.name, [masks])
    _tie_blocks(tracer, call.name, features, groups)
    keeps_channels(tracer, call)


@register_op('MultiScaleDeformableAttnFunction')
def deformable_attention(tracer: Tracer, call: Call) -> None:
    """Its inputs are frozen, as those of the torch operations that compute it without CUDA."""
    follow_nothing(tracer, call, 'deformable attention combines its channels with one another')


def _freeze_positions(tracer: Tracer, op: str, tensors: Sequence[Any]) -> None:
    """Freeze channels that are used as positions, kernels or masks."""
    for labels in tracer.labels_in(tensors):
        tracer.freeze(labels, f'{op} takes it as positions')


def _tie_blocks(tracer: Tracer, op: str, x: Tensor, blocks: int) -> None:
    """Tie the same position of every block of channels."""
    if blocks > 1 and tracer.labels_of(x) is not None:
        ids = tracer.channels_of(x, 1)
        if bool((ids < 0).any()):
            tracer.freeze(ids, f'{op} treats blocks of channels apart')
        else:
            first, *others = ids.view(blocks, -1)
            for other in others:
                tracer.tie(other, first)


@register_module('SingleRoIExtractor')
def region_extractor(tracer: Tracer, call: Call) -> None:
    """Each region is pooled from a single level, into a tensor of ``module.out_channels``."""
    levels = call.arg(0, 'feats')
    ids = tracer.channels_of(levels[0], 1)
    for level in levels[1:]:
        tracer.tie_or_freeze(ids, tracer.channels_of(level, 1), level)
    if bool((ids >= 0).all()) and tracer.module is not None:
        tracer.follow_attribute(tracer.module, 'out_channels', ids)
    tracer.set_channels(call.out, ids, 1)


@register_module('GatedProduct')
def gated_product(tracer: Tracer, call: Call) -> None:
    """A gated attention unit: a channel of the gate goes with that of the values, one of the base alone."""
    product: Any = tracer.module
    uv = call.args[0]
    ids = tracer.channels_of(uv, uv.dim() - 1)
    if bool((ids < 0).any()):
        follow_nothing(tracer, call, WITHOUT_CHANNELS)
        return
    gate, values, base = product.parts(ids)
    tracer.tie(gate, values)
    tracer.follow_attribute(product, 'value_dims', gate)
    tracer.follow_attribute(product, 'base_dims', base)
    tracer.tie(tracer.axis(product.query.weight, 0, 'in'), base)
    for tensor in call.args[1:3]:
        tracer.tie(tracer.axis(tensor, 1, 'affine'), base)
    pairs = uv.size(0) * uv.size(1) ** 2
    tracer.products += [ProductCall(own.numpy(), pairs, uv.size(0), tracer.training_only) for own in (base, gate)]
    tracer.set_channels(call.out, gate, -1)


@register_module('ScaleNorm')
def scale_norm(tracer: Tracer, call: Call) -> None:
    """Division by a length over the last axis, which removed channels, as zeros, do not change."""
    x = call.args[0]
    labels = tracer.labels_of(x)
    if labels is None:
        return
    if constant_along(labels, [labels.dim() - 1]):  # maps as tokens, read by a layer over their positions
        follow_nothing(tracer, call, TOKENS)
        return
    ids = tracer.channels_of(x, x.dim() - 1)
    for axis in tracer.axes.values():
        axis.across |= bool(np.isin(axis.ids, ids.numpy()).any())
    tracer.set_channels(call.out, ids, -1)
