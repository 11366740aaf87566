"""A copy of a cut model in its dense shape: the twin of a repair where the model was cut, and trained, before."""
import numpy as np
from torch import nn

from ..units.copies import own_copy
from ..units.mutator import ChannelMutator


def dense_copy(mutator: ChannelMutator) -> nn.Module:
    """Return a copy of a model in which the channels that are gone are zeros, so that it computes the same.

    Args:
        mutator (ChannelMutator): Of the model. Blocks that were removed are not in the copy either.
    """
    if all(unit.kept.all() for unit in mutator.all_units):
        return own_copy(mutator.model)
    both = own_copy(nn.ModuleList([mutator.model, mutator]))
    own: ChannelMutator = both[1]  # type: ignore[index]
    own.cut({unit.name: np.ones_like(unit.kept) for unit in own.units})
    return own.model
