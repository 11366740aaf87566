"""Better choices next to one: other levels of one unit, or of two at once, within the budgets."""
from typing import List, Sequence

import numpy as np

from .widths import Cost, WidthProblem

#: Levels up and down that are tried of two units at once.
REACH = 3
#: Rounds over all units and pairs.
ROUNDS = 20
#: Units up to which pairs are exchanged.
MOST_UNITS = 150


def improved(problem: WidthProblem, choice: Sequence[int]) -> List[int]:
    """Return a choice within the budgets that no exchange of one or two units betters; ``choice`` must be within."""
    best = list(choice)
    for _ in range(ROUNDS):
        before = problem.score(best)
        best = _by_one(problem, best)
        if len(best) <= MOST_UNITS:
            best = _by_two(problem, best)
        if problem.score(best) <= before + 1e-12 * abs(before):
            break
    return best


def changes(cost: Cost, choice: Sequence[int], unit: int) -> np.ndarray:
    """Return by how much the cost changes when a unit takes each of its levels, ``ndarray[levels]``."""
    total: np.ndarray = cost.unary[unit].astype(float).copy()
    for (first, second), terms in cost.pairs.items():
        if first == unit:
            total += terms[:, choice[second]]
        elif second == unit:
            total += terms[choice[first]]
    return total - total[choice[unit]]


def _slack(cost: Cost, choice: Sequence[int]) -> float:
    """Return how much more a choice may cost, less what rounding may add."""
    total = cost.total(choice)
    return cost.budget - total - 1e-12 * max(abs(total), abs(cost.budget))


def _by_one(problem: WidthProblem, choice: List[int]) -> List[int]:
    best = list(choice)
    for unit, kept in enumerate(problem.scores):
        allowed: np.ndarray = np.ones(len(kept), dtype=bool)
        for cost in problem.costs:
            allowed &= changes(cost, best, unit) <= _slack(cost, best)
        allowed[best[unit]] = True
        best[unit] = int(np.where(allowed, kept, -np.inf).argmax())
    return best


def _by_two(problem: WidthProblem, choice: List[int]) -> List[int]:
    """Take the best exchange of two units, if one is better."""
    around = [np.arange(max(0, place - REACH), min(len(kept), place + REACH + 1))
              for place, kept in zip(choice, problem.scores)]
    gains = [kept[own] - kept[place] for kept, own, place in zip(problem.scores, around, choice)]
    spent = [[changes(cost, choice, unit)[own] for unit, own in enumerate(around)] for cost in problem.costs]
    slack = [_slack(cost, choice) for cost in problem.costs]
    best, found = 0.0, None
    for first in range(len(choice)):
        for second in range(first + 1, len(choice)):
            gain = gains[first][:, None] + gains[second][None]
            if gain.max() <= best:
                continue
            allowed = np.ones(gain.shape, dtype=bool)
            for cost, own, left in zip(problem.costs, spent, slack):
                change = own[first][:, None] + own[second][None]
                terms = cost.pairs.get((first, second))
                if terms is not None:  # counted for each with the other as it was
                    one, two = around[first], around[second]
                    change = change + (terms[np.ix_(one, two)] - terms[one, choice[second]][:, None]
                                       - terms[choice[first], two][None] + terms[choice[first], choice[second]])
                allowed &= change <= left
            gain = np.where(allowed, gain, -np.inf)
            if gain.max() > best:
                place = np.unravel_index(int(gain.argmax()), gain.shape)
                best, found = float(gain.max()), (first, second, place)
    if found is None:
        return choice
    first, second, place = found
    better = list(choice)
    better[first], better[second] = int(around[first][place[0]]), int(around[second][place[1]])
    return better
