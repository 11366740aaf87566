"""What data movement does to channel labels: views, slices, joins, padding, copies.

Labels are moved by the operation itself. What an operation fixes (equal parts of a chunk, the position that a select
takes) is stated besides, as tensors that must stay rectangular; see :mod:`mmprune.graph.coupling`.
"""
from typing import Sequence

import torch
from torch import Tensor

from ..label import canonical, compact
from ..tracer import Tracer
from .table import Call, register_op


@register_op(
    'permute', 'transpose', 't', 'expand', 'repeat', 'unsqueeze', 'squeeze', 'flip', 'pixel_unshuffle', 'movedim',
    'swapaxes', 'tile')
def movement(tracer: Tracer, call: Call) -> None:
    """Data movement: the same operation moves the labels."""
    labels = tracer.labels_of(call.args[0])
    if labels is None:
        return
    moved = call.moved(labels)
    outs, moves = (call.out, moved) if isinstance(call.out, (tuple, list)) else ([call.out], [moved])
    for tensor, label in zip(outs, moves):
        tracer.set_labels(tensor, label)


@register_op('split', 'split_with_sizes', 'chunk')
def split(tracer: Tracer, call: Call) -> None:
    """Parts of one size stay of one size, so that the same positions of each go together."""
    dim = call.axis(2)
    sizes = [part.size(dim) for part in call.out]
    labels = tracer.labels_of(call.args[0])
    if labels is not None and isinstance(call.args[1], int) and len(set(sizes)) > 1:  # a rest is left, of whatever size
        tracer.keep_size(labels, [dim], f'{call.name} cuts its channels into parts of different sizes')
    _keep_blocks(tracer, call.name, call.args[0], dim, sizes)
    movement(tracer, call)


def _keep_blocks(tracer: Tracer, op: str, source: Tensor, dim: int, sizes: Sequence[int]) -> None:
    """State that equal blocks of an axis keep equal sizes."""
    labels = tracer.labels_of(source)
    if labels is not None and len(sizes) > 1 and len(set(sizes)) == 1:
        blocks = canonical(labels)
        if blocks.size(dim) > 1 and bool((blocks >= 0).all()):
            tracer.keep_size(blocks.unflatten(dim, (len(sizes), sizes[0])), [dim],
                       f'{op} cuts its channels into {len(sizes)} parts')


@register_op('slice', 'narrow')
def take_slice(tracer: Tracer, call: Call) -> None:
    """A slice that is one of several equal blocks, or every n-th channel, keeps the others at its size."""
    source = call.args[0]
    dim = call.axis(1)
    size, length = source.size(dim), call.out.size(dim)
    start = call.arg(2, 'start') or 0
    step = call.arg(4, 'step', 1) if call.name == 'slice' else 1
    start = min(start + size if start < 0 else start, size)
    labels = tracer.labels_of(source)
    if step > 1 and labels is not None and canonical(labels).size(dim) > 1:
        if size % step:
            tracer.keep_size(labels, [dim], f'{call.name} takes one of {step} channels')
        else:
            tracer.keep_size(canonical(labels).unflatten(dim, (size // step, step)), [dim + 1],
                       f'{call.name} takes one of {step} channels')
    elif 0 < length < size and size % length == 0 and start % length == 0:
        _keep_blocks(tracer, call.name, source, dim, [length] * (size // length))
    movement(tracer, call)


@register_op('select', 'unbind', 'index_select', 'roll', 'unfold')
def fixed_movement(tracer: Tracer, call: Call) -> None:
    """Data movement by constant positions: the axis that they count along cannot become shorter."""
    source = call.args[0]
    labels = tracer.labels_of(source)
    if labels is None:
        return
    rolled = list(call.arg(2, 'dims', [])) or list(range(source.dim())) if call.name == 'roll' else None
    axes = [call.axis(1)] if rolled is None else [axis % source.dim() for axis in rolled]
    tracer.keep_size(labels, axes, f'{call.name} counts positions along its channels')
    movement(tracer, call)


@register_op('pixel_shuffle')
def pixel_shuffle(tracer: Tracer, call: Call) -> None:
    """Channels are spread over space, which keeps its size; the channel axis becomes shorter."""
    movement(tracer, call)
    out = call.out
    labels = tracer.labels_of(out)
    if labels is not None:
        tracer.keep_size(labels, [out.dim() - 2, out.dim() - 1], f'{call.name} spreads it over space')


@register_op('channel_shuffle', 'native_channel_shuffle')
def channel_shuffle(tracer: Tracer, call: Call) -> None:
    """The same positions of every group go together."""
    groups = call.arg(1, 'groups')
    _keep_blocks(tracer, call.name, call.args[0], 1, [call.args[0].size(1) // groups] * groups)
    movement(tracer, call)


@register_op('im2col')
def im2col(tracer: Tracer, call: Call) -> None:
    """``F.unfold``: the positions of a window become neighbouring channels."""
    if tracer.labels_of(call.args[0]) is not None:
        ids = tracer.channels_of(call.args[0], call.args[0].dim() - 3)
        repeated = ids.repeat_interleave(call.out.size(-2) // len(ids))
        tracer.set_labels(call.out, repeated.view(-1, 1).expand(call.out.shape))


@register_op('col2im')
def col2im(tracer: Tracer, call: Call) -> None:
    """``F.fold``: neighbouring channels become the positions of a window."""
    if tracer.labels_of(call.args[0]) is not None:
        windows = tracer.channels_of(call.args[0], call.args[0].dim() - 2).view(call.out.size(-3), -1)
        tracer.keep_size(windows, [1], 'col2im puts its channels side by side')
        tracer.set_labels(call.out, windows[:, 0].reshape(-1, 1, 1).expand(call.out.shape))


@register_op('reflection_pad1d', 'reflection_pad2d', 'reflection_pad3d', 'replication_pad1d', 'replication_pad2d',
             'replication_pad3d')
def repeating_pad(tracer: Tracer, call: Call) -> None:
    """Padding that repeats pixels repeats their labels; torch pads floating point only."""
    labels = tracer.labels_of(call.args[0])
    if labels is not None:
        tracer.set_labels(call.out, call.moved(labels.double()).long())


@register_op('view', '_unsafe_view', 'reshape', '_reshape_alias')
def reshape(tracer: Tracer, call: Call) -> None:
    """Views keep the order of elements, whatever the strides of the labels are.

    Of an axis that is viewed as several, the one whose size is left open (-1) is the one that may become shorter.
    """
    labels = tracer.labels_of(call.args[0])
    if labels is None:
        return
    labels = labels.reshape(call.out.shape)
    sizes = call.args[1] if len(call.args) > 1 and isinstance(call.args[1], (list, tuple)) else []
    if -1 in sizes and canonical(labels).size(list(sizes).index(-1)) > 1:
        fixed = [axis for axis, size in enumerate(sizes) if size != -1]
        tracer.keep_size(labels, fixed, f'{call.name} gives the axes that it is viewed as fixed sizes')
    tracer.set_labels(call.out, labels)


@register_op('cat', 'stack')
def join(tracer: Tracer, call: Call) -> None:
    """Concatenation: the labels side by side; unlabelled parts are no channel (-1)."""
    tensors, out = list(call.args[0]), call.out
    labels = [tracer.labels_of(tensor) for tensor in tensors]
    if all(label is None for label in labels):
        return
    pairs = [(label, tensor) for label, tensor in zip(labels, tensors) if tensor.dim() == tensors[0].dim()]
    full = [torch.full((), -1).expand(tensor.shape) if label is None else label for label, tensor in pairs]
    dim = call.arg(1, 'dim', 0) % out.dim()
    if call.name == 'cat':  # keep the axes along which all parts are constant unexpanded
        for axis in range(out.dim()):
            if axis != dim and all(part.stride(axis) == 0 for part in full):
                full = [part.narrow(axis, 0, 1) for part in full]
        tracer.set_labels(out, torch.cat(full, dim).expand(out.shape))
    else:
        tracer.set_labels(out, torch.stack(full, dim))


@register_op('index')
def index(tracer: Tracer, call: Call) -> None:
    """Advanced indexing by constant tensors."""
    labels = tracer.labels_of(call.args[0])
    if labels is not None:
        axes = [axis for axis, positions in enumerate(call.args[1]) if positions is not None]
        tracer.keep_size(labels, axes, 'an index counts positions along its channels')
        tracer.set_labels(call.out, call.moved(labels))


@register_op('constant_pad_nd')
def constant_pad(tracer: Tracer, call: Call) -> None:
    """Padding over space repeats the channel's label; padded channels are no channel (-1)."""
    labels = tracer.labels_of(call.args[0])
    if labels is None:
        return
    pad, out = list(call.args[1]), call.out
    labels = compact(labels)
    for axis in range(out.dim()):
        before, after = (pad[2 * (out.dim() - 1 - axis):] + [0, 0])[:2]
        if before or after:
            if labels.size(axis) == 1:  # the same channel all along this axis: its padding belongs to it
                continue
            rest = [0, 0] * (out.dim() - 1 - axis)
            labels = torch.nn.functional.pad(labels, [*rest, before, after], value=-1)
    tracer.set_labels(out, labels.expand(out.shape))


@register_op('copy')
def copy(tracer: Tracer, call: Call) -> None:
    """``copy_`` into a tensor; through a view the tensor behind it is labelled in that place."""
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
    met = (place >= 0) & (part >= 0)
    tracer.tie(place[met], part.expand(target.shape)[met])  # what is written over has the size of what is written
    tracer.freeze(place[(place >= 0) & (part < 0)], 'a tensor of fixed size is written over it')
    place.copy_(part.expand(target.shape))
    for tensor in (base, target, out):
        tracer.set_labels(tensor, whole if tensor is base else part.expand(tensor.shape))
