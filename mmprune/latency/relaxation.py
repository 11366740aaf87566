"""A part of a problem with prices in place of budgets: an upper bound on what it keeps, and choices near its best.

A part has some of the levels of each unit. Where the graph of its units is too dense for elimination, the weaker pairs
are left out: terms of one unit each that are never above the pair's stand for them, so that the bound stays valid.
"""
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .elimination import Edge, Elimination, TooDenseError
from .mixture import Mixture
from .widths import WidthProblem

#: Choices that are looked for at most, to lower a bound.
STEPS = 60
#: Share of a bound that rounding may take from it.
ROUNDING = 1e-10

Choice = Tuple[int, ...]
Levels = List[np.ndarray]


class Relaxed(NamedTuple):
    """What the best prices of a part say.

    Attributes:
        bound (float): No choice of the part within the budgets keeps more; minus infinity if there is none.
        prices (ndarray[budgets]): Of the bound.
        mixture (list[tuple[float, tuple[int, ...]]]): Choices that are best at these prices, with their weights.
        choices (list[tuple[int, ...]]): All that were met.
    """

    bound: float
    prices: np.ndarray
    mixture: List[Tuple[float, Choice]]
    choices: List[Choice]


class Part:
    """Some of the levels of each unit of a problem.

    Args:
        problem (WidthProblem): The whole problem.
        levels (list[ndarray[levels]]): Levels of each unit, increasing.
        near (list[int]): A choice near which the terms are tight that stand for pairs that are left out.
        parent (Part, optional): A part with at least these levels.

    Attributes:
        near_places (list[int]): The choice near which they are, among the levels.
        left_out (list[tuple[int, int]]): Pairs that elimination cannot take.
        work (float): Elements that were computed.
    """

    def __init__(self, problem: WidthProblem, levels: Levels, near: Sequence[int],
                 parent: Optional['Part'] = None) -> None:
        self.problem, self.levels, self.work = problem, levels, 0.0
        self.scales: List[float] = parent.scales if parent else [_scale(terms.unary + [*terms.pairs.values()])
                                                    for terms in problem.costs]
        self._scores = [kept[own].astype(float) for kept, own in zip(problem.scores, levels)]
        self._constants = np.array([(cost.constant - cost.budget) / scale
                                    for cost, scale in zip(problem.costs, self.scales)])
        self._unary = [[terms[own] / scale for terms, own in zip(cost.unary, levels)]
                       for cost, scale in zip(problem.costs, self.scales)]
        self._pairs: List[Dict[Edge, np.ndarray]] = [
            {(one, two): terms[levels[one][:, None], levels[two]] / scale for (one, two), terms in cost.pairs.items()}
            for cost, scale in zip(problem.costs, self.scales)]
        self.near_places = [int(np.abs(own - place).argmin()) for own, place in zip(levels, near)]
        self.left_out: List[Edge] = []
        if parent and not parent.left_out:
            self._elimination: Elimination = parent._elimination.resized([len(own) for own in levels])
        else:
            self._elimination = self._plan()
            self._leave_out()

    @property
    def is_exact(self) -> bool:
        """Whether no pair is left out."""
        return not self.left_out

    def _plan(self) -> Elimination:
        """Return an order for all pairs, or for as many of the strong ones as it can take."""
        sizes, edges = [len(own) for own in self.levels], self.problem.edges
        try:
            return Elimination(sizes, edges)
        except TooDenseError:
            edges = self._by_strength(edges)
        enough, most = 0, len(edges)
        found = Elimination(sizes, [])
        while enough + 1 < most:
            middle = (enough + most) // 2
            try:
                found, enough = Elimination(sizes, edges[:middle]), middle
            except TooDenseError:
                most = middle
        self.left_out = edges[enough:]
        return found

    def _by_strength(self, edges: Sequence[Edge]) -> List[Edge]:
        """Return the edges of a spanning tree of the strongest, then the others, the strongest first."""
        strength = {edge: sum(float(np.abs(_interaction(pairs[edge], *self._at(edge))).max())
                              for pairs in self._pairs if edge in pairs) for edge in edges}
        ordered = sorted(edges, key=lambda edge: (-strength[edge], edge))
        group = list(range(len(self.levels)))
        tree = []
        for first, second in ordered:
            if group[first] != group[second]:
                tree.append((first, second))
                group = [group[first] if one == group[second] else one for one in group]
        return tree + [edge for edge in ordered if edge not in {*tree}]

    def _at(self, edge: Edge) -> Tuple[int, int]:
        return self.near_places[edge[0]], self.near_places[edge[1]]

    def _leave_out(self) -> None:
        """Let terms of one unit each stand for the pairs that are left out."""
        for unary, pairs in zip(self._unary, self._pairs):
            for edge in self.left_out:
                terms = pairs.pop(edge, None)
                if terms is not None:
                    for unit, below in zip(edge, _below(terms, *self._at(edge))):
                        unary[unit] = unary[unit] + below

    def missed(self, choice: Sequence[int]) -> Dict[int, float]:
        """Return unit -> what its pairs cost more, for a choice, than the terms that stand for them, in budgets."""
        places = self._placed(choice)
        found: Dict[int, float] = {}
        for edge in self.left_out:
            for cost, scale in zip(self.problem.costs, self.scales):
                if edge in cost.pairs:
                    terms = cost.pairs[edge][self.levels[edge[0]][:, None], self.levels[edge[1]]] / scale
                    one, other = _below(terms, *self._at(edge))
                    row, column = places[edge[0]], places[edge[1]]
                    more = float(terms[row, column] - one[row] - other[column])
                    for unit in edge:
                        found[unit] = found.get(unit, 0.0) + more
        return found

    def _placed(self, choice: Sequence[int]) -> List[int]:
        return [int(np.searchsorted(own, level)) for own, level in zip(self.levels, choice)]

    def has(self, choice: Sequence[int]) -> bool:
        """Tell whether a choice has levels of this part only."""
        return all(place < len(own) and own[place] == level
                   for own, place, level in zip(self.levels, self._placed(choice), choice))

    def _excess(self, choice: Sequence[int]) -> np.ndarray:
        """Return by how much a choice is above each budget, as far as pairs are not left out."""
        places = self._placed(choice)
        return self._constants + np.array([
            sum(terms[place] for terms, place in zip(unary, places))
            + sum(terms[places[one], places[two]] for (one, two), terms in pairs.items())
            for unary, pairs in zip(self._unary, self._pairs)])

    def _priced(self, prices: np.ndarray, scored: bool) -> Tuple[List[np.ndarray], Dict[Edge, np.ndarray], float]:
        unary = [kept * scored for kept in self._scores]
        pairs: Dict[Edge, np.ndarray] = {}
        for price, own, both in zip(prices, self._unary, self._pairs):
            if price > 0:
                unary = [total - price * terms for total, terms in zip(unary, own)]
                for edge, terms in both.items():
                    pairs[edge] = pairs[edge] - price * terms if edge in pairs else -price * terms
        return unary, pairs, -float(prices @ self._constants)

    def best_at(self, prices: np.ndarray, scored: bool = True) -> Tuple[Choice, float]:
        """Return the choice with the largest score less what it is above the budgets at given prices, and that number.

        Args:
            prices (ndarray[budgets]): None is negative.
            scored (bool): Without scores it is the cheapest choice.
        """
        unary, pairs, constant = self._priced(prices, scored)
        self.work += self._elimination.work
        places, total = self._elimination.best(unary, pairs)
        return tuple(int(own[place]) for own, place in zip(self.levels, places)), total + constant

    def fixed(self, prices: np.ndarray, least: float) -> Optional[Levels]:
        """Return the levels with which a choice within the budgets may keep more than ``least``; None for no such."""
        unary, pairs, constant = self._priced(prices, True)
        self.work += 3 * self._elimination.work
        levels = [own[most + constant > least]
                  for own, most in zip(self.levels, self._elimination.marginals(unary, pairs))]
        return levels if all(map(len, levels)) else None

    def relaxed(self, choices: Sequence[Choice] = (), enough: float = -np.inf) -> Relaxed:
        """Lower the bound over all prices.

        Args:
            choices (list[tuple[int, ...]]): Some that are known, to begin with.
            enough (float): A bound that is low enough to stop.
        """
        mixture = Mixture(len(self.scales))
        bound, best_prices, is_within = np.inf, np.zeros(len(self.scales)), False
        for choice in [*filter(self.has, choices)] or [self.best_at(best_prices)[0]]:
            mixture.add(choice, self.problem.score(choice), self._excess(choice))
        for _ in range(STEPS):
            prices, value, is_within = mixture.solve()
            choice, worth = self.best_at(prices, is_within)
            near = ROUNDING * (1 + abs(worth))
            if not is_within and worth < value + near and value < -near:
                return Relaxed(-np.inf, prices, [], mixture.choices)
            if is_within and worth < bound:
                bound, best_prices = worth, prices
            if is_within and (worth <= value + near or bound <= enough):
                break
            if not mixture.add(choice, self.problem.score(choice), self._excess(choice)):
                break
        return Relaxed(bound + ROUNDING * abs(bound), best_prices, mixture.parts, mixture.choices)


def split_at(levels: Levels, unit: int, middle: float) -> List[Levels]:
    """Return the levels with those of a unit up to ``middle``, and with those above it; neither is without any."""
    own = levels[unit]
    cut = int(np.clip(np.searchsorted(own, middle, side='right'), 1, len(own) - 1))
    return [[*levels[:unit], half, *levels[unit + 1:]] for half in (own[:cut], own[cut:])]


def _scale(terms: Sequence[np.ndarray]) -> float:
    """Return by how much a cost varies, for prices that do not depend on its unit."""
    return float(sum(np.ptp(values) for values in terms)) or 1.0


def _interaction(terms: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return what a pair costs besides a term of each unit, ``ndarray[levels, levels]``; none at a row and a column."""
    both: np.ndarray = terms - terms[:, column, None] - terms[row] + terms[row, column]
    return both


def _below(terms: np.ndarray, row: int, column: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return a term of each unit whose sum is never above the pair's, and near to it around a row and a column."""
    one = terms[:, column]
    other = (terms - one[:, None]).min(axis=0)
    second = terms[row]
    first = (terms - second).min(axis=1)
    return (one + first) / 2, (other + second) / 2
