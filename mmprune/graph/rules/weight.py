"""Rules for weights that are computed from a parameter row by row: weight norm, masks, standardised filters."""
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ..computed_weight import columns_are_free, weight_call
from ..idle import CONV_OR_LINEAR
from ..label_store import Companion
from ..tracer import Tracer
from .op import elementwise
from .table import Call, follow_nothing, register_op


@register_op('_weight_norm_interface', '_weight_norm')
def weight_norm(tracer: Tracer, call: Call) -> None:
    """``g * v / |v|``: the rows of both go together; without columns of ``v`` its norms shrink, and ``g`` with them."""
    direction, norms, dim = call.args[0], call.args[1], call.arg(2, 'dim', 0)
    if dim < 0:  # one norm of the whole weight
        follow_nothing(tracer, call)
        return
    tracer.derive(call.result, direction, [Companion(norms, dim, dim)])


@register_op('mul')
def masked(tracer: Tracer, call: Call) -> None:
    """A weight times a mask of its shape, both tensors of the model; any other product is one of activations."""
    tensors = [one for one in call.args if isinstance(one, Tensor)]
    weights = [one for one in tensors if tracer.stored_weight(one) is not None and sum(n > 1 for n in one.shape) > 1]
    if len(weights) == 2 and weights[0] is not weights[1] and weights[0].shape == weights[1].shape and not any(
            one in tracer.labels for one in weights):
        weight, mask = sorted(weights, key=lambda one: not one.requires_grad)
        tracer.derive(call.out, weight, [Companion(mask, axis, axis) for axis in range(mask.dim())])
    else:
        elementwise(tracer, call)


def parameter_behind(tracer: Tracer, weight: Tensor) -> Optional[Tuple[Tensor, List[Companion]]]:
    """Return the parameter whose rows a layer's weight has, and the tensors that go along; or None.

    It is the weight itself, or has been derived before, or the running conv or linear module computes each filter from
    the same filter of its own weight and from tensors of the model: its columns can go once the module holds what it
    computes (:mod:`mmprune.units.baking`), which ``Axis.standardised`` states.
    """
    stored = tracer.stored_weight(weight)
    if stored is None and _is_filterwise(tracer, weight):
        assert tracer.module is not None
        parameter: Tensor = tracer.module.weight  # type: ignore[assignment]
        name = tracer.names[id(parameter)]
        labels = tracer.labels_of(weight)
        assert labels is not None
        tracer.tie(tracer.filters[name], labels.flatten(1)[:, 0])
        if not columns_are_free(tracer.module):
            tracer.standardised.add(name)
        del tracer.sources[weight]  # it has met its activation
        stored = parameter, []
    return stored


def _is_filterwise(tracer: Tracer, weight: Tensor) -> bool:
    """Tell whether the running module computes a weight filter by filter from its own alone, whatever it reads."""
    module = tracer.module
    own = getattr(module, 'weight', None)
    if not isinstance(module, CONV_OR_LINEAR) or getattr(module, 'transposed', False) or not isinstance(own, Tensor):
        return False
    name = tracer.names.get(id(own), '')
    if tracer.sources.get(weight) != {name} or name.rpartition('.')[0] != tracer.module_stack[-1][0]:
        return False
    labels = tracer.labels_of(weight)  # not before: whoever asks for those of a view gives it labels of its own
    if labels is None:
        return False
    filters = labels.flatten(1)
    if weight.shape != own.shape or bool(((filters != filters[:, :1]) | (filters < 0)).any()):
        return False
    again = weight_call(module)
    return again is not None and torch.equal(again.weight, weight)


def settle_computed(tracer: Tracer) -> None:
    """Tie the filters of the weights that something computes with to their layers; freeze what meets an activation."""
    for axis in list(tracer.axes.values()):
        ids = torch.from_numpy(axis.ids)
        if axis.dim == 0 and axis.tensor in tracer.filters:
            tracer.tie(tracer.filters[axis.tensor], ids)
        axis.standardised = axis.role == 'in' and axis.tensor in tracer.standardised
        if axis.tensor in tracer.computed_with:
            tracer.freeze(ids, f'parameter {axis.tensor!r} is used both as a layer weight and element by element',
                          where=False)
