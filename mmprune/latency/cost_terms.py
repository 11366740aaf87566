"""Costs of a structure as terms of one unit and of pairs of units, as the solver takes them."""
import math
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..units.complexity import COUNTERS
from ..units.mutator import ChannelMutator
from .channel_sum import ChannelSum, axis_sums, rounded_up
from .widths import Cost


class CostTerms:
    """Adds up products of channel sums over the levels of units.

    What heads and dimensions have together is a term of one of them only while the other keeps its width: choose them
    in turns. Of several chosen units of a product the first counts at its levels, the others as they are present.

    Args:
        names (list[str]): Units whose width is chosen.
        levels (list[list[int]]): How many sets each of them may have.
        present (dict[str, int]): Unit name -> sets, of units whose width is not chosen too.
        block (int): Channels of a unit count in multiples of it.
    """

    def __init__(self, names: Sequence[str], levels: Sequence[Sequence[int]], present: Mapping[str, int],
                 block: int = 1) -> None:
        self._place = {name: number for number, name in enumerate(names)}
        self._levels, self._present, self._block = levels, present, block
        self.constant = 0.0
        self.unary = [np.zeros(len(choices)) for choices in levels]
        self.pairs: Dict[Tuple[int, int], np.ndarray] = {}

    def add(self, coefficients: Sequence[float], reads: ChannelSum, writes: ChannelSum) -> None:
        """Add ``a + b reads + c writes + d reads writes``, where ``coefficients`` are ``a, b, c, d``."""
        base, per_read, per_write, per_both = coefficients
        fixed_reads, read_units = self._split(reads)
        fixed_writes, write_units = self._split(writes)
        self.constant += (base + per_read * fixed_reads + per_write * fixed_writes
                          + per_both * fixed_reads * fixed_writes)
        for unit, channels in read_units.items():
            self.unary[unit] += (per_read + per_both * fixed_writes) * channels
        for unit, channels in write_units.items():
            self.unary[unit] += (per_write + per_both * fixed_reads) * channels
        if per_both:
            for one, read in read_units.items():
                for other, written in write_units.items():
                    self._add_product(one, other, per_both, read, written)

    def _add_product(self, one: int, other: int, factor: float, read: np.ndarray, written: np.ndarray) -> None:
        if one == other:
            self.unary[one] += factor * read * written
            return
        if one > other:
            one, other, read, written = other, one, written, read
        self.pairs[one, other] = self.pairs.get((one, other), 0.0) + factor * np.outer(read, written)

    def _split(self, side: ChannelSum) -> Tuple[float, Dict[int, np.ndarray]]:
        """Return what stays whatever is chosen, and unit -> its channels at each level."""
        fixed, free = float(side.constant), {}
        for unit, times in side.parts:
            place = self._place.get(unit)
            if place is None:
                fixed += rounded_up(times * self._present[unit], self._block)
            else:
                free[place] = np.array([rounded_up(times * sets, self._block) for sets in self._levels[place]], float)
        for times, units in side.products:
            chosen = next((unit for unit in units if unit in self._place), None)
            present = float(times * math.prod(self._present[unit] for unit in units if unit != chosen))
            if chosen is None:
                fixed += present
            else:
                place = self._place[chosen]
                free[place] = (free.get(place, 0.0)
                               + present * np.array(self._levels[place], float) ** units.count(chosen))
        return fixed, free

    def cost(self, budget: float) -> Cost:
        """Return the sum, to be at most a budget."""
        return Cost(self.constant, self.unary, self.pairs, budget)


def complexity_terms(mutator: ChannelMutator, resource: str, names: Sequence[str], levels: Sequence[Sequence[int]],
                     present: Optional[Mapping[str, int]] = None) -> CostTerms:
    """Return ``macs``, ``params`` or ``acts`` of a model as terms; see :meth:`Complexity.cost`.

    Layers that mix positions, and run once a channel, count at their dense number of channels. Units that are not
    chosen have as many sets as ``present`` says, or as now.
    """
    terms = CostTerms(names, levels, {**{unit.name: unit.num_sets for unit in mutator.units}, **(present or {})})
    complexity, sizes = mutator.complexity, axis_sums(mutator)

    def add(factor: float, tensor: str, dims: Sequence[int]) -> None:
        first, second = (sizes.get((tensor, dim), ChannelSum((), complexity.shapes[tensor][dim])) for dim in dims)
        terms.add((0.0, 0.0, 0.0, factor), second, first)

    if resource == 'params':
        for tensor in complexity.parameters:
            shape = complexity.shapes[tensor]
            dims = sorted({dim for name, dim in sizes if name == tensor})[:2]
            rest = [size for dim, size in enumerate(shape) if dim not in dims]
            sides = [sizes[tensor, dim] for dim in dims] + [ChannelSum((), 1)] * (2 - len(dims))
            terms.add((0.0, 0.0, 0.0, float(np.prod(rest))), sides[0], sides[1])
        return terms
    rows = {axis.tensor: axis for axis in mutator.complexity.graph.axes if axis.role in ('out', 'depthwise')}
    for call in [call for call in complexity.graph.calls if not call.training_only]:
        if call.computed_weight is not None:
            terms.constant += (COUNTERS[call.kind](call, call.computed_weight) if resource == 'macs'
                               else call.out_positions * call.out_channels)
        elif resource == 'macs':
            shape = complexity.shapes[call.weight]
            add(COUNTERS[call.kind](call, (1, 1, *shape[2:])), call.weight, (0, 1))
        else:
            axis = rows[call.weight]
            each = call.out_positions * call.out_channels / len(axis.ids)
            side = sizes.get((axis.tensor, axis.dim), ChannelSum((), len(axis.ids)))
            terms.add((0.0, 0.0, each, 0.0), ChannelSum(()), side)
    for product in complexity.graph.products if resource == 'macs' else ():
        whole = ChannelSum((), len(product.channels))
        side = whole if product.axis is None else sizes.get(product.axis, whole)
        terms.add((0.0, 0.0, float(product.positions), 0.0), ChannelSum(()), side)
    return terms
