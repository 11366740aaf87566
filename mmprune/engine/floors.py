"""Which units of a prune run are at their floor: each is named once, when it gets there."""
from typing import Any, List, Set

from ..group_fisher.algorithm import GroupFisherAlgorithm


def least_sets(unit: Any, align: int = 1) -> int:
    """Return how many sets stay of a unit at its floor, whole blocks or all that it has.

    Args:
        unit (ChannelUnit): The unit.
        align (int): Blocks that channels go in; see :class:`~mmprune.group_fisher.algorithm.GroupFisherAlgorithm`.
    """
    block = unit.sets_in(align)
    return min(unit.num_sets, -(-max(1, unit.min_sets) // block) * block)


def at_floor(unit: Any, align: int = 1) -> bool:
    """Tell whether nothing more may go of a unit; the arguments are those of :func:`least_sets`."""
    return unit.num_sets <= least_sets(unit, align)


class FloorWatch:
    """Remembers which units have been named.

    Args:
        algorithm (GroupFisherAlgorithm): Whose units are watched.
    """

    def __init__(self, algorithm: GroupFisherAlgorithm) -> None:
        self.algorithm = algorithm
        self.named: Set[str] = set()

    def at_floor(self) -> List[Any]:
        """Return all units that are at their floor."""
        return [unit for unit in self.algorithm.mutator.units if at_floor(unit, self.algorithm.block)]

    def news(self) -> str:
        """Return a line that names the units at their floor that no line before has named; empty if there are none."""
        new = [unit for unit in self.at_floor() if unit.name not in self.named]
        self.named.update(unit.name for unit in new)
        listing = ', '.join(f'{unit.name} ({unit.current_width} of {unit.width} channels)' for unit in new)
        return f'at their floor (min_channels), nothing more goes of them: {listing}' if new else ''

    def summary(self) -> str:
        """Return how many units are at their floor."""
        return f'{len(self.at_floor())} of {len(self.algorithm.mutator.units)} units are at their floor (min_channels)'
