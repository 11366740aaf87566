"""From a criterion and a target to the channels that stay."""
from typing import Collection, Dict, List, NamedTuple, Optional

import numpy as np

from .criteria.criterion import Criterion, CriterionError, UnscorableError
from .mutator import ChannelMutator
from .pruning_target import PruningTarget


class Plan(NamedTuple):
    """What is to stay.

    Attributes:
        masks (dict[str, ndarray[classes], bool]): Unit name -> which classes stay.
        held (dict[str, int]): Unit name -> channels that a floor keeps, though others with a higher score go.
        skipped (dict[str, str]): Unit name -> why the criterion could not score it.
    """

    masks: Dict[str, np.ndarray]
    held: Dict[str, int]
    skipped: Dict[str, str]

    def notes(self) -> List[str]:
        """Return a line for each unit that stays wider than its scores alone would have it."""
        return [*(f'{name}: {count} channels below the threshold stay (min_channels, max_pruned_ratio, align)'
                  for name, count in self.held.items()),
                *(f'{name}: left as it is; {reason}' for name, reason in self.skipped.items())]


def make_plan(mutator: ChannelMutator, criterion: Criterion, target: PruningTarget, progress: float = 1.0,
              only: Optional[Collection[str]] = None, remove_blocks: bool = False) -> Plan:
    """Score all units and choose what stays; nothing is changed.

    Args:
        mutator (ChannelMutator): Prepared; the criterion is bound to it.
        criterion (Criterion): Calibrated, if it needs data.
        target (PruningTarget): How much goes.
        progress (float): Share of the way from the dense model to the target.
        only (collection[str], optional): Units that may lose channels; the others stay as they are.
        remove_blocks (bool): Remove the residual blocks all of whose units sink to their floor.

    Raises:
        CriterionError: The criterion has seen no data, or can score no unit at all.
        TargetError: The target cannot be reached.
    """
    scores, skipped = {}, {}
    for unit in target.chosen_units(mutator):
        if not _may_lose(unit.name, only):
            continue
        try:
            scores[unit.name] = criterion.score(unit)
        except UnscorableError as error:
            skipped[unit.name] = str(error)
    if not scores:
        raise CriterionError(f'{type(criterion).__name__} can score none of the {len(skipped)} units, for example: '
                             f'{next(iter(skipped.values()))}')
    chosen = target.choose(mutator, scores, progress)
    masks = dict(chosen.masks)
    if remove_blocks:
        floors = {unit.name: target.floor(unit) for unit in mutator.units}
        for block in mutator.blocks:
            if all(masks[name].sum() <= floors[name] and _may_lose(name, only) for name in block.units):
                masks.update({name: np.zeros_like(masks[name]) for name in block.units})
    return Plan(masks, chosen.held, skipped)


def _may_lose(name: str, only: Optional[Collection[str]]) -> bool:
    """Tell whether a unit may lose channels."""
    return only is None or name in only
