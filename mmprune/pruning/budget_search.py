"""Widths that keep the most of the scores within budgets; those of heads and of their dimensions in turns.

What an attention takes grows with heads times dimensions of a head times the stream, which is no sum of terms of
pairs of units. With the heads as they are it is one, and so with the dimensions: each turn solves one of the two, from
several shares of the heads on, until neither keeps more.
"""
import math
from typing import Collection, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ..graph.factors import HEADS
from ..latency.solver import InfeasibleError, solve
from ..latency.widths import WidthProblem, levels_of
from ..units.mutator import ChannelMutator
from ..units.selection import Pool, least_important
from ..units.unit import ChannelUnit
from .budgets import Budgets

#: How often widths are chosen anew where costs of pairs of units do not add up to the cost of a structure.
SOLVES = 4
#: Shares of all heads that the turns begin with, and how many turns follow at most.
HEAD_SHARES, TURNS = (1.0, 0.75, 0.5, 0.0), 6
#: Share of the scores that a turn has to gain for another to follow.
GAIN = 1e-6


class Widths(NamedTuple):
    """What :class:`BudgetSearch` found.

    Attributes:
        masks (dict[str, ndarray[sets], bool]): Name of a unit that may lose channels -> which sets stay.
        score (float): What they keep of the scores.
        bound (float): No widths within the budgets keep more; NaN where that is not known, since costs are no sum of
            terms of pairs of units: heads and dimensions were chosen, or widths were chosen anew.
    """

    masks: Dict[str, np.ndarray]
    score: float
    bound: float


class BudgetSearch:
    """The search for the widths that keep the most of the scores.

    Args:
        mutator (ChannelMutator): It is not changed.
        units (list[ChannelUnit]): Those that may lose channels.
        pools (dict[str, Pool]): Their scored sets.
        budgets (Budgets): What a structure may cost.
        fixed (dict[str, ndarray[sets], bool]): Masks of the other units.
    """

    def __init__(self, mutator: ChannelMutator, units: Sequence[ChannelUnit], pools: Mapping[str, Pool],
                 budgets: Budgets, fixed: Mapping[str, np.ndarray]) -> None:
        self.units = {unit.name: unit for unit in units}
        self.pools, self.budgets, self.fixed = pools, budgets, dict(fixed)
        self.levels = {name: levels_of(pool.present, pool.present - pool.spare, pool.block)
                       for name, pool in ((name, pools[name]) for name in self.units)}
        self.kept = {name: np.concatenate([[0.0], np.cumsum(np.sort(pools[name].scores[unit.kept])[::-1])])
                     for name, unit in self.units.items()}
        pairs = [(heads.name, dims.name) for shared in mutator.surgery.shared.values() for heads, dims, _ in shared]
        self.heads = sorted({name for name, unit in self.units.items() if unit.channels.part == HEADS})
        self.dims = {dims for heads, dims in pairs if heads in self.heads}

    def run(self) -> Widths:
        """Return the widths.

        Raises:
            InfeasibleError: No widths are within the budgets.
        """
        if not self.heads:
            return self._solve(self.units, {name: unit.kept for name, unit in self.units.items()})
        found = [best for start in self._starts() for best in [self._in_turns(start)] if best is not None]
        if not found:
            return self._solve(set(self.units) - {*self.heads}, self.at_floors())  # says what is missing
        return max(found, key=lambda one: one.score)._replace(bound=math.nan)

    def at_floors(self) -> Dict[str, np.ndarray]:
        """Return the masks of units at the least of their widths."""
        return {name: self._best_sets(name, levels[0]) for name, levels in self.levels.items()}

    def _starts(self) -> Iterator[Dict[str, np.ndarray]]:
        """Yield masks with fewer and fewer heads, all others whole."""
        pools = [self.pools[name] for name in self.heads]
        spare, seen = sum(pool.spare for pool in pools), set()
        for share in HEAD_SHARES:
            masks = {name: unit.kept.copy() for name, unit in self.units.items()}
            for one in least_important(pools, round((1 - share) * spare)) if share < 1 else ():
                masks[one.unit][one.channel] = False
            counts = tuple(int(masks[name].sum()) for name in self.heads)
            if counts not in seen:
                seen.add(counts)
                yield masks

    def _in_turns(self, masks: Dict[str, np.ndarray]) -> Optional[Widths]:
        """Choose all but heads, then all but their dimensions, and so on; None where the heads leave no room."""
        best: Optional[Widths] = None
        for turn in range(TURNS):
            held = self.dims if turn % 2 else {*self.heads}
            try:
                found = self._solve(set(self.units) - held, masks)
            except InfeasibleError:
                return best
            if best is not None and found.score <= best.score * (1 + GAIN):
                return best
            best, masks = found, found.masks
        return best

    def _solve(self, chosen: Collection[str], masks: Mapping[str, np.ndarray]) -> Widths:
        """Choose the widths of some units; the others have those of the masks."""
        names = [name for name in self.units if name in chosen]
        if not names:
            return self._as_they_are(masks)
        levels = [self.levels[name] for name in names]
        scores = [self.kept[name][np.array(choices)] for name, choices in zip(names, levels)]
        structure = {**self.fixed, **masks}
        held = self._kept_of({name: structure[name] for name in self.units if name not in chosen})
        tightened, bound = [1.0] * len(self.budgets.all), math.nan
        for solves in range(SOLVES):
            present = {name: int(mask.sum()) for name, mask in structure.items()}
            costs = self.budgets.costs(names, levels, present)
            for cost, factor in zip(costs, tightened):
                cost.budget *= factor
            solution = solve(WidthProblem(names, scores, costs))
            found = {**masks, **{name: self._best_sets(name, choices[place])
                                 for name, choices, place in zip(names, levels, solution.choice)}}
            structure = {**self.fixed, **found}
            if self.budgets.are_met(structure):
                bound = math.nan if solves or self._has_products(chosen) else held + solution.bound
                break
            tightened = [factor * min(1.0, 0.999 * one.share * one.dense / self.budgets.value(one, structure))
                         for factor, one in zip(tightened, self.budgets.all)]
        return Widths(found, held + solution.score, bound)

    def _as_they_are(self, masks: Mapping[str, np.ndarray]) -> Widths:
        """Return widths where there is nothing to choose."""
        structure = {**self.fixed, **masks}
        if not self.budgets.are_met(structure):
            raise max((InfeasibleError(number, self.budgets.value(one, structure), one.share * one.dense)
                       for number, one in enumerate(self.budgets.all)), key=lambda error: error.least / error.budget)
        kept = self._kept_of(masks)
        return Widths(dict(masks), kept, kept)

    def _kept_of(self, masks: Mapping[str, np.ndarray]) -> float:
        return sum(float(self.kept[name][int(mask.sum())]) for name, mask in masks.items())

    def _has_products(self, chosen: Collection[str]) -> bool:
        """Tell whether the time of a node grows with the product of several units that are chosen at once."""
        laws = [] if self.budgets.table is None else self.budgets.table.laws
        return any(len({*units} & {*chosen}) > 1 for law in laws for side in (law.reads, law.writes)
                   for _, units in side.products)

    def _best_sets(self, name: str, count: int) -> np.ndarray:
        """Return the mask of the sets with the highest scores of a unit."""
        unit, mask = self.units[name], self.units[name].kept.copy()
        mask[np.argsort(self.pools[name].scores, kind='stable')[:int(unit.kept.sum()) - count]] = False
        return mask
