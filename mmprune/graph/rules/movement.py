"""What data movement does to channel labels: views, slices, joins, padding, copies.

Labels are moved by the operation itself. What an operation fixes (equal parts of a chunk, the position that a select
takes) is stated besides, as tensors that must stay rectangular; see :mod:`mmprune.graph.coupling`.
"""
from typing import Any, Dict, Sequence

import torch
from torch import Tensor

from ..label import canonical, compact
from .op import register_op


@register_op(
    'permute', 'transpose', 't', 'expand', 'repeat', 'unsqueeze', 'squeeze', 'flip', 'pixel_unshuffle', 'movedim',
    'swapaxes', 'tile')
def movement(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """Data movement: the same operation moves the labels."""
    labels = tracer.labels_of(args[0])
    if labels is None:
        return
    moved = tracer.run_on(labels, args, kwargs)
    outs, moves = (out, moved) if isinstance(out, (tuple, list)) else ([out], [moved])
    for tensor, label in zip(outs, moves):
        tracer.set_labels(tensor, label)


def _dim(args: Sequence[Any], kwargs: Dict[str, Any], position: int, default: int, dims: int) -> int:
    """Return the axis that an operation works on."""
    return (args[position] if len(args) > position else kwargs.get('dim', default)) % dims


@register_op('split', 'split_with_sizes', 'chunk')
def split(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Sequence[Tensor]) -> None:
    """Parts of one size stay of one size, so that the same positions of each go together."""
    dim = _dim(args, kwargs, 2, 0, args[0].dim())
    sizes = [part.size(dim) for part in out]
    labels = tracer.labels_of(args[0])
    if labels is not None and isinstance(args[1], int) and len(set(sizes)) > 1:  # a rest is left, of whatever size
        tracer.fix(labels, [dim], f'{op} cuts its channels into parts of different sizes')
    _keep_blocks(tracer, op, args[0], dim, sizes)
    movement(tracer, op, args, kwargs, out)


def _keep_blocks(tracer: Any, op: str, source: Tensor, dim: int, sizes: Sequence[int]) -> None:
    """State that equal blocks of an axis keep equal sizes."""
    labels = tracer.labels_of(source)
    if labels is not None and len(sizes) > 1 and len(set(sizes)) == 1:
        blocks = canonical(labels)
        if blocks.size(dim) > 1 and bool((blocks >= 0).all()):
            tracer.fix(blocks.unflatten(dim, (len(sizes), sizes[0])), [dim],
                       f'{op} cuts its channels into {len(sizes)} parts')


@register_op('slice', 'narrow')
def take_slice(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """A slice that is one of several equal blocks, or every n-th channel, keeps the others at its size."""
    source = args[0]
    dim = _dim(args, kwargs, 1, 0, source.dim())
    size, length = source.size(dim), out.size(dim)
    start = (args[2] if len(args) > 2 else kwargs.get('start')) or 0
    step = args[4] if op == 'slice' and len(args) > 4 else kwargs.get('step', 1)
    start = min(start + size if start < 0 else start, size)
    labels = tracer.labels_of(source)
    if step > 1 and labels is not None and canonical(labels).size(dim) > 1:
        if size % step:
            tracer.fix(labels, [dim], f'{op} takes one of {step} channels')
        else:
            tracer.fix(canonical(labels).unflatten(dim, (size // step, step)), [dim + 1],
                       f'{op} takes one of {step} channels')
    elif 0 < length < size and size % length == 0 and start % length == 0:
        _keep_blocks(tracer, op, source, dim, [length] * (size // length))
    movement(tracer, op, args, kwargs, out)


@register_op('select', 'unbind', 'index_select', 'roll', 'unfold')
def fixed_movement(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """Data movement by constant positions: the axis that they count along cannot become shorter."""
    source = args[0]
    labels = tracer.labels_of(source)
    if labels is None:
        return
    if op == 'roll':
        axes = list(args[2] if len(args) > 2 else kwargs.get('dims', [])) or list(range(source.dim()))
    else:
        axes = [_dim(args, kwargs, 1, 0, source.dim())]
    tracer.fix(labels, [axis % source.dim() for axis in axes], f'{op} counts positions along its channels')
    movement(tracer, op, args, kwargs, out)


@register_op('pixel_shuffle')
def pixel_shuffle(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Channels are spread over space, which keeps its size; the channel axis becomes shorter."""
    movement(tracer, op, args, kwargs, out)
    labels = tracer.labels_of(out)
    if labels is not None:
        tracer.fix(labels, [out.dim() - 2, out.dim() - 1], f'{op} spreads it over space')


@register_op('channel_shuffle', 'native_channel_shuffle')
def channel_shuffle(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """The same positions of every group go together."""
    groups = args[1] if len(args) > 1 else kwargs['groups']
    _keep_blocks(tracer, op, args[0], 1, [args[0].size(1) // groups] * groups)
    movement(tracer, op, args, kwargs, out)


@register_op('im2col')
def im2col(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """``F.unfold``: the positions of a window become neighbouring channels."""
    if tracer.labels_of(args[0]) is not None:
        ids = tracer.channels_of(args[0], args[0].dim() - 3)
        repeated = ids.repeat_interleave(out.size(-2) // len(ids))
        tracer.set_labels(out, repeated.view(-1, 1).expand(out.shape))


@register_op('col2im')
def col2im(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """``F.fold``: neighbouring channels become the positions of a window."""
    if tracer.labels_of(args[0]) is not None:
        windows = tracer.channels_of(args[0], args[0].dim() - 2).view(out.size(-3), -1)
        tracer.fix(windows, [1], 'col2im puts its channels side by side')
        tracer.set_labels(out, windows[:, 0].reshape(-1, 1, 1).expand(out.shape))


@register_op('reflection_pad1d', 'reflection_pad2d', 'reflection_pad3d', 'replication_pad1d', 'replication_pad2d',
             'replication_pad3d')
def repeating_pad(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Padding that repeats pixels repeats their labels; torch pads floating point only."""
    labels = tracer.labels_of(args[0])
    if labels is not None:
        tracer.set_labels(out, tracer.run_on(labels.double(), args, kwargs).long())


@register_op('view', '_unsafe_view', 'reshape', '_reshape_alias')
def reshape(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Views keep the order of elements, whatever the strides of the labels are.

    Of an axis that is viewed as several, the one whose size is left open (-1) is the one that may become shorter.
    """
    labels = tracer.labels_of(args[0])
    if labels is None:
        return
    labels = labels.reshape(out.shape)
    sizes = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
    if -1 in sizes and canonical(labels).size(list(sizes).index(-1)) > 1:
        fixed = [axis for axis, size in enumerate(sizes) if size != -1]
        tracer.fix(labels, fixed, f'{op} gives the axes that it is viewed as fixed sizes')
    tracer.set_labels(out, labels)


@register_op('cat', 'stack')
def join(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Concatenation: the labels side by side; unlabelled parts are no channel (-1)."""
    tensors = list(args[0])
    labels = [tracer.labels_of(tensor) for tensor in tensors]
    if all(label is None for label in labels):
        return
    pairs = [(label, tensor) for label, tensor in zip(labels, tensors) if tensor.dim() == tensors[0].dim()]
    full = [torch.full((), -1).expand(tensor.shape) if label is None else label for label, tensor in pairs]
    dim = (args[1] if len(args) > 1 else kwargs.get('dim', 0)) % out.dim()
    if op == 'cat':  # keep the axes along which all parts are constant unexpanded
        for axis in range(out.dim()):
            if axis != dim and all(part.stride(axis) == 0 for part in full):
                full = [part.narrow(axis, 0, 1) for part in full]
        tracer.set_labels(out, torch.cat(full, dim).expand(out.shape))
    else:
        tracer.set_labels(out, torch.stack(full, dim))


@register_op('index')
def index(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Advanced indexing by constant tensors."""
    labels = tracer.labels_of(args[0])
    if labels is not None:
        axes = [axis for axis, positions in enumerate(args[1]) if positions is not None]
        tracer.fix(labels, axes, 'an index counts positions along its channels')
        tracer.set_labels(out, tracer.run_on(labels, args, kwargs))


@register_op('constant_pad_nd')
def constant_pad(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Padding over space repeats the channel's label; padded channels are no channel (-1)."""
    labels = tracer.labels_of(args[0])
    if labels is None:
        return
    pad = list(args[1])
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
def copy(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """``copy_`` into a tensor; through a view the tensor behind it is labelled in that place."""
    target, source = args[0], args[1]
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
