"""Which units of a prune run are at their floor: each is named once, when it gets there."""
from typing import Any, List, Set

from ..group_fisher.algorithm import GroupFisherAlgorithm


def at_floor(unit: Any, align: int = 1) -> bool:
    """Tell whether nothing more may go of a unit.

    Args:
        unit (ChannelUnit): The unit.
        align (int): Blocks that channels go in; see :class:`~mmprune.group_fisher.algorithm.GroupFisherAlgorithm`.
    """
    block = unit.sets_in(align)
    following = unit.num_sets % block or block
    return bool(following > unit.num_sets - unit.min_sets)


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
