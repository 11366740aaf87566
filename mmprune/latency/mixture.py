"""The mixture of choices that keeps the most within all budgets on average, and the prices that it sets.

A linear program with few rows and many columns: Dantzig and Wolfe's decomposition (1960), whose dual is the Lagrangian
relaxation of the budgets. Columns are added as they are found; the simplex method goes on from its last basis.
"""
from typing import List, Sequence, Tuple

import numpy as np

#: Below it a number is zero.
ZERO = 1e-11
#: Pivots at most; prices of any basis give a valid bound.
PIVOTS = 200


class Mixture:
    """Maximises ``sum(weight * score)`` where ``sum(weight * excess) <= 0`` and the weights add up to 1.

    While no mixture is within, the sum of what it is above is minimised instead.

    Args:
        budgets (int): Numbers in the excess of a choice.

    Attributes:
        choices (list[tuple[int, ...]]): The columns.
    """

    def __init__(self, budgets: int) -> None:
        rows = np.eye(budgets, budgets + 1)
        self.budgets, self.choices = budgets, []  # type: Tuple[int, List[Tuple[int, ...]]]
        # what is left of a budget, what is above it, then the choices
        self._columns: List[np.ndarray] = [*rows, *-rows]
        self._scores: List[float] = [0.0] * (2 * budgets)
        self._basis: List[int] = []

    def add(self, choice: Sequence[int], score: float, excess: np.ndarray) -> bool:
        """Add a choice with its score and ``ndarray[budgets]`` of what it is above each budget; tell if it is new."""
        if tuple(choice) in self.choices:
            return False
        if not self._basis:
            self._basis = [number if excess[number] <= 0 else self.budgets + number
                           for number in range(self.budgets)] + [2 * self.budgets]
        self.choices.append(tuple(choice))
        self._columns.append(np.append(excess, 1.0))
        self._scores.append(score)
        return True

    def solve(self) -> Tuple[np.ndarray, float, bool]:
        """Return the prices, ``ndarray[budgets]`` and not negative, the largest sum, and whether it is within.

        Where no mixture is within, prices and sum are those of the excess alone.
        """
        columns = np.array(self._columns).T
        is_within = False
        for _ in range(PIVOTS):
            basis = columns[:, self._basis]
            weights = np.linalg.solve(basis, np.append(np.zeros(self.budgets), 1.0))
            is_within = is_within or not any(weights[self._above()] > ZERO)
            scores = np.array(self._scores) if is_within else -self._is_above(np.arange(columns.shape[1]))
            prices = np.linalg.solve(basis.T, scores[self._basis])
            reduced = scores - prices @ columns
            reduced[self.budgets:2 * self.budgets] = -np.inf  # never again above
            enters = int(reduced.argmax())
            if reduced[enters] <= ZERO * (1 + np.abs(scores).max()):
                break
            self._pivot(np.linalg.solve(basis, columns[:, enters]), weights, enters, is_within)
        self._weights = weights
        return np.maximum(prices[:-1], 0.0), float(prices[-1]), is_within

    @property
    def parts(self) -> List[Tuple[float, Tuple[int, ...]]]:
        """Choices of the last mixture with their weights, none of which is zero."""
        return [(float(weight), self.choices[column - 2 * self.budgets])
                for column, weight in zip(self._basis, self._weights) if column >= 2 * self.budgets and weight > ZERO]

    def _is_above(self, columns: np.ndarray) -> np.ndarray:
        return 1.0 * ((columns >= self.budgets) & (columns < 2 * self.budgets))

    def _above(self) -> np.ndarray:
        return self._is_above(np.array(self._basis)) > 0

    def _pivot(self, direction: np.ndarray, weights: np.ndarray, enters: int, is_within: bool) -> None:
        ratios = np.full(len(weights), np.inf)
        falls = direction > ZERO
        ratios[falls] = np.maximum(weights[falls], 0.0) / direction[falls]
        if is_within:  # what is above is zero and has to stay so
            ratios[self._above() & (np.abs(direction) > ZERO)] = 0.0
        least = np.flatnonzero(ratios <= ratios.min() + ZERO)
        above = self._above()
        self._basis[max(least, key=lambda row: (above[row], abs(direction[row])))] = enters
