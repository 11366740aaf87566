"""Whether a prune run can reach its target, told before its first iteration."""
import math
from typing import Dict, Sequence, Tuple

import numpy as np

from ..group_fisher.algorithm import GroupFisherAlgorithm
from ..latency.block import tell_smaller
from ..pruning.target import TargetError
from ..units.mutator import ChannelMutator
from .floors import least_sets
from .resource import Resource

STEPS = 20  # of the bisection, which stops at a millionth of the channels


def evenly_pruned(mutator: ChannelMutator, share: float, align: int = 1) -> Dict[str, np.ndarray]:
    """Return unit name -> which sets stay where every unit loses the same share of those that it has above its floor.

    Args:
        mutator (ChannelMutator): Of the model.
        share (float): 0 to 1; at 1 every unit is at its floor.
        align (int): Blocks that channels go in.
    """
    masks = {}
    for unit in mutator.units:
        stay = unit.num_sets - round(share * max(0, unit.num_sets - least_sets(unit, align)))
        masks[unit.name] = unit.kept & (np.cumsum(unit.kept) <= stay)
    return masks


def check_reach(resource: Resource, target: float, align: int = 1) -> None:
    """Raise TargetError if the target cannot be reached, with every unit at its floor."""
    mutator = resource.mutator
    least = resource.share(evenly_pruned(mutator, 1.0, align))
    if least > target:
        blocks, smaller = (f', in blocks of {align} channels', 'a smaller align, ') if align > 1 else ('', '')
        raise TargetError(
            f'the target of {target:g} cannot be reached: {least:.3f} of the dense {resource.name} stay when every '
            f'unit is at its floor{blocks} ({len(mutator.frozen)} groups of channels are frozen; show_units.py lists '
            f'them). Raise the target, take {smaller}a lower min_channels, or let more channels be pruned '
            '(mutate_linear=True for those that a linear layer reads)')


def largest_block(resource: Resource, target: float, blocks: Sequence[int]) -> int:
    """Return the first of some blocks in which the target can be reached, or the last; warn if it is a later one.

    Args:
        resource (Resource): What is to be reached.
        target (float): Share of the dense model's.
        blocks (sequence[int]): Largest first.
    """
    found = next((block for block in blocks
                  if resource.share(evenly_pruned(resource.mutator, 1.0, block)) <= target), blocks[-1])
    tell_smaller(blocks[0], found)
    return found


def cheapest_pruned(resource: Resource, target: float, align: int = 1) -> Dict[str, np.ndarray]:
    """Return unit name -> which sets stay where units sink to their floor one after another until the target is met.

    Those whose sets cost least go first, so that about as many channels go as a target can take.

    Args:
        resource (Resource): What is to be reached.
        target (float): Share of the dense model's; :func:`check_reach` holds.
        align (int): Blocks that channels go in, which says how low units sink.
    """
    mutator = resource.mutator
    floors, masks = evenly_pruned(mutator, 1.0, align), evenly_pruned(mutator, 0.0)
    whole = resource.share(masks)

    def saving(name: str) -> float:
        """Of one set."""
        going = int((masks[name] & ~floors[name]).sum())
        return (whole - resource.share({**masks, name: floors[name]})) / max(1, going)

    savings = {name: saving(name) for name in masks}
    for name in sorted(savings, key=lambda name: savings[name]):
        before, masks[name] = masks[name], floors[name]
        if resource.share(masks) <= target:
            going = np.flatnonzero(before & ~floors[name])[::-1]
            few, many = 0, len(going)
            while many - few > 1:
                middle = (few + many) // 2
                masks[name] = _without(before, going[:middle])
                few, many = (few, middle) if resource.share(masks) <= target else (middle, many)
            masks[name] = _without(before, going[:many])
            break
    return masks


def _without(mask: np.ndarray, sets: np.ndarray) -> np.ndarray:
    changed = mask.copy()
    changed[sets] = False
    return changed


def iterations_needed(algorithm: GroupFisherAlgorithm, resource: Resource, target: float) -> Tuple[int, int]:
    """Return about how many iterations a run takes to its target.

    Args:
        algorithm (GroupFisherAlgorithm): As it is now.
        resource (Resource): What is to be reached.
        target (float): Share of the dense model's; :func:`check_reach` holds.

    Returns:
        tuple[int, int]: If all units lose equally, and if the cheapest channels go first.
    """
    mutator, align, low, high = algorithm.mutator, algorithm.block, 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if resource.share(evenly_pruned(mutator, middle, align)) > target:
            low = middle
        else:
            high = middle

    def iterations(masks: Dict[str, np.ndarray]) -> int:
        going = sum(unit.num_sets - int(masks[unit.name].sum()) for unit in mutator.units)
        return math.ceil(going / max(algorithm.channels_per_event, align)) * algorithm.interval

    even = iterations(evenly_pruned(mutator, high, align))
    return even, max(even, iterations(cheapest_pruned(resource, target, align)))
