"""A target in multiply-adds that ends at a time: its share is such that the padded network takes what is asked."""
import math
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple, Union

from timed_structures import counts_of, padded

from mmprune.latency.table import LatencyTable
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.rounds import STEP
from mmprune.pruning.target import PruningTarget, TargetError
from mmprune.repair.refit import Repair
from mmprune.units.copies import own_copy

#: Halvings of the interval in which the share lies, measurements at most, and the distance at which they end.
BISECTIONS, MEASUREMENTS, NEAR = 12, 4, 0.01


class Tried(NamedTuple):
    """A share of the multiply-adds, the padded widths that it leaves, and what the table predicts for them."""

    flops: float
    counts: Dict[str, int]
    predicted: float


#: Structures -> share of the dense time that each takes, measured in the same turns.
SharesOf = Callable[[List[Mapping[str, int]]], List[float]]


class PaddedTime:
    """Cuts to a share of the multiply-adds, in rounds with repairs, that takes as long as another network when padded.

    Args:
        pruner (Pruner): Calibrated, its model dense; its target is replaced.
        table (LatencyTable): Of the model.
        align (int): Block in which channels go: 1, or that of the runtime, with which there is nothing to pad.
        shares_of (Callable): Measures.
        beside (dict): Unit name -> sets of the other network.
    """

    def __init__(self, pruner: Pruner, table: LatencyTable, align: int, shares_of: SharesOf,
                 beside: Mapping[str, int]) -> None:
        self.pruner, self.table, self.align, self.shares_of, self.beside = pruner, table, align, shares_of, beside

    def cut_in_rounds(self, rounds: Union[int, str]) -> List[Repair]:
        """Cut and repair by turns, as :meth:`Pruner.cut_in_rounds` does; the last share is measured.

        How far there is to go is asked anew before each round, by the scores of the repaired network.
        """
        share, = self.shares_of([self.beside])
        goal = share * self.table.dense_ms
        dense, done = own_copy(self.pruner.model), []
        count = max(1, math.ceil((1 - self.nearest(goal).flops) / STEP)) if rounds == 'auto' else int(rounds)
        for number in range(1, count + 1):
            flops = self.nearest(goal).flops if number < count else self.measured(goal).flops
            self._aim(1 - (1 - flops) * number / count)
            self.pruner.cut()
            done.append(self.pruner.repair(dense=dense))
        return done

    def _aim(self, flops: float) -> None:
        self.pruner.target = PruningTarget.of(dict(flops=flops, align=self.align), self.pruner.criterion.scope)

    def tried(self, flops: float) -> Tried:
        """Return what a share leaves by the present scores."""
        self._aim(flops)
        counts = padded(self.pruner.choose().masks, self.table.block)
        return Tried(flops, counts, self.table.predict(counts))

    def nearest(self, goal: float) -> Tried:
        """Return the share whose padded network is predicted to come nearest to milliseconds."""
        low, high, found = 0.0, 1.0, [self.tried(1 - 1e-9)]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            try:
                found.append(self.tried(middle))
                low, high = (low, middle) if found[-1].predicted > goal else (middle, high)
            except TargetError:  # the floors end before
                low = middle
        return min(found, key=lambda one: abs(one.predicted - goal))

    def measured(self, goal: float) -> Tried:
        """Return the share whose padded network comes nearest to the other one, measured beside it."""
        correction, found = 1.0, []
        for _ in range(MEASUREMENTS):
            one = self.nearest(goal / correction)
            if any(one.counts == other.counts for _, other in found):
                break
            wanted, share = self.shares_of([self.beside, one.counts])
            print(f'  {one.flops:.4f} of the multiply-adds, padded: {share:.4f} of the dense time beside {wanted:.4f}',
                  flush=True)
            found.append((abs(share / wanted - 1), one))
            if found[-1][0] <= NEAR:
                break
            correction = share / wanted * goal / one.predicted
        return min(found, key=lambda pair: pair[0])[1]


def widths(pruner: Pruner, block: int) -> Tuple[Dict[str, int], Dict[str, int]]:
    """Return unit name -> sets of a cut model, as they are and padded."""
    masks = {unit.name: unit.kept for unit in pruner.mutator.units}
    return counts_of(masks), padded(masks, block)
