"""Whether a prune run can reach its target, told before its first iteration."""
import math
from typing import Dict, Tuple

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


def cheapest_pruned(mutator: ChannelMutator, resource: str, target: float) -> Dict[str, np.ndarray]:
    """Return unit name -> which sets stay where units sink to their floor one after another until the target is met.

    Those whose sets cost least go first, so that about as many channels go as a target can take.

    Args:
        mutator (ChannelMutator): Of the model.
        resource (str): ``flops``, ``params`` or ``acts``.
        target (float): Share of the dense cost; :func:`check_reach` holds.
    """
    floors, masks = evenly_pruned(mutator, 1.0), evenly_pruned(mutator, 0.0)
    whole = share_of_cost(mutator, masks, resource)

    def saving(name: str) -> float:
        """Of one set."""
        going = int((masks[name] & ~floors[name]).sum())
        return (whole - share_of_cost(mutator, {**masks, name: floors[name]}, resource)) / max(1, going)

    savings = {name: saving(name) for name in masks}
    for name in sorted(savings, key=lambda name: savings[name]):
        before, masks[name] = masks[name], floors[name]
        if share_of_cost(mutator, masks, resource) <= target:
            going = np.flatnonzero(before & ~floors[name])[::-1]
            few, many = 0, len(going)
            while many - few > 1:
                middle = (few + many) // 2
                masks[name] = _without(before, going[:middle])
                few, many = (few, middle) if share_of_cost(mutator, masks, resource) <= target else (middle, many)
            masks[name] = _without(before, going[:many])
            break
    return masks


def _without(mask: np.ndarray, sets: np.ndarray) -> np.ndarray:
    changed = mask.copy()
    changed[sets] = False
    return changed


def iterations_needed(algorithm: GroupFisherAlgorithm, resource: str, target: float) -> Tuple[int, int]:
    """Return about how many iterations a run takes to its target.

    Args:
        algorithm (GroupFisherAlgorithm): As it is now.
        resource (str): ``flops``, ``params`` or ``acts``.
        target (float): Share of the dense cost; :func:`check_reach` holds.

    Returns:
        tuple[int, int]: If all units lose equally, and if the cheapest channels go first.
    """
    mutator, low, high = algorithm.mutator, 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if share_of_cost(mutator, evenly_pruned(mutator, middle), resource) > target:
            low = middle
        else:
            high = middle

    def iterations(masks: Dict[str, np.ndarray]) -> int:
        going = sum(unit.num_sets - int(masks[unit.name].sum()) for unit in mutator.units)
        return math.ceil(going / algorithm.channels_per_event) * algorithm.interval

    even = iterations(evenly_pruned(mutator, high))
    return even, max(even, iterations(cheapest_pruned(mutator, resource, target)))
