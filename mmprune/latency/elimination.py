"""The best choice where scores are penalised by costs: exact elimination of one unit after another.

Units are nodes of a graph, costs of two units its edges. To eliminate a unit is to replace its terms by a table over
its neighbours: the best that it can add for each of their levels (bucket elimination, Dechter 1999).
"""
from typing import Collection, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

#: Elements of the largest table; beyond it the graph is too dense for this.
LARGEST_TABLE = 4_000_000


class TooDenseError(ValueError):
    """The graph of units would need a table that is too large."""


class _Step(NamedTuple):
    unit: int
    scope: Tuple[int, ...]  #: its neighbours when it is eliminated, in increasing order


class Elimination:
    """An order in which the units of a graph are eliminated, found once for all penalties.

    Args:
        sizes (list[int]): Levels of each unit.
        edges (iterable[tuple[int, int]]): Units that have a cost together.

    Raises:
        TooDenseError: Every order of the greedy search needs too large a table.
    """

    def __init__(self, sizes: Sequence[int], edges: Sequence[Tuple[int, int]]) -> None:
        self.sizes = list(sizes)
        neighbours: List[set] = [set() for _ in sizes]
        for first, second in edges:
            neighbours[first].add(second)
            neighbours[second].add(first)
        self._steps: List[_Step] = []
        left = set(range(len(sizes)))
        while left:
            unit = min(left, key=lambda one: (self._table(one, neighbours[one]), one))
            scope = tuple(sorted(neighbours[unit]))
            if self._table(unit, scope) > LARGEST_TABLE:
                raise TooDenseError(f'a table of {self._table(unit, scope):.2g} elements is needed')
            self._steps.append(_Step(unit, scope))
            for one in scope:
                neighbours[one] |= {*scope}
                neighbours[one] -= {one, unit}
            left.remove(unit)

    def _table(self, unit: int, scope: Collection[int]) -> float:
        return float(np.prod([float(self.sizes[one]) for one in (unit, *scope)]))

    @property
    def work(self) -> float:
        """Elements of all tables, to which the time of :meth:`best` is proportional."""
        return sum(self._table(step.unit, step.scope) for step in self._steps)

    def best(self, unary: Sequence[np.ndarray], pairs: Dict[Tuple[int, int], np.ndarray]) -> Tuple[List[int], float]:
        """Return the choice with the largest sum of terms, and that sum; of equal ones that of the lower levels."""
        tables: List[Tuple[Tuple[int, ...], np.ndarray]] = [((unit, ), terms) for unit, terms in enumerate(unary)]
        tables += pairs.items()
        choices: List[np.ndarray] = []
        constant = 0.0
        for unit, scope in self._steps:
            own = [table for table in tables if unit in table[0]]
            tables = [table for table in tables if unit not in table[0]]
            axes = (*scope, unit)
            total = np.zeros([self.sizes[one] for one in axes])
            for names, terms in own:
                total += _spread(terms, names, axes)
            choices.append(total.argmax(axis=-1))
            best = total.max(axis=-1)
            if scope:
                tables.append((scope, best))
            else:
                constant += float(best)
        choice = [0] * len(self.sizes)
        for (unit, scope), best_level in zip(reversed(self._steps), reversed(choices)):
            choice[unit] = int(best_level[tuple(choice[one] for one in scope)])
        return choice, constant


def _spread(terms: np.ndarray, names: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Return a table over some units as one that broadcasts over more of them, in their order."""
    order = sorted(range(len(names)), key=lambda one: axes.index(names[one]))
    shape = [1] * len(axes)
    for place in order:
        shape[axes.index(names[place])] = terms.shape[place]
    return terms.transpose(order).reshape(shape)
