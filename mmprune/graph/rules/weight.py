"""Rules for weights that are computed from a parameter row by row, and can be cut as it can: weight norm, masks."""
from torch import Tensor

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
    if len(weights) == 2 and weights[0].shape == weights[1].shape and not any(one in tracer.labels for one in weights):
        weight, mask = sorted(weights, key=lambda one: not one.requires_grad)
        tracer.derive(call.out, weight, [Companion(mask, axis, axis) for axis in range(mask.dim())])
    else:
        elementwise(tracer, call)
