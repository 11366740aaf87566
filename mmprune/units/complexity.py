"""The cost of a structure in multiply-adds, parameters and activations, by arithmetic on traced shapes.

FLOPs are multiply-adds of conv and linear layers, counted for every call; a parameter counts once.
"""
import math
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Tuple

from torch import nn

from ..graph.channels import ChannelGraph, CoupledChannels, Member
from ..graph.factors import HEADS
from ..graph.trace import LayerCall

#: (call, shape of the weight) -> multiply-adds of the call
Counter = Callable[[LayerCall, Tuple[int, ...]], int]
#: kind of a layer, as its rule records it -> counter
COUNTERS: Dict[str, Counter] = {}

Widths = Mapping[Tuple[str, int], int]
#: What users call a cost -> its key in :meth:`Complexity.cost`.
COSTS = {'flops': 'macs', 'params': 'params', 'acts': 'acts'}
#: The key of the multiply-adds of products of activations.
PRODUCTS = 'products'
#: What a score may be divided by: what one channel costs in activations or multiply-adds, or nothing.
NORMALIZATION_TYPES = ('act', 'flops', 'none')
#: What is measured instead of counted; scores of a run may also be divided by it.
LATENCY = 'latency'
RUN_NORMALIZATIONS = (*NORMALIZATION_TYPES, LATENCY)


def register_counter(kind: str) -> Callable[[Counter], Counter]:
    """Register how the multiply-adds of a kind of layer are counted."""

    def add(counter: Counter) -> Counter:
        COUNTERS[kind] = counter
        return counter

    return add


@register_counter('conv')
@register_counter('linear')
def dense_macs(call: LayerCall, weight: Tuple[int, ...]) -> int:
    """Count every weight element once a position, in grouped, depthwise and transposed convolutions too."""
    return call.positions * math.prod(weight)


def amount(cost: Mapping[str, int], name: str) -> int:
    """Return ``flops``, ``params`` or ``acts`` of a cost; the products of attention are part of the FLOPs."""
    return cost[COSTS[name]] + (cost.get(PRODUCTS, 0) if name == 'flops' else 0)


@dataclass
class Complexity:
    """Costs of the structures of a traced model."""

    graph: ChannelGraph  #: the traced model
    shapes: Dict[str, Tuple[int, ...]]  #: dense shape of every parameter and buffer, each once
    parameters: List[str]  #: names of the parameters among them

    @classmethod
    def of(cls, model: nn.Module, graph: ChannelGraph) -> 'Complexity':
        """Return the costs of a model from its dense shapes and its trace."""
        parameters = dict(model.named_parameters())
        tensors = {**dict(model.named_buffers()), **parameters}
        return cls(graph, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, list(parameters))

    def shape(self, tensor: str, widths: Widths) -> Tuple[int, ...]:
        """Return a tensor's shape under the given widths of channel axes."""
        return tuple(widths.get((tensor, dim), size) for dim, size in enumerate(self.shapes[tensor]))

    def cost(self, widths: Widths) -> Dict[str, int]:
        """Return ``{'macs', 'params', 'acts'}`` of a structure; ``acts`` are output elements of conv and linear.

        A model with attention that can be pruned has ``products`` too: the multiply-adds of its products of
        activations, which ``macs`` leaves out, as published counts of conv and linear layers do.
        """
        macs = acts = 0
        rows = {axis.tensor: axis for axis in self.graph.axes if axis.role in ('out', 'depthwise')}
        for call in [call for call in self.graph.calls if not call.training_only]:
            if call.computed_weight is not None:  # frozen, so its cost never changes
                macs += COUNTERS[call.kind](call, call.computed_weight)
                acts += call.out_positions * call.out_channels
                continue
            axis, shape = rows[call.weight], self._shape_of(call, widths)
            whole = len(axis.ids) if call.rows is None else call.rows[1] - call.rows[0]
            left, of = self._repetitions(call, widths)
            macs += COUNTERS[call.kind](call, shape) * left // of
            acts += call.out_positions * (call.out_channels * shape[axis.dim] // whole) * left // of
        params = sum(math.prod(self.shape(tensor, widths)) for tensor in self.parameters)
        found = {'macs': macs, 'params': params, 'acts': acts}
        return {**found, PRODUCTS: self.products(widths)} if self.graph.products else found

    def macs_by_layer(self, widths: Widths) -> Dict[str, int]:
        """Return layer -> its multiply-adds in a structure, those of all its calls; computed weights under ``''``."""
        found: Dict[str, int] = {}
        for call in [call for call in self.graph.calls if not call.training_only]:
            left, of = self._repetitions(call, widths)
            shape = call.computed_weight or self._shape_of(call, widths)
            found[call.layer] = found.get(call.layer, 0) + COUNTERS[call.kind](call, shape) * left // of
        return found

    def _shape_of(self, call: LayerCall, widths: Widths) -> Tuple[int, ...]:
        """Return the shape of what a call uses of its weight."""
        shape = self.shape(call.weight, widths)
        if call.rows is None:
            return shape
        if call.as_many is not None:
            return (self.shape(call.as_many[0], widths)[call.as_many[1]], *shape[1:])
        return (shape[0] * (call.rows[1] - call.rows[0]) // self.shapes[call.weight][0], *shape[1:])

    def _repetitions(self, call: LayerCall, widths: Widths) -> Tuple[int, int]:
        """Return for how many channels a layer that mixes positions runs, and of how many."""
        if call.repeated is None:
            return 1, 1
        tensor, dim = call.repeated
        return self.shape(tensor, widths)[dim], self.shapes[tensor][dim]

    def products(self, widths: Widths) -> int:
        """Return the multiply-adds of the products of activations, those of queries and keys, of weights and values."""
        return sum(product.positions * (len(product.channels) if product.axis is None else
                                        self.shape(product.axis[0], widths)[product.axis[1]])
                   for product in self.graph.products if not product.training_only)

    def channel_acts(self, unit: CoupledChannels) -> int:
        """Return the activations of a single set of a unit: its producers' output elements."""
        return sum(call.out_positions * call.out_channels // len(member.axis.ids) * member.index.shape[1]
                   for member in unit.producers for call in self._calls(member.axis.tensor))

    def channel_macs(self, unit: CoupledChannels, widths: Widths) -> int:
        """Return the multiply-adds of a single set in its producers, consumers and products, at the given widths."""
        total = 0
        held = {product.axis: product.positions for product in self.graph.products if not product.training_only}
        for member in {id(m): m for m in [*unit.producers, *unit.consumers]}.values():
            axis, each = member.axis, self._present(unit, member, widths)
            for call in self._calls(axis.tensor):
                used = each if call.rows is None or axis.dim else self._rows_of_set(call, unit, member, each, widths)
                sizes = enumerate(self._shape_of(call, widths))
                total += COUNTERS[call.kind](call, tuple(used if dim == axis.dim else size for dim, size in sizes))
        for tensor, dim in {(member.axis.tensor, member.axis.dim) for member in unit.members} & {*held}:
            member = next(one for one in unit.members if (one.axis.tensor, one.axis.dim) == (tensor, dim))
            total += held[tensor, dim] * self._present(unit, member, widths)
        return total

    def _present(self, unit: CoupledChannels, member: Member, widths: Widths) -> int:
        """Return the present indices of a single set: heads and dimensions that share rows have fewer after a cut."""
        if not unit.part:
            return int(member.index.shape[1])
        name = f'{unit.attributes[0].axis.layer}.heads'
        if unit.part != HEADS:
            heads = next(axis for axis in self.graph.axes if axis.tensor == name)
            return int(member.index.shape[1] * widths.get((name, 0), len(heads.ids)) // len(heads.ids))
        left = widths.get((name, 0), unit.num_sets)
        size = self.shape(member.axis.tensor, widths)[member.axis.dim]
        inside = len(member.axis.ids) == member.index.size
        return int(size // max(1, left)) if inside else int(member.index.shape[1])

    def _rows_of_set(self, call: LayerCall, unit: CoupledChannels, member: Member, each: int, widths: Widths) -> int:
        """Return how many of the present rows of a single set a call uses that does not use all rows."""
        assert call.rows is not None
        inside = (member.index[0] >= call.rows[0]) & (member.index[0] < call.rows[1])
        if unit.part == HEADS and inside.any():
            left = widths.get((f'{unit.attributes[0].axis.layer}.heads', 0), unit.num_sets)
            return self._shape_of(call, widths)[0] // max(1, left)
        return int(each * inside.sum() // len(inside))

    def _calls(self, weight: str) -> Tuple[LayerCall, ...]:
        if not hasattr(self, '_by_weight'):
            self._by_weight: Dict[str, Tuple[LayerCall, ...]] = {}
            for call in [call for call in self.graph.calls if not call.training_only]:
                self._by_weight[call.weight] = (*self._by_weight.get(call.weight, ()), call)
        return self._by_weight.get(weight, ())
