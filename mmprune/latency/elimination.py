"""The best choice of levels for a sum of terms: exact elimination of one unit after another.

Units are nodes of a graph, pairs of units that have a term together its edges. To eliminate a unit is to replace its
terms by a table over its neighbours: the most that it can add for each of their levels (Dechter, Bucket elimination,
1999). Time and memory are those of the largest tables, so the order matters.
"""
import math
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

#: Elements of the largest table.
LARGEST_TABLE = 4_000_000
#: What a step costs besides its table, in elements.
STEP_WORK = 10_000

Edge = Tuple[int, int]
Graph = List[Set[int]]


class TooDenseError(ValueError):
    """The graph of units needs too large a table."""


class _Step(NamedTuple):
    unit: int
    scope: Tuple[int, ...]  #: its neighbours when it is eliminated, in the order in which they follow


class Elimination:
    """An order in which the units of a graph are eliminated.

    Args:
        sizes (list[int]): Levels of each unit.
        edges (list[tuple[int, int]]): Units that have a term together.
        largest (int): Elements that a table may have.

    Raises:
        TooDenseError: Both greedy orders, of the smallest table and of the fewest new edges, need larger tables.
    """

    def __init__(self, sizes: Sequence[int], edges: Sequence[Edge], largest: Optional[int] = None) -> None:
        found = [_ordered(sizes, edges, rule, largest or LARGEST_TABLE) for rule in (_table_size, _new_edges)]
        orders = [order for order in found if order is not None]
        if not orders:
            raise TooDenseError('every order of elimination needs too large a table')
        self._set(sizes, min(orders, key=lambda order: _work(sizes, order)))

    def _set(self, sizes: Sequence[int], steps: Sequence[_Step]) -> None:
        self.sizes, self._steps = list(sizes), list(steps)
        self._place = {step.unit: place for place, step in enumerate(self._steps)}

    def resized(self, sizes: Sequence[int]) -> 'Elimination':
        """Return the same order for units with fewer levels."""
        other: Elimination = object.__new__(Elimination)
        other._set(sizes, self._steps)
        return other

    @property
    def work(self) -> float:
        """Elements of all tables, to which the time of :meth:`best` is proportional."""
        return _work(self.sizes, self._steps)

    def best(self, unary: Sequence[np.ndarray], pairs: Mapping[Edge, np.ndarray]) -> Tuple[List[int], float]:
        """Return the choice with the largest sum of terms, of equal ones that of lower levels, and that sum.

        Args:
            unary (list[ndarray[levels]]): Terms of each unit.
            pairs (dict[tuple[int, int], ndarray[levels, levels]]): Terms of two units.
        """
        terms, total = self._terms(unary, pairs), 0.0
        for place, step in enumerate(self._steps):
            most = self._table(step, terms[place]).max(axis=0)
            total += self._pass_on(step, most, terms)
        choice = [0] * len(self.sizes)
        for step, own in zip(reversed(self._steps), reversed(terms)):
            at_level = sum(table[(slice(None), *(choice[one] for one in scope))] for scope, table in own)
            choice[step.unit] = int(np.argmax(at_level))
        return choice, total

    def marginals(self, unary: Sequence[np.ndarray], pairs: Mapping[Edge, np.ndarray]) -> List[np.ndarray]:
        """Return the largest sum of terms for every level of every unit, ``ndarray[levels]`` each; see :meth:`best`."""
        terms, total = self._terms(unary, pairs), 0.0
        tables, passed = [], []
        for place, step in enumerate(self._steps):
            tables.append(self._table(step, terms[place]))
            passed.append(tables[-1].max(axis=0))
            total += self._pass_on(step, passed[-1], terms)
        found: List[np.ndarray] = [np.zeros(0)] * len(self.sizes)
        for place in reversed(range(len(self._steps))):  # with the best of all that is not below it
            unit, scope = self._steps[place]
            if scope:
                follower = self._steps[self._place[scope[0]]]
                axes = (follower.unit, *follower.scope)
                dropped = tuple(axis for axis, one in enumerate(axes) if one not in scope)
                rest = tables[self._place[scope[0]]].max(axis=dropped) - passed[place]
            else:
                rest = total - passed[place]
            tables[place] += rest
            found[unit] = tables[place].max(axis=tuple(range(1, 1 + len(scope))))
        return found

    def _terms(self, unary: Sequence[np.ndarray],
               pairs: Mapping[Edge, np.ndarray]) -> List[List[Tuple[Tuple[int, ...], np.ndarray]]]:
        """Return the terms that each step adds up: the other units of a term, and its table with the own unit first."""
        terms: List[List[Tuple[Tuple[int, ...], np.ndarray]]] = [[((), unary[step.unit])] for step in self._steps]
        for (first, second), table in pairs.items():
            if self._place[first] < self._place[second]:
                terms[self._place[first]].append(((second, ), table))
            else:
                terms[self._place[second]].append(((first, ), table.T))
        return terms

    def _table(self, step: _Step, terms: Sequence[Tuple[Tuple[int, ...], np.ndarray]]) -> np.ndarray:
        table = np.zeros([self.sizes[one] for one in (step.unit, *step.scope)])
        for scope, term in terms:
            shape = [self.sizes[step.unit], *(self.sizes[one] if one in scope else 1 for one in step.scope)]
            table += term.reshape(shape)
        return table

    def _pass_on(self, step: _Step, most: np.ndarray,
                 terms: List[List[Tuple[Tuple[int, ...], np.ndarray]]]) -> float:
        """Give the table over its neighbours to the next of them; return what is left where there is none."""
        if not step.scope:
            return float(most)
        terms[self._place[step.scope[0]]].append((step.scope[1:], most))
        return 0.0


def _work(sizes: Sequence[int], steps: Sequence[_Step]) -> float:
    return sum(math.prod(sizes[one] for one in (step.unit, *step.scope)) + STEP_WORK for step in steps)


def _table_size(unit: int, graph: Graph, sizes: Sequence[int]) -> float:
    return float(math.prod(sizes[one] for one in graph[unit]) * sizes[unit])


def _new_edges(unit: int, graph: Graph, sizes: Sequence[int]) -> Tuple[int, float]:
    missing = sum(len(graph[unit]) - 1 - len(graph[one] & graph[unit]) for one in graph[unit])
    return missing, _table_size(unit, graph, sizes)


def _ordered(sizes: Sequence[int], edges: Sequence[Edge], rule: Callable, largest: int) -> Optional[List[_Step]]:
    """Return the steps of a greedy order; None where a table is larger than ``largest``."""
    graph: Graph = [set() for _ in sizes]
    for first, second in edges:
        graph[first].add(second)
        graph[second].add(first)
    worth: Dict[int, object] = {unit: rule(unit, graph, sizes) for unit in range(len(sizes))}
    order: List[Tuple[int, Set[int]]] = []
    while worth:
        unit = min(worth, key=lambda one: (worth[one], one))
        scope = graph[unit]
        if scope and _table_size(unit, graph, sizes) > largest:
            return None
        order.append((unit, scope))
        del worth[unit]
        for one in scope:
            graph[one] |= scope
            graph[one] -= {one, unit}
        near = scope.union(*(graph[one] for one in scope)) if rule is _new_edges else scope
        worth.update({one: rule(one, graph, sizes) for one in near})
    place = {unit: number for number, (unit, _) in enumerate(order)}
    return [_Step(unit, tuple(sorted(scope, key=place.__getitem__))) for unit, scope in order]
