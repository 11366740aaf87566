"""Rules for modules and compiled operations of mmcv and mmdet, by class name, so that neither is imported."""
from typing import Any, Sequence

from torch import Tensor

from ..tracer import Tracer
from .layer import conv
from .op import keeps_channels
from .table import Call, follow_nothing, register_module, register_op

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
