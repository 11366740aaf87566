"""The choice of widths as a problem: what each unit keeps of its scores at each width, and what that costs."""
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np


def levels_of(sets: int, floor: int, block: int) -> List[int]:
    """Return the widths that a unit may have, in sets, increasing.

    They are the multiples of the block from the floor on, and the present width even where it is none: a unit that
    loses nothing keeps its width, as in :func:`~mmprune.units.selection.least_important`.

    Args:
        sets (int): Present width.
        floor (int): Sets that stay at least; a unit below its floor keeps its width.
        block (int): Sets that are removed together.
    """
    return [*range(-(-floor // block) * block, sets, block), sets]


@dataclass
class Cost:
    """A cost as a sum over units and pairs of units, and how much of it is allowed.

    Attributes:
        constant (float): What no choice changes.
        unary (list[ndarray[levels]]): What each unit costs at each of its levels.
        pairs (dict[tuple[int, int], ndarray[levels, levels]]): What two units cost together; the first has the lower
            number.
        budget (float): The cost may not be above it.
    """

    constant: float
    unary: List[np.ndarray]
    pairs: Dict[Tuple[int, int], np.ndarray]
    budget: float

    def total(self, choice: Sequence[int]) -> float:
        """Return the cost of a choice, the number of a level for each unit."""
        return float(self.constant + sum(terms[level] for terms, level in zip(self.unary, choice))
                     + sum(terms[choice[first], choice[second]] for (first, second), terms in self.pairs.items()))


@dataclass
class WidthProblem:
    """Choose a level for every unit, so that the sum of kept scores is the largest and every cost within its budget.

    Attributes:
        names (list[str]): The units.
        scores (list[ndarray[levels]]): What each unit keeps of its scores at each level.
        costs (list[Cost]): One for each budget.
    """

    names: List[str]
    scores: List[np.ndarray]
    costs: List[Cost]

    @property
    def edges(self) -> List[Tuple[int, int]]:
        """Pairs of units that cost something together."""
        return sorted({edge for cost in self.costs for edge in cost.pairs})

    def score(self, choice: Sequence[int]) -> float:
        """Return what a choice keeps of the scores."""
        return float(sum(kept[level] for kept, level in zip(self.scores, choice)))

    def is_within(self, choice: Sequence[int]) -> bool:
        """Tell whether a choice is within all budgets."""
        return all(cost.total(choice) <= cost.budget for cost in self.costs)
