"""Rules for layers with channel-indexed weights: convolutions, linear layers, norms, PReLU."""
from typing import List, Optional

from torch import Tensor, nn

from ..label import constant_along
from ..tracer import Tracer
from .product import linear_by_view, mixes_positions, pass_channels
from .table import Call, follow_nothing, register_layer
from .weight import parameter_behind


def _freeze_functional(tracer: Tracer, call: Call, kind: str, positions: int, axis: int) -> None:
    follow_nothing(tracer, call, f'{call.name} is called with a computed weight, which cannot be cut')
    tracer.record_computed_call(call.arg(1, 'weight'), kind, positions, call.out, axis)


@register_layer('conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d')
def conv(tracer: Tracer, call: Call) -> None:
    """Convolution: columns read channels, rows issue them; groups tie position k of all groups."""
    x, weight, bias, out = call.args[0], call.arg(1, 'weight'), call.arg(2, 'bias'), call.out
    transposed = 'transpose' in call.name
    groups = call.arg(6, 'groups', 1)
    axis = x.dim() - weight.dim() + 1
    positions = x.numel() // x.size(axis) if transposed else out.numel() // out.size(axis)
    stored = parameter_behind(tracer, weight)
    if stored is None:
        _freeze_functional(tracer, call, 'conv', positions, axis)
        return
    weight, companions = stored
    _freeze_if_along(tracer, call, x, axis)
    ids = tracer.channels_of(x, axis)
    in_axis, out_axis = (0, 1) if transposed else (1, 0)
    channels, out_channels = x.size(axis), out.size(axis)
    if groups > 1 and groups == channels:  # depthwise; a transposed weight has a row for each input channel
        times = out_channels // groups
        rows = tracer.axis(weight, 0, 'depthwise', groups=groups)
        tracer.tie_or_freeze(rows, ids if transposed else ids.repeat_interleave(times), x)
        out_ids = rows.repeat_interleave(times) if transposed else rows
    else:
        out_ids = _tied_axis(tracer, weight, out_axis, 'out', out_channels, groups)
        in_ids = _tied_axis(tracer, weight, in_axis, 'in', channels, groups)
        tracer.tie_or_freeze(in_ids, ids, x)
    if isinstance(bias, Tensor) and tracer.is_tensor_of_model(bias):
        tracer.tie(tracer.axis(bias, 0, 'affine'), out_ids)
    tracer.tie_companions(weight, companions)
    tracer.record_call(weight, 'conv', positions, out, axis)
    tracer.set_channels(out, out_ids, axis)


def _freeze_if_along(tracer: Tracer, call: Call, x: Tensor, axis: int) -> None:
    """Freeze the channels of an activation that a convolution runs along, as an efficient channel attention does."""
    labels = tracer.labels_of(x)
    space = [other for other in range(x.dim()) if other > axis]
    if labels is not None and constant_along(labels, [axis]) and not constant_along(labels, space):
        tracer.freeze(labels, f'{call.name} runs along its channels')


def _tied_axis(tracer: Tracer, weight: Tensor, axis: int, role: str, channels: int, groups: int) -> Tensor:
    """Return the id of each channel along an axis of a weight; groups tie position k of all groups."""
    ids = tracer.axis(weight, axis, role, groups=groups)
    if weight.size(axis) == channels:  # this axis runs over all groups
        if groups > 1:
            blocks = ids.view(groups, -1)
            tracer.tie(blocks[1:], blocks[:1].expand_as(blocks[1:]))
        return ids
    return ids.repeat(groups)  # all groups share this axis


@register_layer('linear')
def linear(tracer: Tracer, call: Call) -> None:
    """Linear layer on the last axis."""
    x, weight, bias, out = call.args[0], call.arg(1, 'weight'), call.arg(2, 'bias'), call.out
    positions = out.numel() // out.size(-1)
    stored = parameter_behind(tracer, weight)
    if stored is None:
        if tracer.weight_of(weight)[0] is not None:
            linear_by_view(tracer, call, x, weight, bias)
        else:
            _freeze_functional(tracer, call, 'linear', positions, out.dim() - 1)
        return
    weight, companions = stored
    rows = tracer.axis(weight, 0, 'out')
    labels = tracer.labels_of(x)
    if mixes_positions(tracer, labels):
        assert labels is not None
        own = [rows, tracer.axis(weight, 1, 'in')]
        repeated = pass_channels(tracer, out, labels, x.dim() - 1, out.dim() - 1, own)
        tracer.record_call(weight, 'linear', positions, out, out.dim() - 1, repeated)
        return
    tracer.tie_or_freeze(tracer.axis(weight, 1, 'in'), tracer.channels_of(x, x.dim() - 1), x)
    tracer.tie_companions(weight, companions)
    if isinstance(bias, Tensor) and tracer.is_tensor_of_model(bias):
        tracer.tie(tracer.axis(bias, 0, 'affine'), rows)
    tracer.record_call(weight, 'linear', positions, out, out.dim() - 1)
    tracer.set_channels(out, rows, -1)


@register_layer('batch_norm', 'instance_norm', 'prelu')
def channelwise(tracer: Tracer, call: Call) -> None:
    """Layers with a parameter a channel: the parameters are tied to the channels of axis 1."""
    x, out = call.args[0], call.out
    if tracer.labels_of(x) is None:
        return
    ids = tracer.channels_of(x, 1)
    for tensor in [*call.args[1:], *call.kwargs.values()]:
        if not isinstance(tensor, Tensor) or tensor.numel() == 1:
            continue
        if tracer.is_tensor_of_model(tensor):
            tracer.tie_or_freeze(tracer.axis(tensor, 0, 'affine'), ids, x)
        elif tracer.labels_of(tensor) is not None:  # computed
            tracer.tie_or_freeze(ids, tracer.channels_of(tensor, 0), tensor)
        else:
            tracer.freeze(ids, f'{call.name} scales it by a tensor of fixed size')
    tracer.set_channels(out, ids, 1)


@register_layer('group_norm')
def group_norm(tracer: Tracer, call: Call) -> None:
    """Channels of a ``nn.GroupNorm`` with weights are removed in whole groups; other group norms freeze theirs."""
    x, groups, weight = call.args[0], call.arg(1, 'num_groups'), call.arg(2, 'weight')
    if tracer.labels_of(x) is None:
        return
    followed = isinstance(tracer.module, nn.GroupNorm) and weight is not None and tracer.is_tensor_of_model(weight)
    if groups == 1 or not followed:
        cross_channel(tracer, call)
        return
    ids = tracer.channels_of(x, 1)
    tracer.keep_size(ids.view(groups, -1), [1], f'{call.name} normalises over groups of channels')
    channelwise(tracer, call)


@register_layer('layer_norm', 'local_response_norm', 'normalize', labelled=True)
def cross_channel(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Layers that normalise across channels freeze them."""
    axes = _normalised_axes(call)
    if axes is None or not constant_along(labels, axes):
        tracer.freeze(labels, f'{call.name} normalises across channels')
    tracer.set_labels(call.out, labels)


def _normalised_axes(call: Call) -> Optional[List[int]]:
    """Return the axes that a norm reduces over, or None if channels are always among them."""
    dims = call.args[0].dim()
    if call.name == 'layer_norm':
        shape = call.arg(1, 'normalized_shape')
        return list(range(dims - len(shape), dims))
    if call.name == 'normalize':
        dim = call.arg(2, 'dim', 1)
        return [axis % dims for axis in ([dim] if isinstance(dim, int) else dim)]
    return None


@register_layer('repeat_interleave', labelled=True)
def repeat_interleave(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Repeat every channel; as an aten operation it would be an index."""
    repeats, dim = call.arg(1, 'repeats'), call.arg(2, 'dim')
    if isinstance(repeats, Tensor):
        follow_nothing(tracer, call)
    else:
        tracer.set_labels(call.out, labels.repeat_interleave(repeats, dim))


@register_layer('multi_head_attention_forward')
def multi_head_attention(tracer: Tracer, call: Call) -> None:
    """Attention as a single function: its projections are counted and frozen."""
    reason = f'{call.name} combines its channels with one another'
    follow_nothing(tracer, call, reason)
    inputs = [call.arg(place, name) for place, name in enumerate(('query', 'key', 'value'))]
    rows = [x.numel() // x.size(-1) for x in inputs]
    packed, out_proj = call.arg(5, 'in_proj_weight'), call.arg(11, 'out_proj_weight')
    separate = [call.arg(18 + place, f'{name}_proj_weight') for place, name in enumerate('qkv')]
    weights = list(zip(separate, rows)) if packed is None else [(packed, min(rows))]
    for weight, positions in [*weights, (out_proj, rows[0])]:
        if isinstance(weight, Tensor) and tracer.is_tensor_of_model(weight):
            for axis, role in ((0, 'out'), (1, 'in')):
                tracer.freeze(tracer.axis(weight, axis, role), reason)
            tracer.record_positions(weight, 'linear', positions)
    if isinstance(packed, Tensor) and tracer.is_tensor_of_model(packed):
        for part, x in zip(packed.chunk(3), inputs):  # each third is multiplied as often as its own input has rows
            more = x.reshape(-1, x.size(-1))[min(rows):]
            if len(more):
                tracer.record_computed_call(part, 'linear', len(more), more, 1)


@register_layer('embedding')
def embedding(tracer: Tracer, call: Call) -> None:
    """Rows of a table: its columns are channels."""
    weight = call.arg(1, 'weight')
    if not tracer.is_tensor_of_model(weight) or call.arg(3, 'max_norm') is not None:
        opaque(tracer, call)
        return
    is_read = tracer.names[id(weight)] in tracer.idle  # by a linear layer that shares it
    tracer.set_channels(call.out, tracer.axis(weight, 1, 'in' if is_read else 'affine'), -1)


@register_layer('scaled_dot_product_attention', 'embedding_bag')
def opaque(tracer: Tracer, call: Call) -> None:
    """Functions whose channel structure is not followed."""
    follow_nothing(tracer, call, f'{call.name} combines its channels with one another')
