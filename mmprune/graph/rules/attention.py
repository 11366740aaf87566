"""Rules for the product of an attention and the norm of a stream, which stand in :mod:`mmprune.units.attention`."""
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from torch import Tensor

from ..factors import QUERY_KEY, VALUE, HeadLayout, ProductCall
from ..label import constant_along
from ..tracer import Tracer
from .table import Call, follow_nothing, register_module

WITHOUT_CHANNELS = 'attention reads something there that no layer has produced'


@register_module('StreamNorm', 'StreamRMSNorm')
def stream_norm(tracer: Tracer, call: Call) -> None:
    """A norm for which removed channels count as zeros: its weight and bias go with the channels."""
    norm: Any = tracer.module
    x = call.args[0] if call.args else next(iter(call.kwargs.values()))
    labels = tracer.labels_of(x)
    axis = (-1 if call.arg(1, 'data_format') == 'channel_last' else norm.axis) % x.dim()
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


class Parts(NamedTuple):
    """Ids of what an attention's product reads and of its sizes."""

    rows: List[Tensor]  #: of queries, keys and values
    heads: Tensor
    kv_heads: Tensor
    qk_dims: Tensor
    v_dims: Tensor


ProductRule = Callable[[Tracer, Call, Parts], None]


def parts_of(tracer: Tracer, call: Call) -> Optional[Parts]:
    """Return the ids of a product's channels and sizes; None if it reads something without channels, which stays."""
    product: Any = tracer.module
    tensors = [call.arg(place, name) for place, name in enumerate('qkv')]
    rows = product.parts(*(None if x is None else tracer.channels_of(x, x.dim() - 1) for x in tensors))
    if any(bool((own < 0).any()) for own in rows):
        follow_nothing(tracer, call, WITHOUT_CHANNELS)
        return None
    sizes = [tracer.attribute(product, name, getattr(product, name)) for name in (
        'heads', 'kv_heads', 'qk_dims', 'v_dims')]
    return Parts(list(rows), *sizes)


def register_product(*names: str) -> Callable[[ProductRule], ProductRule]:
    """Register a rule for products of attentions by class name; it gets the ids of what they read, if all have ids."""

    def add(rule: ProductRule) -> ProductRule:
        @register_module(*names)
        def whole(tracer: Tracer, call: Call) -> None:
            found = parts_of(tracer, call)
            if found is not None:
                rule(tracer, call, found)

        return rule

    return add


def lay_out(tracer: Tracer, rows: Tensor, heads: Tensor, dims: Tensor, part: str) -> None:
    """State that channels lie as heads times dimensions."""
    tracer.head_layouts.append(HeadLayout(rows.view(len(heads), -1).numpy(), heads.numpy(), dims.numpy(), part))


def record_products(tracer: Tracer, call: Call, pairs: int, channels: Sequence[Tensor]) -> None:
    """Record the two products of an attention: ``pairs`` multiply-adds a channel and token of the result."""
    positions = call.result.numel() // call.result.size(-1) * pairs
    tracer.products += [ProductCall(own.numpy(), positions, call.args[0].size(0), tracer.training_only)
                        for own in channels]


@register_module('KeptChannels')
def kept_channels(tracer: Tracer, call: Call) -> None:
    """A constant of which the channels that are left are taken."""
    kept: Any = tracer.module
    ids = tracer.axis(kept.index, 0, 'affine')
    tracer.tie(tracer.axis(kept.weight, 0, 'affine'), ids)
    tracer.set_channels(call.out, ids, kept.axis % call.out.dim())


@register_product('AttentionProduct')
def attention_product(tracer: Tracer, call: Call, found: Parts) -> None:
    """What lies between the projections of an attention: heads, each with query-key and value dimensions."""
    product: Any = tracer.module
    q, k, v = found.rows
    heads, kv_heads, qk_dims, v_dims = found[1:]
    _couple_heads(tracer, heads, kv_heads)
    out = tracer.new_ids(len(heads) * len(v_dims))
    lay_out(tracer, q, heads, qk_dims, QUERY_KEY)
    lay_out(tracer, k, kv_heads, qk_dims, QUERY_KEY)
    lay_out(tracer, v, kv_heads, v_dims, VALUE)
    lay_out(tracer, out, heads, v_dims, VALUE)
    tracer.tie(tracer.axis(product.query.weight, 0, 'in'), q)
    for own, reason in ((heads, product.heads_stay), (qk_dims, product.qk_stay)):
        if reason is not None:
            tracer.freeze(own, reason)
    for turned, own in zip(product.turned, (q, k)):  # dimensions that turn together go together
        tracer.tie(tracer.axis(turned.place, 0, 'affine'), own)
        tracer.tie(*turned.pairs(own.view(-1, len(qk_dims))))
        tracer.tie(*turned.pairs(qk_dims))
    of_heads(tracer, call, heads)
    for name in ('q_norm', 'k_norm'):
        norm_of_head(tracer, call.kwargs.get(name), qk_dims, name)
    follow_more(tracer, call, found)
    record_products(tracer, call, _tokens_read(call), [q, out])
    tracer.set_channels(call.result, product.arranged(out), -1)
    if len(call.results) > 1:  # the attention weights
        tracer.set_channels(call.results[1], heads, 1)


@register_module('DeformableProduct')
def deformable_product(tracer: Tracer, call: Call) -> None:
    """Values at places that each head of a query computes: heads, each with value dimensions."""
    product: Any = tracer.module
    values, offsets, weights = (tracer.channels_of(x, x.dim() - 1) for x in call.args[:3])
    if any(bool((own < 0).any()) for own in (values, offsets, weights)):
        follow_nothing(tracer, call, WITHOUT_CHANNELS)
        return
    heads, v_dims = (tracer.attribute(product, name, getattr(product, name)) for name in ('heads', 'v_dims'))
    out = tracer.new_ids(len(values))
    for own in (values, out):
        lay_out(tracer, own, heads, v_dims, VALUE)
    for own in (offsets, weights):
        tracer.tie(own.view(len(heads), -1), heads[:, None].expand(-1, len(own) // len(heads)))
    if tracer.labels_of(call.args[3]) is not None:
        tracer.freeze(tracer.labels_of(call.args[3]), 'attention takes it as positions')  # type: ignore[arg-type]
    tracer.set_channels(call.out, out, -1)


def _couple_heads(tracer: Tracer, heads: Tensor, kv_heads: Tensor) -> None:
    """Tie the heads of queries to those of the keys that they read; a single one, which all read, stays."""
    if len(kv_heads) > 1:
        tracer.tie(heads.view(len(kv_heads), -1), kv_heads[:, None].expand(-1, len(heads) // len(kv_heads)))
    elif len(heads) > 1:
        tracer.freeze(kv_heads, 'all heads of queries read its keys and values')
    else:
        tracer.tie(heads, kv_heads)


def of_heads(tracer: Tracer, call: Call, heads: Tensor) -> None:
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


def norm_of_head(tracer: Tracer, norm: Any, dims: Tensor, name: str) -> None:
    """Follow a norm over the channels of a head, which is one for all heads."""
    kinds = {kind.__name__ for kind in type(norm).__mro__}
    if norm is None or kinds & {'Identity'}:
        return
    if kinds & {'StreamNorm', 'StreamRMSNorm'}:
        _follow_norm(tracer, norm, dims)
    else:
        tracer.freeze(dims, f'{name} is a {type(norm).__name__}, which is not followed')


def follow_more(tracer: Tracer, call: Call, found: Parts) -> None:
    """Follow what some products read beside queries, keys and values."""
    product: Any = tracer.module
    if hasattr(product, 'same_dims'):  # one choice for all heads
        tracer.tie(tracer.axis(product.same_dims, 0, 'affine'), found.v_dims)
    for layer in (call.kwargs.get('before'), call.kwargs.get('behind')):
        if layer is not None:
            _mixer(tracer, call, layer, found.heads)
    _of_places(tracer, call, found.qk_dims, found.v_dims)
    if call.kwargs.get('convs'):
        _convolved(tracer, call, found)


@register_product('CovarianceProduct')
def covariance_product(tracer: Tracer, call: Call, found: Parts) -> None:
    """An attention over channels: those of the queries are those of the result; those of keys and values stay."""
    product: Any = tracer.module
    q, k, v = found.rows
    heads, kv_heads, qk_dims, v_dims = found[1:]
    tracer.tie(heads, kv_heads)
    tracer.freeze(qk_dims, product.qk_stay)
    out = tracer.new_ids(len(heads) * len(v_dims))
    for own in (q, out):
        lay_out(tracer, own, heads, v_dims, VALUE)
    for own in (k, v):
        lay_out(tracer, own, heads, qk_dims, QUERY_KEY)
    of_heads(tracer, call, heads)
    record_products(tracer, call, len(qk_dims), [q, out])
    tracer.set_channels(call.out, out, -1)


@register_product('LinearProduct')
def linear_product(tracer: Tracer, call: Call, found: Parts) -> None:
    """An attention without a softmax, all of whose heads keep the same dimensions, the same of q, k and v."""
    product: Any = tracer.module
    first = found.rows[0][:len(found.qk_dims)]
    for own in found.rows:
        tracer.tie(own, first.repeat(len(found.heads)))
    tracer.tie(found.qk_dims, first)
    tracer.tie(found.v_dims, first)
    tracer.tie(tracer.axis(product.query.weight, 0, 'in'), found.rows[0])
    record_products(tracer, call, len(first), [found.rows[0]] * 2)
    tracer.set_channels(call.out, found.rows[0], -1)


def _of_places(tracer: Tracer, call: Call, qk_dims: Tensor, v_dims: Tensor) -> None:
    """Tie what has a value for each dimension of a head, the same of all heads: pools and vectors of distances."""
    for name in ('rows', 'columns'):
        if call.kwargs.get(name) is not None:
            tracer.tie(tracer.channels_of(call.kwargs[name], 1), qk_dims)
    if call.kwargs.get('residual'):
        tracer.tie(qk_dims, v_dims)
    for norm in call.kwargs.get('norms', ()):
        norm_of_head(tracer, norm, qk_dims, 'norm')
    for pool, dims in zip(call.kwargs.get('pools', ()), (qk_dims, qk_dims, v_dims)):
        if pool is not None:
            conv, norm = pool
            tracer.tie(tracer.axis(conv.weight, 0, 'depthwise', groups=conv.groups), dims)
            if conv.bias is not None:
                tracer.tie(tracer.axis(conv.bias, 0, 'affine'), dims)
            tracer.record_positions(conv.weight, 'conv', call.out.numel() // call.out.size(-1))
            norm_of_head(tracer, norm, dims, 'norm')


def _convolved(tracer: Tracer, call: Call, found: Parts) -> None:
    """Tie depthwise convolutions to the values that they read, each some of the heads."""
    tracer.tie(found.qk_dims, found.v_dims)
    convs = call.kwargs['convs']
    for conv, ids in zip(convs, found.rows[2].split([len(conv.weight) for conv in convs])):
        tracer.tie(tracer.axis(conv.weight, 0, 'depthwise', groups=conv.groups), ids)
        if conv.bias is not None:
            tracer.tie(tracer.axis(conv.bias, 0, 'affine'), ids)
        tracer.record_positions(conv.weight, 'conv', call.out.numel() // call.out.size(-1))


def _tokens_read(call: Call) -> int:
    """Return how many tokens each query reads."""
    keys = call.arg(1, 'k')
    return (call.args[0] if keys is None else keys).size(1)  # type: ignore[no-any-return]


def _mixer(tracer: Tracer, call: Call, layer: Any, heads: Tensor) -> None:
    """Tie what a layer that mixes the heads of all pairs of tokens reads, and what it makes, to them."""
    for axis, role in ((0, 'out'), (1, 'in')):
        tracer.tie(tracer.axis(layer.weight, axis, role), heads)
    if layer.bias is not None:
        tracer.tie(tracer.axis(layer.bias, 0, 'affine'), heads)
    pairs = call.result.numel() // call.result.size(-1) * _tokens_read(call)
    tracer.record_positions(layer.weight, 'linear' if layer.weight.dim() == 2 else 'conv', pairs, len(call.result))
