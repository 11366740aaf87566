"""Rules for operations that sort, pick and place values by positions."""
import torch
from torch import Tensor

from ..label import compact, constant_along, take_first
from ..tracer import Tracer
from .table import Call, follow_nothing, register_op


@register_op('sort', 'topk', 'argsort', labelled=True)
def ordering(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """Values in another order along positions keep their channels; along channels these must stay."""
    axis = call.axis(2 if call.name == 'topk' else 1, default=-1)
    if not constant_along(labels, [axis]):
        tracer.merge_along(labels, [axis], f'{call.name} orders its channels by value')
        for tensor in call.results:
            tracer.give_up_on(tensor, f'{call.name} orders its channels by value')
        return
    for tensor in call.results:
        tracer.set_labels(tensor, take_first(compact(labels), [axis]).expand(tensor.shape))


@register_op('gather', 'take_along_dim')
def gather(tracer: Tracer, call: Call) -> None:
    """Values taken by positions, the same ones in every channel or some for each."""
    source, axis, positions = call.args[0], call.axis(1), call.arg(2, 'index')
    labels, own = tracer.labels_of(source), tracer.labels_of(positions)
    if labels is None and own is None:
        return
    if (labels is not None and not constant_along(labels, [axis])) or (own is not None and not constant_along(
            own, [axis])):
        follow_nothing(tracer, call, f'{call.name} counts positions along its channels')
        return
    result = [_first_along(one, axis, call.out) for one in (labels, own) if one is not None]
    for one in result[1:]:
        tracer.tie(result[0], one)
    if labels is None or own is None:  # the other tensor has as many channels, whatever happens
        tracer.keep_size(result[0], range(call.out.dim()), f'{call.name} combines it with a tensor of fixed size')
    tracer.set_labels(call.out, result[0])


def _first_along(labels: Tensor, axis: int, out: Tensor) -> Tensor:
    """Return labels that are constant along an axis in the shape of a result that is no longer along the others."""
    labels = take_first(compact(labels), [axis])
    for other, size in enumerate(out.shape):
        if labels.size(other) > size:
            labels = labels.narrow(other, 0, size)
    return labels.expand(out.shape)


@register_op('scatter', 'scatter_add', 'scatter_reduce')
def scatter(tracer: Tracer, call: Call) -> None:
    """Values placed by positions, the same ones in every channel or some for each."""
    target, axis, positions, source = call.args[0], call.axis(1), call.arg(2, 'index'), call.arg(3, 'src')
    tensors = [one for one in (target, positions, source) if isinstance(one, Tensor)]
    labels = [one for one in map(tracer.labels_of, tensors) if one is not None]
    if not labels:
        return
    shape = positions.shape
    if len(labels) < len(tensors) or any(not constant_along(one, [axis]) for one in labels) or any(
            a != b for place, (a, b) in enumerate(zip(shape, target.shape)) if place != axis):
        follow_nothing(tracer, call, f'{call.name} counts positions along its channels')
        return
    first = _first_along(labels[0], axis, call.out)
    for one in labels[1:]:
        tracer.tie(take_first(compact(first), [axis]), take_first(compact(one), [axis]))
    tracer.set_labels(call.out, first)


@register_op('index_put', '_index_put_impl')
def index_put(tracer: Tracer, call: Call) -> None:
    """Values written at constant positions take the place of the same channels."""
    target, positions, source = call.args[:3]
    labels, own = tracer.labels_of(target), tracer.labels_of(source)
    if labels is None and own is None:
        return
    if labels is None or any(one is not None and tracer.labels_of(one) is not None for one in positions):
        follow_nothing(tracer, call, f'{call.name} writes it into a tensor of fixed size')
        return
    axes = [axis for axis, position in enumerate(positions) if position is not None]
    axes += [axes[-1] + more for position in positions if position is not None and position.dtype == torch.bool
             for more in range(1, position.dim())]
    tracer.keep_size(labels, axes, f'{call.name} counts positions along its channels')
    part = torch.full((), -1).expand(source.shape) if own is None else own
    cpu = [None if position is None else position.cpu() for position in positions]
    moved = torch.ops.aten.index_put(labels.contiguous(), cpu, part)
    tracer.tie(labels, moved)
    if own is None and source.numel() > 1:
        tracer.freeze(labels[moved < 0], 'a tensor of fixed size is written over it')
    tracer.set_labels(call.out, labels)


@register_op('as_strided', labelled=True)
def as_strided(tracer: Tracer, call: Call, labels: Tensor) -> None:
    """A view by positions in memory, whose numbers do not follow a cut; it may be how torch reshapes."""
    source = call.args[0]
    reason = f'{call.name} counts positions in memory'
    if _reshapes(source, call.out):
        tracer.set_labels(call.out, labels.reshape(call.out.shape))
        return
    if not source.is_contiguous() or source.storage_offset():
        follow_nothing(tracer, call, reason)
        return
    size, stride, offset = call.args[1], call.args[2], call.arg(3, 'storage_offset') or 0
    moved = labels.contiguous().as_strided(size, stride, offset)
    tracer.keep_size(moved, range(moved.dim()), reason)
    tracer.set_labels(call.out, moved)


def _reshapes(source: Tensor, view: Tensor) -> bool:
    """Tell whether a view of a tensor has its elements in their order."""
    if source.numel() != view.numel() or not source.numel():
        return False
    first, count = source.storage_offset(), source.untyped_storage().size() // source.element_size()
    places = torch.arange(count, dtype=torch.int32)
    return torch.equal(places.as_strided(source.shape, source.stride(), first).reshape(view.shape),
                       places.as_strided(view.shape, view.stride(), view.storage_offset()))
