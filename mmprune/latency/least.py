"""The least that one cost can be: what a budget has to allow at least."""
import heapq
from typing import List, NamedTuple, Tuple

import numpy as np

from .relaxation import Choice, Part, split_at
from .widths import WidthProblem

#: Parts that are looked at, at most; one is enough unless pairs are left out.
PARTS = 200
#: A cost this near to its lower bound, as a share of it or of how much it varies, is the least.
NEAR = 1e-9


class Least(NamedTuple):
    """What :func:`least_cost` found.

    Attributes:
        cost (float): The least cost that was found.
        scale (float): By how much the cost varies over the choices.
        proven (bool): No choice costs less.
    """

    cost: float
    scale: float
    proven: bool


def least_cost(problem: WidthProblem, number: int) -> Least:
    """Return the least that a cost can be over all choices, whatever they keep of the scores.

    Where elimination cannot take all pairs, the levels of the unit whose pairs are left out most are split until the
    lower bound of every part is reached, or the number of parts is (branch and bound).

    Args:
        problem (WidthProblem): The problem.
        number (int): Of the cost.
    """
    alone = WidthProblem(problem.names, problem.scores, [problem.costs[number]])
    whole = [np.arange(len(kept)) for kept in problem.scores]
    part, choice, bound = _cheapest(alone, Part(alone, whole, [0] * len(whole)))
    best, parts = choice, 1
    if not part.is_exact:  # terms that are tight near a cheap choice
        part, choice, bound = _cheapest(alone, Part(alone, whole, best, part))
        best, parts = min(best, choice, key=alone.costs[0].total), 2
    near = NEAR * max(part.scales[0], abs(bound), abs(alone.costs[0].budget))
    waiting: List[Tuple[float, int, Part, Choice]] = [(bound, parts, part, choice)]
    while waiting[0][0] < alone.costs[0].total(best) - near and parts < PARTS:
        _, _, part, choice = heapq.heappop(waiting)
        missed = part.missed(choice)
        unit = max(missed, key=lambda one: missed[one])
        for half in split_at(part.levels, unit, choice[unit]):
            below, cheap, bound = _cheapest(alone, Part(alone, half, best, part))
            best, parts = min(best, cheap, key=alone.costs[0].total), parts + 1
            heapq.heappush(waiting, (bound, parts, below, cheap))
    cost = alone.costs[0].total(best)
    return Least(cost, part.scales[0], waiting[0][0] >= cost - near)


def _cheapest(alone: WidthProblem, part: Part) -> Tuple[Part, Choice, float]:
    """Return a part, its cheapest choice as far as pairs are not left out, and a lower bound of the cost in it."""
    choice, worth = part.best_at(np.ones(1), scored=False)
    return part, choice, alone.costs[0].budget - worth * part.scales[0]
