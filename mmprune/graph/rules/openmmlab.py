"""Rules for modules and compiled operations of mmcv and mmdet, by class name: neither is imported here."""
from typing import Any, Dict, Sequence

from torch import Tensor, nn

from .layer import conv
from .op import labelled, register_op, unknown
from .table import keeps_channels, register_module

# Pooling of regions works inside each channel.
register_op('RoIAlignFunction', 'RoIPoolFunction', 'RoIAlignRotatedFunction')(keeps_channels)


@register_op('DeformConv2dFunction', 'ModulatedDeformConv2dFunction')
def deform_conv(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """A convolution at positions that other channels (offsets, masks) say, for each block of channels its own."""
    modulated = op.startswith('Modulated')
    x, steering, rest = args[0], args[1:3 if modulated else 2], args[3 if modulated else 2:]
    weight, bias, (*geometry, groups, deform_groups) = rest[0], None, rest[1:6]
    if modulated:
        bias, (*geometry, groups, deform_groups) = rest[1], rest[2:7]
    _freeze_positions(tracer, op, steering)
    _tie_blocks(tracer, op, x, deform_groups)
    conv(tracer, 'conv2d', (x, weight, bias, *geometry, groups), {}, out)


@register_op('CARAFEFunction', 'CARAFENaiveFunction')
def reassemble(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Resampling of a map by kernels that other channels hold, for each block of channels its own."""
    features, masks, _, groups = args[:4]
    _freeze_positions(tracer, op, [masks])
    _tie_blocks(tracer, op, features, groups)
    keeps_channels(tracer, None, (features,), {}, out)


@register_op('MultiScaleDeformableAttnFunction')
def deformable_attention(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """What it reads stays, as where the same is computed by torch's operations, without CUDA."""
    unknown(tracer, op, args, kwargs, out, 'deformable attention combines its channels with one another')


def _freeze_positions(tracer: Any, op: str, tensors: Sequence[Any]) -> None:
    """Channels that mean positions, kernels or weights of them stay."""
    for labels in labelled(tracer, tensors, {}):
        tracer.freeze(labels, f'{op} takes it as positions')


def _tie_blocks(tracer: Any, op: str, x: Tensor, blocks: int) -> None:
    """The same position of every block of channels goes together."""
    if blocks > 1 and tracer.labels_of(x) is not None:
        ids = tracer.channels_of(x, 1)
        if bool((ids < 0).any()):
            tracer.freeze(ids, f'{op} treats blocks of channels apart')
        else:
            first, *others = ids.view(blocks, -1)
            for other in others:
                tracer.tie(other, first)


@register_module('SingleRoIExtractor')
def region_extractor(tracer: Any, module: nn.Module, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Regions are pooled from one level each, into a tensor of ``module.out_channels``."""
    levels = args[0] if args else kwargs['feats']
    ids = tracer.channels_of(levels[0], 1)
    for level in levels[1:]:
        tracer.tie_or_freeze(ids, tracer.channels_of(level, 1), level)
    if bool((ids >= 0).all()):
        tracer.follow_attribute(module, 'out_channels', ids)
    tracer.set_labels(out, ids.view(1, -1, 1, 1).expand(out.shape))
