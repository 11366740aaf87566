"""Widths that keep the most of the scores within budgets: Lagrangian relaxation, then branch and bound on its gap.

At a fixed price of every cost the best widths are found exactly (:mod:`.elimination`). The prices at which the bound is
least give two choices, one within the budgets and one above them, and the bound itself. What lies between is closed by
exchanging levels, and by splitting the levels of a unit in which both differ (Geoffrion 1974).
"""
import heapq
import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..arguments import UserError
from .elimination import Elimination, TooDenseError
from .exchange import improved
from .widths import WidthProblem

#: Steps of the search for the prices; changes of all prices in turn where there are several.
PRICES, TURNS = 40, 3
#: A choice this near to the bound is the end; parts of the problem, and elements of tables, that are looked at.
NEAR, PARTS, WORK = 1e-4, 150, 60_000_000
#: Levels of a unit where the graph is too dense for all of them.
FEW_LEVELS = 4

Subsets = List[np.ndarray]


class InfeasibleError(UserError):
    """No choice is within a budget."""


class Solution(NamedTuple):
    """What :func:`solve` found.

    Attributes:
        choice (list[int]): Level of each unit.
        score (float): What it keeps of the scores.
        costs (list[float]): Of each budget.
        bound (float): No choice within the budgets keeps more; infinite where the graph of units is too dense.
    """

    choice: List[int]
    score: float
    costs: List[float]
    bound: float


class _Relaxed(NamedTuple):
    """A part of the problem at its best prices."""

    bound: float
    within: Optional[List[int]]  #: the best choice that was met within the budgets
    above: Optional[List[int]]  #: one above them, near the same prices


def solve(problem: WidthProblem) -> Solution:
    """Return the widths that keep the most of the scores within all budgets; nothing is random.

    Raises:
        InfeasibleError: There are none; the message says the least cost that can be reached.
    """
    everything = [np.arange(len(kept)) for kept in problem.scores]
    part = _Part(problem, everything)
    try:
        elimination = part.elimination()
    except TooDenseError:
        return _coarse_to_fine(problem)
    root = part.relaxed(elimination)
    if root.within is None:
        raise InfeasibleError(part.least_cost(elimination))
    best = improved(problem, root.within)
    best = _split(problem, everything, root, best, min(PARTS, max(1, int(WORK / (PRICES * elimination.work)))))
    return _solution(problem, best, max(root.bound, problem.score(best)))


def _solution(problem: WidthProblem, choice: List[int], bound: float) -> Solution:
    return Solution(choice, problem.score(choice), [cost.total(choice) for cost in problem.costs], bound)


def _split(problem: WidthProblem, levels: Subsets, root: _Relaxed, best: List[int], limit: int) -> List[int]:
    """Return the best choice of a search that splits levels, the part with the highest bound first."""
    waiting = [(-root.bound, 0, levels, root)]
    number = 0
    while waiting and number < limit:
        bound, _, subsets, relaxed = heapq.heappop(waiting)
        if -bound <= problem.score(best) + NEAR * abs(problem.score(best)):
            break
        for half in _halves(subsets, relaxed):
            number += 1
            part = _Part(problem, half)
            found = part.relaxed(part.elimination())
            if found.within is not None:
                candidate = improved(problem, found.within)
                best = max(best, candidate, key=problem.score)
                heapq.heappush(waiting, (-found.bound, number, half, found))
            elif found.above is not None and found.bound > -math.inf:
                heapq.heappush(waiting, (-found.bound, number, half, found))
    return best


def _halves(subsets: Subsets, relaxed: _Relaxed) -> List[Subsets]:
    """Split the levels of the unit in which both choices differ most; where they do not, of that with most levels."""
    if relaxed.within is not None and relaxed.above is not None:
        apart = [abs(one - other) for one, other in zip(relaxed.within, relaxed.above)]
        unit = int(np.argmax(apart))
        middle = (relaxed.within[unit] + relaxed.above[unit]) / 2
    else:
        unit = int(np.argmax([len(levels) for levels in subsets]))
        middle = float(np.median(subsets[unit]))
        apart = [0]
    if not any(apart):
        unit = int(np.argmax([len(levels) for levels in subsets]))
        middle = float(np.mean(subsets[unit][len(subsets[unit]) // 2 - 1:len(subsets[unit]) // 2 + 1]))
    low, high = subsets[unit][subsets[unit] <= middle], subsets[unit][subsets[unit] > middle]
    return [[*subsets[:unit], half, *subsets[unit + 1:]] for half in (low, high) if 0 < len(half) < len(subsets[unit])]


class _Part:
    """The problem with some of the levels of each unit."""

    def __init__(self, problem: WidthProblem, levels: Subsets) -> None:
        self.problem, self.levels = problem, levels
        self.scores = [kept[own] for kept, own in zip(problem.scores, levels)]
        self.unary = [[terms[own] for terms, own in zip(cost.unary, levels)] for cost in problem.costs]
        self.pairs = [{(one, two): terms[np.ix_(levels[one], levels[two])] for (one, two), terms in cost.pairs.items()}
                      for cost in problem.costs]
        # costs of any size: prices are of a budget's share
        self.units = [max(abs(cost.budget - cost.constant), 1e-12) for cost in problem.costs]

    def elimination(self) -> Elimination:
        edges = sorted({edge for pairs in self.pairs for edge in pairs})
        return Elimination([len(own) for own in self.levels], edges)

    def best_at(self, prices: Sequence[float], elimination: Elimination,
                scored: bool = True) -> Tuple[List[int], float]:
        """Return the choice that is best at given prices, in levels of the whole problem, and the bound that it gives.

        Without scores it is the cheapest choice, and no bound.
        """
        unary = [kept.astype(float) * scored for kept in self.scores]
        pairs: Dict[Tuple[int, int], np.ndarray] = {}
        bound = 0.0
        for number, price in enumerate(prices):
            cost, factor = self.problem.costs[number], price / self.units[number]
            bound += factor * (cost.budget - cost.constant)
            if not factor:
                continue
            unary = [total - factor * terms for total, terms in zip(unary, self.unary[number])]
            for edge, terms in self.pairs[number].items():
                pairs[edge] = pairs.get(edge, 0.0) - factor * terms
        choice, value = elimination.best(unary, pairs)
        return [int(own[level]) for own, level in zip(self.levels, choice)], value + bound

    def least_cost(self, elimination: Elimination) -> str:
        """Return, for a message, the least that each cost can be, next to its budget."""
        found = []
        for number, cost in enumerate(self.problem.costs):
            prices = [float(other == number) for other in range(len(self.problem.costs))]
            choice, _ = self.best_at(prices, elimination, scored=False)
            found.append(f'{cost.total(choice):.6g} where {cost.budget:.6g} is asked')
        return f'no widths are within the budgets; the least cost is {", ".join(found)}'

    def relaxed(self, elimination: Elimination) -> _Relaxed:
        """Lower the bound over the prices, one after the other, and keep the choices that are met on the way."""
        self._within: Optional[List[int]] = None
        self._above: Optional[List[int]] = None
        self._bound = math.inf
        prices = [0.0] * len(self.problem.costs)
        if self._try(prices, elimination)[1] or not prices:
            return _Relaxed(self._bound, self._within, None)
        for _ in range(1 if len(prices) == 1 else TURNS):
            for number in range(len(prices)):
                prices[number] = self._price(prices, number, elimination)
        if self._within is None and len(prices) > 1:
            self._towards_all(elimination)
        return _Relaxed(self._bound if self._within is not None or len(prices) > 1 else -math.inf, self._within,
                        self._above)

    def _try(self, prices: Sequence[float], elimination: Elimination) -> Tuple[List[int], bool]:
        choice, bound = self.best_at(prices, elimination)
        self._bound = min(self._bound, bound)
        is_within = self.problem.is_within(choice)
        if is_within and (self._within is None or self.problem.score(choice) > self.problem.score(self._within)):
            self._within = choice
        elif not is_within:
            self._above = choice
        return choice, is_within

    def _price(self, prices: List[float], number: int, elimination: Elimination) -> float:
        """Return the price of one cost at which the bound is least, with the other prices as they are."""
        cost = self.problem.costs[number]

        def at(price: float) -> List[int]:
            return self._try([*prices[:number], price, *prices[number + 1:]], elimination)[0]

        def worth(choice: List[int]) -> float:
            """Of a choice at the other prices."""
            others = sum(price / unit * other.total(choice) for place, (price, unit, other)
                         in enumerate(zip(prices, self.units, self.problem.costs)) if place != number)
            return self.problem.score(choice) - others

        high_cost = at(0.0)
        if cost.total(high_cost) <= cost.budget:
            return 0.0
        prices_only = [float(place == number) for place in range(len(prices))]
        low_cost, _ = self.best_at(prices_only, elimination, scored=False)
        if cost.total(low_cost) > cost.budget:
            self._above = low_cost
            return 0.0
        if self.problem.is_within(low_cost) and self._within is None:
            self._within = low_cost
        price = 0.0
        for _ in range(PRICES):  # along the hull: to the choice that is best at the slope between both neighbours
            slope = (worth(high_cost) - worth(low_cost)) / (cost.total(high_cost) - cost.total(low_cost))
            price = max(slope, 0.0) * self.units[number]
            middle = at(price)
            spent = cost.total(middle)
            if spent in (cost.total(high_cost), cost.total(low_cost)):
                break
            if spent <= cost.budget:
                low_cost = middle
            else:
                high_cost = middle
        self._above = high_cost
        return price

    def _towards_all(self, elimination: Elimination) -> None:
        """Look for a choice within all budgets where no price of one alone has met any: the cheapest of mixtures."""
        count = len(self.units)
        weights = np.ones(count)
        for _ in range(PRICES):
            choice, _ = self.best_at(list(weights), elimination, scored=False)
            if self.problem.is_within(choice):
                self._within = choice
                return
            over = np.array([(cost.total(choice) - cost.budget) / unit
                             for cost, unit in zip(self.problem.costs, self.units)])
            weights = weights * np.exp(np.clip(4 * over, -2, 2))


def _coarse_to_fine(problem: WidthProblem) -> Solution:
    """Solve with few levels of each unit, then with those around the choice, ever nearer to it; there is no bound."""
    steps = [max(1, math.ceil((len(kept) - 1) / (FEW_LEVELS - 1))) for kept in problem.scores]
    levels = [np.unique([*range(0, len(kept), step), len(kept) - 1]) for kept, step in zip(problem.scores, steps)]
    best: Optional[List[int]] = None
    while True:
        part = _Part(problem, levels)
        elimination = part.elimination()
        found = part.relaxed(elimination).within
        if found is None and best is None:
            raise InfeasibleError(part.least_cost(elimination))
        candidates = [one for one in (best, found) if one is not None]
        best = improved(problem, max(candidates, key=problem.score))
        if max(steps) == 1:
            return _solution(problem, best, math.inf)
        steps = [max(1, step // 2) for step in steps]
        levels = [np.unique(np.clip([place - step, place, place + step], 0, len(kept) - 1))
                  for place, step, kept in zip(best, steps, problem.scores)]
