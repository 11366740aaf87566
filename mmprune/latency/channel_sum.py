"""How many channels a tensor has, as a sum over units: of a plain layer one unit, behind a concat several.

The rows of an attention are a product: heads times dimensions of a head.
"""
import itertools
import math
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit

#: Runtimes lay channels out in vectors of so many; the shapes in a profile may be rounded up to them.
VECTORS = (1, 4, 8, 16)


@dataclass(frozen=True)
class ChannelSum:
    """``constant`` plus what each unit has, plus what heads and their dimensions have together.

    Attributes:
        parts (tuple[tuple[str, int]]): Unit name and how many channels of the tensor go with one of its sets.
        constant (int): Channels that stay.
        products (tuple[tuple[int, tuple[str, ...]]]): A factor, and units whose sets are multiplied with it: of an
            attention the heads, the dimensions of a head, or both; one that is named twice counts by its square.
    """

    parts: Tuple[Tuple[str, int], ...]
    constant: int = 0
    products: Tuple[Tuple[int, Tuple[str, ...]], ...] = ()

    def of(self, counts: Mapping[str, int], block: int = 1) -> int:
        """Return the channels for ``counts``, unit name -> sets; those of each unit rounded up to a block.

        Those of attentions are not: no runtime keeps heads in blocks.
        """
        return (self.constant + sum(rounded_up(times * counts[unit], block) for unit, times in self.parts)
                + sum(times * math.prod(counts[unit] for unit in units) for times, units in self.products))

    @property
    def units(self) -> FrozenSet[str]:
        """Names of the units that it is a sum of."""
        return frozenset([*(unit for unit, _ in self.parts), *(unit for _, units in self.products for unit in units)])


def rounded_up(value: int, block: int) -> int:
    """Return the least multiple of a block that is not below a value."""
    return -(-value // block) * block


def axis_sums(mutator: ChannelMutator) -> Dict[Tuple[str, int], ChannelSum]:
    """Return (tensor, axis) -> its size, for every axis that a unit touches."""
    found: Dict[Tuple[str, int], ChannelSum] = {}
    for tensor, members in mutator.surgery.members.items():
        for dim in sorted({member.axis.dim for _, member in members}):
            own = [(unit, member) for unit, member in members if member.axis.dim == dim]
            shared = mutator.surgery.shared.get((tensor, dim), [])
            held: Dict[Tuple[ChannelUnit, ...], int] = {}
            for unit, member in own:
                held[unit, ] = held.get((unit, ), 0) + member.index.size
            constant = len(own[0][1].axis.ids) - sum(held.values()) + sum(both for _, _, both in shared)
            for heads, dims, both in shared:  # counted with the ones and with the others
                held[heads, ] -= both
                held[dims, ] -= both
                held[heads, dims] = held.get((heads, dims), 0) + both
            found[tensor, dim] = _sum_of(held, constant)
    return found


def _sum_of(held: Mapping[Tuple[ChannelUnit, ...], int], constant: int) -> ChannelSum:
    """Return the sum in which units, or heads and dimensions together, have so many channels in the dense network."""
    parts, products = [], []
    for units, channels in held.items():
        times = channels // math.prod(len(unit.kept) for unit in units)
        if times and units[0].channels.part:
            products.append((times, tuple(unit.name for unit in units)))
        elif times:
            parts.append((units[0].name, times))
    return ChannelSum(tuple(sorted(parts)), constant, tuple(sorted(products)))


def channel_sums(mutator: ChannelMutator) -> List[ChannelSum]:
    """Return the different sizes that axes of weights and of maps may have, those of fewest units first.

    A set of heads may be several heads (grouped queries), and one of dimensions two (rotary positions), as the
    attributes say that count them.
    """
    axes = axis_sums(mutator)
    units = [ChannelSum(((unit.name, unit.multiplicity), )) for unit in mutator.units if not unit.channels.part]
    rows = {product for one in axes.values() for product in one.products}
    times = {unit.name: {1, *(member.index.shape[1] for member in unit.channels.attributes)}
             for unit in mutator.units if unit.channels.part}
    maps = {(math.prod(factors), names) for names in [*((name, ) for name in times), *(names for _, names in rows)]
            for factors in itertools.product(*(times[name] for name in names))}
    found = dict.fromkeys([*axes.values(), *units, *(ChannelSum((), 0, (one, )) for one in sorted(rows | maps))])
    return sorted(found, key=lambda one: (len(one.units), one.constant))


def crossed(sums: Sequence[Optional[ChannelSum]]) -> Optional[ChannelSum]:
    """Return what is as large as the product of some sums, None unless each of several is one term."""
    if len(sums) < 2:
        return sums[0] if sums else ChannelSum(())
    times = 1
    units: Tuple[str, ...] = ()
    for one in sums:
        terms = [] if one is None else [*one.products, *((factor, (unit, )) for unit, factor in one.parts)]
        if one is None or one.constant or len(terms) != 1:
            return None
        times *= terms[0][0]
        units = (*units, *terms[0][1])
    return ChannelSum((), 0, ((times, units), ))


def find_sum(sizes: Sequence[int], structures: Sequence[Mapping[str, int]],
             sums: Sequence[ChannelSum]) -> Optional[ChannelSum]:
    """Return the sum that gives observed sizes in every structure, or None.

    Widths that were drawn at random make the sizes of a tensor a fingerprint: what fits all of them is what it holds.

    Args:
        sizes (list[int]): Size of a tensor's axis in each structure.
        structures (list[dict[str, int]]): Unit name -> sets, of the dense networks' units.
        sums (list[ChannelSum]): What it may be; the first that fits is returned.
    """
    observed = np.asarray(sizes)
    if (observed == observed[0]).all():
        return ChannelSum((), int(observed[0]))
    values = [(one, np.array([one.of(counts) for counts in structures])) for one in sums]
    for vector in VECTORS:
        for one, channels in values:
            if (-(-channels // vector) * vector == observed).all():
                return one
    return None
