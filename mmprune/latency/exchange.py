"""Better choices next to one: another level of one unit or of two at once; and a choice brought within the budgets."""
from typing import List, Optional, Sequence, Set, Union

import numpy as np

from .widths import WidthProblem

#: Levels up and down that are tried of two units at once; fewer where there are many units.
REACH, MOST_MOVES = 4, 600
#: Exchanges at most.
ROUNDS = 200
#: Shares of a sum that rounding may add to it.
ROUNDING = 1e-12


class Exchange:
    """A choice, and what every change of one or two of its levels would gain and cost.

    Args:
        problem (WidthProblem): The problem.
        choice (list[int]): Where it begins.

    Attributes:
        choice (list[int]): Where it is.
    """

    def __init__(self, problem: WidthProblem, choice: Sequence[int]) -> None:
        self.problem, self.choice = problem, list(choice)
        self._sizes = np.array([len(kept) for kept in problem.scores], dtype=int)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._unit: np.ndarray = np.repeat(np.arange(len(self._sizes)), self._sizes)
        self._scores = np.concatenate([np.zeros(0), *problem.scores])
        self._least = ROUNDING * (1 + np.abs(self._scores).max(initial=0.0))  # what a change gains, if anything
        self._scales = [max(abs(cost.total(choice)), abs(cost.budget)) for cost in problem.costs]
        self._near: List[Set[int]] = [set() for _ in self._sizes]
        for first, second in problem.edges:
            self._near[first].add(second)
            self._near[second].add(first)
        self._costs = [np.concatenate([np.zeros(0), *cost.unary]).astype(float) for cost in problem.costs]
        for number, cost in enumerate(problem.costs):
            for (first, second), terms in cost.pairs.items():
                self._of(number, first)[:] += terms[:, self.choice[second]]
                self._of(number, second)[:] += terms[self.choice[first]]
        self._totals = self._summed()

    def _summed(self) -> List[float]:
        return [cost.total(self.choice) for cost in self.problem.costs]

    @property
    def is_within(self) -> bool:
        """Whether the choice is within all budgets."""
        return all(total <= cost.budget for total, cost in zip(self._totals, self.problem.costs))

    def _of(self, number: int, unit: int) -> np.ndarray:
        return self._costs[number][self._starts[unit]:self._starts[unit + 1]]

    def _terms(self, number: int, first: int, second: int) -> Optional[np.ndarray]:
        """Return the cost of two units, the first along the rows."""
        if first < second:
            return self.problem.costs[number].pairs.get((first, second))
        terms = self.problem.costs[number].pairs.get((second, first))
        return None if terms is None else terms.T

    def move(self, unit: int, level: int) -> None:
        """Give a unit another level."""
        before, self.choice[unit] = self.choice[unit], level
        for number in range(len(self._costs)):
            for other in self._near[unit]:
                terms = self._terms(number, unit, other)
                if terms is not None:
                    self._of(number, other)[:] += terms[level] - terms[before]

    def _take(self, moves: Union[Sequence[int], np.ndarray]) -> None:
        """Change levels, each given by its number among all."""
        for place in moves:
            self.move(int(self._unit[place]), int(place - self._starts[self._unit[place]]))
        self._totals = self._summed()

    def changes(self, number: int) -> np.ndarray:
        """Return by how much a cost changes with each level of each unit, ``ndarray[levels of all units]``."""
        return self._changes(self._costs[number])

    def by_unit(self, values: np.ndarray) -> List[np.ndarray]:
        """Return numbers of the levels of all units as one array a unit."""
        return list(np.split(values, self._starts[1:-1]))

    def _changes(self, values: np.ndarray) -> np.ndarray:
        change: np.ndarray = values - values[self._starts[:-1] + self.choice][self._unit]
        return change

    def step_within(self) -> bool:
        """Take the change that brings the costs nearest to their budgets for what it loses; tell if there is one."""
        scales = [scale or 1.0 for scale in self._scales]
        above = [(total - cost.budget) / scale
                 for total, cost, scale in zip(self._totals, self.problem.costs, scales)]
        before = sum(max(one, 0.0) for one in above)
        after = sum(np.maximum(one + self.changes(number) / scale, 0.0)
                    for number, (one, scale) in enumerate(zip(above, scales)))
        lost = np.maximum(-self._changes(self._scores), 0.0) + self._least
        nearer = before - after
        worth = np.where(nearer > ROUNDING * before, nearer / lost, 0.0)
        if not worth.any():
            return False
        self._take(worth.argmax(keepdims=True))
        return True

    def step_up(self) -> bool:
        """Take the best change of one level within the budgets, or else of two; tell if there is one."""
        slack = [cost.budget - total + ROUNDING * scale  # what rounding may add: the last word has the sum itself
                 for cost, total, scale in zip(self.problem.costs, self._totals, self._scales)]
        gains = self._changes(self._scores)
        return self._best_of_one(gains, slack) or self._best_of_two(gains, slack)

    def _best_of_one(self, gains: np.ndarray, slack: Sequence[float]) -> bool:
        gains = gains.copy()
        for number, left in enumerate(slack):
            gains[self.changes(number) > left] = -np.inf
        return self._take_best(gains, np.arange(len(gains)))

    def _best_of_two(self, gains: np.ndarray, slack: Sequence[float]) -> bool:
        moves = self._window()
        units = self._unit[moves]
        total = gains[moves][:, None] + gains[moves]
        total[units[:, None] >= units] = -np.inf
        for number, left in enumerate(slack):
            changes = self.changes(number)[moves]
            total[changes[:, None] + changes + self._together(number, moves) > left] = -np.inf
        return self._take_best(total, moves)

    def _window(self) -> np.ndarray:
        """Return which levels of which units are tried: those next to the present ones, but not these."""
        reach = max(1, min(REACH, MOST_MOVES // max(1, 2 * len(self._sizes))))
        present = self._starts[:-1] + self.choice
        away = np.abs(np.arange(len(self._unit)) - present[self._unit])
        return np.flatnonzero((away > 0) & (away <= reach))

    def _together(self, number: int, moves: np.ndarray) -> np.ndarray:
        """Return what the changes of two units cost more together than one by one, above the diagonal."""
        more = np.zeros((len(moves), len(moves)))
        ends = [int(np.searchsorted(self._unit[moves], unit)) for unit in range(len(self._sizes) + 1)]
        levels = moves - self._starts[self._unit[moves]]
        for (first, second), terms in self.problem.costs[number].pairs.items():
            rows, columns = slice(*ends[first:first + 2]), slice(*ends[second:second + 2])
            row, column = self.choice[first], self.choice[second]
            one, other = levels[rows], levels[columns]
            more[rows, columns] = terms[one[:, None], other] - terms[one, column, None] - terms[row, other]
            more[rows, columns] += terms[row, column]
        return more

    def _take_best(self, gains: np.ndarray, moves: np.ndarray) -> bool:
        """Take the moves with the largest gain, if they gain anything and are truly within the budgets."""
        while gains.size:
            places = np.unravel_index(int(gains.argmax()), gains.shape)
            if gains[places] <= self._least:
                return False
            taken = moves[list(places)]
            before = [self._starts[unit] + self.choice[unit] for unit in self._unit[taken]]
            self._take(taken)
            if self.is_within:
                return True
            self._take(before)
            gains[places] = -np.inf  # only rounding let it in
        return False


def within(problem: WidthProblem, choice: Sequence[int]) -> Optional[List[int]]:
    """Return a choice within the budgets that loses little of the score of another; None where no step leads there."""
    exchange = Exchange(problem, choice)
    while not exchange.is_within:
        if not exchange.step_within():
            return None
    return exchange.choice


def improved(problem: WidthProblem, choice: Sequence[int]) -> List[int]:
    """Return a choice within the budgets that no exchange of one or two levels betters; ``choice`` must be within."""
    exchange = Exchange(problem, choice)
    for _ in range(ROUNDS):
        if not exchange.step_up():
            break
    return exchange.choice
