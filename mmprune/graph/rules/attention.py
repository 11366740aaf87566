"""Rules for the product of an attention and the norm of a stream, which stand in :mod:`mmprune.attention`."""
from typing import Any, Optional

from torch import Tensor

from ..factors import HeadLayout, ProductCall
from ..label import constant_along
from ..tracer import Tracer
from .table import Call, follow_nothing, register_module

WITHOUT_CHANNELS = 'attention reads something there that no layer has produced'


@register_module('StreamNorm', 'StreamRMSNorm')
def stream_norm(tracer: Tracer, call: Call) -> None:
    """A norm for which removed channels count as zeros: its weight and bias go with the channels."""
    norm: Any = tracer.module
    x = call.args[0] if call.args else call.kwargs['input']
    labels = tracer.labels_of(x)
    axis = x.dim() - 1 if 'StreamNorm2d' not in {kind.__name__ for kind in type(norm).__mro__} else 1
    if labels is None:
        return
    if constant_along(labels, [axis]):
        tracer.set_labels(call.out, labels)
        return
    ids = tracer.channels_of(x, axis)
    _follow_norm(tracer, norm, ids, x)
    tracer.set_channels(call.out, ids, axis)


def _follow_norm(tracer: Tracer, norm: Any, ids: Tensor, x: Optional[Tensor] = None) -> None:
    """Tie the weight and the bias of a norm to the channels that it normalises over."""
    for tensor in (norm.weight, getattr(norm, 'bias', None)):
        if tensor is not None:
            tracer.tie_or_freeze(tracer.axis(tensor, 0, 'affine'), ids, x)
            tracer.axes[id(tensor), 0].across = True


@register_module('ParameterLinear')
def parameter_linear(tracer: Tracer, call: Call) -> None:
    """A linear layer by some rows of a weight, and of a bias, that the module around it holds."""
    x, weight, bias, start, stop = call.args[:5]
    offset = call.kwargs.get('offset', 0)
    rows = tracer.axis(weight, 0, 'out')[start:stop]
    tracer.tie_or_freeze(tracer.axis(weight, 1, 'in'), tracer.channels_of(x, x.dim() - 1), x)
    if bias is not None:
        tracer.tie(tracer.axis(bias, 0, 'affine')[offset + start:offset + stop], rows)
    tracer.record_call(weight, 'linear', call.out.numel() // call.out.size(-1), call.out, call.out.dim() - 1,
                       rows=(start, stop))
    tracer.set_channels(call.out, rows, -1)


@register_module('AttentionProduct')
def attention_product(tracer: Tracer, call: Call) -> None:
    """What lies between the projections of an attention: heads, each with query-key and value dimensions."""
    product: Any = tracer.module
    q, k, v = (call.arg(place, name) for place, name in enumerate('qkv'))
    ids = list(product.parts(*(None if x is None else tracer.channels_of(x, x.dim() - 1) for x in (q, k, v))))
    if any(bool((own < 0).any()) for own in ids):
        follow_nothing(tracer, call, WITHOUT_CHANNELS)
        return
    heads, kv_heads = (tracer.attribute(product, name, getattr(product, name)) for name in ('heads', 'kv_heads'))
    qk_dims, v_dims = (tracer.attribute(product, name, getattr(product, name)) for name in ('qk_dims', 'v_dims'))
    _couple_heads(tracer, heads, kv_heads)
    out = tracer.new_ids(len(heads) * len(v_dims))
    for own, family, dims in ((ids[0], heads, qk_dims), (ids[1], kv_heads, qk_dims), (ids[2], kv_heads, v_dims),
                              (out, heads, v_dims)):
        tracer.head_layouts.append(HeadLayout(own.view(len(family), -1).numpy(), family.numpy(), dims.numpy(),
                                              'qk' if dims is qk_dims else 'v'))
    tracer.tie(tracer.axis(product.query.weight, 0, 'in'), ids[0])
    for own, reason in ((heads, product.heads_stay), (qk_dims, product.qk_stay)):
        if reason is not None:
            tracer.freeze(own, reason)
    for turned, own in zip(product.turned, ids):  # dimensions that turn together go together
        tracer.tie(tracer.axis(turned.place, 0, 'affine'), own)
        tracer.tie(*turned.pairs(own.view(-1, len(qk_dims))))
        tracer.tie(*turned.pairs(qk_dims))
    _of_heads(tracer, call, heads)
    for name in ('q_norm', 'k_norm'):
        _norm_of_head(tracer, call.kwargs.get(name), qk_dims, name)
    pairs = call.result.numel() // call.result.size(-1) * (q if k is None else k).size(1)
    for layer in (call.kwargs.get('before'), call.kwargs.get('behind')):
        _mixer(tracer, layer, pairs, product.heads_stay)
    tracer.products += [ProductCall(own.numpy(), pairs, q.size(0), tracer.training_only) for own in (ids[0], out)]
    tracer.set_channels(call.result, out, -1)
    if len(call.results) > 1:  # the attention weights
        tracer.set_channels(call.results[1], heads, 1)


@register_module('CovarianceProduct')
def covariance_product(tracer: Tracer, call: Call) -> None:
    """An attention over channels: those of the queries are those of the result; those of keys and values stay."""
    product: Any = tracer.module
    q, k, v = (call.arg(place, name) for place, name in enumerate('qkv'))
    ids = product.parts(*(None if x is None else tracer.channels_of(x, x.dim() - 1) for x in (q, k, v)))
    if any(bool((own < 0).any()) for own in ids):
        follow_nothing(tracer, call, WITHOUT_CHANNELS)
        return
    heads, kv_heads = (tracer.attribute(product, name, getattr(product, name)) for name in ('heads', 'kv_heads'))
    qk_dims, v_dims = (tracer.attribute(product, name, getattr(product, name)) for name in ('qk_dims', 'v_dims'))
    _couple_heads(tracer, heads, kv_heads)
    tracer.freeze(qk_dims, product.qk_stay)
    out = tracer.new_ids(len(heads) * len(v_dims))
    for own, dims in ((ids[0], v_dims), (ids[1], qk_dims), (ids[2], qk_dims), (out, v_dims)):
        tracer.head_layouts.append(HeadLayout(own.view(len(heads), -1).numpy(), heads.numpy(), dims.numpy(),
                                              'qk' if dims is qk_dims else 'v'))
    _of_heads(tracer, call, heads)
    pairs = call.result.numel() // call.result.size(-1) * len(qk_dims)
    tracer.products += [ProductCall(own.numpy(), pairs, q.size(0), tracer.training_only) for own in (ids[0], out)]
    tracer.set_channels(call.out, out, -1)


def _mixer(tracer: Tracer, layer: Any, positions: int, reason: Optional[str]) -> None:
    """Keep a layer that mixes the heads whole."""
    if layer is None:
        return
    for axis, role in ((0, 'out'), (1, 'in')):
        tracer.freeze(tracer.axis(layer.weight, axis, role), str(reason))
    tracer.record_positions(layer.weight, 'linear' if layer.weight.dim() == 2 else 'conv', positions)


def _couple_heads(tracer: Tracer, heads: Tensor, kv_heads: Tensor) -> None:
    """Tie the heads of queries to those of the keys that they read; a single one, which all read, stays."""
    if len(kv_heads) > 1:
        tracer.tie(heads.view(len(kv_heads), -1), kv_heads[:, None].expand(-1, len(heads) // len(kv_heads)))
    elif len(heads) > 1:
        tracer.freeze(kv_heads, 'all heads of queries read its keys and values')
    else:
        tracer.tie(heads, kv_heads)


def _of_heads(tracer: Tracer, call: Call, heads: Tensor) -> None:
    """Tie what has a value for each head, such as what is added to the products, to the heads."""
    product: Any = tracer.module
    mask = call.arg(4, 'mask')
    if isinstance(mask, Tensor) and tracer.labels_of(mask) is not None:
        tracer.freeze(tracer.labels_of(mask), 'attention adds it to its products')  # type: ignore[arg-type]
    for name in product.of_heads:
        tensor = call.arg(3, name) if name == 'bias' else call.kwargs.get(name)
        if not isinstance(tensor, Tensor) or tensor.dim() < 3 or tensor.size(-3) == 1:
            continue
        own = tracer.channels_of(tensor, tensor.dim() - 3)
        tracer.tie(own, heads)
        tracer.freeze(heads[own < 0], f'attention takes a constant {name}, another one for each head')


def _norm_of_head(tracer: Tracer, norm: Any, dims: Tensor, name: str) -> None:
    """Follow a norm over the channels of a head, which is one for all heads."""
    kinds = {kind.__name__ for kind in type(norm).__mro__}
    if norm is None or kinds & {'Identity'}:
        return
    if kinds & {'StreamNorm', 'StreamRMSNorm'}:
        _follow_norm(tracer, norm, dims)
    else:
        tracer.freeze(dims, f'{name} is a {type(norm).__name__}, which is not followed')

