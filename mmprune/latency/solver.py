"""Widths that keep the most of the scores within budgets: Lagrangian relaxation, then branch and bound on its gap.

At fixed prices of the costs the best widths are found exactly (:mod:`.elimination`). The prices at which the bound is
least, and the choices that are best there, come from a small linear program (:mod:`.mixture`). Prices reach the convex
hull only: what lies between is closed by exchanging levels (:mod:`.exchange`), by dropping levels that no better choice
can have, and by splitting the levels of a unit in which the best choices at the prices differ (Geoffrion, Lagrangean
relaxation for integer programming, 1974).
"""
import heapq
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..arguments import UserError
from .exchange import improved, within
from .least import least_cost
from .relaxation import Levels, Part, Relaxed, split_at
from .widths import WidthProblem

#: A choice this near to the bound, as a share of its score, is the best.
NEAR = 1e-9
#: Elements of tables after which no further part is looked at, and what each part costs besides.
WORK, PART_WORK = 200_000_000, 1_000_000
#: How often the terms for pairs that are left out are taken anew, near a better choice.
ROUNDS = 4


class InfeasibleError(UserError):
    """No choice is within the budgets.

    Attributes:
        number (int): Of the cost that is furthest from its budget.
        least (float): The least that it can be, or that was found.
        budget (float): What was allowed.
        proven (bool): Whether nothing less can be reached.
    """

    def __init__(self, number: int, least: float, budget: float, proven: bool = True) -> None:
        how = 'can be reached' if proven else 'was found'
        super().__init__(
            f'no widths are within the budgets: budget {number + 1} is {budget:.6g}, and the least that {how} '
            f'is {least:.6g}' + (', but not together with the others' if least <= budget else ''))
        self.number, self.least, self.budget, self.proven = number, least, budget, proven


class Solution(NamedTuple):
    """What :func:`solve` found.

    Attributes:
        choice (list[int]): Level of each unit.
        score (float): What it keeps of the scores.
        costs (list[float]): Of each budget.
        bound (float): No choice within the budgets keeps more.
        exact (bool): No choice keeps more than this one, but for a share of 1e-9.
    """

    choice: List[int]
    score: float
    costs: List[float]
    bound: float
    exact: bool


class _Node(NamedTuple):
    """A part of the problem that waits to be split; sorted by its bound, the largest first."""

    key: Tuple[float, int]
    part: Part
    relaxed: Relaxed
    levels: Levels  #: those of the part that a better choice may have


def solve(problem: WidthProblem) -> Solution:
    """Return the widths that keep the most of the scores within all budgets.

    Nothing is random and nothing is timed: the same problem gives the same widths on every machine. The search ends at
    the best choice or after a number of operations; the bound tells how much could be missing.

    Raises:
        InfeasibleError: No choice is within the budgets, or with several budgets none was found.
    """
    return _Search(problem).run()


class _Search:
    def __init__(self, problem: WidthProblem) -> None:
        self.problem = problem
        self.best: Optional[List[int]] = None
        self.highest = [int(np.argmax(kept)) for kept in problem.scores]
        self.seen: set = set()
        self.work, self.number = 0.0, 0
        self.waiting: List[_Node] = []

    @property
    def wanted(self) -> float:
        """The score above which a choice would be better."""
        if self.best is None:
            return -np.inf
        score = self.problem.score(self.best)
        return score + NEAR * abs(score)

    def run(self) -> Solution:
        self._begin()
        while self.waiting and self.work < WORK and -self.waiting[0].key[0] > self.wanted:
            node = heapq.heappop(self.waiting)
            for half in _halves(node):
                self._add(Part(self.problem, half, self._near, node.part), node)
        if self.best is None:
            raise self._infeasible()
        bound = max([self.wanted, *(-node.key[0] for node in self.waiting)])
        return Solution(self.best, self.problem.score(self.best),
                        [cost.total(self.best) for cost in self.problem.costs], bound, bound <= self.wanted)

    @property
    def _near(self) -> List[int]:
        return self.best or self.highest

    def _begin(self) -> None:
        self._offer(self.highest)
        self._add(Part(self.problem, [np.arange(len(kept)) for kept in self.problem.scores], self._near))
        for _ in range(ROUNDS):
            if not self.waiting or self.waiting[0].part.is_exact:
                break
            node = self.waiting.pop()
            self._add(Part(self.problem, node.levels, self._near, node.part), node)

    def _add(self, part: Part, parent: Optional[_Node] = None) -> None:
        """Relax a part; let it wait if it may have a better choice, without the levels that cannot be part of one."""
        relaxed = part.relaxed(parent.relaxed.choices if parent else [], self.wanted)
        for _, choice in relaxed.mixture:
            self._offer(choice)
        bound = min(relaxed.bound, -parent.key[0]) if parent else relaxed.bound
        levels = part.fixed(relaxed.prices, self.wanted) if bound > self.wanted else None
        self.work += part.work + PART_WORK
        if levels is not None:
            self.number += 1
            heapq.heappush(self.waiting, _Node((-bound, self.number), part, relaxed, levels))

    def _offer(self, choice: Sequence[int]) -> None:
        """Take a choice, brought within the budgets and improved, if it is better than the best."""
        found = within(self.problem, choice) if tuple(choice) not in self.seen else None
        self.seen.add(tuple(choice))
        if found is not None and tuple(found) not in self.seen:
            self.seen.add(tuple(found))
            found = improved(self.problem, found)
        if found is not None and (self.best is None or self.problem.score(found) > self.problem.score(self.best)):
            self.best = found

    def _infeasible(self) -> InfeasibleError:
        costs = self.problem.costs
        found = [least_cost(self.problem, number) for number in range(len(costs))]
        above = [(one.cost - cost.budget) / one.scale for one, cost in zip(found, costs)]
        number = int(np.argmax(above))
        return InfeasibleError(number, found[number].cost, costs[number].budget, found[number].proven)


def _halves(node: _Node) -> List[Levels]:
    """Split the levels of one unit in two; of none if the part is a single choice."""
    free = [unit for unit, own in enumerate(node.levels) if len(own) > 1]
    if not free:
        return []
    unit, middle = _split(node, free)
    return split_at(node.levels, unit, middle)


def _split(node: _Node, free: Sequence[int]) -> Tuple[int, float]:
    """Return the unit to be split, and the last level of its first half.

    It is the unit whose scores differ most between the choices of the mixture; where they are one choice, the unit of
    whose pairs that choice leaves out most; else that with most levels.
    """
    weights = np.array([weight for weight, _ in node.relaxed.mixture])
    choices = np.array([choice for _, choice in node.relaxed.mixture])
    if len(choices):
        apart = {}
        for unit in free:
            kept = node.part.problem.scores[unit][choices[:, unit]]
            apart[unit] = float(weights @ (kept - weights @ kept) ** 2)
        unit = max(free, key=lambda one: apart[one])
        if apart[unit] > 0:
            return unit, float(weights @ choices[:, unit])
        missed = node.part.missed(choices[0])
        unit = max(free, key=lambda one: missed.get(one, 0.0))
        if missed.get(unit, 0.0) > 0:
            return unit, float(choices[0, unit])
    unit = max(free, key=lambda one: len(node.levels[one]))
    return unit, float(node.levels[unit][(len(node.levels[unit]) - 1) // 2])
