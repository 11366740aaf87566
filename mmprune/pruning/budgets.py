"""What a target lets stay of a model, as budgets that a structure is tested against: time, multiply-adds, ..."""
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ..latency.cost_terms import complexity_terms
from ..latency.table import LatencyTable
from ..latency.widths import Cost
from ..units.complexity import COSTS, amount
from ..units.mutator import ChannelMutator
from .target import PruningTarget, TargetError

Masks = Mapping[str, np.ndarray]


class Budget(NamedTuple):
    """A cost that may not be exceeded.

    Attributes:
        name (str): ``latency`` or the name of a cost.
        share (float): Of the dense model's, at most.
        dense (float): The dense model's: milliseconds, multiply-adds, parameters or activations.
    """

    name: str
    share: float
    dense: float


class Budgets:
    """The budgets of a target.

    Args:
        target (PruningTarget): With a cost or a time; one with a ratio has no budget.
        mutator (ChannelMutator): Of the model.
        table (LatencyTable, optional): Needed where the target is a time.
        progress (float): Share of the way from the dense model to the target.
        correction (float): What the table's milliseconds are multiplied by, as measured.

    Raises:
        TargetError: The target is a time and there is no table, or the dense model is faster already.
    """

    def __init__(self, target: PruningTarget, mutator: ChannelMutator, table: Optional[LatencyTable] = None,
                 progress: float = 1.0, correction: float = 1.0) -> None:
        self.mutator, self.table, self.correction = mutator, table, correction
        dense = mutator.complexity.cost({})
        wanted = {name: Budget(name, share, float(amount(dense, name))) for name, share in target.bounds.items()}
        if target.needs_latency:
            if table is None:
                raise TargetError('the target is a time, and nothing says where it is measured: give '
                                  "runtime=dict(type='OnnxRuntime', threads=1) beside it")
            wanted['latency'] = Budget('latency', share_of_time(target, table), table.dense_total_ms)
        #: what stays at most at this progress
        self.all = [one._replace(share=1 - (1 - one.share) * progress) for one in wanted.values()]

    def value(self, budget: Budget, masks: Masks) -> float:
        """Return what a structure costs, in the unit of the budget."""
        if budget.name == 'latency' and self.table is not None:
            counts = {name: int(mask.sum()) for name, mask in masks.items()}
            return self.correction * self.table.predict(counts)
        return float(amount(self.mutator.complexity.cost(self.mutator.surgery.widths_with(masks)), budget.name))

    def are_met(self, masks: Masks) -> bool:
        """Tell whether a structure is within all budgets."""
        return all(self.value(one, masks) <= one.share * one.dense * (1 + 1e-12) for one in self.all)

    def shares(self, masks: Masks) -> Dict[str, float]:
        """Return budget -> share of the dense cost that a structure leaves."""
        return {one.name: self.value(one, masks) / one.dense for one in self.all}

    def costs(self, names: Sequence[str], levels: Sequence[Sequence[int]],
              present: Optional[Mapping[str, int]] = None) -> List[Cost]:
        """Return the budgets for the solver; see :meth:`LatencyTable.cost`."""
        found = []
        for one in self.all:
            most = one.share * one.dense
            if one.name == 'latency' and self.table is not None:
                found.append(self.table.cost(names, levels, most / self.correction, present))
            else:
                found.append(complexity_terms(self.mutator, COSTS[one.name], names, levels, present).cost(most))
        return found


def share_of_time(target: PruningTarget, table: LatencyTable) -> float:
    """Return the share of the dense time that a target asks for.

    Raises:
        TargetError: The dense model is as fast already.
    """
    if target.latency_ms is None:
        return float(target.latency or 0)
    if target.latency_ms >= table.dense_total_ms:
        raise TargetError(f'latency_ms={target.latency_ms:g} asks for nothing: the dense model takes '
                          f'{table.dense_total_ms:.2f} ms in {table.where}')
    return target.latency_ms / table.dense_total_ms
