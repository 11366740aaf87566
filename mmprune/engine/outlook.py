"""Whether a prune run can reach its target, told before its first iteration."""
import math
from typing import Dict

import numpy as np

from ..group_fisher.algorithm import GroupFisherAlgorithm
from ..pruning.search import share_of_cost
from ..pruning.target import TargetError
from ..units.mutator import ChannelMutator

STEPS = 20  # of the bisection, which stops at a millionth of the channels


def evenly_pruned(mutator: ChannelMutator, share: float) -> Dict[str, np.ndarray]:
    """Return unit name -> which sets stay where every unit loses the same share of those that it has above its floor.

    Args:
        mutator (ChannelMutator): Of the model.
        share (float): 0 to 1; at 1 every unit is at its floor.
    """
    masks = {}
    for unit in mutator.units:
        stay = unit.num_sets - round(share * max(0, unit.num_sets - unit.min_sets))
        masks[unit.name] = unit.kept & (np.cumsum(unit.kept) <= stay)
    return masks


def check_reach(mutator: ChannelMutator, resource: str, target: float) -> None:
    """Raise TargetError if the target cannot be reached, with every unit at its floor."""
    least = share_of_cost(mutator, evenly_pruned(mutator, 1.0), resource)
    if least > target:
        raise TargetError(
            f'the target of {target:g} cannot be reached: {least:.3f} of the dense {resource} stay when every unit is '
            f'at its floor ({len(mutator.frozen)} groups of channels are frozen; show_units.py lists them). Raise the '
            'target, lower min_channels, or let more channels be pruned (mutate_linear=True for those that a linear '
            'layer reads)')


def iterations_needed(algorithm: GroupFisherAlgorithm, resource: str, target: float) -> int:
    """Return about how many iterations a run takes to its target: as many channels go as if all units lost equally.

    Args:
        algorithm (GroupFisherAlgorithm): As it is now.
        resource (str): ``flops``, ``params`` or ``acts``.
        target (float): Share of the dense cost; :func:`check_reach` holds.
    """
    mutator, low, high = algorithm.mutator, 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if share_of_cost(mutator, evenly_pruned(mutator, middle), resource) > target:
            low = middle
        else:
            high = middle
    masks = evenly_pruned(mutator, high)
    going = sum(unit.num_sets - int(masks[unit.name].sum()) for unit in mutator.units)
    return math.ceil(going / algorithm.channels_per_event) * algorithm.interval
