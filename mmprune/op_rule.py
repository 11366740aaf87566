"""What every aten operation does to channel labels: one table entry an operation.

A rule is called after the operation ran, as ``rule(tracer, op, args, kwargs, out)``. ``tracer`` is the
:class:`~mmprune.tracing.Tracer`; the rule reads the labels of its inputs, unites or freezes channel ids, and
labels ``out``. An operation without an entry freezes every channel that it touches.

The table is keyed by the operation's name without a trailing underscore (``add_`` is ``add``), never by attribute
look-up, because operations come and go between torch versions.
"""
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .label import compact, constant_along, take_first

Rule = Callable[..., None]
#: aten operation name -> rule
OP_RULES: Dict[str, Rule] = {}


def register_op(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for aten operations by name, for example ``@register_op('aten_name')``."""

    def add(rule: Rule) -> Rule:
        for name in names:
            OP_RULES[name] = rule
        return rule

    return add


def _tensors(args: Sequence[Any]) -> List[Tensor]:
    return [arg for arg in args if isinstance(arg, Tensor)]


@register_op(
    'relu', 'relu6', 'sigmoid', 'tanh', 'gelu', 'silu', 'mish', 'hardswish', 'hardtanh', 'hardsigmoid', 'clamp',
    'clamp_min', 'clamp_max', 'leaky_relu', 'elu', 'celu', 'selu', 'softplus', 'log_sigmoid_forward', 'exp', 'log',
    'log1p', 'neg', 'abs', 'sqrt', 'rsqrt', 'reciprocal', 'pow', 'square', 'erf', 'sin', 'cos', 'dropout',
    'native_dropout', 'bernoulli', 'threshold', 'clone', 'detach', 'alias', '_to_copy', 'contiguous', 'lift_fresh',
    'add', 'sub', 'mul', 'div', 'rsub', 'maximum', 'minimum', 'where', 'addcmul', 'addcdiv', 'lerp', 'atan2', 'round',
    'floor', 'ceil', 'sign', 'zeros_like', 'ones_like', 'softshrink', 'hardshrink', 'nan_to_num', 'special_expm1')
def elementwise(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """Channels that meet in one element live and die together."""
    result = out[0] if isinstance(out, (tuple, list)) else out
    united: Optional[Tensor] = None
    for tensor in _tensors(args):
        labels = tracer.labels_of(tensor)
        if labels is None:
            continue
        labels = compact(labels)
        labels = labels.reshape((1,) * (result.dim() - labels.dim()) + labels.shape)
        united = labels if united is None else _unite(tracer, op, united, labels)
    if united is not None:
        tracer.set_labels(result, united.expand(result.shape))


def _unite(tracer: Any, op: str, left: Tensor, right: Tensor) -> Tensor:
    """Tie two label tensors that broadcast against each other; return the labels of the result."""
    if left.shape == right.shape:
        both = (left >= 0) & (right >= 0)
        tracer.tie(left[both], right[both])
        return torch.where(left >= 0, left, right)
    left_wide = any(a > b for a, b in zip(left.shape, right.shape))
    right_wide = any(b > a for a, b in zip(left.shape, right.shape))
    if not right_wide:
        tracer.freeze(right, f'{op} broadcasts it over the channels of another map')
        return left
    if not left_wide:
        tracer.freeze(left, f'{op} broadcasts it over the channels of another map')
        return right
    tracer.freeze(left, f'{op} broadcasts two maps along different axes')
    tracer.freeze(right, f'{op} broadcasts two maps along different axes')
    return torch.full((1,) * left.dim(), -1)


@register_op(
    'permute', 'transpose', 't', 'select', 'slice', 'split', 'split_with_sizes', 'chunk', 'unbind', 'expand', 'repeat',
    'unsqueeze', 'squeeze', 'flip', 'roll', 'index_select', 'narrow', 'pixel_shuffle', 'pixel_unshuffle',
    'channel_shuffle', 'native_channel_shuffle', 'unfold', 'movedim', 'swapaxes', 'diagonal', 'tile')
def movement(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """Data movement: the same operation moves the labels."""
    labels = tracer.labels_of(args[0])
    if labels is None:
        return
    moved = tracer.run_on(labels, args, kwargs)
    outs, moves = (out, moved) if isinstance(out, (tuple, list)) else ([out], [moved])
    for tensor, label in zip(outs, moves):
        tracer.set_labels(tensor, label)


@register_op('reflection_pad1d', 'reflection_pad2d', 'reflection_pad3d', 'replication_pad1d', 'replication_pad2d',
             'replication_pad3d')
def repeating_pad(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Padding that repeats pixels repeats their labels; torch pads floating point only."""
    labels = tracer.labels_of(args[0])
    if labels is not None:
        tracer.set_labels(out, tracer.run_on(labels.double(), args, kwargs).long())


@register_op('view', '_unsafe_view', 'reshape', '_reshape_alias')
def reshape(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Views keep the order of elements, whatever the strides of the labels are."""
    labels = tracer.labels_of(args[0])
    if labels is not None:
        tracer.set_labels(out, labels.reshape(out.shape))


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
    """``copy_`` into a whole tensor; into a part of one, the label of the rest is unknown."""
    target, source = args[0], args[1]
    labels = tracer.labels_of(source)
    if labels is None:
        return
    if target.numel() * target.element_size() == target.untyped_storage().nbytes():
        tracer.set_labels(out, labels.expand(out.shape))
    else:
        tracer.freeze(labels, 'it is written in place into a part of another tensor')


@register_op(
    'max_pool2d_with_indices', 'max_pool3d_with_indices', 'max_pool1d', 'max_pool2d', 'max_pool3d', 'avg_pool1d',
    'avg_pool2d', 'avg_pool3d', '_adaptive_avg_pool2d', '_adaptive_avg_pool3d', 'adaptive_avg_pool1d',
    'adaptive_avg_pool2d', 'adaptive_max_pool2d', 'adaptive_max_pool1d', 'adaptive_max_pool3d', 'upsample_nearest1d',
    'upsample_nearest2d', 'upsample_nearest3d', '_upsample_nearest_exact1d', '_upsample_nearest_exact2d',
    'upsample_bilinear2d', 'upsample_linear1d', 'upsample_trilinear3d', 'upsample_bicubic2d',
    '_upsample_bilinear2d_aa', '_upsample_bicubic2d_aa', 'grid_sampler_2d', 'mkldnn_max_pool2d')
def spatial(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """Pooling and resizing work inside each channel."""
    result = out[0] if isinstance(out, (tuple, list)) else out
    labels = tracer.labels_of(args[0])
    if labels is None:
        return
    axes = list(range(result.dim() - int(next(c for c in op if c in '123')), result.dim()))
    if not constant_along(labels, axes):
        tracer.freeze(labels, f'{op} mixes positions that belong to different channels')
        return
    tracer.set_labels(result, take_first(labels, axes).expand(result.shape))


@register_op('mean', 'sum', 'amax', 'amin', 'var', 'std', 'var_mean', 'std_mean', 'linalg_vector_norm', 'norm',
             'logsumexp', 'max', 'min', 'prod')
def reduction(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """Reduction over space keeps channels; over groups of channels ties them; over all channels freezes them."""
    source = args[0]
    labels = tracer.labels_of(source)
    if labels is None:
        return
    outs = out if isinstance(out, (tuple, list)) else [out]
    axes = _reduced_axes(op, args, kwargs, source.dim())
    if axes is None:
        tracer.freeze(labels, f'{op} combines it with other values')
        return
    first = tracer.merge_along(labels, axes, f'{op} reduces over the channel axis')
    if first is None:
        return
    for tensor in outs:
        if tensor.is_floating_point():
            kept = first if tensor.dim() == source.dim() else _squeeze(first, axes)
            tracer.set_labels(tensor, kept.expand(tensor.shape))


def _squeeze(labels: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        labels = labels.squeeze(axis)
    return labels


def _reduced_axes(op: str, args: Sequence[Any], kwargs: Dict[str, Any], dims: int) -> Optional[List[int]]:
    """Return the axes that a reduction removes, or None where its arguments are not understood."""
    position = 2 if op in ('linalg_vector_norm', 'norm') else 1
    axes = args[position] if len(args) > position else kwargs.get('dim')
    if isinstance(axes, Tensor):  # max(x, y)
        return None
    if axes is None or axes == []:
        return list(range(dims))
    return [axis % dims for axis in ([axes] if isinstance(axes, int) else axes)]


@register_op('_softmax', '_log_softmax', 'softmax', 'log_softmax', 'cumsum')
def softmax(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """A softmax over groups of channels ties them; over all channels it freezes them."""
    labels = tracer.labels_of(args[0])
    if labels is None:
        return
    axis = (args[1] if len(args) > 1 else kwargs['dim']) % out.dim()
    tracer.merge_along(labels, [axis], f'{op} normalises over the channel axis')
    tracer.set_labels(out, labels)


def _ignored(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """The result holds no activation: sizes, comparisons, new constants."""


register_op('eq', 'ne', 'lt', 'gt', 'le', 'ge', 'logical_not', 'logical_and', 'logical_or', 'new_zeros', 'new_ones',
            'new_empty', 'new_full', 'empty_like', 'full_like', 'rand_like', 'randn_like', 'uniform', 'normal', 'fill',
            'zero', '_local_scalar_dense', 'is_nonzero', 'equal', 'isnan', 'isfinite', 'random',
            'new_empty_strided', 'set', 'resize', 'arange', 'zeros', 'ones', 'empty', 'full')(_ignored)


def labelled(tracer: Any, args: Sequence[Any], kwargs: Dict[str, Any]) -> List[Tensor]:
    """Return the labels of every labelled tensor among (nested) arguments."""
    found: List[Tensor] = []

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            labels = tracer.labels_of(value)
            if labels is not None:
                found.append(labels)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)

    visit(args)
    visit(kwargs)
    return found


def unknown(tracer: Any, op: str, args: Sequence[Any], kwargs: Dict[str, Any], out: Any) -> None:
    """No rule: freeze what it touches, and say so."""
    for labels in labelled(tracer, args, kwargs):
        tracer.freeze(labels, f'{op} has no channel rule (add one with mmprune.op_rule.register_op)')

