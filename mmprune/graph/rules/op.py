"""Rules for aten operations that compute: element by element, over space, over axes, as matrix products."""
from typing import List, Optional

import torch
from torch import Tensor

from ..label import canonical, compact, constant_along, take_first
from ..tracer import Tracer
from .table import Call, follow_nothing, register_op


@register_op(
    'relu', 'relu6', 'sigmoid', 'tanh', 'gelu', 'silu', 'mish', 'hardswish', 'hardtanh', 'hardsigmoid', 'clamp',
    'clamp_min', 'clamp_max', 'leaky_relu', 'elu', 'celu', 'selu', 'softplus', 'log_sigmoid_forward', 'exp', 'log',
    'log1p', 'neg', 'abs', 'sqrt', 'rsqrt', 'reciprocal', 'pow', 'square', 'erf', 'sin', 'cos', 'dropout',
    'native_dropout', 'bernoulli', 'threshold', 'clone', 'detach', 'alias', '_to_copy', 'contiguous', 'lift_fresh',
    'add', 'sub', 'mul', 'div', 'rsub', 'maximum', 'minimum', 'where', 'addcmul', 'addcdiv', 'lerp', 'atan2', 'round',
    'floor', 'ceil', 'sign', 'zeros_like', 'ones_like', 'softshrink', 'hardshrink', 'nan_to_num', 'special_expm1',
    'rand_like', 'randn_like', 'full_like', 'empty_like', 'eq', 'ne', 'lt', 'gt', 'le', 'ge', 'logical_not',
    'logical_and', 'logical_or', 'bitwise_not', 'bitwise_and', 'bitwise_or', 'isnan', 'isfinite', 'isinf',
    'masked_fill', 'exp2', 'expm1', 'log2', 'log10', 'tan', 'asin', 'acos', 'atan', 'sinh', 'cosh', 'trunc', 'frac',
    'remainder', 'fmod', 'floor_divide', 'erfc', 'sgn', 'heaviside', 'logit', 'rrelu_with_noise', 'xlogy', 'fmax',
    'fmin', 'copysign', 'hypot', 'true_divide', 'positive', 'logaddexp', 'logaddexp2', 'logical_xor', 'sinc', 'lgamma',
    'digamma', 'erfinv', 'deg2rad', 'rad2deg', 'log_sigmoid', 'bitwise_xor', 'threshold_backward', 'isclose', 'real',
    'imag', 'angle', 'conj', '_conj', '_conj_physical', 'resolve_conj', 'resolve_neg', 'complex', 'polar',
    'isposinf', 'isneginf', 'signbit', 'special_erfcx', 'i0', 'special_i0e')
def elementwise(tracer: Tracer, call: Call) -> None:
    """Channels that meet in an element are tied."""
    result = call.result
    tensors = [arg for arg in call.args if isinstance(arg, Tensor)]
    united: Optional[Tensor] = None
    outside: List[Tensor] = []
    # unused parameters come last and get ids along the axes that the others vary along
    for tensor in sorted(tensors, key=tracer.is_unused_parameter):
        if united is not None and tracer.is_unused_parameter(tensor):
            first = result.dim() - tensor.dim()
            tracer.label_parameter(tensor, [axis for axis in range(tensor.dim()) if united.size(first + axis) > 1])
        labels = tracer.labels_of(tensor)
        if labels is None:
            outside.append(tensor)
            continue
        labels = canonical(labels)
        labels = labels.reshape((1,) * (result.dim() - labels.dim()) + labels.shape)
        united = labels if united is None else _unite(tracer, call.name, united, labels)
    if united is None:
        return
    tracer.set_labels(result, united.expand(result.shape))
    for tensor in outside:
        if tensor in tracer.constants:  # where its size does not follow a cut, the trial finds out
            continue
        first = result.dim() - tensor.dim()
        axes = [first + axis for axis, size in enumerate(tensor.shape) if size > 1]
        tracer.keep_size(united, axes, f'{call.name} combines it with a tensor of fixed size',
                         tracer.given_up.get(tensor))


def _unite(tracer: Tracer, op: str, left: Tensor, right: Tensor) -> Tensor:
    """Tie two label tensors that broadcast against each other; return the labels of the result."""
    if left.shape == right.shape:
        tracer.tie(left, right)
        return torch.where(left >= 0, left, right)
    left_wide = any(a > b for a, b in zip(left.shape, right.shape))
    right_wide = any(b > a for a, b in zip(left.shape, right.shape))
    if left_wide and right_wide:
        tracer.freeze(left, f'{op} broadcasts two maps along different axes')
        tracer.freeze(right, f'{op} broadcasts two maps along different axes')
        return torch.full((1,) * left.dim(), -1)
    wide, narrow = (left, right) if left_wide else (right, left)
    tracer.broadcast(wide, narrow, f'{op} broadcasts it over the channels of another map')
    return wide


@register_op(
    'max_pool2d_with_indices', 'max_pool3d_with_indices', 'max_pool1d', 'max_pool2d', 'max_pool3d', 'avg_pool1d',
    'avg_pool2d', 'avg_pool3d', '_adaptive_avg_pool2d', '_adaptive_avg_pool3d', 'adaptive_avg_pool1d',
    'adaptive_avg_pool2d', 'adaptive_max_pool2d', 'adaptive_max_pool1d', 'adaptive_max_pool3d', 'upsample_nearest1d',
    'upsample_nearest2d', 'upsample_nearest3d', '_upsample_nearest_exact1d', '_upsample_nearest_exact2d',
    'upsample_bilinear2d', 'upsample_linear1d', 'upsample_trilinear3d', 'upsample_bicubic2d',
    '_upsample_bilinear2d_aa', '_upsample_bicubic2d_aa', 'grid_sampler_2d', 'mkldnn_max_pool2d')
def spatial(tracer: Tracer, call: Call) -> None:
    """Pooling and resizing work inside each channel."""
    result = call.result
    labels = tracer.labels_of(call.args[0])
    for positions in call.args[1:]:  # of grid_sample
        if isinstance(positions, Tensor) and tracer.labels_of(positions) is not None:
            tracer.freeze(tracer.labels_of(positions), f'{call.name} takes it as positions')
    if labels is None:
        return
    axes = list(range(result.dim() - int(next(c for c in call.name if c in '123')), result.dim()))
    first = tracer.merge_along(labels, axes, f'{call.name} mixes positions that belong to different channels')
    if first is not None:
        tracer.set_labels(result, first.expand(result.shape))


def keeps_channels(tracer: Tracer, call: Call) -> None:
    """Label the result of a module or function that treats all channels of axis 1 alike: RoI pooling, resampling."""
    if tracer.labels_of(call.args[0]) is not None:
        tracer.set_channels(call.out, tracer.channels_of(call.args[0], 1), 1)


@register_op('mean', 'sum', 'amax', 'amin', 'var', 'std', 'var_mean', 'std_mean', 'linalg_vector_norm', 'norm',
             'logsumexp', 'max', 'min', 'prod', 'any', 'all', 'median', 'nanmedian', 'nansum', 'nanmean', 'argmax',
             'argmin', 'aminmax', 'count_nonzero', 'kthvalue', 'mode', labelled=True)
def reduction(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Reduction over space keeps channels; over groups of channels ties them; over all channels freezes them.

    The latter where the result meets another tensor: a check of values, which only Python sees, freezes nothing.
    """
    source = call.args[0]
    axes = _reduced_axes(call, source.dim())
    if axes is None:
        tracer.freeze(labels, f'{call.name} combines it with other values')
        return
    first = tracer.merge_along(labels, axes, f'{call.name} reduces over the channel axis', out=call.out)
    if first is None:
        return
    for tensor in call.results:
        if tensor.dim():
            index = tuple(0 if axis in axes else slice(None) for axis in range(source.dim()))
            tracer.set_labels(tensor, (first if tensor.dim() == source.dim() else first[index]).expand(tensor.shape))


def _reduced_axes(call: Call, dims: int) -> Optional[List[int]]:
    """Return the axes that a reduction removes, or None if it has two operands."""
    axes = call.arg(2 if call.name in ('linalg_vector_norm', 'norm', 'kthvalue') else 1, 'dim')
    if isinstance(axes, Tensor):  # max(x, y)
        return None
    if axes is None and call.name in ('kthvalue', 'mode'):
        axes = -1
    if axes is None or axes == []:
        return list(range(dims))
    return [axis % dims for axis in ([axes] if isinstance(axes, int) else axes)]


@register_op('_softmax', '_log_softmax', 'softmax', 'log_softmax', 'cumsum', labelled=True)
def softmax(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """A softmax over groups of channels ties them; over all channels it freezes them."""
    tracer.merge_along(labels, [call.axis(1)], f'{call.name} normalises over the channel axis')
    tracer.set_labels(call.out, labels)


@register_op('bmm', 'mm', 'matmul', 'baddbmm', 'addmm', 'addbmm', 'mv', 'dot', 'addmv', 'ger', 'linalg_vecdot')
def product(tracer: Tracer, call: Call) -> None:
    """Matrix products of activations, as in attention, combine channels with one another.

    A product with a constant that mixes the positions of each channel passes it on.
    """
    if call.name in ('mm', 'bmm'):
        for place, axis in ((0, -1), (1, -2)):
            labels, other = tracer.labels_of(call.args[place]), call.args[1 - place]
            if labels is not None and other not in tracer.given_up and tracer.labels_of(other) is None \
                    and constant_along(labels, [labels.dim() + axis]):
                tracer.set_labels(call.out, take_first(compact(labels), [labels.dim() + axis]).expand(call.out.shape))
                return
    follow_nothing(tracer, call, f'{call.name} multiplies it with another activation, as attention does')


@register_op('glu', labelled=True)
def glu(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """One half gates the other: the same positions of both are tied."""
    dim = call.axis(1, default=-1)
    left, right = labels.chunk(2, dim)
    tracer.keep_size(labels.unflatten(dim, (2, -1)), [dim], f'{call.name} cuts its channels into 2 parts')
    united = _unite(tracer, call.name, canonical(left), canonical(right))
    tracer.set_labels(call.out, united.expand(call.out.shape))


def _ignored(tracer: Tracer, call: Call) -> None:
    """The result holds no activation: sizes, comparisons, new constants."""


@register_op('new_zeros', 'new_ones', 'new_empty', 'new_full', 'zeros', 'ones', 'empty', 'full', 'scalar_tensor')
def new(tracer: Tracer, call: Call) -> None:
    """A new constant has the channels of the activation whose shape it takes, or of what it meets: a first state."""
    source = call.args[0] if call.args and isinstance(call.args[0], Tensor) else None
    labels = None if source is None else tracer.labels_of(source)
    if labels is not None and call.out.shape == labels.shape:
        tracer.set_labels(call.out, labels)
    else:
        tracer.constants[call.out] = True


register_op('uniform', 'normal', 'fill', 'zero', '_local_scalar_dense', 'is_nonzero', 'equal', 'random',
            'new_empty_strided', 'set', 'resize', 'arange')(_ignored)
