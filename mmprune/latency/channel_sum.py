"""How many channels a tensor has, as a sum over units: of a plain layer one unit, behind a concat several."""
from dataclasses import dataclass
from fractions import Fraction
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..graph.factors import HEADS
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit

#: Runtimes lay channels out in vectors of so many; the shapes in a profile may be rounded up to them.
VECTORS = (1, 4, 8, 16)


@dataclass(frozen=True)
class ChannelSum:
    """``constant + sum of channels_per_set * sets`` over units.

    Attributes:
        parts (tuple[tuple[str, int]]): Unit name and how many channels of the tensor go with one of its sets.
        constant (int): Channels that stay.
    """

    parts: Tuple[Tuple[str, int], ...]
    constant: int = 0

    def of(self, counts: Mapping[str, int], block: int = 1) -> int:
        """Return the channels for ``counts``, unit name -> sets; those of each unit rounded up to a block."""
        return self.constant + sum(rounded_up(times * counts[unit], block) for unit, times in self.parts)


def rounded_up(value: int, block: int) -> int:
    """Return the least multiple of a block that is not below a value."""
    return -(-value // block) * block


def axis_sums(mutator: ChannelMutator) -> Dict[Tuple[str, int], ChannelSum]:
    """Return (tensor, axis) -> its size, for every axis that a unit touches, with the heads as they are at present."""
    found: Dict[Tuple[str, int], ChannelSum] = {}
    for tensor, members in mutator.surgery.members.items():
        for dim in sorted({member.axis.dim for _, member in members}):
            parts: Dict[str, int] = {}
            own = [(unit, member) for unit, member in members if member.axis.dim == dim]
            constant, crossed = len(own[0][1].axis.ids), (tensor, dim) in mutator.surgery.shared
            for unit, member in own:
                if crossed and unit.channels.part == HEADS:
                    continue
                share = _present_heads(mutator, (tensor, dim), unit)
                parts[unit.name] = parts.get(unit.name, 0) + int(member.index.shape[1] * share)
                constant -= member.index.size
            found[tensor, dim] = ChannelSum(tuple(sorted(parts.items())), constant)
    return found


def _present_heads(mutator: ChannelMutator, axis: Tuple[str, int], unit: ChannelUnit) -> Fraction:
    """Return the share of heads that are present on an axis that they share with a unit of their dimensions, else 1."""
    heads = next((heads for heads, dims, _ in mutator.surgery.shared.get(axis, ()) if dims is unit), None)
    return Fraction(1) if heads is None else Fraction(heads.num_sets, len(heads.kept))


def channel_sums(mutator: ChannelMutator) -> List[ChannelSum]:
    """Return the different sizes of all axes that units touch, those of fewest units first."""
    units = [ChannelSum(((unit.name, unit.multiplicity), )) for unit in mutator.units]
    found = dict.fromkeys([*axis_sums(mutator).values(), *units])
    return sorted(found, key=lambda one: (len(one.parts), one.constant))


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
