"""From scores, a target and floors to masks: how many sets of each unit are removed, and which."""
import math
from typing import Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Set

import numpy as np
from torch import Tensor

from ..latency.solver import InfeasibleError
from ..units.complexity import amount
from ..units.mutator import ChannelMutator
from ..units.selection import Pool, PrunedSet, least_important
from ..units.unit import ChannelUnit
from .budget_search import BudgetSearch, Widths
from .budgets import Budgets
from .target import GLOBAL_MAX_PRUNED_RATIO, PruningTarget, TargetError

#: Steps of the search for the share that every layer loses.
BISECTIONS = 24


class Chosen(NamedTuple):
    """The result of a search.

    Attributes:
        masks (dict[str, ndarray[sets], bool]): Unit name -> which sets stay.
        kept_by_floor (dict[str, int]): Unit name -> channels that only its floor keeps: others with a higher score are
            removed, or the share of the unit asks for more.
        widths (Widths or None): Of the search within budgets, where the target is a time.
    """

    masks: Dict[str, np.ndarray]
    kept_by_floor: Dict[str, int]
    widths: Optional[Widths] = None


class Search:
    """The search for the fewest channels to remove that meet a target; for a time, for the most of the scores.

    Args:
        target (PruningTarget): How much is removed.
        mutator (ChannelMutator): It is not changed.
        scores (dict[str, Tensor[C]]): Unit name -> a score for each present set. Other units stay as they are.
        progress (float): Share of the way from the dense model to the target, for several rounds.
        budgets (Budgets, optional): Of the target; by default those of its shares of cost. A time needs them.
        align (int, optional): What the target's is worth where it is measured.

    Raises:
        PatternError: A pattern of ``levels`` matches no layer, or ``op_types`` no unit.
        TargetError: The target needs a latency table, and there are no budgets.
    """

    def __init__(self, target: PruningTarget, mutator: ChannelMutator, scores: Mapping[str, Tensor],
                 progress: float = 1.0, budgets: Optional[Budgets] = None, align: Optional[int] = None) -> None:
        self.target, self.mutator, self.progress = target, mutator, progress
        self.budgets = budgets or Budgets(target, mutator, progress=progress)
        self.align = measured_align(target) if align is None else align
        self.levels = target.levels_of(mutator)
        units = [unit for unit in target.chosen_units(mutator) if unit.name in scores]
        self.pools = {unit.name: pool_of(unit, scores[unit.name], target.floor(unit, unit.name in self.levels),
                                         unit.sets_in(self.align)) for unit in units}
        self.units = {unit.name: unit for unit in units}
        self.rest = [unit for unit in units if unit.name not in self.levels]
        self.masks: Dict[str, np.ndarray] = {unit.name: unit.kept.copy() for unit in mutator.units}

    def run(self) -> Chosen:
        """Return which sets stay.

        Raises:
            TargetError: The floors do not let the target be reached.
            NotFiniteError: A score is NaN, or all of a unit are infinite.
        """
        kept = {name: self._take_share(self.units[name], level * self.progress)
                for name, level in self.levels.items() if name in self.units}
        widths = None
        if self.target.scope == 'layer':
            kept.update(self._by_layer())
        elif self.target.needs_latency:
            widths = self._by_solver()
        else:
            kept.update(self._by_score())
        return Chosen(self.masks, {name: kept[name] * unit.multiplicity for name, unit in self.units.items()
                                   if kept.get(name)}, widths)

    def _take_share(self, unit: ChannelUnit, removed: float) -> int:
        """Drop sets until a share of the unit's dense sets is removed; return how many only its floor keeps."""
        count = int(removed * len(unit.kept) + 1e-9) - int((~unit.kept).sum())
        self.masks[unit.name] = unit.kept.copy()
        pruned = least_important([self.pools[unit.name]], count) if count > 0 else []
        self._drop(pruned)
        return max(0, count - len(pruned))

    def _take_share_of_all(self, removed: float) -> Dict[str, int]:
        return {unit.name: self._take_share(unit, removed) for unit in self.rest}

    def _by_layer(self) -> Dict[str, int]:
        """Drop the same share of every unit, about so in blocks; return unit name -> sets that only floors keep."""
        if self.target.ratio is not None:
            return self._take_share_of_all(self.target.ratio * self.progress)
        if not self.budgets.all:
            return {}
        low, high = 0.0, 1.0
        self._take_share_of_all(high)
        self._check_reach()
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            self._take_share_of_all(middle)
            low, high = (low, middle) if self.is_enough() else (middle, high)
        kept = self._take_share_of_all(high)
        for unit in self.rest:  # units of 16, 32 and 64 all lose a channel more at the same share; not all have to
            before = self.masks[unit.name]
            self._take_share(unit, low)
            if not self.is_enough():
                self.masks[unit.name] = before
        if self.align > 1:
            given = self._give_back(lambda name, sets: float((~self.masks[name]).mean()))
            kept = {name: count for name, count in kept.items() if name not in given}
        return kept

    def _by_score(self) -> Dict[str, int]:
        """Drop the least important sets of all units, as few as are enough; return as :meth:`_by_layer` does."""
        if self.target.ratio is None and not self.budgets.all:
            return _kept_by_floors(self.rest, self.pools, self.masks)
        low, high = 0, sum(self.pools[unit.name].spare for unit in self.rest)
        self._take_least(high)
        if self.target.ratio is None:
            self._check_reach()
        while low < high:
            count = (low + high) // 2
            self._take_least(count)
            low, high = (low, count) if self.is_enough() else (count + 1, high)
        self._take_least(high)
        if self.target.ratio is None and self.align > 1:
            self._give_back(lambda name, sets: float(self.pools[name].scores[sets].mean()))
        return _kept_by_floors(self.rest, self.pools, self.masks)

    def _give_back(self, urgency: Callable[[str, np.ndarray], float]) -> Set[str]:
        """Keep again the blocks that the target is met without: the last one may have been costly.

        Of a unit the block that went last comes first; where that has to go, all others of the unit do. Single channels
        stay as they are: what they leave of a budget is too little to part from the order.

        Args:
            urgency (callable): Unit name and the sets of its next block -> the highest is given back first.

        Returns:
            set[str]: The names of the units that got any.
        """
        given = set()
        gone = {unit.name: [sets for sets in self.pools[unit.name].blocks(unit.num_sets)
                            if not self.masks[unit.name][sets].any()] for unit in self.rest}
        while gone := {name: blocks for name, blocks in gone.items() if blocks}:
            name = max(gone, key=lambda one: urgency(one, gone[one][-1]))
            sets = gone[name].pop()
            self.masks[name][sets] = True
            if self.is_enough():
                given.add(name)
            else:
                self.masks[name][sets] = False
                gone[name] = []
        return given

    def _take_least(self, count: int) -> None:
        for unit in self.rest:
            self.masks[unit.name] = unit.kept.copy()
        if count > 0:
            self._drop(least_important([self.pools[unit.name] for unit in self.rest], count))

    def _drop(self, pruned: Sequence[PrunedSet]) -> None:
        for item in pruned:
            self.masks[item.unit][item.channel] = False

    def is_enough(self) -> bool:
        """Tell whether the masks meet the target, as far as the progress asks for it."""
        if self.target.ratio is not None:
            removed = sum(int((~self.masks[unit.name]).sum()) * unit.multiplicity for unit in self.rest)
            wanted = self.target.ratio * self.progress * sum(unit.width for unit in self.rest)
            return removed >= int(wanted + 1e-9)
        return self.budgets.are_met(self.masks)

    def _by_solver(self) -> Widths:
        """Keep as much of the scores as the budgets let; return the widths."""
        fixed = {name: mask for name, mask in self.masks.items() if name not in {unit.name for unit in self.rest}}
        search = BudgetSearch(self.mutator, self.rest, self.pools, self.budgets, fixed)
        try:
            widths = search.run()
        except InfeasibleError:
            self.masks.update(search.at_floors())
            self._check_reach()
            raise
        self.masks.update(widths.masks)
        return widths

    def _check_reach(self) -> None:
        """Raise TargetError unless the masks, with every unit at its floor, meet the target."""
        if self.is_enough():
            return
        target, left = self.target, self.budgets.shares(self.masks)
        name, wanted = next((one.name, one.share) for one in self.budgets.all if left[one.name] > one.share)
        most = target.max_pruned_ratio or (1.0 if target.scope == 'layer' else GLOBAL_MAX_PRUNED_RATIO)
        unscored = len(self.mutator.units) - len(self.pools)
        others = f', {unscored} units have no score or are left out by op_types' if unscored else ''
        raise TargetError(
            f'{name}={wanted:.3g} cannot be reached: {left[name]:.3f} of the dense {name} stay '
            f'when every unit is at its floor (min_channels, max_pruned_ratio={most}, align={self.align}; '
            f'{len(self.mutator.frozen)} groups of channels are frozen{others}). Raise the target, lower the floors, '
            'or let more units be pruned (mutate_linear, include, levels)')


def measured_align(target: PruningTarget) -> int:
    """Return the ``align`` of a target; raise TargetError where it has to be measured first."""
    if isinstance(target.align, str):
        raise TargetError(f"align={target.align!r} is the block of a runtime, and nothing says which: give "
                          "runtime=dict(type='OnnxRuntime', threads=1) beside the target")
    return target.align


def share_of_cost(mutator: ChannelMutator, masks: Mapping[str, np.ndarray], resource: str) -> float:
    """Return the cost of a structure over that of the dense model.

    Args:
        mutator (ChannelMutator): Of the model, which is not changed.
        masks (dict): Unit name -> ``ndarray[sets]`` of bool.
        resource (str): ``flops``, ``params`` or ``acts``.
    """
    complexity = mutator.complexity
    left = amount(complexity.cost(mutator.surgery.widths_with(masks)), resource)
    return left / amount(complexity.cost({}), resource)


def pool_of(unit: ChannelUnit, scores: Tensor, floor: int, block: int = 1) -> Pool:
    """Return the pool of a unit.

    Args:
        unit (ChannelUnit): The unit.
        scores (Tensor[C]): Scores of the present sets.
        floor (int): Sets that stay at least.
        block (int): Sets that are removed together.
    """
    values: np.ndarray = np.full(len(unit.kept), np.inf)
    values[unit.kept] = scores.detach().double().cpu().numpy()
    return Pool(unit.name, values, max(0, unit.num_sets - floor), unit.num_sets, block)


def _kept_by_floors(units: Sequence[ChannelUnit], pools: Mapping[str, Pool],
                    masks: Mapping[str, np.ndarray]) -> Dict[str, int]:
    """Return unit name -> sets that its floor keeps although sets of other units with higher scores are removed."""
    removed = {unit.name: unit.kept & ~masks[unit.name] for unit in units}
    highest = max((float(pools[name].scores[sets].max()) for name, sets in removed.items() if sets.any()),
                  default=-math.inf)
    counts: Dict[str, int] = {}
    for name, sets in removed.items():
        pool, dropped = pools[name], int(sets.sum())
        following = pool.block if dropped else pool.present % pool.block or pool.block
        if dropped + following > pool.spare:  # at its floor
            counts[name] = int((masks[name] & (pool.scores < highest)).sum())
    return counts
