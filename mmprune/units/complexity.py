"""What a structure costs: multiply-adds, parameters and activations, by arithmetic from the traced shapes.

FLOPs mean multiply-adds of conv and linear layers, counted once per call; parameters count once however often they are
used. No forward pass runs.
"""
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Tuple

from torch import nn

from ..graph.channels import ChannelGraph, CoupledChannels
from ..graph.trace import LayerCall

#: (call, shape of the weight) -> multiply-adds of that call
Counter = Callable[[LayerCall, Tuple[int, ...]], int]
#: kind of a layer, as its rule records it -> counter
COUNTERS: Dict[str, Counter] = {}

Widths = Mapping[Tuple[str, int], int]
#: What users call a cost -> its key in :meth:`Complexity.cost`.
COSTS = {'flops': 'macs', 'params': 'params', 'acts': 'acts'}


def register_counter(kind: str) -> Callable[[Counter], Counter]:
    """Register how the multiply-adds of a kind of layer are counted."""

    def add(counter: Counter) -> Counter:
        COUNTERS[kind] = counter
        return counter

    return add


@register_counter('conv')
@register_counter('linear')
def dense_macs(call: LayerCall, weight: Tuple[int, ...]) -> int:
    """Count every weight element once a position; true for grouped, depthwise and transposed convolutions too."""
    macs = call.positions
    for size in weight:
        macs *= size
    return macs


@dataclass
class Complexity:
    """Arithmetic over a traced model.

    Attributes:
        graph (ChannelGraph): The traced model.
        shapes (dict[str, tuple]): Dense shape of every parameter and buffer, each once.
        parameters (list[str]): Those that are parameters.
    """

    graph: ChannelGraph
    shapes: Dict[str, Tuple[int, ...]]
    parameters: List[str]

    @classmethod
    def of(cls, model: nn.Module, graph: ChannelGraph) -> 'Complexity':
        """Read the dense shapes off the model that was traced."""
        parameters = dict(model.named_parameters())
        tensors = {**dict(model.named_buffers()), **parameters}
        return cls(graph, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, list(parameters))

    def shape(self, tensor: str, widths: Widths) -> Tuple[int, ...]:
        """Return a tensor's shape under the given widths of channel axes."""
        return tuple(widths.get((tensor, dim), size) for dim, size in enumerate(self.shapes[tensor]))

    def cost(self, widths: Widths) -> Dict[str, int]:
        """Return ``{'macs', 'params', 'acts'}`` of the structure; ``acts`` are output elements of conv and linear."""
        macs = acts = 0
        rows = {axis.tensor: axis for axis in self.graph.axes if axis.role in ('out', 'depthwise')}
        for call in self.graph.calls:
            if call.training_only:
                continue
            if call.computed_weight is not None:  # frozen, so it costs what it costs
                macs += COUNTERS[call.kind](call, call.computed_weight)
                acts += call.out_positions * call.out_channels
                continue
            macs += COUNTERS[call.kind](call, self.shape(call.weight, widths))
            axis = rows[call.weight]
            kept = widths.get((axis.tensor, axis.dim), len(axis.ids))
            acts += call.out_positions * (call.out_channels * kept // len(axis.ids))
        params = 0
        for tensor in self.parameters:
            elements = 1
            for size in self.shape(tensor, widths):
                elements *= size
            params += elements
        return {'macs': macs, 'params': params, 'acts': acts}

    def channel_acts(self, unit: CoupledChannels) -> int:
        """Return the activations that one set of the unit costs: its producers' output elements."""
        total = 0
        for member in unit.producers:
            axis = member.axis
            for call in self._calls(axis.tensor):
                total += call.out_positions * call.out_channels // len(axis.ids) * member.index.shape[1]
        return total

    def channel_macs(self, unit: CoupledChannels, widths: Widths) -> int:
        """Return the multiply-adds that one set costs in its producers and consumers, at the present widths."""
        total = 0
        for member in {id(m): m for m in [*unit.producers, *unit.consumers]}.values():
            axis = member.axis
            shape = self.shape(axis.tensor, widths)
            one = tuple(member.index.shape[1] if dim == axis.dim else size for dim, size in enumerate(shape))
            total += sum(COUNTERS[call.kind](call, one) for call in self._calls(axis.tensor))
        return total

    def _calls(self, weight: str) -> Tuple[LayerCall, ...]:
        if not hasattr(self, '_by_weight'):
            self._by_weight: Dict[str, Tuple[LayerCall, ...]] = {}
            for call in self.graph.calls:
                if call.training_only:
                    continue
                self._by_weight[call.weight] = (*self._by_weight.get(call.weight, ()), call)
        return self._by_weight.get(weight, ())
