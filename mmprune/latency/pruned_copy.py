"""A copy of a model that takes any widths, again and again, to be exported and timed."""
import copy
from typing import Dict, Mapping

import numpy as np
from torch import nn

from ..units.attention.product import QueryScale
from ..units.copies import float_copy
from ..units.mutator import ChannelMutator
from ..units.surgery import Surgery


def sets_of(structure: Mapping[str, int], mutator: ChannelMutator) -> Dict[str, int]:
    """Return unit name -> sets, of a structure in channels; a unit that it does not name is whole."""
    return {unit.name: structure.get(unit.name, unit.width) // unit.multiplicity for unit in mutator.units}


class PrunedCopy:
    """A float32 copy on the CPU of a model, cut to given widths; the model itself is not changed.

    What is cut and comes back has weights of zero: the copy has the shapes, and so the time, of pruned models, but not
    what they compute.

    Args:
        mutator (ChannelMutator): Prepared; of the model, which may be pruned already.

    Attributes:
        model (nn.Module): The copy, in eval mode, of the widths that :meth:`cut_to` was last given.
    """

    def __init__(self, mutator: ChannelMutator) -> None:
        self.model: nn.Module = float_copy(mutator.model).eval()
        self._units = {unit.name: copy.copy(unit) for unit in mutator.units}
        self._surgery = Surgery(self.model, list(self._units.values()))
        self._surgery.removed_tensors = set(mutator.surgery.removed_tensors)

    def cut_to(self, counts: Mapping[str, int]) -> nn.Module:
        """Give the copy its first ``counts[unit]`` sets of each unit, all of a unit that is not named; return it."""
        self._surgery.cut({name: np.arange(len(unit.kept)) < counts.get(name, len(unit.kept))
                           for name, unit in self._units.items()})
        for module in self.model.modules():
            if isinstance(module, QueryScale):  # with zeros it is masked, which takes an operator more
                module.weight.fill_(1)
        return self.model

    def dense(self) -> Dict[str, int]:
        """Return unit name -> its sets before pruning."""
        return {name: len(unit.kept) for name, unit in self._units.items()}
