"""Rules for matrix products with a parameter: ``x @ self.weight``, einsum. They are linear layers.

A product is read as an einsum. A letter of the weight is *contracted* (the other operand has it, the result has not),
an *output* (the result has it, the other operand has not), or *shared* by all three, as in a scale of each channel.
"""
from typing import Any, List, Optional, Sequence

from torch import Tensor

from ..label import canonical, constant_along, take_first
from ..tracer import Tracer
from .table import Call, follow_nothing, register_layer_if

LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
MIXES_POSITIONS = 'it mixes positions, not channels'


def _has_one_weight(tracer: Tracer, args: Sequence[Any]) -> bool:
    """Tell whether one of two operands is a matrix of the model and the other one has channels."""
    tensors = _operands(args)
    weights = [tracer.weight_of(tensor)[0] is not None for tensor in tensors]
    return len(tensors) == 2 and sum(weights) == 1 and min(tensor.dim() for tensor in tensors) > 1


def _operands(args: Sequence[Any]) -> List[Tensor]:
    flat = [item for value in args for item in (value if isinstance(value, (list, tuple)) else [value])]
    return [value for value in flat if isinstance(value, Tensor)]


def _has_one_weight_and_bias(tracer: Tracer, args: Sequence[Any]) -> bool:
    return len(args) == 3 and _has_one_weight(tracer, args[1:])


@register_layer_if(_has_one_weight, 'matmul', '__matmul__', '__rmatmul__', 'mm', 'bmm')
def matmul(tracer: Tracer, call: Call) -> None:
    """A matrix product with a parameter on either side."""
    left, right = call.args[:2] if call.name != '__rmatmul__' else (call.args[1], call.args[0])
    _product(tracer, call, [left, right], _letters(left, right))


@register_layer_if(_has_one_weight_and_bias, 'addmm')
def addmm(tracer: Tracer, call: Call) -> None:
    """A matrix product with a parameter, and a bias."""
    bias, left, right = call.args
    rows = _product(tracer, call, [left, right], _letters(left, right))
    _tie_bias(tracer, call, bias, rows)


def _tie_bias(tracer: Tracer, call: Call, bias: Any, rows: Optional[Tensor]) -> None:
    """Tie a bias to the rows of a product; one of a fixed size, or that is an activation, freezes them."""
    if not isinstance(bias, Tensor) or rows is None or not bias.dim() or bias.size(-1) == 1:
        return
    if tracer.is_tensor_of_model(bias) and bias.numel() == bias.size(-1):
        tracer.tie(tracer.axis(bias, bias.dim() - 1, 'affine'), rows)
        return
    labels = tracer.labels_of(bias)
    for ids in (rows, *([] if labels is None else [labels])):
        tracer.freeze(ids, f'{call.name} adds a matrix to it')


def _letters(left: Tensor, right: Tensor) -> List[str]:
    """Return the subscripts of a matrix product: left operand, right operand, result."""
    batch = LETTERS[:max(left.dim(), right.dim()) - 2]
    first, second = batch[len(batch) - (left.dim() - 2):], batch[len(batch) - (right.dim() - 2):]
    return [f'{first}xy', f'{second}yz', f'{batch}xz']


@register_layer_if(lambda tracer, args: isinstance(args[0], str) and _has_one_weight(tracer, args[1:]), 'einsum')
def einsum(tracer: Tracer, call: Call) -> None:
    """An einsum of an activation and a parameter."""
    operands = _operands(call.args)
    subscripts = _subscripts(call.args[0], operands, call.out)
    if subscripts is None:
        _give_up(tracer, call, operands, f'{call.name} has subscripts that are not followed')
    else:
        _product(tracer, call, operands, subscripts)


def _subscripts(equation: str, operands: Sequence[Tensor], out: Tensor) -> Optional[List[str]]:
    """Return the subscripts of both operands and of the result, an ellipsis spelt out; None if a letter repeats."""
    left, arrow, right = equation.replace(' ', '').partition('->')
    parts = left.split(',')
    if not arrow or len(parts) != 2:
        return None
    unused = [letter for letter in LETTERS if letter not in equation]
    found = []
    for text, tensor in zip([*parts, right], [*operands, out]):
        missing = tensor.dim() - len(text.replace('...', ''))
        text = text.replace('...', ''.join(unused[:missing][::-1]))
        if len(set(text)) != tensor.dim() or len(text) != tensor.dim():
            return None
        found.append(text)
    return found


def linear_by_view(tracer: Tracer, call: Call, x: Tensor, weight: Tensor, bias: Any) -> None:
    """``F.linear`` with a transposed parameter."""
    batch = LETTERS[:x.dim() - 1]
    rows = _product(tracer, call, [x, weight], [f'{batch}y', 'zy', f'{batch}z'])
    _tie_bias(tracer, call, bias, rows)


def _product(tracer: Tracer, call: Call, operands: Sequence[Tensor], subscripts: Sequence[str]) -> Optional[Tensor]:
    """Follow a product of an activation and a parameter; return the ids of its output axis, or None."""
    place = 0 if tracer.weight_of(operands[0])[0] is not None else 1
    weight, order = tracer.weight_of(operands[place])
    assert weight is not None
    x, named, own, result = operands[1 - place], subscripts[1 - place], subscripts[place], subscripts[2]
    axis_of = {letter: order[position] for position, letter in enumerate(own)}
    contracted = [letter for letter in own if letter in named and letter not in result]
    outputs = [letter for letter in own if letter not in named and letter in result]
    shared = [letter for letter in own if letter in named and letter in result]
    labels = tracer.labels_of(x)
    kept = [place for place, letter in enumerate(named) if letter in result]
    along_kept = labels is not None and not constant_along(labels, kept)
    along_contracted = labels is not None and not constant_along(labels, [named.index(one) for one in contracted])
    if len(outputs) != 1 or len(contracted) != 1 or shared or set(own) - set(contracted) - set(outputs) or (
            along_kept and along_contracted):
        _give_up(tracer, call, operands,
                 f'{call.name} with {tracer.names[id(weight)]!r} combines several axes of channels')
        return None
    columns = tracer.axis(weight, axis_of[contracted[0]], 'in')
    rows = tracer.axis(weight, axis_of[outputs[0]], 'out')
    out_axis = result.index(outputs[0])
    positions = call.out.numel() // call.out.size(out_axis)
    if along_kept:
        assert labels is not None
        repeated = pass_channels(tracer, call.out, labels, named.index(contracted[0]), out_axis, [rows, columns])
        tracer.record_call(weight, 'linear', positions, call.out, out_axis, repeated)
        return None
    tracer.record_call(weight, 'linear', positions, call.out, out_axis)
    tracer.tie_or_freeze(columns, tracer.channels_of(x, named.index(contracted[0])), x)
    tracer.set_channels(call.out, rows, out_axis)
    return rows


def pass_channels(tracer: Tracer, out: Tensor, labels: Tensor, contracted: int, out_axis: int,
                  own: Sequence[Tensor]) -> Optional[Tensor]:
    """Label the result of a layer that mixes the positions of each channel, and keep the weight whole.

    Returns:
        Tensor or None: Ids of the channels, if they lie along a single axis.
    """
    for ids in own:
        tracer.freeze(ids, MIXES_POSITIONS)
    moved = take_first(canonical(labels), [contracted]).movedim(contracted, out_axis)
    tracer.set_labels(out, moved.expand(out.shape))
    return moved.reshape(-1) if sum(size > 1 for size in moved.shape) == 1 else None


def _give_up(tracer: Tracer, call: Call, operands: Sequence[Tensor], reason: str) -> None:
    """Keep everything that a product reads, its parameter too."""
    follow_nothing(tracer, Call(call.name, [tensor for tensor in operands if tracer.weight_of(tensor)[0] is None], {},
                                call.out), reason)
    for tensor in operands:
        weight, _ = tracer.weight_of(tensor)
        if weight is not None:
            for axis in range(weight.dim()):
                tracer.freeze(tracer.axis(weight, axis, 'out' if axis == 0 else 'in'), reason)


def mixes_positions(tracer: Tracer, labels: Optional[Tensor]) -> bool:
    """Tell whether an activation has channels, along other axes than its last one."""
    return labels is not None and constant_along(labels, [labels.dim() - 1]) and bool((labels >= 0).any()) \
        and not constant_along(labels, list(range(labels.dim() - 1)))

