"""Rules for data movement: views, slices, joins, padding, copies.

The operation itself moves the labels. What it fixes (equal parts of a chunk, the position that a select takes) is
stated as tensors that must stay rectangular; see :mod:`mmprune.graph.coupling`.
"""
from typing import Sequence

import torch
from torch import Tensor

from ..label import canonical, compact
from ..tracer import Tracer
from .table import Call, register_op


@register_op(
    'permute', 'transpose', 't', 'expand', 'repeat', 'unsqueeze', 'squeeze', 'flip', 'pixel_unshuffle', 'movedim',
    'swapaxes', 'tile', labelled=True)
def movement(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Data movement: the same operation moves the labels."""
    moved = call.moved(labels)
    for tensor, label in zip(call.results, moved if isinstance(moved, (tuple, list)) else [moved]):
        tracer.set_labels(tensor, label)


@register_op('split', 'split_with_sizes', 'chunk', labelled=True)
def split(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Parts of equal size keep equal sizes: the same positions of each are tied."""
    dim = call.axis(2)
    sizes = [part.size(dim) for part in call.out]
    if isinstance(call.args[1], int) and len(set(sizes)) > 1:  # the last part is smaller
        tracer.keep_size(labels, [dim], f'{call.name} cuts its channels into parts of different sizes')
    _keep_blocks(tracer, call.name, labels, dim, sizes)
    movement(tracer, call)


def _keep_blocks(tracer: Tracer, op: str, labels: Tensor, dim: int, sizes: Sequence[int]) -> None:
    """State that equal blocks of an axis keep equal sizes."""
    blocks = canonical(labels)
    if len(sizes) > 1 and len(set(sizes)) == 1 and blocks.size(dim) > 1 and bool((blocks >= 0).all()):
        tracer.keep_size(blocks.unflatten(dim, (len(sizes), sizes[0])), [dim],
                         f'{op} cuts its channels into {len(sizes)} parts')


@register_op('slice', 'narrow', labelled=True)
def take_slice(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """A slice that is one of several equal blocks, or every n-th channel, keeps the others at its size."""
    dim = call.axis(1)
    size, length = call.args[0].size(dim), call.out.size(dim)
    start = call.arg(2, 'start') or 0
    step = call.arg(4, 'step', 1) if call.name == 'slice' else 1
    start = min(start + size if start < 0 else start, size)
    blocks = canonical(labels)
    if step > 1 and blocks.size(dim) > 1:
        whole = size % step == 0
        tracer.keep_size(blocks.unflatten(dim, (size // step, step)) if whole else blocks, [dim + whole],
                         f'{call.name} takes one of {step} channels')
    elif 0 < length < size and size % length == 0 and start % length == 0 and not tracer.size_is_written:
        _keep_blocks(tracer, call.name, labels, dim, [length] * (size // length))
    movement(tracer, call)


@register_op('select', 'unbind', 'index_select', 'roll', 'unfold', labelled=True)
def fixed_movement(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Data movement by constant positions: the axis of the positions cannot become shorter."""
    axes = [call.axis(1)] if call.name != 'roll' else [
        axis % labels.dim() for axis in list(call.arg(2, 'dims', [])) or range(labels.dim())]
    tracer.keep_size(labels, axes, f'{call.name} counts positions along its channels')
    movement(tracer, call)


@register_op('pixel_shuffle', labelled=True)
def pixel_shuffle(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Channels are spread over space, which keeps its size; the channel axis may become shorter."""
    movement(tracer, call)
    dims = call.out.dim()
    tracer.keep_size(tracer.labels[call.out], [dims - 2, dims - 1], f'{call.name} spreads it over space')


@register_op('channel_shuffle', 'native_channel_shuffle', labelled=True)
def channel_shuffle(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """The same positions of every group are tied."""
    groups = call.arg(1, 'groups')
    _keep_blocks(tracer, call.name, labels, 1, [labels.size(1) // groups] * groups)
    movement(tracer, call)


@register_op('im2col')
def im2col(tracer: Tracer, call: Call) -> None:
    """``F.unfold``: the positions of a window become neighbouring channels."""
    if tracer.labels_of(call.args[0]) is not None:
        ids = tracer.channels_of(call.args[0], call.args[0].dim() - 3)
        repeated = ids.repeat_interleave(call.out.size(-2) // len(ids))
        tracer.set_channels(call.out, repeated, -2)


@register_op('col2im')
def col2im(tracer: Tracer, call: Call) -> None:
    """``F.fold``: neighbouring channels become the positions of a window."""
    if tracer.labels_of(call.args[0]) is not None:
        windows = tracer.channels_of(call.args[0], call.args[0].dim() - 2).view(call.out.size(-3), -1)
        tracer.keep_size(windows, [1], 'col2im puts its channels side by side')
        tracer.set_channels(call.out, windows[:, 0], -3)


@register_op('reflection_pad1d', 'reflection_pad2d', 'reflection_pad3d', 'replication_pad1d', 'replication_pad2d',
             'replication_pad3d', labelled=True)
def repeating_pad(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Padding that repeats pixels repeats their labels; torch pads floating point only."""
    tracer.set_labels(call.out, call.moved(labels.double()).long())


@register_op('view', '_unsafe_view', 'reshape', '_reshape_alias', labelled=True)
def reshape(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Views keep the order of elements; of the axes that an axis is viewed as, that of size -1 may become shorter."""
    labels = labels.reshape(call.out.shape)
    sizes = call.args[1] if len(call.args) > 1 and isinstance(call.args[1], (list, tuple)) else []
    if -1 in sizes and canonical(labels).size(list(sizes).index(-1)) > 1:
        fixed = [axis for axis, size in enumerate(sizes) if size != -1]
        tracer.keep_size(labels, fixed, f'{call.name} gives the axes that it is viewed as fixed sizes')
    tracer.set_labels(call.out, labels)


@register_op('cat', 'stack')
def join(tracer: Tracer, call: Call) -> None:
    """Concatenation: labels side by side; parts without labels are no channel (-1)."""
    tensors, out = list(call.args[0]), call.out
    labels = [tracer.labels_of(tensor) for tensor in tensors]
    if all(label is None for label in labels):
        return
    for place, tensor in enumerate(tensors):
        if call.name == 'cat' and labels[place] is None and tensor in tracer.constants and tensor.dim() == out.dim():
            tracer.label_constant(tensor, call.arg(1, 'dim', 0) % out.dim())
            labels[place] = tracer.labels_of(tensor)
    most = max(tensor.dim() for tensor in tensors)  # fewer has an empty one, such as a cache before its first token
    pairs = [(label, tensor) for label, tensor in zip(labels, tensors) if tensor.dim() == most]
    full = [torch.full((), -1).expand(tensor.shape) if label is None else label for label, tensor in pairs]
    dim = call.arg(1, 'dim', 0) % out.dim()
    if call.name == 'cat':  # do not expand axes along which all parts are constant
        for axis in range(out.dim()):
            if axis != dim and all(part.stride(axis) == 0 for part in full):
                full = [part.narrow(axis, 0, 1) for part in full]
        tracer.set_labels(out, torch.cat(full, dim).expand(out.shape))
    else:
        tracer.set_labels(out, torch.stack(full, dim))


@register_op('index', labelled=True)
def index(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Advanced indexing by constant tensors."""
    axes = [axis for axis, positions in enumerate(call.args[1]) if positions is not None]
    tracer.keep_size(labels, axes, 'an index counts positions along its channels')
    tracer.set_labels(call.out, call.moved(labels))


@register_op('constant_pad_nd', labelled=True)
def constant_pad(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Padding over space repeats the channel's label; padded channels are no channel (-1)."""
    pad, out = list(call.args[1]), call.out
    labels = compact(labels)
    for axis in range(out.dim()):
        before, after = (pad[2 * (out.dim() - 1 - axis):] + [0, 0])[:2]
        if (before or after) and labels.size(axis) > 1:  # of size 1: the padding has the label of its channel
            rest = [0, 0] * (out.dim() - 1 - axis)
            labels = torch.nn.functional.pad(labels, [*rest, before, after], value=-1)
    tracer.set_labels(out, labels.expand(out.shape))


@register_op('copy')
def copy(tracer: Tracer, call: Call) -> None:
    """``copy_`` into a tensor; into a view, it labels that part of the base tensor."""
    (target, source), out = call.args[:2], call.out
    labels = tracer.labels_of(source)
    base = target._base if target._is_view() else None
    if base is None:
        if labels is not None:
            tracer.set_labels(out, labels.expand(out.shape))
        return
    before = tracer.labels_of(base)
    if labels is None and before is None:
        return
    whole = torch.full(base.shape, -1) if before is None else before.clone(memory_format=torch.contiguous_format)
    if not base.is_contiguous() or base.storage_offset():
        for touched in (labels, before):
            if touched is not None:
                tracer.freeze(touched, 'it is written in place into a part of a tensor that is not contiguous')
        return
    part = torch.full((), -1) if labels is None else labels
    place = whole.as_strided(target.shape, target.stride(), target.storage_offset())
    tracer.tie(place, part.expand(target.shape))  # source and target keep equal sizes
    tracer.freeze(place[(place >= 0) & (part < 0)], 'a tensor of fixed size is written over it')
    place.copy_(part.expand(target.shape))
    for tensor in (base, target, out):
        tracer.set_labels(tensor, whole if tensor is base else part.expand(tensor.shape))
