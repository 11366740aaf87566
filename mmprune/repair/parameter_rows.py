"""Layers that are rows of a parameter of another module: ``in_proj_weight`` of torch's attention is three of them."""
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn


class RowsCall(NamedTuple):
    """A call of a :class:`~mmprune.units.attention.parameter_linear.ParameterLinear`."""

    x: Tensor  #: what it reads, ``Tensor[N, *, C]``
    weight: Tensor  #: the parameter
    bias: Optional[Tensor]  #: the parameter that has the bias of these rows
    start: int  #: first row
    stop: int  #: the row behind the last one
    offset: int  #: where in the bias that of the first row of the weight stands

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Dict[str, Any]) -> 'RowsCall':
        """Return the call with the arguments of a forward."""
        x, weight, bias, start, stop = args
        return cls(x, weight, bias if kwargs.get('adds_bias', True) else None, start, stop, kwargs.get('offset', 0))

    def layer(self) -> nn.Linear:
        """Return a linear layer whose weight and bias are these rows: what is written there is written here."""
        rows: nn.Linear = nn.utils.skip_init(nn.Linear, self.weight.size(1), self.stop - self.start, bias=False)
        rows.weight = nn.Parameter(self.weight.detach()[self.start:self.stop], requires_grad=False)
        if self.bias is not None:
            own = self.bias.detach()[self.offset + self.start:self.offset + self.stop]
            rows.bias = nn.Parameter(own, requires_grad=False)
        return rows


class RowsLayer(NamedTuple):
    """Rows that a forward reads at once."""

    module: nn.Linear  #: they
    turns: Tuple[int, ...]  #: which calls of the module in a forward read them
    first: int  #: the first row of the dense parameter that the dense module reads there


def rows_layers(calls: Sequence[RowsCall], dense: Sequence[RowsCall]) -> List[RowsLayer]:
    """Return the layers of which the calls of a module are, in a cut model and in its dense twin.

    Args:
        calls (list[RowsCall]): In the order of a forward.
        dense (list[RowsCall]): The same calls in the dense model.

    Returns:
        list[RowsLayer]: Nothing where the two differ in number.
    """
    if len(calls) != len(dense):
        return []
    turns: Dict[Tuple[int, int], List[int]] = {}
    for turn, call in enumerate(calls):
        turns.setdefault((call.start, call.stop), []).append(turn)
    return [RowsLayer(calls[own[0]].layer(), tuple(own), dense[own[0]].start) for own in turns.values()]
