"""From a criterion and a target to a plan: which sets of each unit stay."""
import math
from typing import Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ..criteria.criterion import Criterion, CriterionError, UnscorableError
from ..latency.block import tell_smaller
from ..units.mutator import ChannelMutator
from ..units.selection import least_important
from .budgets import Budgets
from .search import Chosen, Search, measured_align, pool_of
from .target import PruningTarget, TargetError
from .time_target import Attempt, MeasuredBlock, TimeTarget


class Plan(NamedTuple):
    """Which channels stay.

    Attributes:
        masks (dict[str, ndarray[sets], bool]): Unit name -> which sets stay.
        kept_by_floor (dict[str, int]): See :class:`~mmprune.pruning.search.Chosen`.
        skipped (dict[str, str]): Unit name -> why the criterion could not score it.
        attempts (list[Attempt]): Where the target is a time, each choice that was measured, the last one last.
        kept_score (float): Share of the scores that stays, where the target is a time; of those of one unit and
            another as they are.
        bound (float): What share no widths within the target could exceed; NaN where none is known.
    """

    masks: Dict[str, np.ndarray]
    kept_by_floor: Dict[str, int]
    skipped: Dict[str, str]
    attempts: Sequence[Attempt] = ()
    kept_score: float = math.nan
    bound: float = math.nan

    def notes(self) -> List[str]:
        """Return a line for each unit that stays wider than its scores alone would have it."""
        return [*(f'{name}: {count} channels below the threshold stay (min_channels, max_pruned_ratio, align)'
                  for name, count in self.kept_by_floor.items()),
                *(f'{name}: left as it is; {reason}' for name, reason in self.skipped.items())]

    def turns(self, mutator: ChannelMutator) -> List[Dict[str, np.ndarray]]:
        """Return the plan in steps, from input to output: the masks of one unit, or of a block that is removed."""
        changed = [unit.name for unit in mutator.units if (self.masks[unit.name] != unit.kept).any()]
        blocks = [] if all(mask.any() for mask in self.masks.values()) else mutator.blocks
        whole = {name: block.units for block in blocks for name in block.units
                 if not any(self.masks[other].any() for other in block.units)}
        steps = {tuple(other for other in changed if other in whole.get(name, [name])): None for name in changed}
        return [{name: self.masks[name] for name in names} for names in steps]


def make_plan(mutator: ChannelMutator, criterion: Criterion, target: PruningTarget, progress: float = 1.0,
              only: Optional[Collection[str]] = None, remove_blocks: bool = False,
              time: Optional[MeasuredBlock] = None) -> Plan:
    """Score all units and choose which sets stay; nothing is changed.

    Args:
        mutator (ChannelMutator): Prepared; the criterion is bound to it.
        criterion (Criterion): Calibrated, if it needs data.
        target (PruningTarget): How much is removed.
        progress (float): Share of the way from the dense model to the target.
        only (collection[str], optional): Units that may lose channels; by default all.
        remove_blocks (bool): Remove the residual blocks all of whose units are at their floor.
        time (MeasuredBlock, optional): Needed where ``align`` is measured; a :class:`TimeTarget` where the target is a
            time.

    Raises:
        CriterionError: The criterion has seen no data, or can score no unit at all.
        TargetError: The target cannot be reached.
        StructureError: Something else has cut the model.
    """
    mutator.surgery.check_sizes()
    may_lose = {unit.name for unit in mutator.units} if only is None else {*only}
    scores, skipped = {}, {}
    for unit in target.chosen_units(mutator):
        if unit.name not in may_lose:
            continue
        try:
            scores[unit.name] = criterion.score(unit)
        except UnscorableError as error:
            skipped[unit.name] = str(error)
    if not scores:
        raise CriterionError(f'{type(criterion).__name__} can score none of the {len(skipped)} units, for example: '
                             f'{next(iter(skipped.values()))}')

    blocks = [measured_align(target)] if time is None else time.blocks(target)

    def choose(correction: float = 1.0) -> Chosen:
        budgets = Budgets(target, mutator, None if time is None else time.table, progress, correction)
        return _in_largest(blocks, lambda block: Search(target, mutator, scores, progress, budgets, block).run())

    attempts: Sequence[Attempt] = ()
    if target.needs_latency and isinstance(time, TimeTarget):
        chosen, attempts = time.close(target, choose, progress)
    else:
        chosen = choose()
    masks = dict(chosen.masks)
    if remove_blocks:
        floors = {unit.name: target.floor(unit) for unit in mutator.units}
        for block in mutator.blocks:
            if all(masks[name].sum() <= floors[name] and name in may_lose for name in block.units):
                masks.update({name: np.zeros_like(masks[name]) for name in block.units})
    if chosen.widths is None:
        return Plan(masks, chosen.kept_by_floor, skipped)
    total = sum(float(score.double().sum()) for score in scores.values()) or math.nan
    return Plan(masks, chosen.kept_by_floor, skipped, attempts, chosen.widths.score / total,
                chosen.widths.bound / total)


def _in_largest(blocks: Sequence[int], choose: Callable[[int], Chosen]) -> Chosen:
    """Choose in the first of some blocks, largest first, in which the target can be reached; warn if it is a later one.

    Raises:
        TargetError: It can be reached in none of them.
    """
    *larger, least = blocks
    for block in larger:
        try:
            chosen = choose(block)
        except TargetError:
            continue
        tell_smaller(blocks[0], block)
        return chosen
    chosen = choose(least)
    tell_smaller(blocks[0], least)
    return chosen


def rescored(mutator: ChannelMutator, criterion: Criterion, masks: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Return masks that keep as many sets of each unit as given masks do, but those with the highest present scores.

    The arguments are those of :func:`make_plan`; ``masks`` (dict[str, ndarray[sets], bool]) those of a plan.
    """
    found = dict(masks)
    for unit in mutator.units:
        count = unit.num_sets - int(masks[unit.name].sum())
        if 0 < count < unit.num_sets:
            found[unit.name] = unit.kept.copy()
            for pruned in least_important([pool_of(unit, criterion.score(unit), unit.num_sets - count)], count):
                found[unit.name][pruned.channel] = False
    return found
